"""One chain over one batch: rung after rung, each over the items that still have no result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from numbers import Real
from typing import Any, Protocol, TypeVar

from repli.tasks.fallback.breaker import Breaker, Verdict, key_text
from repli.tasks.fallback.breaker_client import BreakerClient, BreakerOf, NoBreaker, Permit, without_breakers
from repli.tasks.fallback.chain import AnyChain, AnyRung, Chain, Rung
from repli.tasks.fallback.conclusion import conclude
from repli.tasks.fallback.devices import DEFAULT_DEVICE
from repli.tasks.fallback.errors import (
    BadAnswer,
    Incompatible,
    ItemError,
    NotHere,
    RungError,
    TimedOut,
    Unavailable,
    message_of,
)
from repli.tasks.fallback.faults import Fault, inject
from repli.tasks.fallback.keyed_calls import KeyedCalls, Slot, SlotOf, waited_for, without_slots
from repli.tasks.fallback.outcome import Answers, ChainInput, Failed, Outcome, Served
from repli.tasks.fallback.result import SKIP, Attempt, AttemptOutcome, StepError, StepResult
from repli.tasks.fallback.splitting import OpenedMeanwhile, RungResult, RunningCall, WorkingSizes, call_rung
from repli.tasks.fallback.status import Status

I = TypeVar("I")  # noqa: E741  as in chain.py
V = TypeVar("V")
C = TypeVar("C")


def no_instrumentation(stage: str, rung: str, items: int, run: Callable[[], RungResult[Any]]) -> RungResult[Any]:
    """Run a fallback, and show it nowhere."""
    return run()


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The services of a process that the engine uses: clocks, time limits, memory and breakers.

    Args:
        now: Returns the time, with a time zone.
        timer: Returns seconds that only grow.
        call_within: ``call_within(function, limit_s, name, while_waiting=look)`` returns what `function` returns, or
            raises `TimedOut` after `limit_s` seconds. `name` is the rung, for the message; `look` is called about once
            a second meanwhile.
        free_memory: Frees the memory that this process does not use; called before a smaller call.
        sizes: The working sizes of this process.
        around_fallback: ``around_fallback(stage, rung, items, run)`` returns what `run`, one fallback over `items`
            items, returns. The place to show the fallback, as a sub-task for example.
        breaker_of: Returns the breaker client of a rung, by its name `stage.rung`, its settings and a key.
        slot_of: Returns a slot of a key's calls at once, by the rung's name, its breaker and the key.
        with_calls: Returns the context of a rung that names the key of each call itself, with ``context.call``.
        is_fatal: Returns whether no call of this process can succeed after an error.
        host: The host of this process, which the trail names; None: it names no place.
        accelerator: The device of rungs that ask for resources and note none; None where it is not known.
        lacks: Returns whether this process is known to lack some of a rung's resources. Such a process does not speak
            for the rung: that it is `Unavailable` there is `NotHere`.

    Example:
        >>> import time
        >>> from datetime import UTC, datetime
        >>> runtime = Runtime(
        ...     now=lambda: datetime.now(UTC),
        ...     timer=time.monotonic,
        ...     call_within=lambda function, limit_s, name, while_waiting: function(),
        ...     free_memory=lambda: None,
        ... )
        >>> runtime.call_within(lambda: "cat", 5, "classify_image.gpu", while_waiting=lambda: None)
        'cat'
    """

    now: Callable[[], datetime]
    timer: Callable[[], float]
    call_within: CallWithin
    free_memory: Callable[[], None]
    sizes: WorkingSizes = field(default_factory=WorkingSizes)
    around_fallback: Callable[[str, str, int, Callable[[], RungResult[Any]]], RungResult[Any]] = no_instrumentation
    breaker_of: BreakerOf = without_breakers
    slot_of: SlotOf = without_slots
    with_calls: Callable[[Any, KeyedCalls], Any] = lambda context, calls: context
    is_fatal: Callable[[Exception], bool] = lambda error: False
    host: str | None = None
    accelerator: str | None = None
    lacks: Callable[[Mapping[str, float]], bool] = lambda resources: False

    def where(self, rung: AnyRung, device: str | None, outcome: AttemptOutcome) -> str | None:
        """Return the place of an attempt, as `host/device`; `device` is what the rung has noted."""
        if device is None:
            device = self.accelerator if rung.resources else DEFAULT_DEVICE
        is_called = outcome not in {AttemptOutcome.UNAVAILABLE, AttemptOutcome.REFUSED}
        return f"{self.host}/{device}" if self.host and device and is_called else self.host


class CallWithin(Protocol):
    """A call within a time limit; see `Runtime`."""

    def __call__(
        self, function: Callable[[], Any], limit_s: float, name: str, *, while_waiting: Callable[[], None] | None = None
    ) -> Any: ...


LetGo = Callable[[Sequence[StepResult], Sequence[str]], None]
"""``let_go(finished, untouched)`` takes items out of a batch that a slow call holds up: those that are served, with
their results, and those that no rung was called for, by id. None of them is in what `run_chain` returns."""


def keep_all(finished: Sequence[StepResult], untouched: Sequence[str]) -> None:
    """Let no item go, however slow the batch is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """The operator's options of a run.

    Args:
        forced: The rung to force, by stage. Better rungs are not called, and its breaker is not asked.
        faults: Faults to inject.

    Example:
        >>> Directives(forced={"classify_image": "cpu"}).forced["classify_image"]
        'cpu'
    """

    forced: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


class Forced(RungError):
    """The rung was not called because a later one was forced."""


def run_chain(
    chain: Chain[I, V, C],
    inputs: Sequence[ChainInput[I]],
    context: C,
    *,
    run_id: str,
    runtime: Runtime,
    directives: Directives = Directives(),
    let_go: LetGo = keep_all,
) -> list[StepResult]:
    """Return one result per input, in their order; none for an item that was let go.

    Each result is terminal, with one exception: if an input has `improve_on` and no better rung served, its result is
    `pending`, with the trail of the attempts.

    No rung is called for an item that a better rung has served. A result depends on the other items of the batch only
    where they end the rung's calls: more of them break a whole call than isolation has a budget for, one hangs a rung
    that is not `per_item` or makes it answer for too few, a call finds the rung unavailable, or failures open its
    breaker.

    Args:
        context: Passed to each rung.
        run_id: Recorded in each result.
        let_go: Takes the other items out of the batch while one call is slow.

    Raises:
        ProcessPoisoned: A rung left its process unusable.
        ValueError: Two inputs have the same item id, or the forced rung is not in the chain.
    """
    progress = _Progress(chain, inputs, runtime)
    forced = directives.forced.get(chain.stage)

    def finish(items: Iterable[ChainInput[I]]) -> list[StepResult]:
        result_of = partial(conclude, chain, run_id=run_id, finished_at=runtime.now(), is_policy=forced == SKIP)
        return [result_of(item, progress.trails[item.item_id], progress.served.get(item.item_id)) for item in items]

    def release(
        rung: AnyRung, called: Sequence[ChainInput[I]], answered: RungResult[V], waiting: Sequence[ChainInput[I]]
    ) -> set[str]:
        finished, untouched = progress.release(rung, called, answered, waiting)
        if finished or untouched:
            let_go(finish(finished), [item.item_id for item in untouched])
        return {item.item_id for item in (*finished, *untouched)}

    first_position = chain.rung_names.index(forced) if forced else 0
    for position, rung in enumerate(chain.rungs):
        if position < first_position:
            error = Forced(f"{chain.stage}.{rung.name} was not called: {forced} was forced")
            progress.record_uncalled(rung.name, progress.candidates(position), AttemptOutcome.FORCED_PAST, error)
            continue
        to_call = progress.to_call(position)
        if not to_call:
            continue
        faults = [fault for fault in directives.faults if (fault.stage, fault.rung) == (chain.stage, rung.name)]
        breaker = None if rung.name == forced else rung.breaker  # the operator's choice outranks the breaker's
        run = partial(
            _run_keys, chain, rung, to_call, context, faults, runtime, breaker, partial(release, rung, to_call)
        )
        is_fallback = position > 0
        result = runtime.around_fallback(chain.stage, rung.name, len(to_call), run) if is_fallback else run()
        progress.record(rung, progress.still_in(to_call), result)
    if chain.skip:
        progress.record_skip()
    return finish(progress.remaining)


def unserved(chain: AnyChain, item_id: str, error: RungError, *, run_id: str, finished_at: datetime) -> StepResult:
    """Return the result of an item for which no rung can be called: skipped, or failed in a required stage."""
    return StepResult(
        item_id=item_id,
        stage=chain.stage,
        status=Status.SKIPPED if chain.skip else Status.FAILED,
        confidence=0.0,
        rung=SKIP if chain.skip else None,
        penalty=chain.skip.factor if chain.skip else None,
        error=StepError.of(error),
        retryable=StepError.of(error).retryable,
        run_id=run_id,
        finished_at=finished_at,
    )


class _Progress:
    """The served items of a batch, and every item's trail."""

    def __init__(self, chain: AnyChain, inputs: Sequence[ChainInput[Any]], runtime: Runtime) -> None:
        self.remaining = list(inputs)
        self._names = chain.rung_names
        self._where = runtime.where
        self.served: dict[str, Served[Any]] = {}
        self.trails: dict[str, tuple[Attempt, ...]] = {item.item_id: () for item in inputs}
        if len(self.trails) != len(inputs):
            ids = [item.item_id for item in inputs]
            twice = next(item_id for item_id in ids if ids.count(item_id) > 1)
            raise ValueError(f"item {twice} is in the batch twice; pass each item once")

    def candidates(self, position: int) -> list[ChainInput[Any]]:
        """Return the items not served in this run whose saved result, if any, is worse than this rung's."""
        return [
            item for item in self.remaining if item.item_id not in self.served and position < self._stop_position(item)
        ]

    def to_call(self, position: int) -> list[ChainInput[Any]]:
        """Return the items to call this rung for. Items that a rule forbids get an `incompatible` attempt instead."""
        rung = self._names[position]
        candidates = self.candidates(position)
        for item in candidates:
            if rung in item.forbidden:
                error = Incompatible(item.forbidden[rung])
                self.record_uncalled(rung, [item], AttemptOutcome.INCOMPATIBLE, error)
        return [item for item in candidates if rung not in item.forbidden]

    def record_uncalled(
        self, rung: str, inputs: Iterable[ChainInput[Any]], outcome: AttemptOutcome, error: RungError
    ) -> None:
        attempt = Attempt(rung=rung, outcome=outcome, error=StepError.of(error))
        for item in inputs:
            self.trails[item.item_id] += (attempt,)

    def record_skip(self) -> None:
        for item in self.candidates(len(self._names) - 1):
            self.trails[item.item_id] += (Attempt(rung=SKIP, outcome=AttemptOutcome.SERVED),)

    def still_in(self, inputs: Iterable[ChainInput[Any]]) -> list[ChainInput[Any]]:
        """Return those of the inputs that have not been let go."""
        remaining = {item.item_id for item in self.remaining}
        return [item for item in inputs if item.item_id in remaining]

    def record(self, rung: AnyRung, inputs: Iterable[ChainInput[Any]], result: RungResult[Any]) -> None:
        for item in inputs:
            outcome = result.outcomes[item.item_id]
            failed = outcome if isinstance(outcome, Failed) else None
            if isinstance(outcome, Served):
                self.served[item.item_id] = outcome
            attempt_outcome = _failed_outcome(item.item_id, failed, result) if failed else AttemptOutcome.SERVED
            attempt = Attempt(
                rung=rung.name,
                outcome=attempt_outcome,
                error=failed.error if failed else _limit(outcome),
                seconds=result.seconds[item.item_id],
                where=self._where(rung, result.devices.get(item.item_id), attempt_outcome),
                is_item_error=failed is not None and failed.is_item_error,
            )
            self.trails[item.item_id] += (attempt,)

    def release(
        self,
        rung: AnyRung,
        called: Iterable[ChainInput[Any]],
        answered: RungResult[Any],
        waiting: Iterable[ChainInput[Any]],
    ) -> tuple[list[ChainInput[Any]], list[ChainInput[Any]]]:
        """Take the items out that are served, and those that wait and that no rung was called for; return both."""
        served = [item for item in self.still_in(called) if isinstance(answered.outcomes.get(item.item_id), Served)]
        self.record(rung, served, answered)
        finished = [item for item in self.remaining if item.item_id in self.served]
        untouched = [item for item in waiting if not any(map(_is_call, self.trails[item.item_id]))]
        gone = {item.item_id for item in (*finished, *untouched)}
        self.remaining = [item for item in self.remaining if item.item_id not in gone]
        return finished, untouched

    def _stop_position(self, item: ChainInput[Any]) -> int:
        """Return the position of the first rung that cannot improve the item's stored result."""
        return self._names.index(item.improve_on) if item.improve_on in self._names else len(self._names)


def _limit(outcome: Outcome[Any]) -> StepError | None:
    limited_to = outcome.limited_to if isinstance(outcome, Served) else ""
    return StepError(type="Incomplete", message=f"only {limited_to}") if limited_to else None


def _is_call(attempt: Attempt) -> bool:
    return attempt.outcome not in {AttemptOutcome.FORCED_PAST, AttemptOutcome.INCOMPATIBLE}


def _failed_outcome(item_id: str, failed: Failed, result: RungResult[Any]) -> AttemptOutcome:
    if failed.is_declined:
        return AttemptOutcome.DECLINED
    if failed.is_refused or item_id in result.refused:
        return AttemptOutcome.REFUSED
    is_unavailable = failed.is_unavailable or item_id in result.unavailable
    return AttemptOutcome.UNAVAILABLE if is_unavailable else AttemptOutcome.FAILED


def _run_keys(
    chain: Chain[I, V, C],
    rung: Rung[I, V, C],
    inputs: Sequence[ChainInput[I]],
    context: C,
    faults: Sequence[Fault],
    runtime: Runtime,
    breaker: Breaker | None,
    let_go: Callable[[RungResult[V], Sequence[ChainInput[Any]]], set[str]],
) -> RungResult[V]:
    """Run a rung over a batch, group by group where its breaker has a key of the input: each with its key's breaker."""
    name = f"{chain.stage}.{rung.name}"
    run = partial(_run_rung, chain, rung, faults=faults, runtime=runtime)
    if breaker is None or (breaker.scope == "key" and breaker.key is None):
        calls = KeyedCalls(name=name, breaker=breaker, breaker_of=runtime.breaker_of, slot_of=runtime.slot_of)
        return run(inputs, runtime.with_calls(context, calls), breaker=NoBreaker(), let_go=let_go)
    if breaker.key is None:
        return run(inputs, context, breaker=runtime.breaker_of(name, breaker), let_go=let_go)
    result: RungResult[V] = RungResult()
    waiting = _by_key(breaker, rung, name, inputs, result, runtime.call_within)

    def let_go_of_all(answered: RungResult[V], of_key: Sequence[ChainInput[Any]]) -> set[str]:
        others = [item for group in waiting.values() for item in group]
        gone = let_go(_merged(result, answered), [*of_key, *others])
        for key, group in waiting.items():
            waiting[key] = [item for item in group if item.item_id not in gone]
        return gone

    while waiting:
        key = next(iter(waiting))
        if group := waiting.pop(key):
            client, slot = runtime.breaker_of(name, breaker, key), runtime.slot_of(name, breaker, key)
            of_key = run(group, context, breaker=client, let_go=let_go_of_all, slot=slot)
            result = _merged(result, _with_key(of_key, key))
    return result


def _by_key(
    breaker: Breaker,
    rung: AnyRung,
    name: str,
    inputs: Sequence[ChainInput[I]],
    result: RungResult[Any],
    call_within: CallWithin,
) -> dict[str, list[ChainInput[I]]]:
    """Return the inputs by their keys. An input whose key cannot be told, or takes too long, fails, in `result`."""
    keys: dict[str, str | ItemError] = {}

    def tell() -> None:
        for item in inputs:
            keys[item.item_id] = _key_of(breaker, name, item.input)

    try:
        call_within(tell, rung.time_limit_s, f"{name}: its breaker's key", while_waiting=lambda: None)
    except TimedOut as error:
        late = ItemError(message_of(error))
        keys = {item.item_id: keys.get(item.item_id, late) for item in inputs}
    groups: dict[str, list[ChainInput[I]]] = {}
    for item in inputs:
        key = keys[item.item_id]
        if isinstance(key, str):
            groups.setdefault(key, []).append(item)
        else:
            result.outcomes[item.item_id], result.seconds[item.item_id] = Failed.because(key), 0.0
    return groups


def _key_of(breaker: Breaker, name: str, value: Any) -> str | ItemError:
    try:
        return key_text(breaker.key(value) if breaker.key else "")
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  a function of the pipeline's
        return ItemError(f"{name}: its breaker's key cannot be told ({StepError.of(error).line})")


def _with_key(result: RungResult[V], key: str) -> RungResult[V]:
    """Return the result with the key in each error that no item caused."""

    def noted(outcome: Outcome[V]) -> Outcome[V]:
        if not isinstance(outcome, Failed) or outcome.is_item_error:
            return outcome
        return replace(outcome, error=replace(outcome.error, keys=(key,)))

    return replace(result, outcomes={item_id: noted(outcome) for item_id, outcome in result.outcomes.items()})


def _merged(one: RungResult[V], other: RungResult[V]) -> RungResult[V]:
    return replace(
        one,
        outcomes={**one.outcomes, **other.outcomes},
        seconds={**one.seconds, **other.seconds},
        devices={**one.devices, **other.devices},
        unavailable=one.unavailable | other.unavailable,
        refused=one.refused | other.refused,
    )


def _run_rung(
    chain: Chain[I, V, C],
    rung: Rung[I, V, C],
    inputs: Sequence[ChainInput[I]],
    context: C,
    *,
    faults: Sequence[Fault],
    runtime: Runtime,
    breaker: BreakerClient,
    let_go: Callable[[RungResult[V], Sequence[ChainInput[Any]]], set[str]],
    slot: Slot | None = None,
) -> RungResult[V]:
    name = f"{chain.stage}.{rung.name}"

    def call(inputs: Sequence[ChainInput[I]], answers: Answers[V]) -> Sequence[Outcome[V]]:
        try:
            outcomes = rung.call([item.input for item in inputs], context, name=name, answers=answers)
        except Unavailable as error:
            if runtime.lacks(rung.resources):
                raise NotHere(message_of(error)) from error
            raise
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failed) and outcome.is_unavailable]
        if len(failed) == len(outcomes) and failed and runtime.lacks(rung.resources):
            raise NotHere(failed[0].error.message)
        return outcomes

    def call_in_time(
        inputs: Sequence[ChainInput[I]], permit: Permit, running: RunningCall[I, V]
    ) -> Sequence[Outcome[V]]:
        limit_s = rung.probe_limit_s if permit.is_probe else rung.time_limit_s
        faulty = partial(inject(faults, partial(call, answers={} if faults else running.answers)), inputs)

        def look() -> None:
            running.look()
            if not permit.is_probe and (why := breaker.refusal()):
                raise OpenedMeanwhile(why)

        with waited_for(slot, while_waiting=look):
            outcomes: Sequence[Outcome[V]] = runtime.call_within(faulty, limit_s, name, while_waiting=running.look)
        return outcomes

    run = partial(
        call_rung,
        name,
        call=call_in_time,
        per_item=rung.per_item,
        sizes=runtime.sizes,
        free_memory=runtime.free_memory,
        timer=runtime.timer,
        accept=partial(_checked, chain, name),
        is_fatal=runtime.is_fatal,
    )
    result = run(inputs, breaker=breaker, let_go=let_go)
    answered = [item for item in inputs if item.item_id in result.outcomes]  # the others were let go
    outcomes = [result.outcomes[item.item_id] for item in answered]
    try:
        chain.check_batch([item.input for item in answered], outcomes, partial(_answer, run), context)
    except ValueError as error:
        return _without_answers(result, BadAnswer(f"{name}: {error}"), breaker)
    return result


def _answer(run: Callable[[Sequence[ChainInput[I]]], RungResult[V]], value: I) -> Outcome[V]:
    """Return the outcome of one more input, of no item."""
    return run([ChainInput("", value)]).outcomes[""]


def _without_answers(result: RungResult[V], error: BadAnswer, breaker: BreakerClient) -> RungResult[V]:
    """Return the result with a failure in the place of each answer, which is one failure of the rung."""
    permit = breaker.acquire()
    if not permit.is_refused:
        breaker.record(permit, Verdict.FAILED, StepError.of(error).line)
    failed: Outcome[V] = Failed.because(error)
    outcomes = {id_: failed if isinstance(one, Served) else one for id_, one in result.outcomes.items()}
    return replace(result, outcomes=outcomes)


def _checked(chain: Chain[I, V, C], name: str, outcome: Outcome[V]) -> Outcome[V]:
    """Return the outcome, or a failure if the chain does not accept it."""
    if isinstance(outcome, Failed):
        return outcome
    if not isinstance(outcome, Served):
        return Failed.because(BadAnswer(f"{name} returned a {type(outcome).__name__}, not a Served or a Failed"))
    if not (isinstance(outcome.confidence, Real) and 0 <= outcome.confidence <= 1):
        return Failed.because(BadAnswer(f"{name} returned a confidence of {outcome.confidence}, not in [0, 1]"))
    try:
        chain.check(outcome.value)
    except ValueError as error:
        return Failed.because(BadAnswer(f"{name}: {error}"))
    return outcome
