"""The calls of one key that run at once in all workers of a Dask scheduler."""

from __future__ import annotations

import threading
import time

from distributed import Client, LocalCluster, get_worker

from repli.tasks.execution.dask_slots import fleet_slots
from repli.tasks.fallback import Breaker

TWO = Breaker(scope="key", at_once=2)
_running: list[int] = []
_lock = threading.Lock()


def hold(key: str) -> tuple[int, str]:
    """Hold a slot of `key`, taken in a thread of the task, for a moment; return how many held one, and the worker."""
    slots = fleet_slots()
    seen: list[int] = []

    def call() -> None:
        slot = slots.of("fetch.origin", TWO, key)
        while not slot.acquire(0.25):
            pass
        with _lock:
            _running.append(1)
            seen.append(len(_running))
        time.sleep(0.05)
        with _lock:
            _running.pop()
        slot.release()

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return seen[0], get_worker().address


def test_workers_count_their_calls_together() -> None:
    """Of two workers with four threads each, two calls of a key run at once, in threads of their tasks."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=4, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        held = client.gather(client.map(hold, ["shop.example"] * 12, pure=False))
    assert max(at_once for at_once, _ in held) == 2
    assert len({worker for _, worker in held}) == 2


def test_without_a_worker_the_calls_of_the_process_are_counted() -> None:
    """As for `try_on`; a key has slots of its own."""
    slots = fleet_slots()
    first, second, third = (slots.of("fetch.origin", TWO, "shop.example") for _ in range(3))
    assert first.acquire(0)
    assert second.acquire(0)
    assert not third.acquire(0)
    assert slots.of("fetch.origin", TWO, "other.example").acquire(0)
    first.release()
    assert third.acquire(0)
