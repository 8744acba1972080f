"""Find a running `repli serve` on the same home.

One file under the home is both its lock and its address. The address is valid while the file is locked: the lock ends
with the process, even when that is killed.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from repli.tasks.fallback import RepliError, StoreError

FILE = "serving.json"
LOCK_LIMIT_S = 0.5
"""Seconds to wait for the lock: a command that looks up the address holds it for a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """The addresses of a `repli serve`: its UI, the variables that name its Prefect server, and its Dask scheduler."""

    ui_url: str
    environment: Mapping[str, str]
    dask_address: str


def find(home: Path) -> ServerInfo | None:
    """Return the addresses of the `repli serve` on this home; None where there is none, or it is still starting."""
    try:
        file = (home / FILE).open(encoding="utf-8")
    except OSError:
        return None
    with file:
        if _try_lock(file, fcntl.LOCK_SH):  # no server holds it: the address is an old one
            return None
        text = file.read()
    return ServerInfo(**json.loads(text)) if text else None


@contextmanager
def serving(home: Path) -> Iterator[Callable[[ServerInfo], None]]:
    """Hold the server lock of this home. Yields a function that publishes the addresses.

    Raises:
        RepliError: Another `repli serve` runs on the home, and the message says where; or the home cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the home {home} cannot be written ({error.strerror}); set REPLI_HOME to another") from None
    with file:
        deadline = time.monotonic() + LOCK_LIMIT_S
        while not (is_ours := _try_lock(file, fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not is_ours:
            other = find(home)
            where = f": {other.ui_url}" if other else ", which is starting"
            raise RepliError(f"`repli serve` runs on the home {home} already{where}; stop it first, or set REPLI_HOME")
        file.truncate(0)

        def publish(info: ServerInfo) -> None:
            file.write(json.dumps(asdict(info)))
            file.flush()

        try:
            yield publish
        finally:
            file.truncate(0)


def _try_lock(file: IO[str], kind: int) -> bool:
    """Try to take the lock, and return whether that worked. Closing the file releases it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
