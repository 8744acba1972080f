"""The calls of one key that may run at once, in this process; `repli.tasks.execution.dask_slots` counts a fleet's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakValueDictionary

from repli.tasks.fallback import Breaker


class Semaphore(Protocol):
    """A count of calls that may run at once."""

    def acquire(self, *, timeout: float) -> Any:
        """Take one, within `timeout` seconds. Return whether there was one."""

    def release(self) -> Any:
        """Give one back."""


class _Counted:
    """A semaphore that a `WeakValueDictionary` can hold."""

    __slots__ = ("__weakref__", "semaphore")

    def __init__(self, semaphore: Semaphore) -> None:
        self.semaphore = semaphore


class CallSlots:
    """The slots of all keys. A key that no thread waits for or holds a slot of takes no memory. Threads may share it.

    Args:
        semaphore: makes the semaphore of a key, by the rung's name, its breaker and the key.

    Example:
        >>> slot = CallSlots().of("fetch.origin", Breaker(scope="key", at_once=1), "https://shop.example")
        >>> slot.acquire(1.0)
        True
        >>> slot.release()
    """

    def __init__(
        self,
        semaphore: Callable[[str, Breaker, str], Semaphore] = lambda name, breaker, key: threading.Semaphore(
            breaker.at_once
        ),
    ) -> None:
        self._semaphore = semaphore
        self._counted: WeakValueDictionary[tuple[str, str], _Counted] = WeakValueDictionary()
        self._lock = threading.Lock()

    def of(self, name: str, breaker: Breaker, key: str) -> CallSlot:
        """Return a slot of the rung `name` and a key. Each is acquired and released by one thread."""
        with self._lock:
            counted = self._counted.get((name, key))
            if counted is None:
                counted = self._counted[name, key] = _Counted(self._semaphore(name, breaker, key))
        return CallSlot(counted, breaker.slot_s)


class CallSlot:
    """One slot; see `repli.tasks.fallback.keyed_calls.Slot`."""

    def __init__(self, counted: _Counted, hold_s: float) -> None:
        self._counted = counted
        self._hold_s = hold_s
        self._since = 0.0

    def acquire(self, wait_s: float) -> bool:
        """Wait for the slot, for `wait_s` seconds at most. Return whether it was got."""
        if not self._counted.semaphore.acquire(timeout=wait_s):
            return False
        self._since = time.monotonic()
        return True

    def release(self) -> None:
        """Give the slot back, once it was held for as long as the key's rate wants."""
        time.sleep(max(0.0, self._since + self._hold_s - time.monotonic()))
        self._counted.semaphore.release()
