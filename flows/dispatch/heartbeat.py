"""Heartbeat of a run: it shows that the run is alive and how far it is, and renews its claims."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from repli.tasks.fallback import AnyChain, StoreError
from repli.tasks.fallback.chain import breakers_of
from repli.tasks.settings import Settings
from repli.tasks.storage import runs
from repli.tasks.storage.breakers import sweep
from repli.tasks.storage.clock import shorten_waits
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims
from repli.tasks.storage.runs import Progress

BEAT_EVERY_S = 2.0
RENEWALS_PER_LEASE = 6
"""Renewals of the claims during one lease. A claim survives all but one of them being lost."""


@contextmanager
def heartbeat(
    run_id: str, settings: Settings, chains: Sequence[AnyChain], progress: Callable[[], Progress | None]
) -> Iterator[None]:
    """Save the run's progress and renew its claims while the block runs, and release the claims at its end.

    Waits that a wrong clock wrote are shortened too: before the block starts, and with each renewal.
    """
    heart = _Heart(run_id, settings, chains, progress)
    heart.beat()
    thread = threading.Thread(target=heart.beat_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        heart.over.set()
        thread.join()
        with suppress(StoreError):  # the claims expire
            claims.release(heart.database, run_id)


class _Heart:
    """The heartbeat of one run."""

    def __init__(
        self, run_id: str, settings: Settings, chains: Sequence[AnyChain], progress: Callable[[], Progress | None]
    ) -> None:
        self.database = Database(settings.database_url)  # without patience: the thread can end at once
        self.over = threading.Event()
        self._run_id = run_id
        self._retry = settings.retry
        self._progress = progress
        self._renew_at = 0.0
        self._breakers = breakers_of(chains)

    def beat_on(self) -> None:
        """Beat until the run is over."""
        while not self.over.wait(min(BEAT_EVERY_S, self._retry.lease_s / RENEWALS_PER_LEASE)):
            self.beat()

    def beat(self) -> None:
        """Beat once. An error does not end the beating: the run would count as dead, and its claims would expire."""
        try:
            runs.beat(self.database, self._run_id, self._progress())
            if time.monotonic() >= self._renew_at:
                shorten_waits(self.database, self._retry, self._breakers)
                sweep(self.database, self._breakers)
                claims.renew(self.database, self._run_id, self._retry.lease_s)
                self._renew_at = time.monotonic() + self._retry.lease_s / RENEWALS_PER_LEASE
        except StoreError:
            return  # the stages report it
        except Exception:
            logging.getLogger(__name__).exception("a heartbeat of run %s failed; it goes on", self._run_id)
