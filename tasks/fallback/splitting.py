"""One rung over one batch: halve what does not fit, isolate what breaks, and answer for every item.

==========================  ======================================================================
the call                    what follows
==========================  ======================================================================
answers per item            each item has its own outcome
`OutOfMemory`               free memory, halve, try both halves, down to one item
`Unavailable`               nobody is served by this rung; no further call
`TimedOut`                  the call's items are not served; no split, which would only wait again
any other exception         bisection within a budget, so that a broken rung costs a few calls
==========================  ======================================================================

Before each call the rung's breaker is asked: once it refuses, the items that still wait are not served. A probe carries
one item, any of those that come next: were it always the first, a bad one could fail every probe.

After Spark RAPIDS' split-and-retry, whose contract holds here too: a call must be idempotent.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from zlib import crc32

from repli.tasks.fallback.attribution import FailureAttribution
from repli.tasks.fallback.breaker import Verdict
from repli.tasks.fallback.errors import BreakerOpen, ItemError, OutOfMemory, TimedOut, Unavailable
from repli.tasks.fallback.gate import BreakerClient, NoBreaker, Permit
from repli.tasks.fallback.outcome import Failed, Outcome
from repli.tasks.fallback.result import StepError
from repli.tasks.fallback.work import ChainInput

I = TypeVar("I")  # noqa: E741  as in chain.py
V = TypeVar("V")

GROW_AFTER = 4
"""Served calls at the working size before it doubles."""
GIVE_UP_AFTER = 9
"""Failed calls, with none answered, after which a rung is taken to be broken. Four poison items, one in each quarter,
fail the batch, both halves, the quarters and one eighth before a call can be answered: 1 + 2 + 4 + 1."""
FAILURES_PER_HALVING = 4
"""Failed calls that isolation may cost, once a call was answered, per halving from the batch to one item: a poison
item costs one a halving, so four of them are found wherever they sit."""


class WorkingSizes:
    """How many items a call of each rung may carry in this process, learnt from running out of memory."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._served: dict[str, int] = {}

    def limit(self, rung: str, items: int) -> int:
        """`items`, or as many of them as fitted last."""
        return min(items, self._sizes.get(rung, items))

    def did_not_fit(self, rung: str, items: int) -> None:
        self._served[rung] = 0  # first: another thread that sees the size counts on it
        self._sizes[rung] = max(1, items // 2)

    def fitted(self, rung: str, items: int) -> None:
        if items < self._sizes.get(rung, items + 1):
            return
        self._served[rung] += 1
        if self._served[rung] >= GROW_AFTER:
            self._sizes[rung] *= 2
            self._served[rung] = 0


@dataclass(slots=True)
class _Isolation:
    """The budget of one batch for finding the items that break a rung."""

    items: int
    failures: int = 0
    has_answered: bool = False

    def may_go_on(self) -> bool:
        if not self.has_answered:
            return self.failures < GIVE_UP_AFTER
        return self.failures < max(GIVE_UP_AFTER, FAILURES_PER_HALVING * math.ceil(math.log2(max(2, self.items))))


@dataclass(slots=True)
class RungResult(Generic[V]):
    """What a rung left for the items of one batch.

    `seconds` is each item's share of the calls that carried it; `unavailable` names the items that it did not answer
    because the device, model or service is not here, `refused` those that its breaker kept from it.
    """

    outcomes: dict[str, Outcome[V]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    unavailable: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


class _Calls(Generic[I, V]):
    """The calls of one rung over one batch: what still waits, and what came back."""

    def __init__(
        self,
        name: str,
        works: Sequence[ChainInput[I]],
        *,
        one_by_one: bool,
        sizes: WorkingSizes,
        free_memory: Callable[[], None],
    ) -> None:
        self.name = name
        self.sizes = sizes
        self.free_memory = free_memory
        self.waiting = deque([list(works)])
        self.one_by_one = one_by_one
        self.isolation = _Isolation(len(works))
        self.replies: RungResult[V] = RungResult(seconds={work.item_id: 0.0 for work in works})

    def next_chunk(self) -> list[ChainInput[I]]:
        chunk = self.waiting.popleft()
        limit = 1 if self.one_by_one else self.sizes.limit(self.name, len(chunk))
        if len(chunk) > limit:
            self.waiting.appendleft(chunk[limit:])
        return chunk[:limit]

    def next_probe(self, token: str) -> list[ChainInput[I]]:
        """One item, drawn by the probe's token, which is random."""
        chunk = self.waiting.popleft()
        drawn = crc32(token.encode()) % len(chunk)
        if len(chunk) > 1:
            self.waiting.appendleft(chunk[:drawn] + chunk[drawn + 1 :])
        return [chunk[drawn]]

    def took(self, chunk: Sequence[ChainInput[I]], seconds: float) -> None:
        for work in chunk:
            self.replies.seconds[work.item_id] += seconds / len(chunk)

    def answered(self, chunk: Sequence[ChainInput[I]], outcomes: Sequence[Outcome[V]]) -> None:
        self.isolation.has_answered = True
        self.sizes.fitted(self.name, len(chunk))
        self.replies.outcomes.update(zip((work.item_id for work in chunk), outcomes, strict=True))

    def raised(self, chunk: list[ChainInput[I]], error: Exception) -> None:
        self.failed(chunk, error)  # until a smaller call says otherwise
        match error:
            case OutOfMemory() | MemoryError():
                _clear_traceback_frames(error)
                self.sizes.did_not_fit(self.name, len(chunk))
                if len(chunk) > 1:
                    self.free_memory()  # before a smaller try only: it takes a good part of a second
                    self.waiting.extendleft(reversed(_halves(chunk)))
            case Unavailable():
                given_up = [*chunk, *self.drained()]
                self.replies.unavailable.update(work.item_id for work in given_up)
                self.failed(given_up, error)
            case TimedOut():
                pass
            case _ if self.one_by_one:  # nobody shares the call, so there is nobody to isolate
                pass
            case _:
                self.isolate(chunk, error)

    def isolate(self, chunk: list[ChainInput[I]], error: Exception) -> None:
        self.isolation.failures += 1
        may_go_on = self.isolation.may_go_on()
        if not may_go_on and not self.isolation.has_answered:
            self.failed(self.drained(), error)
        elif len(chunk) > 1 and may_go_on:
            self.waiting.extend(_halves(chunk))

    def refused(self, error: BreakerOpen) -> None:
        """Nobody who waits is called any more. Who was in a call that failed has failed; the others are refused."""
        refused = [work for work in self.drained() if work.item_id not in self.replies.outcomes]
        self.replies.refused.update(work.item_id for work in refused)
        self.failed(refused, error)

    def failed(self, works: Sequence[ChainInput[I]], error: Exception) -> None:
        failed = Failed(StepError.of(error), is_item_error=isinstance(error, ItemError))
        self.replies.outcomes.update((work.item_id, failed) for work in works)

    def drained(self) -> list[ChainInput[I]]:
        works = [work for chunk in self.waiting for work in chunk]
        self.waiting.clear()
        return works


def _halves(chunk: list[ChainInput[I]]) -> tuple[list[ChainInput[I]], list[ChainInput[I]]]:
    middle = (len(chunk) + 1) // 2
    return chunk[:middle], chunk[middle:]


def _clear_traceback_frames(error: BaseException) -> None:
    """Empty the frames that `error` came through: what the failed call had allocated is held by their locals."""
    errors = [error]
    for known in errors:  # grows while it is walked
        traceback.clear_frames(known.__traceback__)
        earlier = (known.__cause__, known.__context__)
        errors += [one for one in earlier if one is not None and not any(one is other for other in errors)]


def call_rung(
    name: str,
    works: Sequence[ChainInput[I]],
    call: Callable[[Sequence[ChainInput[I]], Permit], Sequence[Outcome[V]]],
    *,
    one_by_one: bool,
    sizes: WorkingSizes,
    free_memory: Callable[[], None],
    timer: Callable[[], float],
    gate: BreakerClient = NoBreaker(),
    accept: Callable[[Outcome[V]], Outcome[V]] = lambda outcome: outcome,
) -> RungResult[V]:
    """One outcome for each of the `works`, whatever `call` does short of ending the process.

    Only `Exception` is caught, and only around `call`. `accept` turns an answer that may not be given into a failure.
    """
    calls: _Calls[I, V] = _Calls(name, works, one_by_one=one_by_one, sizes=sizes, free_memory=free_memory)
    blame = FailureAttribution(gate, has_neighbours=not one_by_one)
    while calls.waiting:
        permit = gate.acquire()
        if permit.is_refused:
            calls.refused(BreakerOpen(permit.why))
            break
        chunk = calls.next_probe(permit.token) if permit.is_probe else calls.next_chunk()
        started = timer()
        try:
            outcomes = call(chunk, permit)
        except Exception as error:  # noqa: BLE001  the chain's one catch: what a rung raises becomes a value here
            calls.took(chunk, timer() - started)
            blame.raised(permit, error, items=len(chunk))
            calls.raised(chunk, error)
        except BaseException:  # cancelled: it says nothing of the rung
            gate.record(permit, Verdict.INCONCLUSIVE)
            raise
        else:
            calls.took(chunk, timer() - started)
            accepted = [accept(outcome) for outcome in outcomes]
            blame.answered(permit, accepted)
            calls.answered(chunk, accepted)
    else:
        blame.over()
    return calls.replies
