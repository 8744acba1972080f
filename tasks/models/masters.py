"""Keep masters, so that a picture is decoded once: in the memory of the process, and on disk for a later process.

A master is needed again soon where a call is split on out of memory or the next rung takes over: memory is enough. It
is needed again later where `reprocess` lifts an item that a fallback has served: for those, and for no others, masters
are kept on disk. So a healthy run writes nothing.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from repli.tasks.models.master_files import MasterFiles
from repli.tasks.models.pictures import make_master

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MEMORY_BYTES = 192 * 1024**2
"""The masters that a process keeps in memory: a batch of 128 takes 157 MB at most, 90 MB of photos."""


class MasterMemory:
    """Masters in memory, those used last, within a number of bytes. Thread-safe.

    Example:
        >>> memory = MasterMemory(limit_bytes=1_000_000)
        >>> memory.put("ab…", master)
        >>> memory.get("ab…") is master
        True
    """

    def __init__(self, limit_bytes: int = MEMORY_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._masters: OrderedDict[str, npt.NDArray[np.uint8]] = OrderedDict()  # those used last come last
        self._bytes = 0

    def get(self, key: str) -> npt.NDArray[np.uint8] | None:
        """Return a master; None where there is none."""
        with self._lock:
            if key in self._masters:
                self._masters.move_to_end(key)
            return self._masters.get(key)

    def put(self, key: str, master: npt.NDArray[np.uint8]) -> None:
        """Add a master, and drop those used longest ago that no longer fit."""
        with self._lock:
            if key in self._masters:
                return
            self._masters[key] = master
            self._bytes += master.nbytes
            while self._bytes > self._limit_bytes:
                _, dropped = self._masters.popitem(last=False)
                self._bytes -= dropped.nbytes


_MEMORY = MasterMemory()


class Masters:
    """The masters of pictures, by the SHA-256 of their files. Threads may share it.

    Args:
        folder: where masters are kept on disk. Each file may be deleted at any time.
        memory: where masters are kept in memory; by default that of this process.

    Example:
        >>> masters = Masters(settings.picture_cache)
        >>> masters.get(sha256, MASTER_SIDE, lambda: blobs.read(sha256)).shape
        (320, 320, 3)
    """

    def __init__(self, folder: Path, memory: MasterMemory = _MEMORY) -> None:
        self._files = MasterFiles(folder)
        self._memory = memory

    def get(self, sha256: str, side: int, read: Callable[[], bytes]) -> npt.NDArray[np.uint8]:
        """Return the master of a picture: from memory or disk, else made of the content that `read` returns.

        Raises:
            ItemError: the content cannot be decoded; and whatever `read` raises.
        """
        name = _name(sha256, side)
        found = self._memory.get(name)
        if found is None:
            found = self._files.read(name)
            if found is None:
                found = make_master(read(), side)
            self._memory.put(name, found)
        return found

    def keep(self, sha256: str, side: int) -> None:
        """Write a master to disk, for a later process, unless it is there or no longer in memory."""
        name = _name(sha256, side)
        if (master := self._memory.get(name)) is not None:
            self._files.write(name, master)

    def prune(self) -> None:
        """Delete what is too old or too much in one of the 256 subfolders, drawn at random: cheap, for each call."""
        self._files.prune(os.urandom(1).hex())


def _name(sha256: str, side: int) -> str:
    return f"{sha256}-{side}"
