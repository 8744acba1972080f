"""A folder of masters, one file each: bounded by bytes and age. Each master can be made anew, so nothing here fails."""

from __future__ import annotations

import os
import shutil
import struct
import time
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LIMIT_BYTES = 4 * 1024**3
"""The bytes of all files: 6,000 masters of 0.7 MB, the size that photos come to."""
FREE_BYTES = 2 * 1024**3
"""The free space of the disk below which nothing is written: what is fetched needs it more."""
MAX_AGE_S = 3 * 24 * 3600.0
"""The age at which a file is deleted."""
_FOLDERS = 256
_MAGIC = b"repli master 1\n"  # its number changes with the way in which masters are made
_HEADER = struct.Struct("<HHI")  # height, width, CRC-32 of the pixels


class MasterFiles:
    """Masters on disk: raw pixels after a header with their checksum. Threads and processes may share a folder.

    Nothing that the disk does is an error: a file that is missing, damaged or of another version is a master that is
    not there, and one that cannot be written is not kept.

    Args:
        limit_bytes: the bytes of all files. Each of the 256 subfolders is bounded by its share: the names of the files
            are hashes, so that they are spread evenly, and one small folder is read to prune it.

    Example:
        >>> files = MasterFiles(Path("cache"))
        >>> files.write("ab…-320", master)
        >>> files.read("ab…-320").shape
        (320, 320, 3)
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int = LIMIT_BYTES,
        free_bytes: int = FREE_BYTES,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._free_bytes = free_bytes
        self._max_age_s = max_age_s

    def read(self, name: str) -> npt.NDArray[np.uint8] | None:
        """Return a master; None where there is none, or its file is damaged, which is then deleted."""
        path = self._path(name)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        master = _decode(content)
        if master is None:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        return master

    def write(self, name: str, master: npt.NDArray[np.uint8]) -> None:
        """Write a master, unless it is there, and prune its folder."""
        path = self._path(name)
        # Named before it is made: a call that is cut off at its time limit may end at any line.
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        with suppress(OSError):
            if path.exists():
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < self._free_bytes:
                return
            try:
                part.write_bytes(_encode(master))
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            self.prune(name)

    def prune(self, name: str) -> None:
        """Delete the files of a name's folder that are too old, and the oldest that exceed the folder's share."""
        oldest = time.time() - self._max_age_s
        total = 0
        for modified, size, path in sorted(_files(self._path(name).parent), reverse=True):
            total += size
            if modified < oldest or total > self._limit_bytes // _FOLDERS:
                with suppress(OSError):  # another process may have deleted it
                    path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """Return the time of writing, the size and the path of each file of a folder; none where there is no folder."""
    found = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # another process may have deleted it
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime, status.st_size, Path(entry.path)))
    return found


def _encode(master: npt.NDArray[np.uint8]) -> bytes:
    pixels = master.tobytes()
    return _MAGIC + _HEADER.pack(*master.shape[:2], zlib.crc32(pixels)) + pixels


def _decode(content: bytes) -> npt.NDArray[np.uint8] | None:
    """Return the master of a file's content; None for any other content."""
    import numpy as np

    start = len(_MAGIC) + _HEADER.size
    if len(content) < start or not content.startswith(_MAGIC):
        return None
    height, width, checksum = _HEADER.unpack_from(content, len(_MAGIC))
    pixels = memoryview(content)[start:]
    if len(pixels) != height * width * 3 or zlib.crc32(pixels) != checksum:
        return None
    return np.frombuffer(pixels, dtype=np.uint8).reshape(height, width, 3)
