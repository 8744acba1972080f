"""The calls of one key that run at once in a process, and how many in a second."""

from __future__ import annotations

import gc
import time

from repli.tasks.fallback import Breaker
from repli.tasks.runtime.call_slots import CallSlots


def test_a_rate_is_kept_by_holding_slots() -> None:
    """Twenty a second, two at once: six calls that take no time take at least 0.2 s, each slot 0.1 s a call."""
    slots = CallSlots()
    breaker = Breaker(scope="key", at_once=2, per_second=20)
    started = time.monotonic()
    for _ in range(3):
        slot = slots.of("fetch.origin", breaker, "shop.example")
        assert slot.acquire(1)
        slot.release()
    assert time.monotonic() - started >= 3 * 2 / 20


def test_keys_that_nothing_waits_for_take_no_memory() -> None:
    """A hundred origins leave nothing behind."""
    slots = CallSlots()
    for number in range(100):
        slot = slots.of("fetch.origin", Breaker(scope="key"), f"{number}.example")
        assert slot.acquire(0)
        slot.release()
    del slot
    gc.collect()
    assert not any(type(thing).__name__ == "_Counted" for thing in gc.get_objects())
