"""Heartbeat of a run: it shows that the run is alive, and renews its claims."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from repli.tasks.fallback import StoreError
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims

BEATS_PER_LEASE = 6
"""Beats during one lease. A claim survives one less that does not reach the store."""


@contextmanager
def heartbeat(database: Database, run_id: str, lease_s: float) -> Iterator[None]:
    """Renew the claims of the run while the block runs, and release them at its end."""
    over = threading.Event()

    def beat() -> None:
        while True:
            with suppress(StoreError):  # the stages report it, and the next beat may reach the store
                runs.beat(database, run_id)
                claims.renew(database, run_id, lease_s)
            if over.wait(lease_s / BEATS_PER_LEASE):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(StoreError):  # the claims expire
            claims.release(database, run_id)
