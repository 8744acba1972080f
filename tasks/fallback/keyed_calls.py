"""Calls of one key, such as an origin or an account: each asks the key's breaker, and waits for one of its slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from repli.tasks.fallback.breaker import Breaker, Verdict, key_text
from repli.tasks.fallback.breaker_client import BreakerOf, without_breakers
from repli.tasks.fallback.errors import BreakerOpen, ItemError, NotHere, RungError, StoreError, with_keys
from repli.tasks.fallback.result import StepError

LOOK_EVERY_S = 0.25
"""Seconds of waiting for a slot after which the breaker is looked at again: what has opened is not waited for."""


class Slot(Protocol):
    """One of the calls of a key that may run at once. A thread waits for it, and gives it back."""

    def acquire(self, wait_s: float) -> bool:
        """Wait for the slot, for `wait_s` seconds at most. Return whether it was got."""

    def release(self) -> None:
        """Give the slot back."""


SlotOf = Callable[[str, Breaker, str], Slot]
"""Returns a slot of the rung `name` and a key, as `slot_of(name, breaker, key)`."""


class _NoSlot:
    def acquire(self, wait_s: float) -> bool:
        return True

    def release(self) -> None:
        return


def without_slots(name: str, breaker: Breaker, key: str) -> Slot:
    """Return a slot that is always free."""
    return _NoSlot()


@contextmanager
def waited_for(slot: Slot | None, *, while_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the slot during the body of the `with` statement.

    `while_waiting` is called from time to time before, and once the slot is there; what it raises ends the wait.
    """
    if slot is None:
        yield
        return
    while not slot.acquire(LOOK_EVERY_S):
        while_waiting()
    try:
        while_waiting()
        yield
    finally:
        slot.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedCalls:
    """The calls of a rung that names the key of each call itself; a rung gets them as ``context.call``.

    Threads may share it.

    Args:
        name: The rung, as `stage.rung`.
        breaker: Its breaker, of scope `key`; None where no breaker is asked.

    Example:
        >>> with KeyedCalls()("https://shop.example"):
        ...     print("called")
        called
    """

    name: str = ""
    breaker: Breaker | None = None
    breaker_of: BreakerOf = without_breakers
    slot_of: SlotOf = without_slots

    def is_refused(self, key: str) -> bool:
        """Return whether a call of `key` would be refused for sure. It asks for no permit."""
        return self.breaker is not None and self.breaker_of(self.name, self.breaker, key).refusal() is not None

    @contextmanager
    def __call__(self, key: str) -> Iterator[None]:
        """Wait for a slot of `key`, and record how the body of the `with` statement ended.

        An exception is a failure of what the key names, unless it is an `ItemError` (a `Declined` too) or `NotHere`.

        Raises:
            BreakerOpen: The breaker of the key refuses the call; the body did not run.
        """
        if self.breaker is None:
            yield
            return
        key = key_text(key)
        client = self.breaker_of(self.name, self.breaker, key)
        slot = self.slot_of(self.name, self.breaker, key)
        if refused := client.refusal():
            raise with_keys(BreakerOpen(refused), [key], breaker=self.name)
        while not slot.acquire(LOOK_EVERY_S):
            if refused := client.refusal():
                raise with_keys(BreakerOpen(refused), [key], breaker=self.name)
        try:
            permit = client.acquire()
            if permit.is_refused:
                raise with_keys(BreakerOpen(permit.why), [key], breaker=self.name)
            try:
                yield
            except Exception as error:
                if isinstance(error, ItemError | NotHere | StoreError):
                    client.record(permit, Verdict.INCONCLUSIVE)
                else:
                    asked_s = error.retry_after_s if isinstance(error, RungError) else None
                    client.record(permit, Verdict.FAILED, StepError.of(error).line, retry_after_s=asked_s)
                    with_keys(error, [key], breaker=self.name)
                raise
            except BaseException:  # cancelled: it proves nothing
                client.record(permit, Verdict.INCONCLUSIVE)
                raise
            client.record(permit, Verdict.SERVED)
        finally:
            slot.release()
