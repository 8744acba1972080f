"""A chain over a batch: who is served by what, with which result, and what is nobody's fallback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from repli.tasks.fallback import (
    Attempt,
    AttemptOutcome,
    Breaker,
    Chain,
    ChainInput,
    Directives,
    Failed,
    InvalidItem,
    ItemError,
    Outcome,
    Rung,
    Runtime,
    Served,
    Skip,
    Status,
    StepError,
    StepResult,
    TimedOut,
    Unavailable,
    WorkingSizes,
    run_chain,
)
from repli.tasks.fallback.splitting import RungResult
from tests.support.fakes import (
    NIGHT,
    RUN_ID,
    STAGE,
    Does,
    LocalGates,
    ManualClock,
    ScriptedRung,
    at_once,
    chain_of,
    runtime,
    works,
)

R = TypeVar("R")


def run(
    *rungs: ScriptedRung,
    batch: Sequence[ChainInput[str]] | None = None,
    skip: str | None = "0.7",
    forced: str | None = None,
    per_item: Sequence[str] = (),
    within: Runtime | None = None,
) -> list[StepResult]:
    """The results of the rungs, best first, over a batch of one item unless told otherwise."""
    return run_chain(
        chain_of(*rungs, skip=skip, per_item=per_item),
        works(1) if batch is None else batch,
        None,
        run_id=RUN_ID,
        runtime=within or runtime(),
        directives=Directives(forced={STAGE: forced} if forced else {}),
    )


def trail(result: StepResult) -> list[str]:
    """The attempts of a result, in short."""
    return [f"{attempt.rung} {attempt.outcome}" for attempt in result.attempts]


def error_of(result: StepResult) -> StepError:
    assert result.error is not None
    return result.error


def gpu(does: Does = Does.SERVE, **how: Any) -> ScriptedRung:
    return ScriptedRung("gpu", {"0": does}, **how)


def cpu(does: Does = Does.SERVE, **how: Any) -> ScriptedRung:
    return ScriptedRung("cpu", {"0": does}, **how)


NO_DEVICE = StepError(type="Unavailable", message="no CUDA device")


def test_primary_serves() -> None:
    """An item that the primary serves is `succeeded`, at no cost, and no fallback is called."""
    fallback = cpu()
    assert run(gpu(), fallback) == [
        StepResult(
            item_id="0",
            stage=STAGE,
            status=Status.SUCCEEDED,
            value="0 by gpu",
            confidence=0.75,
            rung="gpu",
            penalty=Decimal(1),
            attempts=(Attempt(rung="gpu", outcome=AttemptOutcome.SERVED),),
            run_id=RUN_ID,
            finished_at=NIGHT,
        )
    ]
    assert not fallback.calls


def test_fallback_serves() -> None:
    """An item that a fallback serves is `degraded`, with that rung's penalty and the primary's error."""
    assert run(gpu(always=Unavailable("no CUDA device")), cpu()) == [
        StepResult(
            item_id="0",
            stage=STAGE,
            status=Status.DEGRADED,
            value="0 by cpu",
            confidence=0.75,
            rung="cpu",
            penalty=Decimal("0.9"),
            error=NO_DEVICE,
            retryable=True,
            attempts=(
                Attempt(rung="gpu", outcome=AttemptOutcome.UNAVAILABLE, error=NO_DEVICE),
                Attempt(rung="cpu", outcome=AttemptOutcome.SERVED),
            ),
            run_id=RUN_ID,
            finished_at=NIGHT,
        )
    ]


def test_a_rung_may_say_that_it_served_a_part() -> None:
    """The trail names the part, and the reason is still why the primary did not serve."""

    def part(inputs: Sequence[str], context: None) -> list[Outcome[str]]:
        return [Served("half", confidence=0.5, limited_to="the first half") for _ in inputs]

    rungs = [Rung("gpu", gpu(Does.FAIL), time_limit_s=1), Rung("half", part, penalty="0.9", time_limit_s=1)]
    chain: Chain[str, str, None] = Chain(STAGE, *rungs, Skip(penalty="0.7"))
    [result] = run_chain(chain, works(1), None, run_id=RUN_ID, runtime=runtime())
    assert (result.value, result.error) == ("half", result.attempts[0].error)
    assert result.attempts[1].error == StepError(type="Incomplete", message="only the first half")


def test_an_invalid_item_is_not_tried_again() -> None:
    """Where each rung that could look at it found it invalid, waiting changes nothing."""
    (result,) = run(gpu(Does.FAIL_FOR_GOOD), cpu(Does.FAIL_FOR_GOOD))
    assert (result.status, result.retryable) == (Status.SKIPPED, False)


def test_no_rung_serves() -> None:
    """An item that no rung serves is `skipped`, retryable, with no value, confidence 0 and the primary's error."""
    (result,) = run(gpu(Does.FAIL), cpu(Does.FAIL_FOR_GOOD))
    assert (result.status, result.rung, result.penalty) == (Status.SKIPPED, "skip", Decimal("0.7"))
    assert (result.value, result.confidence, result.retryable) == (None, 0.0, True)
    assert error_of(result).message == "gpu cannot serve 0"
    assert trail(result) == ["gpu failed", "cpu failed", "skip served"]


@pytest.mark.parametrize(
    ("first", "second", "retryable"),
    [
        (Does.FAIL, Does.FAIL, True),
        (Does.FAIL_FOR_GOOD, Does.FAIL, False),
        (Does.FAIL, Does.FAIL_FOR_GOOD, False),
        (Does.BREAK, Does.ANSWER_NONE, True),
    ],
)
def test_required_stage_fails_visibly(first: Does, second: Does, retryable: bool) -> None:
    """Without a skip the item is `failed`, with no penalty, and worth another try unless some rung says it is not."""
    (result,) = run(gpu(first), cpu(second), skip=None)
    assert (result.status, result.rung, result.penalty) == (Status.FAILED, None, None)
    assert (result.value, result.confidence, result.retryable) == (None, 0.0, retryable)
    assert result.error == result.attempts[0].error
    assert trail(result) == ["gpu failed", "cpu failed"]


def test_each_item_has_its_own_way() -> None:
    """One batch, four fates: results come in the order of the items, and each rung sees only who still waits."""
    first = ScriptedRung("gpu", {"1": Does.FAIL, "2": Does.ANSWER_NAN, "3": Does.BREAK})
    second = ScriptedRung("cpu", {"2": Does.FAIL, "3": Does.FAIL})
    third = ScriptedRung("rules", {"3": Does.FAIL})
    results = run(first, second, third, batch=works(4))
    assert [(result.item_id, result.rung, result.value) for result in results] == [
        ("0", "gpu", "0 by gpu"),
        ("1", "cpu", "1 by cpu"),
        ("2", "rules", "2 by rules"),
        ("3", "skip", None),
    ]
    assert (second.calls, third.calls) == ([["1", "2", "3"]], [["2", "3"]])


def test_one_poison_of_128_leaves_127_on_the_primary() -> None:
    """127 of 128 stay at full quality."""
    results = run(ScriptedRung("gpu", {"77": Does.BREAK}), cpu(), batch=works(128))
    assert [result.item_id for result in results if result.status is not Status.SUCCEEDED] == ["77"]
    assert results[77].rung == "cpu"


def test_rung_that_is_not_here_is_a_different_outcome_from_failing() -> None:
    """The trail tells a missing device from a failure, item by item, also where it went missing midway."""
    sizes = WorkingSizes()
    sizes.record_out_of_memory(f"{STAGE}.gpu", 2)

    def on_gpu(inputs: Sequence[str], context: None) -> Sequence[Outcome[str]]:
        if inputs != ["0"]:
            raise Unavailable("the device fell off the bus")
        return [Failed.because(ItemError("it is no image"))]

    chain = Chain(STAGE, Rung("gpu", on_gpu, time_limit_s=60), Skip(penalty="0.7"))
    results = run_chain(chain, works(3), None, run_id=RUN_ID, runtime=runtime(sizes=sizes))
    assert [trail(result)[0] for result in results] == ["gpu failed", "gpu unavailable", "gpu unavailable"]


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (Does.ANSWER_NONE, "stage.gpu returned a NoneType, not a Served or a Failed"),
        (Does.ANSWER_NAN, "stage.gpu returned a confidence of nan, not in [0, 1]"),
        (Does.ANSWER_NONSENSE, "stage.gpu: the answer is nonsense"),
    ],
)
def test_nonsense_falls_to_the_next_rung(does: Does, message: str) -> None:
    """An answer that the chain does not accept is a failure of that item alone."""
    bad, good = run(gpu(does), cpu(), batch=works(2))
    assert error_of(bad) == StepError(type="BadAnswer", message=message)
    assert (bad.rung, good.rung) == ("cpu", "gpu")


def test_a_wrong_number_of_answers_is_nobodys() -> None:
    """No item is told an answer that may be another's, however few items a call would carry."""
    primary = gpu(Does.MISCOUNT)
    results = run(primary, cpu(), batch=works(2))
    assert [error_of(result).message for result in results] == ["stage.gpu returned 1 outcomes for 2 items"] * 2
    assert [result.rung for result in results] == ["cpu"] * 2
    assert primary.sizes == [2]


@pytest.mark.parametrize("confidence", [-0.01, 1.01, float("inf"), float("-inf"), None, "high", 10**400, 1j])
def test_confidence_is_a_number_from_0_to_1(confidence: Any) -> None:
    """Whatever else a rung gives as its confidence is no answer; the batch and its neighbours are not concerned."""

    def on_gpu(inputs: Sequence[str], context: None) -> Sequence[Outcome[str]]:
        return [Served("value", confidence=confidence if item == "0" else 1) for item in inputs]

    chain = Chain(STAGE, Rung("gpu", on_gpu, time_limit_s=60), Skip(penalty="0.7"))
    bad, good = run_chain(chain, works(2), None, run_id=RUN_ID, runtime=runtime())
    assert error_of(bad).type == "BadAnswer"
    assert (good.status, good.confidence) == (Status.SUCCEEDED, 1)


@pytest.mark.parametrize("confidence", [0, 0.0, 1, 1.0, True])
def test_both_ends_of_confidence_are_accepted(confidence: float) -> None:
    """0 and 1 are confidences."""
    chain: Chain[str, str, None] = Chain(
        STAGE, Rung("gpu", lambda inputs, context: [Served("value", confidence)], time_limit_s=60)
    )
    (result,) = run_chain(chain, works(1), None, run_id=RUN_ID, runtime=runtime())
    assert result.confidence == confidence


@pytest.mark.parametrize("answers", [None, [], [Served("one"), Served("two"), Served("three")], iter(())])
def test_wrong_number_of_answers_serves_nobody(answers: Any) -> None:
    """Answers that cannot be told apart are no answers; nobody is served somebody else's."""
    chain: Chain[str, str, None] = Chain(
        STAGE, Rung("gpu", lambda inputs, context: answers, time_limit_s=60), Skip(penalty="0.7")
    )
    results = run_chain(chain, works(2), None, run_id=RUN_ID, runtime=runtime())
    assert [result.status for result in results] == [Status.SKIPPED] * 2


def test_forced_rung_passes_the_better_ones_over() -> None:
    """A forced fallback serves without a call of the rungs before it, which the trail shows."""
    primary = gpu()
    (result,) = run(primary, cpu(), forced="cpu")
    assert not primary.calls
    assert trail(result) == ["gpu forced_past", "cpu served"]
    assert (result.status, result.retryable) == (Status.DEGRADED, True)
    assert error_of(result) == StepError(type="Forced", message="stage.gpu was not called: cpu was forced")


def test_forced_primary_changes_nothing() -> None:
    """Forcing the best rung is what happens anyway."""
    assert run(gpu(Does.FAIL), cpu(), forced="gpu") == run(gpu(Does.FAIL), cpu())


def test_forced_rung_that_fails_falls_on() -> None:
    """A forced rung is no dead end."""
    (result,) = run(gpu(), cpu(Does.FAIL), ScriptedRung("rules"), forced="cpu")
    assert trail(result) == ["gpu forced_past", "cpu failed", "rules served"]


def test_forced_skip_is_policy() -> None:
    """A stage given up on purpose has no error and needs no other try; nothing is called."""
    rungs = gpu(), cpu()
    (result,) = run(*rungs, forced="skip")
    assert (result.status, result.error, result.retryable) == (Status.SKIPPED, None, False)
    assert (result.value, result.confidence, result.penalty) == (None, 0.0, Decimal("0.7"))
    assert trail(result) == ["gpu forced_past", "cpu forced_past", "skip served"]
    assert not any(rung.calls for rung in rungs)


def test_rung_forced_for_another_stage_is_not_ours() -> None:
    """Directives are read stage by stage."""
    (result,) = run_chain(
        chain_of(gpu(), cpu()),
        works(1),
        None,
        run_id=RUN_ID,
        runtime=runtime(),
        directives=Directives(forced={"fetch": "cpu"}),
    )
    assert result.rung == "gpu"


def test_forced_rung_that_does_not_exist_is_a_bug() -> None:
    """What should have been checked at the door raises, before anything is called."""
    primary = gpu()
    with pytest.raises(ValueError, match="not in tuple"):
        run(primary, forced="tpu")
    assert not primary.calls


def test_fallbacks_run_where_people_see_them() -> None:
    """Each fallback runs inside `around_fallback`, with its rung and its number of items; the primary does not."""
    seen: list[tuple[str, str, int]] = []

    def around(stage: str, rung: str, items: int, work: Callable[[], RungResult[Any]]) -> RungResult[Any]:
        seen.append((stage, rung, items))
        return work()

    first = ScriptedRung("gpu", {"1": Does.FAIL, "2": Does.FAIL})
    second = ScriptedRung("cpu", {"2": Does.FAIL})
    results = run(first, second, ScriptedRung("rules"), batch=works(3), within=runtime(around_fallback=around))
    assert seen == [(STAGE, "cpu", 2), (STAGE, "rules", 1)]
    assert [result.rung for result in results] == ["gpu", "cpu", "rules"]
    seen.clear()
    run(first, second, batch=works(3), forced="cpu", within=runtime(around_fallback=around))
    assert seen == [(STAGE, "cpu", 3)]


def test_every_call_is_made_within_its_rungs_limit() -> None:
    """Calls go through the runtime's limiter, with the rung's own limit and name."""
    limits: list[tuple[float, str]] = []

    def within(function: Callable[[], R], limit_s: float, name: str, **_: object) -> R:
        limits.append((limit_s, name))
        return function()

    chain = Chain(
        STAGE,
        Rung("gpu", gpu(Does.FAIL), time_limit_s=120),
        Rung("cpu", cpu(), penalty="0.9", time_limit_s=300),
    )
    run_chain(chain, works(1), None, run_id=RUN_ID, runtime=runtime(call_within=within))
    assert limits == [(120, "stage.gpu"), (300, "stage.cpu")]


def test_rung_that_keeps_failing_is_refused() -> None:
    """The trail shows the refusal, and the result is what it would be had the rung failed."""
    gates = LocalGates()
    chain = chain_of(
        gpu(always=Unavailable("no CUDA device")), cpu(), breakers={"gpu": Breaker(scope="host", failures=1)}
    )
    for trail_of_primary in ("gpu unavailable", "gpu refused"):
        (result,) = run_chain(chain, works(1), None, run_id=RUN_ID, runtime=runtime(breaker_of=gates.of))
        assert trail(result) == [trail_of_primary, "cpu served"]
        assert (result.status, result.rung, result.retryable) == (Status.DEGRADED, "cpu", True)
    assert error_of(result).type == "BreakerOpen"


def test_rung_that_hangs_is_cut_off_and_the_item_goes_on() -> None:
    """A time-out of the limiter is a failure of the rung like another, and is not tried again."""
    names: list[str] = []

    def within(function: Callable[[], R], limit_s: float, name: str, **_: object) -> R:
        names.append(name)
        if name == "stage.gpu":
            raise TimedOut(f"{name} was cut off")
        return function()

    results = run(gpu(), cpu(), batch=works(8), within=runtime(call_within=within))
    assert {error_of(result).type for result in results} == {"TimedOut"}
    assert {result.rung for result in results} == {"cpu"}
    assert names == ["stage.gpu", "stage.cpu"]


def test_rung_declared_one_by_one_is_called_so() -> None:
    """A rung where one item can hang is given one item a call."""
    first = ScriptedRung("gpu", {"2": Does.FAIL})
    second = ScriptedRung("cpu")
    run(first, second, batch=works(3), per_item=["gpu"])
    assert first.calls == [["0"], ["1"], ["2"]]


def test_rungs_are_handed_inputs_and_context() -> None:
    """A rung sees each item's input, not its id, and the stage's context as it is."""
    seen: list[tuple[Sequence[int], object]] = []

    def on_gpu(inputs: Sequence[int], context: object) -> Sequence[Outcome[int]]:
        seen.append((inputs, context))
        return [Served(number) for number in inputs]

    context = object()
    chain = Chain(STAGE, Rung("gpu", on_gpu, time_limit_s=60))
    run_chain(chain, [ChainInput("a", 1), ChainInput("b", 2)], context, run_id=RUN_ID, runtime=runtime())
    assert seen == [([1, 2], context)]


def test_item_twice_in_a_batch_is_a_bug() -> None:
    """Two works of one item cannot both have the item's result."""
    primary = gpu()
    with pytest.raises(ValueError, match=r"^item 1 is in the batch twice; pass each item once$"):
        run(primary, batch=[*works(2), ChainInput("1", "1")])
    assert not primary.calls


def test_empty_batch_calls_nothing() -> None:
    """No items, no calls, no results."""
    primary = gpu()
    assert run(primary, batch=[]) == []
    assert run(primary, batch=[], forced="skip") == []
    assert not primary.calls


def test_seconds_are_those_of_each_rung() -> None:
    """The trail says what each rung cost, on the clock that was handed in."""
    clock = ManualClock()
    (result,) = run(
        gpu(Does.FAIL, clock=clock, call_takes_s=3), cpu(clock=clock, call_takes_s=5), within=runtime(clock=clock)
    )
    assert [attempt.seconds for attempt in result.attempts] == [3, 5]
    assert result.finished_at == clock.now()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__)
def test_what_is_no_exception_passes_through(error: BaseException) -> None:
    """An interrupt ends the chain; no fallback takes it for a failure."""
    fallback = cpu()
    with pytest.raises(type(error)):
        run(gpu(always=error), fallback)
    assert not fallback.calls


@pytest.mark.parametrize("error", [TypeError("a bug in the check"), KeyError("bug"), ZeroDivisionError()])
def test_bug_in_a_check_is_not_swallowed(error: Exception) -> None:
    """A check says no with ValueError; anything else that it raises is a bug, and no fallback hides it."""

    def check(value: str) -> None:
        raise error

    fallback = cpu()
    with pytest.raises(type(error)):
        run_chain(chain_of(gpu(), fallback, check=check), works(4), None, run_id=RUN_ID, runtime=runtime())
    assert not fallback.calls


def bug() -> Any:
    raise LookupError("a bug in the engine's own parts")


def bug_around(stage: str, rung: str, items: int, work: Callable[[], RungResult[Any]]) -> RungResult[Any]:
    raise LookupError("a bug in the engine's own parts")


@pytest.mark.parametrize(
    "broken",
    [
        Runtime(now=bug, timer=lambda: 0.0, call_within=at_once, free_memory=bug),
        runtime(around_fallback=bug_around),
    ],
    ids=["now", "around_fallback"],
)
def test_bug_in_the_chain_itself_is_not_swallowed(broken: Runtime) -> None:
    """A broken part of the runtime is raised, never recorded as a degradation."""
    with pytest.raises(LookupError, match="engine's own parts"):
        run(gpu(Does.FAIL), cpu(), within=broken)


def test_time_is_read_once() -> None:
    """All results of a batch end at the same moment, with a time zone."""
    moments: list[datetime] = []
    clock = ManualClock()

    def now() -> datetime:
        clock.advance(1)
        moments.append(clock.now())
        return moments[-1]

    counting = Runtime(now=now, timer=clock.timer, call_within=at_once, free_memory=lambda: None)
    results = run(gpu(), batch=works(3), within=counting)
    assert [result.finished_at for result in results] == moments * 3
    assert moments[0].tzinfo is not None


def test_rung_that_calls_an_item_wrong_in_itself_may_still_be_overruled() -> None:
    """What one rung takes for an invalid item another may serve: it is degraded, and may be lifted later."""
    (result,) = run(gpu(Does.FAIL_FOR_GOOD), cpu())
    assert error_of(result).type == InvalidItem.__name__
    assert (result.status, result.retryable) == (Status.DEGRADED, True)
