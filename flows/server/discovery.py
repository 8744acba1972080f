"""Where a running `repli serve` is found, by whoever uses the same home.

One file under the home is both its lock and its address: what stands in it holds for as long as the file is locked,
which ends with the process, however that ends.
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
LOOKS_LAST_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What `repli serve` offers: its UI, the variables that name its Prefect server, and its Dask scheduler."""

    ui_url: str
    environment: Mapping[str, str]
    dask_address: str


def find(home: Path) -> ServerInfo | None:
    """What is served on this home now; None where nothing is, or not yet."""
    try:
        file = (home / FILE).open(encoding="utf-8")
    except OSError:
        return None
    with file:
        if _is_locked(file, fcntl.LOCK_SH):  # nobody has it: what stands there is an old address
            return None
        text = file.read()
    return ServerInfo(**json.loads(text)) if text else None


@contextmanager
def serving(home: Path) -> Iterator[Callable[[ServerInfo], None]]:
    """Be the one that serves on this home while the block runs. Call what it yields with the address, once it answers.

    Raises:
        RepliError: another one serves on it; the message says where. Or the home cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the home {home} cannot be written ({error.strerror}); set REPLI_HOME to another") from None
    with file:
        deadline = time.monotonic() + LOOKS_LAST_S  # who looks up the address has the file for a moment
        while not (is_ours := _is_locked(file, fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not is_ours:
            other = find(home)
            where = f": {other.ui_url}" if other else ", about to start"
            raise RepliError(f"`repli serve` runs on the home {home} already{where}; stop it first, or set REPLI_HOME")
        file.truncate(0)

        def publish(served: ServerInfo) -> None:
            file.write(json.dumps(asdict(served)))
            file.flush()

        try:
            yield publish
        finally:
            file.truncate(0)


def _is_locked(file: IO[str], kind: int) -> bool:
    """Whether the lock could be had; it is let go when the file is closed."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
