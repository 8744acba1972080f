"""The calls of one key that run at once in all workers of a Dask scheduler."""

from __future__ import annotations

import gc
import threading
import time

from distributed import Client, LocalCluster, Semaphore, get_worker

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
        LocalCluster(n_workers=2, threads_per_worker=4, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        held = client.gather(client.map(hold, ["shop.example"] * 12, pure=False))
    assert max(at_once for at_once, _ in held) == 2
    assert len({worker for _, worker in held}) == 2


def count_semaphores(keys: int) -> int:
    """Call many keys; return how many semaphores are left once the worker's loop has had its turn."""
    slots = fleet_slots()
    for number in range(keys):
        slot = slots.of("fetch.origin", TWO, f"{number}.example")
        assert slot.acquire(60)
        slot.release()
    del slot
    for _ in range(50):
        gc.collect()
        if not (left := sum(type(thing) is Semaphore for thing in gc.get_objects())):
            break
        time.sleep(0.1)
    return left


def test_keys_that_nothing_waits_for_leave_no_semaphore() -> None:
    """Each would refresh its leases every few seconds, for ever."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        assert client.submit(count_semaphores, 20).result() == 0


def of_other_count(key: str) -> bool:
    """Whether a slot is there for a breaker with another count than before."""
    slot = fleet_slots().of("fetch.origin", Breaker(scope="key", at_once=3), key)
    has_slot = slot.acquire(60)
    slot.release()
    return has_slot


def test_another_count_may_come_with_the_next_run() -> None:
    """A scheduler that outlives a run, and its policy, refuses no call."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        client.submit(hold, "shop.example").result()
        assert client.submit(of_other_count, "shop.example").result()


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
