"""Networks that were converted once are kept for the machine, in the user's cache, with all that is needed to use them.

A worker that finds its models here imports neither torch nor the libraries that the models come from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Any

from repli.tasks.models.inference import has_bfloat16
from repli.tasks.user_cache import cache_folder

if TYPE_CHECKING:
    import openvino

FORMAT = 1
"""Of the files. Increase it with every change of what is kept, or of how a network is made."""
KEEP = 16
"""The networks that are kept, those used last. One of the default models takes 18 to 90 MB."""
LOCK_LIMIT_S = 30.0
"""Seconds for which a process waits for another that converts the same network, before it converts for itself."""

_PACKAGES = ("openvino", "timm", "tokenizers", "torch", "transformers", "sentence-transformers")
_NETWORK, _DESCRIPTION, _CHECKSUMS = "network.xml", "description.json", "checksums.json"
_LEFT_BEHIND_S = 3600  # a folder that is still being written by then belongs to a process that was killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A network, and what is needed to use it, in JSON."""

    network: openvino.Model
    description: Mapping[str, Any]


def fetch(
    fingerprint: Callable[[], str | None], convert: Callable[[], Converted], *, lock_limit_s: float = LOCK_LIMIT_S
) -> Converted:
    """Return the network of a source: as it was kept, else converted, and then kept where that is possible.

    One process converts, and others wait for it. Nothing about the cache is an error: without one, each process
    converts for itself.

    Args:
        fingerprint: returns the name of the source's present state, see `fingerprint_of`; None where it has none.
        convert: makes the network. What it raises is raised.
        lock_limit_s: seconds for which another process that converts it is waited for.
    """
    key, folder = fingerprint(), cache_folder("networks")
    if key is None or folder is None:
        return convert()
    if found := _read(folder / key):
        return found
    with _held(folder / f"{key[0]}.lock", lock_limit_s):  # sixteen files at most, so that none has to be removed
        if found := _read(folder / key):  # another process has converted it meanwhile
            return found
        converted = convert()
        if fingerprint() == key:  # else a file has changed while it was read
            with suppress(OSError, RuntimeError):  # a full disk; OpenVINO raises RuntimeErrors
                _write(folder, key, converted)
        return converted


def fingerprint_of(source: str, files: Iterable[Path]) -> str | None:
    """Return a name for the present state of a source, of the packages that convert it, and of this processor.

    Args:
        files: all files that the source is read from. Files that do not exist count as such.

    Returns:
        None where a file's state says nothing about its content, such as a named pipe's.
    """
    states: list[Any] = [FORMAT, source, has_bfloat16(), [_version(package) for package in _PACKAGES]]
    for file in sorted(files):
        try:
            state = file.stat()
        except OSError:
            states.append(str(file))
            continue
        if S_ISDIR(state.st_mode):
            continue
        if not S_ISREG(state.st_mode):
            return None
        states.append([str(file), state.st_size, state.st_mtime_ns, state.st_ctime_ns])
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@contextmanager
def _held(file: Path, limit_s: float) -> Iterator[None]:
    """Hold the lock of a file while the block runs, unless another process holds it for `limit_s` seconds."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        deadline = time.monotonic() + limit_s
        while not _try_lock(descriptor) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read(entry: Path) -> Converted | None:
    """Return the network of an entry; None where there is none, or a damaged one, which is removed."""
    from repli.tasks.models.openvino_runtime import openvino

    try:
        checksums = json.loads((entry / _CHECKSUMS).read_text(encoding="utf-8"))
        if checksums != _checksums(entry):
            raise ValueError("a file has changed")
        description = json.loads((entry / _DESCRIPTION).read_text(encoding="utf-8"))
        network = openvino.Core().read_model(entry / _NETWORK)
        os.utime(entry)
    except (OSError, ValueError, RuntimeError):
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return Converted(network=network, description=description)


def _write(folder: Path, key: str, converted: Converted) -> None:
    """Write an entry under another name, and rename it once it is whole."""
    from repli.tasks.models.openvino_runtime import openvino

    unfinished = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    try:
        openvino.save_model(converted.network, unfinished / _NETWORK, compress_to_fp16=False)
        (unfinished / _DESCRIPTION).write_text(json.dumps(converted.description), encoding="utf-8")
        (unfinished / _CHECKSUMS).write_text(json.dumps(_checksums(unfinished)), encoding="utf-8")
        unfinished.rename(folder / key)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # nothing, once it was renamed
    _prune(folder)


def _checksums(entry: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of an entry. Raises OSError."""
    checksums = {}
    for file in sorted(entry.iterdir()):
        if file.name != _CHECKSUMS:
            with file.open("rb") as content:
                checksums[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return checksums


def _prune(folder: Path) -> None:
    """Remove all but the `KEEP` networks used last, and what killed processes have left behind."""
    entries = [(_used_at(path), path) for path in folder.iterdir() if path.suffix != ".lock"]
    whole = sorted((entry for entry in entries if not entry[1].name.startswith(".")), reverse=True)
    unfinished = [entry for entry in entries if entry[1].name.startswith(".")]
    abandoned = [entry for entry in unfinished if entry[0] < time.time() - _LEFT_BEHIND_S]
    for _, path in whole[KEEP:] + abandoned:
        shutil.rmtree(path, ignore_errors=True)


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has removed it
        return 0.0
