"""Read a manifest as a stream of items: JSONL, CSV, TSV, Parquet, each also with .gz, or a directory of images.

Every record becomes one item. An invalid record (not JSON, no usable id) becomes an item with a `problem`, whose id
is its file and line, so that it is counted, shown and can be corrected. Only an unreadable manifest is an error.
"""

from repli.tasks.sources.manifest.options import ManifestOptions
from repli.tasks.sources.manifest.reader import Manifest, open_manifest
from repli.tasks.sources.manifest.short_rows import ShortRows

__all__ = ["Manifest", "ManifestOptions", "ShortRows", "open_manifest"]
