"""The calls of one key that may run at once in a whole fleet: a semaphore of the Dask scheduler.

A worker refreshes its leases while it lives. The scheduler takes those of a dead worker back after
``distributed.scheduler.locks.lease-timeout``, 30 s by default. It keeps a few hundred bytes for each key until it ends.
"""

from __future__ import annotations

import threading
from functools import lru_cache

from distributed import Semaphore, Worker

from repli.tasks.execution import dask_worker
from repli.tasks.fallback import Breaker
from repli.tasks.runtime import call_slots
from repli.tasks.runtime.call_slots import CallSlots


@lru_cache(maxsize=1)
def _slots_of(worker: Worker | None) -> CallSlots:
    def semaphore(name: str, breaker: Breaker, key: str) -> call_slots.Semaphore:
        if worker is None:
            return threading.Semaphore(breaker.at_once)
        return Semaphore(
            max_leases=breaker.at_once, name=f"repli {name} {key}", scheduler_rpc=worker.scheduler, loop=worker.loop
        )

    return CallSlots(semaphore)


def fleet_slots() -> CallSlots:
    """Return the slots of this process's calls, counted together with those of the other workers of its scheduler.

    Call it in the thread of a task. Without a Dask worker, the calls of this process are counted.
    """
    return _slots_of(dask_worker.this_worker())
