"""One rung over one batch: split on out of memory, isolate failing items, and return an outcome for every item.

==========================  ======================================================================
the call                    what follows
==========================  ======================================================================
returns outcomes            each item has its own outcome
`OutOfMemory`               free memory, halve, try both halves, down to one item
`Unavailable`               this rung serves none of the remaining items; no further call
a fatal error               the chain ends with `ProcessPoisoned`: every later call of this process would fail
`TimedOut`                  the call's items are not served; no split, which would only time out again
`BadAnswer`                 the call's items are not served: the rung does not answer for each item, and a smaller call
                            might return the right number of wrong answers
any other exception         single items are tried; once one of them is answered, the rest is bisected within a budget
==========================  ======================================================================

**Bad item or broken rung** is judged by the batch. A batch of which something is served is no failure of the rung,
whatever else failed: its items did. A batch of which nothing is served is one failure for the breaker, recorded when it
ends. Where items failed by themselves alone (`ItemError`, `Declined`), or the rung is `NotHere`, or the batch was
cancelled, nothing is recorded.

**A rung is given up** for the rest of the batch after `GIVE_UP_AFTER` failed calls in a row, all but the first with
single items from all over the batch. Once a call has answered, it takes as many failures in a row before the rung is in
doubt again: a rung that breaks in the midst of a batch costs it twice as many calls.

Each call needs a permit of the breaker: once the breaker refuses, the waiting items are not served. A probe carries one
item, drawn from those that come next: if it were always the first, one bad item could fail every probe. It is judged by
itself, and the rest of the batch is called once it has been served.

A dead dependency is therefore called in as many batches as open its breaker, and in those that are under way then. Such
a batch costs one call where the rung says `Unavailable`, or where it has one item; two where each call ends at the time
limit; five where the rung raises anything else, and ten if it has served some of the batch before. With a breaker
of five failures these are at most 5, 10 or 25 calls with one worker, 12, 24 or 60 with 8 that begin at once, and 36, 72
or 180 with 32.

While a call gives no answer for `SLOW_AFTER_S`, the items that have one are let go, and so are those that wait.

Source: the split-and-retry of Spark RAPIDS, whose contract holds here too: a call must be idempotent.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from zlib import crc32

from repli.tasks.fallback.breaker import Verdict
from repli.tasks.fallback.breaker_client import BatchPermit, BreakerClient, NoBreaker, Permit, verdict_of
from repli.tasks.fallback.devices import DeviceNote, noting
from repli.tasks.fallback.errors import (
    BadAnswer,
    BreakerOpen,
    ItemError,
    NotHere,
    OutOfMemory,
    ProcessPoisoned,
    StoreError,
    TimedOut,
    Unavailable,
    message_of,
)
from repli.tasks.fallback.outcome import Answers, ChainInput, Failed, Outcome
from repli.tasks.fallback.result import StepError

I = TypeVar("I")  # noqa: E741  as in chain.py
V = TypeVar("V")

SLOW_AFTER_S = 3.0
"""Seconds without an answer after which a call holds up no other item of its batch."""
GROW_AFTER = 4
"""Calls at the working size that must return before it doubles."""
GIVE_UP_AFTER = 5
"""Failed calls in a row after which a rung in doubt is given up: the call of the whole batch, and four of single items.
So up to three bad items, wherever they are, do not make a rung look broken."""
TIMEOUTS_TO_GIVE_UP = 2
"""Time-outs in a row that give a rung up, whether it has answered before or not: each costs the whole limit."""
FAILURES_PER_HALVING = 4
"""Failed calls that isolation may cost, once a call has answered, per halving from the batch to one item. A bad item
costs one per halving, so four of them are found wherever they are in the batch."""
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""Its multiples, modulo 1, are spread evenly, however many they are. They place the single items of a rung in doubt."""


class OpenedMeanwhile(BreakerOpen):
    """The breaker has opened while an allowed call waited for its turn: the rung was not called."""


class WorkingSizes:
    """The number of items that a call of each rung may carry in this process, learnt from running out of memory.

    Example:
        >>> sizes = WorkingSizes()
        >>> sizes.record_out_of_memory("classify_image.gpu", items=64)
        >>> sizes.limit("classify_image.gpu", items=64)
        32
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._served: dict[str, int] = {}

    def limit(self, rung: str, items: int) -> int:
        """Return how many of `items` items a call of the rung may carry."""
        return min(items, self._sizes.get(rung, items))

    def record_out_of_memory(self, rung: str, items: int) -> None:
        """Set the rung's working size to half of `items`, the size of a call that ran out of memory."""
        self._served[rung] = 0  # first: a thread that sees the size reads this count
        self._sizes[rung] = max(1, items // 2)

    def record_fit(self, rung: str, items: int) -> None:
        """Count a call with `items` items that returned; double the working size after `GROW_AFTER` calls at it."""
        if items < self._sizes.get(rung, items + 1):
            return
        self._served[rung] += 1
        if self._served[rung] >= GROW_AFTER:
            self._sizes[rung] *= 2
            self._served[rung] = 0


@dataclass(slots=True)
class _Budget:
    """The failed calls that one batch may cost a rung.

    A call that answers ends a row of failures. Where each call carries one item, only a served one does: an item's own
    error may be found before the call of what the rung depends on.
    """

    items: int
    failures: int = 0
    in_a_row: int = 0
    has_answered: bool = False

    def record_answer(self) -> None:
        self.in_a_row = 0
        self.has_answered = True

    def record_failure(self, *, is_time_out: bool) -> None:
        self.failures += 1
        self.in_a_row += math.ceil(self._given_up_at / TIMEOUTS_TO_GIVE_UP) if is_time_out else 1

    @property
    def is_in_doubt(self) -> bool:
        """Return whether only single items may be called: they tell a bad item from a broken rung."""
        return self.in_a_row >= (GIVE_UP_AFTER if self.has_answered else 1)

    @property
    def is_given_up(self) -> bool:
        return self.in_a_row >= self._given_up_at

    @property
    def can_bisect(self) -> bool:
        limit = FAILURES_PER_HALVING * math.ceil(math.log2(max(2, self.items))) if self.has_answered else 0
        return self.failures < max(GIVE_UP_AFTER, limit)

    @property
    def _given_up_at(self) -> int:
        return GIVE_UP_AFTER * (2 if self.has_answered else 1)


@dataclass(slots=True)
class RungResult(Generic[V]):
    """The outcomes of one rung for the items of one batch, by item id.

    Args:
        outcomes: One outcome per item.
        seconds: Each item's share of the time of the calls that carried it.
        devices: The device that the last call of an item has noted, where it noted one.
        unavailable: Items that were not served because the device, model or service is not here.
        refused: Items without a call because the rung's breaker refused it.

    Example:
        >>> from repli.tasks.fallback import Served
        >>> result = RungResult(outcomes={"42": Served("cat")}, seconds={"42": 0.1})
        >>> result.outcomes["42"].value
        'cat'
    """

    outcomes: dict[str, Outcome[V]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    devices: dict[str, str | None] = field(default_factory=dict)
    unavailable: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


LetGo = Callable[[RungResult[V], Sequence[ChainInput[Any]]], set[str]]
"""``let_go(answered, waiting)`` takes items out of the batch while a call is slow: of those that the rung has answered,
and of those that wait for it. It returns the ids of the items that it took."""


@dataclass(slots=True)
class RunningCall(Generic[I, V]):
    """A running call, and the answers that it has given so far."""

    calls: _Calls[I, V]
    chunk: Sequence[ChainInput[I]]
    let_go: LetGo[V]
    accept: Callable[[Outcome[V]], Outcome[V]]
    timer: Callable[[], float]
    note: DeviceNote
    answers: Answers[V] = field(default_factory=dict)
    _seen: int = 0
    _since: float | None = None

    def look(self) -> None:
        """Let the other items go if no answer has come for `SLOW_AFTER_S`."""
        now, answers = self.timer(), dict(self.answers)
        if self._since is None or len(answers) > self._seen:
            self._since, self._seen = now, len(answers)
        elif now - self._since >= SLOW_AFTER_S:
            self._since = now
            result = self.calls.result
            here = {self.chunk[position].item_id: self.accept(outcome) for position, outcome in answers.items()}
            devices = {**result.devices, **dict.fromkeys(here, self.note.device)}
            so_far = replace(result, outcomes={**result.outcomes, **here}, devices=devices)
            waiting = [item for chunk in self.calls.waiting for item in chunk]
            gone = self.let_go(so_far, waiting)
            self.calls.waiting = deque(
                kept for chunk in self.calls.waiting if (kept := [item for item in chunk if item.item_id not in gone])
            )


class _Calls(Generic[I, V]):
    """The calls of one rung over one batch: the waiting chunks, and the result so far."""

    def __init__(
        self,
        name: str,
        inputs: Sequence[ChainInput[I]],
        *,
        per_item: bool,
        sizes: WorkingSizes,
        free_memory: Callable[[], None],
    ) -> None:
        self.name = name
        self.sizes = sizes
        self.free_memory = free_memory
        self.waiting = deque([list(inputs)])
        self.per_item = per_item
        self.budget = _Budget(len(inputs))
        self.result: RungResult[V] = RungResult(seconds={item.item_id: 0.0 for item in inputs})

    def next_chunk(self) -> list[ChainInput[I]]:
        if self.budget.is_in_doubt:
            self.waiting.rotate(-1)  # another part of the batch each time: bad items are often neighbours
            return self._take_one(int(len(self.waiting[0]) * (self.budget.in_a_row * GOLDEN_RATIO % 1)))
        chunk = self.waiting.popleft()
        limit = 1 if self.per_item else self.sizes.limit(self.name, len(chunk))
        if len(chunk) > limit:
            self.waiting.appendleft(chunk[limit:])
        return chunk[:limit]

    def next_probe(self, token: str) -> list[ChainInput[I]]:
        """Return one item, drawn by the token of the probe, which is random."""
        return self._take_one(crc32(token.encode()) % len(self.waiting[0]))

    def _take_one(self, position: int) -> list[ChainInput[I]]:
        chunk = self.waiting.popleft()
        if len(chunk) > 1:
            self.waiting.appendleft(chunk[:position] + chunk[position + 1 :])
        return [chunk[position]]

    def record_call(self, chunk: Sequence[ChainInput[I]], seconds: float, device: str | None) -> None:
        for item in chunk:
            self.result.seconds[item.item_id] += seconds / len(chunk)
            self.result.devices[item.item_id] = device

    def record_outcomes(self, chunk: Sequence[ChainInput[I]], outcomes: Sequence[Outcome[V]]) -> None:
        self.sizes.record_fit(self.name, len(chunk))
        self.result.outcomes.update(zip((item.item_id for item in chunk), outcomes, strict=True))
        verdict, _ = verdict_of(outcomes)
        if verdict is Verdict.SERVED or (verdict is Verdict.INCONCLUSIVE and not self.per_item):
            self.budget.record_answer()
        if verdict is Verdict.FAILED:
            self.count_failure(next(one for one in outcomes if isinstance(one, Failed) and not one.is_item_error))

    def record_error(self, chunk: list[ChainInput[I]], error: Exception) -> None:
        if isinstance(error, ItemError) and len(chunk) > 1:  # of one of them: the others have no error of their own
            what = f"{self.name} raised {type(error).__name__} ({message_of(error)}) in a call with {len(chunk)} items"
            error = BadAnswer(f"{what}; put it in the list of answers, in the item's place, or set per_item")
            self.fail(chunk, error)
            self.count_failure(Failed.because(error), halves=_halves(chunk))
            return
        self.fail(chunk, error)  # replaced if a smaller call serves them
        failed = Failed.because(error)
        match error:
            case ItemError() if self.per_item:
                pass  # it may be found before the call of what the rung depends on
            case ItemError():
                self.budget.record_answer()
            case OutOfMemory() | MemoryError():
                clear_traceback_frames(error)
                self.sizes.record_out_of_memory(self.name, len(chunk))
                if len(chunk) > 1:
                    self.free_memory()  # only before a smaller call: it takes a large part of a second
                    self.waiting.extendleft(reversed(_halves(chunk)))
                else:
                    self.count_failure(failed)
            case Unavailable():
                unserved = [*chunk, *self.drain()]
                self.result.unavailable.update(item.item_id for item in unserved)
                self.fail(unserved, error)
            case TimedOut():
                self.count_failure(failed, is_time_out=True)
            case BadAnswer():
                self.count_failure(failed)
            case _:
                self.count_failure(failed, halves=_halves(chunk) if len(chunk) > 1 else ())

    def count_failure(
        self, failed: Failed, *, is_time_out: bool = False, halves: Iterable[list[ChainInput[I]]] = ()
    ) -> None:
        """Count a failed call. Give the rung up for the waiting items, or bisect its chunk, as the budget says."""
        self.budget.record_failure(is_time_out=is_time_out)
        if self.budget.is_given_up:
            waiting = [item.item_id for item in self.drain()]
            self.result.outcomes = {**dict.fromkeys(waiting, failed), **self.result.outcomes}
        elif self.budget.can_bisect:
            self.waiting.extend(halves)

    def refuse(self, error: BreakerOpen) -> None:
        """Stop calling: mark the waiting items refused, except those that a call has already failed."""
        refused = [item for item in self.drain() if item.item_id not in self.result.outcomes]
        self.result.refused.update(item.item_id for item in refused)
        self.fail(refused, error)

    def fail(self, inputs: Sequence[ChainInput[I]], error: Exception) -> None:
        self.result.outcomes.update((item.item_id, Failed.because(error)) for item in inputs)

    def drain(self) -> list[ChainInput[I]]:
        inputs = [item for chunk in self.waiting for item in chunk]
        self.waiting.clear()
        return inputs


def _halves(chunk: list[ChainInput[I]]) -> tuple[list[ChainInput[I]], list[ChainInput[I]]]:
    middle = (len(chunk) + 1) // 2
    return chunk[:middle], chunk[middle:]


def clear_traceback_frames(error: BaseException) -> None:
    """Clear the frames of `error` and of its causes: their locals keep what the failed call held, such as memory."""
    errors = [error]
    for current in errors:  # the list grows in the loop
        traceback.clear_frames(current.__traceback__)
        causes = (current.__cause__, current.__context__)
        errors += [cause for cause in causes if cause is not None and not any(cause is other for other in errors)]


def call_rung(
    name: str,
    inputs: Sequence[ChainInput[I]],
    call: Callable[[Sequence[ChainInput[I]], Permit, RunningCall[I, V]], Sequence[Outcome[V]]],
    *,
    per_item: bool,
    sizes: WorkingSizes,
    free_memory: Callable[[], None],
    timer: Callable[[], float],
    breaker: BreakerClient = NoBreaker(),
    accept: Callable[[Outcome[V]], Outcome[V]] = lambda outcome: outcome,
    is_fatal: Callable[[Exception], bool] = lambda error: False,
    let_go: LetGo[V] = lambda answered, waiting: set(),
) -> RungResult[V]:
    """Return one outcome per input, whatever `call` raises.

    Only `Exception` is caught, and only around `call`: an error in this module must not look like a fallback.

    Args:
        name: The rung, as `stage.rung`.
        call: ``call(chunk, permit, running)`` serves a chunk of the inputs under a permit, and returns one outcome per
            input. It may note them in `running.answers` as they come, and calls `running.look` every second meanwhile.
            Must be idempotent.
        per_item: Call with one item at a time.
        sizes: Working sizes of this process, read and updated.
        free_memory: Called before a smaller call after out of memory.
        timer: A clock in seconds that only grows.
        breaker: The client of the rung's breaker.
        accept: Turns an outcome that the chain does not accept into a failure.
        is_fatal: Whether no call of this process can succeed after an error.
        let_go: Takes items out of the batch while a call is slow.

    Raises:
        ProcessPoisoned: A call ended with a fatal error, which the breaker has counted.
    """
    calls: _Calls[I, V] = _Calls(name, inputs, per_item=per_item, sizes=sizes, free_memory=free_memory)
    batch = BatchPermit(breaker)
    while calls.waiting:
        permit = batch.acquire()
        if permit.is_refused:
            calls.refuse(BreakerOpen(permit.why))
            break
        chunk = calls.next_probe(permit.token) if permit.is_probe else calls.next_chunk()
        started = timer()
        note = DeviceNote()
        running: RunningCall[I, V] = RunningCall(calls, chunk, let_go, accept, timer, note)
        try:
            with noting(note):
                outcomes = call(chunk, permit, running)
        except OpenedMeanwhile as error:
            calls.waiting.appendleft(chunk)
            batch.record(permit, Verdict.INCONCLUSIVE)
            calls.refuse(BreakerOpen(str(error)))
            break
        except StoreError:  # no rung can do without the store: the stage fails, and runs again
            batch.cancel(permit)
            raise
        except Exception as error:  # the engine's only catch: a rung's exception becomes a value
            calls.record_call(chunk, timer() - started, note.device)
            if is_fatal(error):
                breaker.record(permit, Verdict.FAILED, StepError.of(error).line)
                raise ProcessPoisoned(f"{name} left its process unusable: {StepError.of(error).line}") from error
            if isinstance(error, NotHere) and (why := breaker.refusal_elsewhere()):
                calls.waiting.appendleft(chunk)
                batch.record(permit, Verdict.INCONCLUSIVE)
                calls.refuse(BreakerOpen(why))
                break
            if not running.answers:
                batch.record_error(permit, error, items=len(chunk))
                calls.record_error(chunk, error)
                continue
            answered = dict(running.answers)  # the others of this call have no answer
            outcomes = [answered.get(position) or Failed.because(error) for position in range(len(chunk))]
        except BaseException:  # cancelled: it proves nothing about the rung
            batch.cancel(permit)
            raise
        else:
            calls.record_call(chunk, timer() - started, note.device)
        accepted = [accept(outcome) for outcome in outcomes]
        batch.record(permit, *verdict_of(accepted))
        calls.record_outcomes(chunk, accepted)
    batch.finish()
    return calls.result
