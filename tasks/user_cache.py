"""The user's cache: files that are made once per user and machine, and that may be deleted at any time."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path


def cache_folder(purpose: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder for a purpose in the user's cache, after it was created; None where there is none to use.

    It is `repli/PURPOSE` under `XDG_CACHE_HOME`, else under `~/.cache`. A relative `XDG_CACHE_HOME` is ignored, as the
    XDG Base Directory Specification asks. A folder that cannot be written, or that another user owns or may write to,
    is not used: what is read from it is trusted. Files in it are written under another name first, and renamed once
    they are whole, because several processes use it at once.

    Args:
        purpose: The name of the folder, such as "prefect".
    """
    named = Path(environ.get("XDG_CACHE_HOME") or "")
    try:
        cache = named if named.is_absolute() else Path(environ.get("HOME") or "~").expanduser() / ".cache"
        folder = cache / "repli"
        return _private_folder(_private_folder(folder) / purpose)
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        return None


def _private_folder(folder: Path) -> Path:
    """Return the folder, after it was created where it is missing. Raises OSError if others may write to it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.geteuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} is not this user's alone")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written")
    return folder
