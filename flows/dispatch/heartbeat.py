"""Heartbeat of a run: it shows that the run is alive and how far it is, and renews its claims."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from repli.tasks.fallback import AnyChain, StoreError
from repli.tasks.settings import Settings
from repli.tasks.storage import runs
from repli.tasks.storage.clock import shorten_waits
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims
from repli.tasks.storage.runs import Progress

BEATS_PER_LEASE = 6
"""Beats during one lease. A claim survives one less that does not reach the store."""
RETRY_S = 2.0
"""Seconds until the next try of a beat that did not reach the store."""


@contextmanager
def heartbeat(
    run_id: str, settings: Settings, chains: tuple[AnyChain, ...], progress: Callable[[], Progress | None]
) -> Iterator[None]:
    """Beat while the block runs, and release the claims of the run at its end.

    Each beat saves the run's progress, renews its claims, and shortens waits that a wrong clock wrote.
    """
    database = Database(settings.database_url)  # without patience: the thread can end at once
    declared = {f"{chain.stage}.{rung.name}": rung.breaker for chain in chains for rung in chain.rungs if rung.breaker}
    over = threading.Event()

    def beat() -> None:
        shorten_waits(database, settings.retry, declared)
        runs.beat(database, run_id, progress())
        claims.renew(database, run_id, settings.retry.lease_s)

    def beat_on() -> None:
        pause = 0.0
        while not over.wait(pause):
            pause = settings.retry.lease_s / BEATS_PER_LEASE
            try:
                beat()
            except StoreError:  # the stages report it
                pause = min(pause, RETRY_S)
            except Exception:  # without the beats, the run counts as dead and its claims expire
                logging.getLogger(__name__).exception("a heartbeat of run %s failed; it goes on", run_id)

    thread = threading.Thread(target=beat_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(StoreError):  # the claims expire
            claims.release(database, run_id)
