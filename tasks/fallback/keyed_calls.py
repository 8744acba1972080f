"""Calls of one key, such as an origin or an account: each asks the key's breaker, and waits for one of its slots."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from repli.tasks.fallback.breaker import Breaker, Verdict, key_text
from repli.tasks.fallback.breaker_client import BreakerClient, BreakerOf, Permit, without_breakers
from repli.tasks.fallback.errors import BreakerOpen, ItemError, NotHere, RungError, StoreError, TimedOut, with_keys
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


class _Doubts:
    """What the calls of one batch have seen of each key. Thread-safe.

    A key is in doubt from a failed call on until as many calls that began later have been served. A key in doubt is
    called one at a time. A failed call does not count if it was under way when another failed, or if one that began
    later was served before it ended. So a key that fails now and then stays in use, and one that is dead is soon
    refused, however many calls are under way at once.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: Counter[str] = Counter()
        self._failures: defaultdict[str, deque[Permit]] = defaultdict(deque)
        self._failed_at: dict[str, float] = {}
        self._served: dict[str, float] = {}  # when the last call that was served had begun

    def begin(self, key: str, wait_s: float) -> bool:
        """Wait until a call of the key may begin, for `wait_s` seconds at most. Return whether it has begun."""
        with self._changed:
            may_begin = self._changed.wait_for(
                lambda: not (self._failures.get(key) and self._under_way[key]), timeout=wait_s
            )
            self._under_way[key] += may_begin
            return may_begin

    def end(self, key: str) -> None:
        """Note the end of a call that has begun."""
        with self._changed:
            self._under_way[key] -= 1
            self._changed.notify_all()

    def is_failure(self, key: str, permit: Permit, began: float) -> bool:
        """Note a failed call. Return whether it counts as a failure of its key."""
        with self._changed:
            if self._served.get(key, began) > began:
                return False
            counts = self._failed_at.get(key, began) <= began
            self._failed_at[key] = time.monotonic()
            if counts:
                self._failures[key].append(permit)
            return counts

    def disproved(self, key: str, began: float) -> Permit | None:
        """Note a served call. Return the failed one that it disproves, the first of those before it began."""
        with self._changed:
            self._served[key] = max(began, self._served.get(key, began))
            failures = self._failures.get(key)
            if not failures or began < self._failed_at[key]:
                return None
            self._changed.notify_all()
            return failures.popleft()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedCalls:
    """The calls of a rung that names the key of each call itself; a rung gets them as ``context.call``.

    A served call takes back one failure of its key, among the calls of the batch, see `_Doubts`. A time-out stays, and
    so does a failure that names a time to wait. Threads may share it.

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
    _doubts: _Doubts = field(default_factory=_Doubts, init=False, repr=False, compare=False)

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
        self._check_allowed(client, key)
        while not self._doubts.begin(key, LOOK_EVERY_S):
            self._check_allowed(client, key)
        try:
            while not slot.acquire(LOOK_EVERY_S):
                self._check_allowed(client, key)
            try:
                with self._recorded(client, key):
                    yield
            finally:
                slot.release()
        finally:
            self._doubts.end(key)

    def _check_allowed(self, client: BreakerClient, key: str) -> None:
        if refused := client.refusal():
            raise self._refusal(refused, key)

    def _refusal(self, why: str, key: str) -> BreakerOpen:
        return with_keys(BreakerOpen(why), [key], breaker=self.name)

    @contextmanager
    def _recorded(self, client: BreakerClient, key: str) -> Iterator[None]:
        """Ask for a permit, and record how the body of the `with` statement ended."""
        permit = client.acquire()
        if permit.is_refused:
            raise self._refusal(permit.why, key)
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            if isinstance(error, ItemError | NotHere | StoreError):
                client.record(permit, Verdict.INCONCLUSIVE)
            else:
                asked_s = error.retry_after_s if isinstance(error, RungError) else None
                stays = permit.is_probe or asked_s or isinstance(error, TimedOut)
                counts = stays or self._doubts.is_failure(key, permit, began)
                verdict = Verdict.FAILED if counts else Verdict.INCONCLUSIVE
                client.record(permit, verdict, StepError.of(error).line, retry_after_s=asked_s)
                with_keys(error, [key], breaker=self.name)
            raise
        except BaseException:  # cancelled: it proves nothing
            client.record(permit, Verdict.INCONCLUSIVE)
            raise
        client.record(permit, Verdict.SERVED)
        if failed := self._doubts.disproved(key, began):
            client.take_back(failed)
