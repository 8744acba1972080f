"""Read a directory of images as a manifest: an item for each image, named by its file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from repli.tasks.sources.manifest.records import Record

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".tga"),
    }
)
"""The suffixes of the formats that `repli.tasks.models.pictures` decodes."""
MAX_NAMED_SUFFIXES = 8
COLUMNS = ("id", "name", "image")


def explain_passed_over(source: Path) -> list[str]:
    """Return a note on the files of a directory that are no images, by suffix; none where all are."""
    suffixes = Counter(
        suffix or "without a suffix"
        for _, _, files in os.walk(source)
        for name in files
        if (suffix := Path(name).suffix.lower()) not in IMAGE_SUFFIXES
    )
    if not suffixes:
        return []
    named = [f"{count} {suffix}" for suffix, count in suffixes.most_common(MAX_NAMED_SUFFIXES)]
    more = suffixes.total() - sum(count for _, count in suffixes.most_common(MAX_NAMED_SUFFIXES))
    named += [f"{more} others"] if more else []
    return [f"{suffixes.total()} files are passed over, since no decoder reads their suffix: {', '.join(named)}"]


def read_images(source: Path) -> Iterator[Record]:
    """Yield a record for each image in the directory and its subdirectories, in the order of their names."""
    number = 0
    for folder, subfolders, files in os.walk(source):
        subfolders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in IMAGE_SUFFIXES:
                number += 1
                relative = path.relative_to(source).as_posix()
                words = path.stem.replace("_", " ").replace("-", " ").strip()
                yield Record(number=number, values={"id": relative, "name": words or path.name, "image": relative})
