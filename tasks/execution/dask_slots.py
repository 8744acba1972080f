"""The calls of one key that may run at once in a whole fleet: a semaphore of the Dask scheduler.

A worker refreshes its leases while it lives. The scheduler takes those of a dead worker back after
``distributed.scheduler.locks.lease-timeout``, 30 s by default. It keeps a few hundred bytes for each key until it ends.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

from distributed import Semaphore, Worker

from repli.tasks.execution import dask_worker
from repli.tasks.fallback import Breaker
from repli.tasks.runtime import call_slots
from repli.tasks.runtime.call_slots import CallSlots


class _FleetSemaphore:
    """A semaphore of the scheduler, whose leases are refreshed while this object lives.

    Without that end, the callback that refreshes them would keep each key's semaphore for ever; and a lease that a call
    was cut off from while it waited for it, would be a slot that nobody gives back.
    """

    def __init__(self, worker: Worker, name: str, breaker: Breaker, key: str) -> None:
        self._loop = worker.loop
        self._semaphore = Semaphore(
            max_leases=breaker.at_once,
            name=f"repli {name} {key} {breaker.at_once}",  # a scheduler keeps the count that it was told first
            scheduler_rpc=worker.scheduler,
            loop=worker.loop,
        )

    def acquire(self, *, timeout: float) -> Any:
        return self._semaphore.acquire(timeout=timeout)

    def release(self) -> Any:
        return self._semaphore.release()

    def __del__(self) -> None:
        if refreshing := getattr(self._semaphore, "refresh_callback", None):  # none where leases never expire
            self._loop.add_callback(refreshing.stop)


@lru_cache(maxsize=1)
def _slots_of(worker: Worker | None) -> CallSlots:
    def semaphore(name: str, breaker: Breaker, key: str) -> call_slots.Semaphore:
        return threading.Semaphore(breaker.at_once) if worker is None else _FleetSemaphore(worker, name, breaker, key)

    return CallSlots(semaphore)


def fleet_slots() -> CallSlots:
    """Return the slots of this process's calls, counted together with those of the other workers of its scheduler.

    Call it in the thread of a task. Without a Dask worker, the calls of this process are counted.
    """
    return _slots_of(dask_worker.this_worker())
