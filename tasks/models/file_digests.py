"""Digests of files by their content: the same for every copy. Each is made once per state of a file and machine."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from repli.tasks.user_cache import cache_folder

LENGTH = 12
"""The digits of a shown digest: two files of one name that differ have the same one once in 10^14 times."""
SETTLED_S = 2.0
"""Seconds after a change from which the file's times tell it from another one: clocks of file systems are coarse."""


def digest_of(file: Path, *, now: Callable[[], float] = time.time) -> str:
    """Return the SHA-256 of a file. It is read once: the user's cache keeps the digest of this state of the file.

    Args:
        now: returns the time, in seconds since the epoch.

    Raises:
        OSError: the file cannot be read.
    """
    state = file.stat()
    key = f"{file.absolute()}\n{state.st_ino} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
    folder = cache_folder("digests")
    kept = folder / hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest() if folder else None
    if kept and (found := _read(kept)):
        return found
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if kept and _is_same(state, file.stat()) and now() - state.st_ctime > SETTLED_S:
        with suppress(OSError):
            unfinished = kept.with_name(f"{kept.name}.{os.getpid()}")
            unfinished.write_text(digest, encoding="ascii")
            unfinished.replace(kept)
    return digest


def digest_of_folder(folder: Path, files: Iterable[Path]) -> str:
    """Return a digest of some files of a folder, by their names in it and their content.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(folder).as_posix()} {digest_of(file)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _read(kept: Path) -> str | None:
    try:
        digest = kept.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return digest if len(digest) == hashlib.sha256().digest_size * 2 else None


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_size, one.st_mtime_ns, one.st_ctime_ns) == (other.st_size, other.st_mtime_ns, other.st_ctime_ns)
