"""A call that gives no answer for a while holds up no other item of its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from repli.tasks.fallback import (
    AttemptOutcome,
    Breaker,
    Chain,
    Failed,
    ItemError,
    NotHere,
    OutOfMemory,
    ProcessPoisoned,
    Rung,
    Served,
    Skip,
    StepResult,
    TimedOut,
    Unavailable,
    run_chain,
)
from repli.tasks.fallback.breaker import Position
from tests.support.fakes import RUN_ID, LocalGates, ManualClock, runtime, works

LIMIT_S = 60.0


class Hang(BaseException):
    """Raised by a rung of these tests in the place where it hangs."""


class Batch:
    """A batch whose chain runs on a clock that moves on while a call hangs, up to the call's limit."""

    def __init__(self, *rungs: Rung[str, str, None]) -> None:
        self.clock = ManualClock()
        self.chain: Chain[str, str, None] = Chain("stage", *rungs, Skip(penalty="0.5"))
        self.let_go: list[tuple[list[str], list[str]]] = []
        self.finished: list[StepResult] = []

    def call_within(
        self, function: Callable[[], Any], limit_s: float, name: str, *, while_waiting: Callable[[], None]
    ) -> Any:
        try:
            return function()
        except Hang:
            for _ in range(int(limit_s)):
                self.clock.advance(1)
                while_waiting()
            raise TimedOut(f"{name} was cut off") from None

    def run(self, items: int) -> dict[str, StepResult]:
        def let_go(finished: Sequence[StepResult], untouched: Sequence[str]) -> None:
            self.finished += finished
            self.let_go.append(([result.item_id for result in finished], list(untouched)))

        here = runtime(clock=self.clock, call_within=self.call_within)
        results = run_chain(self.chain, works(items), None, run_id=RUN_ID, runtime=here, let_go=let_go)
        return {result.item_id: result for result in results}


def serve(inputs: Sequence[str], context: None) -> list[Served[str]]:
    return [Served(value) for value in inputs]


def not_here(inputs: Sequence[str], context: None) -> list[Served[str]]:
    raise NotHere("there is no device here")


WITHOUT_DEVICE: Chain[str, str, None] = Chain(
    "stage",
    Rung("device", not_here, time_limit_s=LIMIT_S, breaker=Breaker(scope="host", failures=1)),
    Rung("other", serve, penalty="0.9", time_limit_s=LIMIT_S),
)
"""A chain on a worker that lacks the device of its primary."""


def hang_at(number: str) -> Callable[[Sequence[str], None], list[Served[str]]]:
    """A rung of single items that hangs at one."""

    def run(inputs: Sequence[str], context: None) -> list[Served[str]]:
        if number in inputs:
            raise Hang
        return serve(inputs, context)

    return run


def test_items_around_one_that_hangs_are_let_go() -> None:
    """Those before it with their results, those behind it untouched; it stays, and is skipped at its limit."""
    batch = Batch(Rung("one", hang_at("2"), time_limit_s=LIMIT_S, per_item=True))
    left = batch.run(6)
    assert batch.let_go == [(["0", "1"], ["3", "4", "5"])]
    assert {(result.status, result.rung) for result in batch.finished} == {("succeeded", "one")}
    assert {id_: (result.status, result.error and result.error.type) for id_, result in left.items()} == {
        "2": ("skipped", "TimedOut")
    }


def test_answers_that_come_one_by_one_are_let_go_as_they_come() -> None:
    """A rung that yields its answers keeps only those items that it has not answered when it hangs."""

    def stream(inputs: Sequence[str], context: None) -> Iterator[tuple[int, Served[str]]]:
        yield 3, Served("three")
        yield 0, Served("zero")
        raise Hang

    batch = Batch(
        Rung("stream", stream, time_limit_s=LIMIT_S), Rung("other", serve, penalty="0.9", time_limit_s=LIMIT_S)
    )
    left = batch.run(4)
    assert batch.let_go == [(["0", "3"], [])]
    assert [result.value for result in batch.finished] == ["zero", "three"]
    assert {id_: result.rung for id_, result in left.items()} == {"1": "other", "2": "other"}


def test_items_that_a_rung_failed_for_stay() -> None:
    """What waits for the second rung has a trail, which another batch would not know."""

    def fail(inputs: Sequence[str], context: None) -> list[Failed]:
        return [Failed.because(ItemError("not this one")) for _ in inputs]

    batch = Batch(
        Rung("first", fail, time_limit_s=LIMIT_S),
        Rung("second", hang_at("1"), penalty="0.9", time_limit_s=LIMIT_S, per_item=True),
    )
    left = batch.run(4)
    assert batch.let_go == [(["0"], [])]
    assert {id_: result.status for id_, result in left.items()} == {
        "1": "skipped",
        "2": "degraded",
        "3": "degraded",
    }


def test_a_call_that_is_not_slow_lets_nothing_go() -> None:
    """The batch stays whole, whatever its rungs do."""
    batch = Batch(Rung("one", serve, time_limit_s=LIMIT_S, per_item=True))
    assert len(batch.run(5)) == 5
    assert batch.let_go == []


def test_a_fatal_error_ends_the_chain_and_is_counted_once() -> None:
    """No rung is called after it, for no item: the process can do nothing more."""
    gates = LocalGates()
    calls: list[int] = []

    def device(inputs: Sequence[str], context: None) -> list[Served[str]]:
        calls.append(len(inputs))
        raise RuntimeError("CUDA error: device-side assert triggered")

    chain: Chain[str, str, None] = Chain(
        "stage",
        Rung("device", device, time_limit_s=LIMIT_S, breaker=Breaker(scope="host", failures=2)),
        Rung("other", serve, penalty="0.9", time_limit_s=LIMIT_S),
    )
    here = runtime(breaker_of=gates.of, is_fatal=lambda error: "assert" in str(error))
    with pytest.raises(ProcessPoisoned, match=r"stage\.device left its process unusable: RuntimeError: CUDA error"):
        run_chain(chain, works(8), None, run_id=RUN_ID, runtime=here)
    assert calls == [8]
    state = gates.by_name["stage.device"].state
    assert (state.position, len(state.failures)) == (Position.CLOSED, 1)


def test_a_device_that_is_not_here_moves_no_breaker() -> None:
    """Every call is allowed, however often; the trail says `unavailable`."""
    gates = LocalGates()

    for _ in range(3):
        [result] = run_chain(WITHOUT_DEVICE, works(1), None, run_id=RUN_ID, runtime=runtime(breaker_of=gates.of))
        assert [attempt.outcome for attempt in result.attempts] == [AttemptOutcome.UNAVAILABLE, AttemptOutcome.SERVED]
    assert not gates.by_name["stage.device"].state.failures


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("lacks", [False, True])
def test_a_process_without_the_resources_does_not_speak_for_the_rung(lacks: bool, answers: bool) -> None:
    """That the rung is unavailable counts only where its resources are, whether it raises that or answers it."""
    gates = LocalGates()

    def device(inputs: Sequence[str], context: None) -> list[Failed]:
        error = Unavailable("there is no device here")
        if answers:
            return [Failed.because(error) for _ in inputs]
        raise error

    chain: Chain[str, str, None] = Chain(
        "stage",
        Rung("device", device, time_limit_s=LIMIT_S, breaker=Breaker(scope="host"), resources={"GPU": 1}),
        Rung("other", serve, penalty="0.9", time_limit_s=LIMIT_S),
    )
    here = runtime(breaker_of=gates.of, lacks=lambda resources: lacks and bool(resources))
    for result in run_chain(chain, works(2), None, run_id=RUN_ID, runtime=here):
        assert [attempt.outcome for attempt in result.attempts] == [AttemptOutcome.UNAVAILABLE, AttemptOutcome.SERVED]
    assert len(gates.by_name["stage.device"].state.failures) == (0 if lacks else 1)


def test_a_device_that_is_refused_where_it_is_has_that_reason() -> None:
    """The error of an item is the device's own failure, not that this worker has none."""
    gates = LocalGates(elsewhere="its breaker is open (OutOfMemory: the card is full)")

    for result in run_chain(WITHOUT_DEVICE, works(3), None, run_id=RUN_ID, runtime=runtime(breaker_of=gates.of)):
        assert result.error
        assert (result.rung, result.error.type) == ("other", "BreakerOpen")
        assert OutOfMemory.__name__ in result.error.message
        assert result.attempts[0].outcome is AttemptOutcome.REFUSED
