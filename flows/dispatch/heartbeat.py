"""While a flow works: its run is known to be alive, and its claims do not run out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from repli.tasks.fallback import StoreError
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims

BEATS_A_LEASE = 6
"""A claim outlives so many beats that do not reach the store, less one."""


@contextmanager
def heartbeat(database: Database, run_id: str, lease_s: float) -> Iterator[None]:
    """Renew what the run holds while the block runs; give it back at its end."""
    over = threading.Event()

    def beat() -> None:
        while True:
            with suppress(StoreError):  # the stages say so, and the next beat may reach it
                runs.beat(database, run_id)
                claims.renew(database, run_id, lease_s)
            if over.wait(lease_s / BEATS_A_LEASE):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(StoreError):  # then they run out by themselves
            claims.release(database, run_id)
