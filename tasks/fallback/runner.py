"""A chain over a batch: rung after rung, each over the items that still have no result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from numbers import Real
from typing import Any, Protocol, TypeVar

from repli.tasks.fallback.chain import AnyChain, Chain, Rung
from repli.tasks.fallback.errors import BadAnswer, Incompatible, RungError
from repli.tasks.fallback.faults import Fault, inject
from repli.tasks.fallback.gate import BreakerClient, BreakerOf, NoBreaker, Permit, without_breakers
from repli.tasks.fallback.outcome import Failed, Outcome, Served
from repli.tasks.fallback.result import SKIP, Attempt, AttemptOutcome, StepError, StepResult
from repli.tasks.fallback.splitting import RungResult, WorkingSizes, call_rung
from repli.tasks.fallback.status import Status
from repli.tasks.fallback.work import ChainInput

I = TypeVar("I")  # noqa: E741  as in chain.py
V = TypeVar("V")
C = TypeVar("C")
R = TypeVar("R")


class CallWithin(Protocol):
    """Calls `function` and gives its answer, or raises `TimedOut` after `limit_s` seconds."""

    def __call__(self, function: Callable[[], R], limit_s: float, name: str) -> R: ...


class AroundFallback(Protocol):
    """Runs `work`, which is one fallback over `items` items, and gives its answer; the place to show it to people."""

    def __call__(self, stage: str, rung: str, items: int, work: Callable[[], RungResult[V]]) -> RungResult[V]: ...


def no_instrumentation(stage: str, rung: str, items: int, work: Callable[[], RungResult[V]]) -> RungResult[V]:
    """The `AroundFallback` that shows nothing."""
    return work()


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What the engine does not have of its own: clocks, threads, the memory of this process, and the breakers."""

    now: Callable[[], datetime]
    timer: Callable[[], float]
    call_within: CallWithin
    free_memory: Callable[[], None]
    sizes: WorkingSizes = field(default_factory=WorkingSizes)
    around_fallback: AroundFallback = no_instrumentation
    breaker_of: BreakerOf = without_breakers


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """What a person asked of this run: rungs to force, stage by stage, and faults to inject."""

    forced: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


class Forced(RungError):
    """A rung was passed over because another was forced."""


def run_chain(
    chain: Chain[I, V, C],
    works: Sequence[ChainInput[I]],
    context: C,
    *,
    run_id: str,
    runtime: Runtime,
    directives: Directives = Directives(),
) -> list[StepResult]:
    """One result for each of the `works`, in their order. `context` is handed to each rung.

    Each is terminal, save where a work asks for something better than it has and no rung served it: that one is
    `pending`, with the trail of what was tried.

    No rung is called for an item that has its result, and no result depends on an item's batch, save where more
    items break a whole call than isolation has a budget for: then they take neighbours to the next rung. So does an
    item that hangs, unless its rung is declared `one_by_one`.
    """
    progress = _Progress(chain, works)
    forced = directives.forced.get(chain.stage)
    incompatibility_counts = chain.rung_names.index(forced) if forced else 0
    for position, rung in enumerate(chain.rungs):
        if position < incompatibility_counts:
            why = f"{chain.stage}.{rung.name} was passed over: {forced} was forced"
            progress.pass_over(rung.name, progress.candidates(position), AttemptOutcome.FORCED_PAST, Forced(why))
            continue
        works_here = progress.to_call(position)
        if not works_here:
            continue
        faults = [fault for fault in directives.faults if (fault.stage, fault.rung) == (chain.stage, rung.name)]
        if rung.breaker is None or rung.name == forced:  # a person's word goes before the breaker's
            gate: BreakerClient = NoBreaker()
        else:
            gate = runtime.breaker_of(f"{chain.stage}.{rung.name}", rung.breaker)
        work = partial(_run_rung, chain, rung, works_here, context, faults, runtime, gate)
        if position == 0:
            progress.record(rung.name, works_here, work())
        else:
            progress.record(
                rung.name, works_here, runtime.around_fallback(chain.stage, rung.name, len(works_here), work)
            )
    if chain.skip:
        progress.give_up()
    finish = partial(_result, chain, run_id=run_id, finished_at=runtime.now(), is_policy=forced == SKIP)
    return [finish(work, progress.trails[work.item_id], progress.served.get(work.item_id)) for work in works]


class _Progress:
    """Who was served what, and everybody's trail."""

    def __init__(self, chain: AnyChain, works: Sequence[ChainInput[Any]]) -> None:
        self._works = works
        self._names = chain.rung_names
        self.served: dict[str, Served[Any]] = {}
        self.trails: dict[str, tuple[Attempt, ...]] = {work.item_id: () for work in works}
        if len(self.trails) != len(works):
            raise ValueError("an item stands twice in one batch")

    def candidates(self, position: int) -> list[ChainInput[Any]]:
        """Those without a result for whom the rung at `position` would be a gain."""
        return [work for work in self._works if work.item_id not in self.served and position < self._end(work)]

    def to_call(self, position: int) -> list[ChainInput[Any]]:
        """Those whom the rung at `position` is to serve. Whom a rule bars from it passes it over."""
        rung = self._names[position]
        candidates = self.candidates(position)
        for work in candidates:
            if rung in work.forbidden:
                self.pass_over(rung, [work], AttemptOutcome.INCOMPATIBLE, Incompatible(work.forbidden[rung]))
        return [work for work in candidates if rung not in work.forbidden]

    def pass_over(self, rung: str, works: Iterable[ChainInput[Any]], outcome: AttemptOutcome, error: RungError) -> None:
        attempt = Attempt(rung=rung, outcome=outcome, error=StepError.of(error))
        for work in works:
            self.trails[work.item_id] += (attempt,)

    def give_up(self) -> None:
        for work in self.candidates(len(self._names) - 1):
            self.trails[work.item_id] += (Attempt(rung=SKIP, outcome=AttemptOutcome.SERVED),)

    def record(self, rung: str, works: Iterable[ChainInput[Any]], replies: RungResult[Any]) -> None:
        for work in works:
            outcome = replies.outcomes[work.item_id]
            seconds = replies.seconds[work.item_id]
            if isinstance(outcome, Served):
                self.served[work.item_id] = outcome
                attempt = Attempt(rung=rung, outcome=AttemptOutcome.SERVED, seconds=seconds)
            else:
                attempt = Attempt(
                    rung=rung,
                    outcome=_kind(work.item_id, replies),
                    error=outcome.error,
                    seconds=seconds,
                    is_item_error=outcome.is_item_error,
                )
            self.trails[work.item_id] += (attempt,)

    def _end(self, work: ChainInput[Any]) -> int:
        """The position from which on the item has no use for rungs."""
        return self._names.index(work.improve_on) if work.improve_on in self._names else len(self._names)


def _kind(item_id: str, replies: RungResult[Any]) -> AttemptOutcome:
    if item_id in replies.refused:
        return AttemptOutcome.REFUSED
    return AttemptOutcome.UNAVAILABLE if item_id in replies.unavailable else AttemptOutcome.FAILED


def _run_rung(
    chain: Chain[I, V, C],
    rung: Rung[I, V, C],
    works: Sequence[ChainInput[I]],
    context: C,
    faults: Iterable[Fault],
    runtime: Runtime,
    gate: BreakerClient,
) -> RungResult[V]:
    name = f"{chain.stage}.{rung.name}"

    def call(works: Sequence[ChainInput[I]]) -> Sequence[Outcome[V]]:
        outcomes = rung.run([work.input for work in works], context)
        if len(outcomes) != len(works):
            raise BadAnswer(f"{name} gave {len(outcomes)} answers for {len(works)} items")
        return outcomes

    faulty = inject(faults, call)

    def call_in_time(works: Sequence[ChainInput[I]], permit: Permit) -> Sequence[Outcome[V]]:
        limit_s = rung.probe_limit_s if permit.is_probe else rung.time_limit_s
        return runtime.call_within(partial(faulty, works), limit_s, name)

    return call_rung(
        name,
        works,
        call_in_time,
        one_by_one=rung.one_by_one,
        sizes=runtime.sizes,
        free_memory=runtime.free_memory,
        timer=runtime.timer,
        gate=gate,
        accept=partial(_checked, chain, name),
    )


def _checked(chain: Chain[I, V, C], name: str, outcome: Outcome[V]) -> Outcome[V]:
    """The outcome, or a failure where it is an answer that the chain does not accept."""
    if isinstance(outcome, Failed):
        return outcome
    if not isinstance(outcome, Served):
        return Failed.because(BadAnswer(f"{name} answered a {type(outcome).__name__}, not an outcome"))
    if not (isinstance(outcome.confidence, Real) and 0 <= outcome.confidence <= 1):
        return Failed.because(BadAnswer(f"{name} answered with confidence {outcome.confidence}, not in [0, 1]"))
    try:
        chain.check(outcome.value)
    except ValueError as error:
        return Failed.because(BadAnswer(f"{name}: {error}"))
    return outcome


def _result(
    chain: Chain[I, V, C],
    work: ChainInput[I],
    attempts: tuple[Attempt, ...],
    served: Served[V] | None,
    *,
    run_id: str,
    finished_at: datetime,
    is_policy: bool,
) -> StepResult:
    """What the trail comes to: the table of section 3 of the design, for the statuses that a chain gives."""
    result = partial(
        StepResult, item_id=work.item_id, stage=chain.stage, attempts=attempts, run_id=run_id, finished_at=finished_at
    )
    errors = [attempt.error for attempt in attempts if attempt.error]
    if served:
        rung = next(rung for rung in chain.rungs if rung.name == attempts[-1].rung)
        is_primary = rung is chain.primary
        return result(
            status=Status.SUCCEEDED if is_primary else Status.DEGRADED,
            value=served.value,
            confidence=served.confidence,
            rung=rung.name,
            penalty=rung.factor,
            error=None if is_primary else errors[0],
            retryable=not is_primary,
        )
    if work.improve_on and not (attempts and attempts[-1].outcome is AttemptOutcome.SERVED):
        return result(status=Status.PENDING)  # nothing better: what is kept stands
    if chain.skip:
        return result(
            status=Status.SKIPPED,
            confidence=0.0,
            rung=SKIP,
            penalty=chain.skip.factor,
            error=None if is_policy else _reason(attempts),
            retryable=not is_policy,
        )
    return result(
        status=Status.FAILED,
        confidence=0.0,
        error=_reason(attempts),
        retryable=all(error.retryable for error in errors),
    )


def _reason(attempts: Sequence[Attempt]) -> StepError | None:
    """Why nothing served: the best rung that tried. That a device is not here says nothing of the item."""
    tried = [attempt.error for attempt in attempts if attempt.outcome is AttemptOutcome.FAILED]
    return next(iter(tried or [attempt.error for attempt in attempts if attempt.error]), None)
