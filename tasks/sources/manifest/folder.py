"""Read a directory of images as a manifest: an item for each image, named by its file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from repli.tasks.sources.manifest.records import Record

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
COLUMNS = ("id", "name", "image")


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
