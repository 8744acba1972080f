"""The options that a source was last read with, which its next run takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repli.tasks.fallback import UsageError
from repli.tasks.sources.manifest.options import ManifestOptions
from repli.tasks.sources.manifest.reader import open_manifest
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database


def remembered_options(database: Database, source: Path, given: ManifestOptions) -> ManifestOptions:
    """Return the options to read a source with: those given, else those of the source's last run, if they still fit."""
    if not given.is_default or database.version() is None:
        return given
    last = runs.latest(database, source=str(source))
    if last is None:
        return given
    remembered = replace(ManifestOptions.from_run(last.options), folder=given.folder)
    try:
        open_manifest(source, remembered)
    except UsageError:  # the manifest has changed: what is wrong with it is said without options that nobody gave
        return given
    return remembered
