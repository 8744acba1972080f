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
    """Return a note on what `read_images` passes over in a directory, a line for each reason; none where all is read.

    Hidden are names that begin with a dot: macOS writes a `._photo.jpg`, which is no picture, beside each photo on
    other disks.
    """
    suffixes: Counter[str] = Counter()
    hidden = links = 0
    for folder, subfolders, files in os.walk(source):
        links += sum(not _is_hidden(name) and Path(folder, name).is_symlink() for name in subfolders)
        hidden += sum(map(_is_hidden, (*subfolders, *files)))
        subfolders[:] = [name for name in subfolders if not _is_hidden(name)]
        found = (Path(name).suffix.lower() for name in files if not _is_hidden(name))
        suffixes.update(suffix or "without a suffix" for suffix in found if suffix not in IMAGE_SUFFIXES)
    notes = []
    if suffixes:
        named = [f"{count} {suffix}" for suffix, count in suffixes.most_common(MAX_NAMED_SUFFIXES)]
        more = suffixes.total() - sum(count for _, count in suffixes.most_common(MAX_NAMED_SUFFIXES))
        named += [f"{more} others"] if more else []
        their = "its" if suffixes.total() == 1 else "their"
        why = f"since no decoder reads {their} suffix: {', '.join(named)}"
        notes.append(f"{_counted(suffixes.total(), 'file')} passed over, {why}")
    if hidden:
        notes.append(f"{_counted(hidden, 'hidden file or folder', 'hidden files and folders')} passed over")
    if links:
        notes.append(f"{_counted(links, 'link to a folder', 'links to folders')} not followed; name that folder itself")
    return notes


def read_images(source: Path) -> Iterator[Record]:
    """Yield a record for each image in the directory and its subdirectories, in the order of their names."""
    number = 0
    for folder, subfolders, files in os.walk(source):
        subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and not _is_hidden(name):
                number += 1
                relative = path.relative_to(source).as_posix()
                words = path.stem.replace("_", " ").replace("-", " ").strip()
                yield Record(number=number, values={"id": relative, "name": words or path.name, "image": relative})


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _counted(count: int, one: str, several: str = "") -> str:
    return f"1 {one} is" if count == 1 else f"{count} {several or one + 's'} are"
