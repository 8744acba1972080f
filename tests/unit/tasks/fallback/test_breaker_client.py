"""Rungs with breakers: what their calls count for, who is refused and told why, and how a probe goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repli.tasks.fallback import (
    AttemptOutcome,
    Breaker,
    Chain,
    ChainInput,
    Directives,
    Failed,
    Fault,
    FaultKind,
    InvalidItem,
    ItemError,
    Outcome,
    OutOfMemory,
    Position,
    Rung,
    Served,
    Skip,
    StepError,
    StepResult,
    TimedOut,
    Unavailable,
    run_chain,
)
from repli.tasks.fallback.breaker import CallEnded, Cause, Decision, Overridden, Verdict
from repli.tasks.fallback.breaker_client import NoBreaker, Permit, verdict_of, without_breakers
from repli.tasks.fallback.errors import BadAnswer
from tests.support.fakes import (
    RUN_ID,
    STAGE,
    Does,
    LocalGate,
    LocalGates,
    ManualClock,
    ScriptedRung,
    at_once,
    chain_of,
    runtime,
    works,
)

R = TypeVar("R")

BREAKER = Breaker(scope="host")
NAME = f"{STAGE}.gpu"
SERVED, FAILED, INCONCLUSIVE = Verdict.SERVED, Verdict.FAILED, Verdict.INCONCLUSIVE
CALL, PROBE, REFUSE = Decision.CALL, Decision.PROBE, Decision.REFUSE


class Stage:
    """A chain `gpu`, `cpu`, skip, whose `gpu` has a breaker that remembers, over one batch after another."""

    def __init__(
        self,
        primary: ScriptedRung,
        *,
        per_item: bool = False,
        faults: Sequence[Fault] = (),
        call_within: Callable[..., Any] = at_once,
        breaker: Breaker = BREAKER,
    ) -> None:
        self.primary = primary
        self.fallback = ScriptedRung("cpu")
        self.clock = ManualClock()
        self.gate = LocalGate(NAME, breaker, self.clock)
        self.faults = tuple(faults)
        one = ["gpu"] if per_item else []
        self.chain = chain_of(primary, self.fallback, per_item=one, breakers={"gpu": breaker})
        self.runtime = runtime(
            clock=self.clock,
            call_within=call_within,
            breaker_of=LocalGates(self.clock, {NAME: self.gate}).of,
        )

    def run(self, batch: Sequence[ChainInput[str]] | int = 128, *, forced: str | None = None) -> list[StepResult]:
        """The results of one batch."""
        directives = Directives(forced={STAGE: forced} if forced else {}, faults=self.faults)
        items = works(batch) if isinstance(batch, int) else batch
        return run_chain(self.chain, items, None, run_id=RUN_ID, runtime=self.runtime, directives=directives)

    def open(self) -> Stage:
        """Five calls of others failed."""
        for number in range(5):
            self.gate.record(Permit(token=f"other {number}", decision=CALL), FAILED, "RuntimeError: no driver")
        assert self.gate.state.position is Position.OPEN
        self.gate.ends.clear()
        return self

    def due(self) -> Stage:
        """It is open, and its first probe is due."""
        self.open()
        self.clock.advance(60)
        return self

    @property
    def failed_calls(self) -> int:
        """How many calls of the primary raised, or came back with too few answers."""
        return len(self.primary.calls) - len(self.primary.answered)

    @property
    def is_untouched(self) -> bool:
        """Whether the breaker is closed and its window empty."""
        return self.gate.state.position is Position.CLOSED and self.gate.state.failures == ()


def on_primary(results: Sequence[StepResult]) -> int:
    return sum(result.rung == "gpu" for result in results)


def first_attempts(results: Sequence[StepResult]) -> Counter[str]:
    """What became of the primary, over the items."""
    return Counter(result.attempts[0].outcome.value for result in results)


def refusal(results: Sequence[StepResult]) -> StepError:
    """The one error of the refused."""
    (error,) = {a.error for result in results for a in result.attempts if a.outcome is AttemptOutcome.REFUSED}
    assert error is not None
    return error


# The verdict


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([Served("a")], (SERVED, "")),
        ([Failed.because(BadAnswer("nonsense")), Failed.because(ItemError("bad")), Served("a")], (SERVED, "")),
        ([Failed.because(BadAnswer("nonsense"))], (FAILED, "BadAnswer: nonsense")),
        ([Failed.because(ItemError("bad"))], (INCONCLUSIVE, "")),
        ([Failed.because(InvalidItem("wrong in itself"))] * 3, (INCONCLUSIVE, "")),
        (
            [Failed.because(ItemError("bad")), Failed.because(TimedOut("slow")), Failed.because(BadAnswer("nonsense"))],
            (FAILED, "TimedOut: slow"),
        ),
        ([], (INCONCLUSIVE, "")),
    ],
    ids=["served", "served one", "failed", "bad item", "invalid items", "the first that is the rung's", "nobody"],
)
def test_verdict_on_answers(outcomes: list[Outcome[str]], verdict: tuple[Verdict, str]) -> None:
    """Whoever serves one item works; items' own errors say nothing; any other error is the rung's, with its line."""
    assert verdict_of(outcomes) == verdict


def test_no_gate_lets_everything_through() -> None:
    """The gate of a rung without a breaker knows one answer, and hears nothing."""
    gate = without_breakers(NAME, BREAKER)
    assert isinstance(gate, NoBreaker)
    for _ in range(20):
        permit = gate.acquire()
        assert (permit.decision, permit.is_probe, permit.is_refused) == (CALL, False, False)
        gate.record(permit, FAILED, "RuntimeError: no driver")


@pytest.mark.parametrize(
    ("decision", "is_probe", "is_refused"), [(CALL, False, False), (PROBE, True, False), (REFUSE, False, True)]
)
def test_permit_says_what_is_to_be_done(decision: Decision, is_probe: bool, is_refused: bool) -> None:
    """A call, a probe, or no call."""
    permit = Permit(token="1", decision=decision)
    assert (permit.is_probe, permit.is_refused) == (is_probe, is_refused)


# A healthy rung


def test_healthy_rung_is_asked_for_each_call() -> None:
    """One ask and one end a batch, and nothing stays."""
    stage = Stage(ScriptedRung("gpu"))
    for _ in range(3):
        assert on_primary(stage.run()) == 128
    assert stage.gate.decisions == [CALL] * 3
    assert stage.gate.ends == [("1", SERVED), ("2", SERVED), ("3", SERVED)]
    assert stage.is_untouched


# A dead rung


@pytest.mark.parametrize(
    ("error", "sizes"),
    [
        (RuntimeError("no driver"), [128, 1, 1, 1, 1] * 5),
        (OutOfMemory("it does not fit"), [128, 64, 32, 16, 8, 4, 2, *[1] * 25]),
        (MemoryError(), [128, 64, 32, 16, 8, 4, 2, *[1] * 25]),
        (Unavailable("no CUDA device"), [128] * 5),
        (TimedOut("cut off"), [128] * 5),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_dead_primary_is_called_in_five_batches(error: Exception, sizes: list[int]) -> None:
    """However many come, it is called until five of them have failed, and then no more."""
    stage = Stage(ScriptedRung("gpu", always=error))
    for _ in range(20):
        results = stage.run()
        assert {result.rung for result in results} == {"cpu"}
        assert stage.gate.verdicts.count(FAILED) <= 5
    assert stage.primary.sizes == sizes
    assert stage.gate.verdicts == [FAILED] * 5
    assert stage.gate.state.position is Position.OPEN
    assert stage.gate.state.why == StepError.of(error).line
    assert first_attempts(results) == {"refused": 128}
    assert len(stage.fallback.calls) == 20


def test_rung_that_answers_nonsense_is_dead_too() -> None:
    """Answers that the chain does not accept count, once a batch; the reason is the first of them."""
    stage = Stage(ScriptedRung("gpu", {work.item_id: Does.ANSWER_NAN for work in works(128)}))
    for _ in range(7):
        assert on_primary(stage.run()) == 0
    assert stage.primary.sizes == [128] * 5
    assert stage.gate.state.why == f"BadAnswer: {NAME} returned a confidence of nan, not in [0, 1]"


def test_wrong_number_of_answers_counts() -> None:
    """A rung that miscounts has failed, once a batch: it is not asked again with fewer items."""
    stage = Stage(ScriptedRung("gpu", {work.item_id: Does.MISCOUNT for work in works(128)}))
    for _ in range(7):
        assert on_primary(stage.run()) == 0
    assert stage.primary.sizes == [128] * 5


def test_refused_items_say_why() -> None:
    """The attempt is `refused`, its error a BreakerOpen with what opened the breaker; it took no time of its own, and
    the item goes on."""
    stage = Stage(ScriptedRung("gpu")).open()
    results = stage.run(3)
    assert refusal(results) == StepError(type="BreakerOpen", message=f"{NAME}: breaker open (RuntimeError: no driver)")
    assert {result.error for result in results} == {refusal(results)}
    assert [result.attempts[0].seconds for result in results] == [0, 0, 0]
    assert all((result.rung, result.retryable) == ("cpu", True) for result in results)
    assert not stage.primary.calls
    assert stage.gate.decisions == [REFUSE]  # one answer for the whole batch
    assert not stage.gate.ends


def test_item_that_nobody_serves_says_who_tried() -> None:
    """A refusal is not the reason of a skip where another rung tried and failed; where all are refused it is."""
    stage = Stage(ScriptedRung("gpu")).open()
    stage.fallback.always = RuntimeError("no memory either")
    (result,) = stage.run(1)
    assert result.error == StepError(type="RuntimeError", message="no memory either")
    stage.fallback.always = Unavailable("no CPU")
    (result,) = stage.run(1)
    assert result.error == refusal([result])


def test_a_batch_that_was_served_is_no_failure_item_by_item_either() -> None:
    """Whatever else of it failed: its items did, and the next batch is called."""
    stage = Stage(ScriptedRung("gpu"), per_item=True)
    stage.primary.script = {str(number): Does.BREAK for number in (1, 3, 4, 5, 6)}
    for _ in range(9):
        assert on_primary(stage.run(10)) == 5
    assert stage.is_untouched
    assert stage.gate.verdicts == [SERVED] * 9


def test_item_that_was_not_called_has_the_error_of_those_that_were() -> None:
    """Where the rung is given up for the rest of the batch: it failed them, and nobody refused them."""
    stage = Stage(ScriptedRung("gpu", always=RuntimeError("no driver")))
    stage.runtime.sizes.record_out_of_memory(NAME, 8)
    results = stage.run(16)
    assert stage.primary.sizes == [4, 1, 1, 1, 1]
    assert first_attempts(results) == {"failed": 16}
    assert {result.error for result in results} == {StepError(type="RuntimeError", message="no driver")}


def test_breaker_that_somebody_else_opens_refuses_the_rest() -> None:
    """It is asked before each call of a batch, so that another worker's failures end this one's calls."""
    stage = Stage(ScriptedRung("gpu"))
    stage.runtime.sizes.record_out_of_memory(NAME, 4)

    def calls(inputs: Sequence[str], context: object) -> Sequence[Outcome[str]]:
        if "2" in inputs:
            stage.gate.happens(Overridden(Cause.FORCED_OPEN))
        return stage.primary(inputs)

    chain = Chain(STAGE, Rung("gpu", calls, time_limit_s=60, breaker=BREAKER), Skip(penalty="0.7"))
    results = run_chain(chain, works(7), None, run_id=RUN_ID, runtime=stage.runtime)
    assert stage.primary.calls == [["0", "1"], ["2", "3"]]
    assert first_attempts(results) == {"served": 4, "refused": 3}


# What is an item's is not the rung's


def all_of(count: int, does: Does) -> dict[str, Does]:
    return {work.item_id: does for work in works(count)}


@pytest.mark.parametrize("poison", ["0", "1", "63", "64", "77", "126", "127"])
def test_poison_item_leaves_no_trace(poison: str) -> None:
    """One item of 128 that breaks whole calls, wherever it sits: the breaker stays closed, its window empty, nothing is
    told but that the batch was served, and 127 items stay on the primary."""
    stage = Stage(ScriptedRung("gpu", {poison: Does.BREAK}), breaker=Breaker(scope="host", failures=1))
    for batch in range(1, 11):
        assert on_primary(stage.run()) == 127
        assert stage.failed_calls <= 8 * batch
        assert stage.gate.verdicts == [SERVED] * batch
        assert stage.is_untouched


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(3, 200), st.sets(st.integers(0, 199), min_size=1, max_size=2))
def test_two_poison_items_leave_no_trace(count: int, poisons: set[int]) -> None:
    """Two of them in a batch never open a breaker of five failures, wherever they sit."""
    poisons = {poison % count for poison in poisons}
    stage = Stage(ScriptedRung("gpu", {str(poison): Does.BREAK for poison in poisons}))
    assert on_primary(stage.run(count)) == count - len(poisons)
    assert stage.is_untouched


@pytest.mark.parametrize("item", ["0", "77", "127"])
def test_item_that_does_not_fit_alone_leaves_no_trace(item: str) -> None:
    """Halving tells it from a device that is out of memory for everybody."""
    stage = Stage(ScriptedRung("gpu", fits={item: 0}))
    for _ in range(10):
        assert on_primary(stage.run()) == 127
        assert stage.is_untouched
    assert stage.primary.calls.count([item]) == 10
    assert set(stage.gate.verdicts) == {SERVED}


def test_memory_that_splitting_cures_leaves_no_trace() -> None:
    """A device that takes 40 items is not broken: nothing is counted."""
    stage = Stage(ScriptedRung("gpu", fits=dict.fromkeys(all_of(128, Does.SERVE), 40)))
    for _ in range(5):
        assert on_primary(stage.run()) == 128
    assert FAILED not in stage.gate.verdicts
    assert stage.is_untouched


@pytest.mark.parametrize("kind", [FaultKind.OOM, FaultKind.ERROR, FaultKind.UNAVAILABLE, FaultKind.GARBAGE])
def test_faults_of_some_items_leave_no_trace(kind: FaultKind) -> None:
    """Where one item in ten does not fit, fails or is answered nonsense, the others stay on the primary."""
    fault = Fault(stage=STAGE, rung="gpu", kind=kind, rate=0.1)
    spared = sum(not fault.hits(work.item_id) for work in works(128))
    assert 100 < spared < 128
    stage = Stage(ScriptedRung("gpu"), faults=[fault])
    for _ in range(5):
        assert on_primary(stage.run()) == spared
        assert stage.is_untouched


@pytest.mark.parametrize("does", [Does.FAIL, Does.FAIL_FOR_GOOD])
@pytest.mark.parametrize("per_item", [False, True])
def test_bad_items_say_nothing(does: Does, per_item: bool) -> None:
    """However many items fail by themselves, and only such, nothing is counted, and nothing is called a success."""
    stage = Stage(ScriptedRung("gpu", all_of(16, does)), per_item=per_item)
    for _ in range(20):
        assert on_primary(stage.run(16)) == 0
    assert set(stage.gate.verdicts) == {INCONCLUSIVE}
    assert stage.is_untouched


def test_item_error_of_a_whole_call_says_nothing() -> None:
    """Also where a rung raises it, instead of answering it for the item."""
    stage = Stage(ScriptedRung("gpu", always=ItemError("it is no image")))
    for _ in range(20):
        stage.run(2)
    assert set(stage.gate.verdicts) == {INCONCLUSIVE}
    assert stage.is_untouched


def test_a_batch_of_which_nothing_was_served_is_one_failure() -> None:
    """With the error of the one that no item caused: the others' own errors prove nothing of what it depends on."""
    stage = Stage(ScriptedRung("gpu", {**all_of(8, Does.FAIL), "5": Does.BREAK}))
    assert first_attempts(stage.run(8)) == {"failed": 8}
    assert stage.gate.verdicts == [FAILED]
    assert len(stage.gate.state.failures) == 1


@pytest.mark.parametrize("first", ["nonsense", "time-out"])
def test_failed_part_of_a_served_batch_is_no_failure(first: str) -> None:
    """Where a batch takes several calls, one that is served speaks for all of them."""
    stage = Stage(ScriptedRung("gpu", {"0": Does.ANSWER_NAN, "1": Does.ANSWER_NAN} if first == "nonsense" else {}))
    stage.runtime.sizes.record_out_of_memory(NAME, 4)
    limited = stage.primary.__call__

    def calls(inputs: Sequence[str], context: object) -> Sequence[Outcome[str]]:
        if first == "time-out" and "0" in inputs:
            raise TimedOut("cut off")
        return limited(inputs)

    chain = Chain(STAGE, Rung("gpu", calls, time_limit_s=60, breaker=BREAKER), Skip(penalty="0.7"))
    results = run_chain(chain, works(4), None, run_id=RUN_ID, runtime=stage.runtime)
    assert first_attempts(results) == {"failed": 2, "served": 2}
    assert stage.gate.ends == [("1", SERVED)]
    assert stage.is_untouched


def test_device_lost_in_a_served_batch_counts_in_the_next() -> None:
    """Its first call without an item that is served."""
    stage = Stage(ScriptedRung("gpu"))
    stage.runtime.sizes.record_out_of_memory(NAME, 4)

    def calls(inputs: Sequence[str], context: object) -> Sequence[Outcome[str]]:
        if len(stage.primary.calls) > 0:
            raise Unavailable("the device fell off the bus")
        return stage.primary(inputs)

    chain = Chain(STAGE, Rung("gpu", calls, time_limit_s=60, breaker=BREAKER), Skip(penalty="0.7"))
    for outcomes in ({"served": 2, "unavailable": 4}, {"unavailable": 6}):
        results = run_chain(chain, works(6), None, run_id=RUN_ID, runtime=stage.runtime)
        assert first_attempts(results) == outcomes
    assert stage.gate.verdicts == [SERVED, FAILED]


def test_batch_of_one_has_nobody_to_tell_by() -> None:
    """An item that is alone and breaks its call counts."""
    stage = Stage(ScriptedRung("gpu", {"0": Does.BREAK}))
    stage.run(1)
    assert len(stage.gate.state.failures) == 1


@pytest.mark.parametrize(("poison", "verdict"), [("0", FAILED), ("2", SERVED)])
def test_batch_that_was_cut_short_is_judged_by_what_was_called(poison: str, verdict: Verdict) -> None:
    """Where others have opened the breaker meanwhile the rest is refused."""
    stage = Stage(ScriptedRung("gpu", {poison: Does.BREAK}))
    stage.runtime.sizes.record_out_of_memory(NAME, 4)

    def calls(inputs: Sequence[str], context: object) -> Sequence[Outcome[str]]:
        if poison in inputs:
            for other in "abcde":
                stage.gate.happens(CallEnded(other, FAILED))
        return stage.primary(inputs)

    chain = Chain(STAGE, Rung("gpu", calls, time_limit_s=60, breaker=BREAKER), Skip(penalty="0.7"))
    results = run_chain(chain, works(10), None, run_id=RUN_ID, runtime=stage.runtime)
    outcomes = {"0": {"failed": 2, "refused": 8}, "2": {"served": 2, "failed": 2, "refused": 6}}
    assert first_attempts(results) == outcomes[poison]
    assert stage.gate.ends == [("1", verdict)]


# Forced, and without a breaker


@pytest.mark.parametrize("stands", ["closed", "open", "due"])
def test_forced_rung_goes_past_its_breaker(stands: str) -> None:
    """A person's word goes first: the rung is called, and neither its failures nor its services count."""
    stage = Stage(ScriptedRung("gpu"))
    if stands != "closed":
        stage.due() if stands == "due" else stage.open()
    before = stage.gate.state
    assert on_primary(stage.run(8, forced="gpu")) == 8
    stage.primary.always = RuntimeError("no driver")
    for _ in range(10):
        assert first_attempts(stage.run(8, forced="gpu")) == {"failed": 8}
    assert stage.gate.state == before
    assert not stage.gate.permits


def test_rung_that_is_passed_over_is_not_asked() -> None:
    """Forcing a fallback leaves the primary's breaker alone."""
    stage = Stage(ScriptedRung("gpu"))
    stage.run(8, forced="cpu")
    stage.run(8, forced="skip")
    assert not stage.gate.permits


def test_breakers_below_the_forced_rung_are_asked() -> None:
    """Only the rung that a person named goes past its breaker, which has the name of its stage and rung."""
    gates = LocalGates()
    dead = [ScriptedRung(name, always=RuntimeError("broken")) for name in ("gpu", "cpu", "rules")]
    chain = chain_of(*dead, breakers={rung.name: BREAKER for rung in dead[:2]})
    for forced in ({STAGE: "gpu"}, {"another": "gpu"}):
        run_chain(
            chain,
            works(1),
            None,
            run_id=RUN_ID,
            runtime=runtime(breaker_of=gates.of),
            directives=Directives(forced=forced),
        )
        assert gates.by_name.keys() == {"stage.cpu"} | ({"stage.gpu"} if STAGE not in forced else set())
    assert len(gates.by_name["stage.cpu"].permits) == 2
    assert len(dead[2].calls) == 2


def test_rung_without_a_breaker_has_no_gate() -> None:
    """Nothing is asked, and a dead rung is called for every batch."""
    gates = LocalGates()
    primary = ScriptedRung("gpu", always=Unavailable("no CUDA device"))
    for _ in range(20):
        run_chain(chain_of(primary), works(4), None, run_id=RUN_ID, runtime=runtime(breaker_of=gates.of))
    assert not gates.by_name
    assert primary.sizes == [4] * 20


# The probe


def test_probe_carries_one_item() -> None:
    """After it served the breaker is closed, and the rest of the batch goes to the primary in one call."""
    stage = Stage(ScriptedRung("gpu")).due()
    assert on_primary(stage.run(128)) == 128
    assert stage.primary.sizes == [1, 127]
    assert stage.gate.decisions == [PROBE, CALL]
    assert stage.gate.ends == [("1", SERVED), ("2", SERVED)]
    assert stage.is_untouched


def test_probe_does_not_change_the_working_size() -> None:
    """That a probe carried one item says nothing of what fits."""
    stage = Stage(ScriptedRung("gpu")).due()
    stage.runtime.sizes.record_out_of_memory(NAME, 32)
    stage.run(40)
    assert stage.primary.sizes == [1, 16, 16, 7]


@pytest.mark.parametrize(
    ("error", "outcomes"),
    [
        (RuntimeError("no driver"), {"failed": 1, "refused": 127}),
        (OutOfMemory("it does not fit"), {"failed": 1, "refused": 127}),
        (MemoryError(), {"failed": 1, "refused": 127}),
        (TimedOut("cut off"), {"failed": 1, "refused": 127}),
        (Unavailable("no CUDA device"), {"unavailable": 128}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failed_probe_costs_one_call(error: Exception, outcomes: Mapping[str, int]) -> None:
    """The rest of the batch is refused, and so is the next one; the cool-down has doubled."""
    stage = Stage(ScriptedRung("gpu", always=error)).due()
    results = stage.run(128)
    assert first_attempts(results) == outcomes
    assert {result.rung for result in results} == {"cpu"}
    assert stage.primary.sizes == [1]
    failed = [result.item_id for result in results if result.attempts[0].outcome is AttemptOutcome.FAILED]
    assert failed == (stage.primary.calls[0] if "failed" in outcomes else [])
    assert (stage.gate.state.position, stage.gate.state.failed_probes) == (Position.OPEN, 1)
    assert stage.gate.state.why == StepError.of(error).line
    stage.clock.advance(119)
    assert first_attempts(stage.run(128)) == {"refused": 128}
    assert refusal(stage.run(1)).message == f"{NAME}: breaker open ({StepError.of(error).line})"
    stage.clock.advance(1)
    stage.run(128)
    assert stage.primary.sizes == [1, 1]
    assert stage.gate.verdicts == [FAILED, FAILED]


def test_probe_that_is_answered_nonsense_failed() -> None:
    """An answer that the chain does not accept closes nothing."""
    stage = Stage(ScriptedRung("gpu", all_of(3, Does.ANSWER_NONSENSE))).due()
    assert first_attempts(stage.run(3)) == {"failed": 1, "refused": 2}
    assert stage.gate.state.failed_probes == 1
    assert stage.primary.sizes == [1]


def probed(count: int) -> list[str]:
    """The items of a batch in the order in which they probe, where each is bad."""
    stage = Stage(ScriptedRung("gpu", all_of(count, Does.FAIL))).due()
    stage.run(count)
    assert stage.primary.sizes == [1] * count
    return [item for (item,) in stage.primary.calls]


@pytest.mark.parametrize("does", [Does.FAIL, Does.FAIL_FOR_GOOD])
def test_probe_on_a_bad_item_is_made_with_the_next(does: Does) -> None:
    """A bad item says nothing: the permit goes back, and another item of the batch probes; the others are called in
    their order, and nobody twice."""
    first, second, third, *_ = probed(8)
    stage = Stage(ScriptedRung("gpu", {first: does, second: does})).due()
    results = stage.run(8)
    others = [work.item_id for work in works(8) if work.item_id not in (first, second, third)]
    assert stage.primary.calls == [[first], [second], [third], others]
    assert stage.gate.decisions == [PROBE, PROBE, PROBE, CALL]
    assert stage.gate.verdicts == [INCONCLUSIVE, INCONCLUSIVE, SERVED, SERVED]
    assert first_attempts(results) == {"failed": 2, "served": 6}


def test_one_bad_item_does_not_fail_every_probe() -> None:
    """Which item probes is drawn, so that a batch whose first item breaks its calls comes back like another."""
    stage = Stage(ScriptedRung("gpu", {"0": Does.BREAK})).due()
    probes = []
    while stage.gate.state.position is not Position.CLOSED:
        stage.run(8)
        probes.append(stage.primary.calls[-1] if stage.gate.decisions[-1] is REFUSE else None)
        stage.clock.advance(BREAKER.open_for_at_most_s)
    assert len(probes) < 4
    assert all(probe == ["0"] for probe in probes[:-1])


def test_batch_of_bad_items_leaves_the_probe_to_the_next_batch() -> None:
    """Whoever comes next probes at once, and nobody is refused meanwhile."""
    stage = Stage(ScriptedRung("gpu", all_of(3, Does.FAIL))).due()
    assert first_attempts(stage.run(3)) == {"failed": 3}
    assert (stage.gate.state.position, stage.gate.state.lease) == (Position.HALF_OPEN, None)
    stage.primary.script = {}
    assert on_primary(stage.run(3)) == 3


def test_while_somebody_probes_the_others_are_refused() -> None:
    """A batch that meets a probe under way goes to the fallback, without a call of the primary."""
    stage = Stage(ScriptedRung("gpu")).due()
    theirs = stage.gate.acquire()
    assert theirs.is_probe
    assert first_attempts(stage.run(8)) == {"refused": 8}
    stage.gate.record(theirs, SERVED)
    assert on_primary(stage.run(8)) == 8


def test_probe_has_a_time_limit_of_its_own() -> None:
    """It is cut off at four fifths of its lease; the calls after it have the rung's limit."""
    limits: list[float] = []

    def within(function: Callable[[], R], limit_s: float, name: str, **_: object) -> R:
        assert name in (NAME, "stage.cpu")
        limits.append(limit_s)
        return function()

    Stage(ScriptedRung("gpu"), call_within=within).due().run(8)
    assert limits == [48, 60]
    limits.clear()
    Stage(ScriptedRung("gpu", always=TimedOut("cut off")), call_within=within).due().run(8)
    assert limits == [48, 60]  # the fallback's


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_cancelled_probe_gives_its_permit_back(error: BaseException) -> None:
    """An interrupt passes through, but not with the lease in its pocket."""
    stage = Stage(ScriptedRung("gpu", always=error)).due()
    with pytest.raises(type(error)):
        stage.run(8)
    assert stage.gate.ends == [("1", INCONCLUSIVE)]
    assert stage.gate.state.is_probe_due(stage.clock.now())
    stage.primary.always = None
    assert on_primary(stage.run(8)) == 8


def test_cancelled_call_counts_for_nothing() -> None:
    """An interrupt is no failure of the rung."""
    stage = Stage(ScriptedRung("gpu", always=KeyboardInterrupt()))
    for _ in range(9):
        with pytest.raises(KeyboardInterrupt):
            stage.run(8)
    assert stage.is_untouched


def test_batch_that_was_cancelled_proves_nothing() -> None:
    """Whatever of it failed before."""
    stage = Stage(ScriptedRung("gpu", always=RuntimeError("no driver")))

    def within(function: Callable[[], R], limit_s: float, name: str, **_: object) -> R:
        if stage.primary.calls:
            stage.primary.always = KeyboardInterrupt()
        return function()

    stage.runtime = replace(stage.runtime, call_within=within)
    with pytest.raises(KeyboardInterrupt):
        stage.run(8)
    assert stage.primary.sizes == [8, 1]
    assert stage.gate.ends == [("1", INCONCLUSIVE)]
    assert stage.is_untouched


def test_rung_that_comes_back_is_used_again() -> None:
    """Dead for two probes, then alive: three calls from the opening on, and every later batch is at full quality."""
    stage = Stage(ScriptedRung("gpu", always=Unavailable("no CUDA device")))
    for _ in range(100):  # 1,000 s
        stage.run(8)
        stage.clock.advance(10)
        if stage.clock.seconds > 50 + 60 + 120:
            stage.primary.always = None
    assert stage.primary.sizes[:8] == [8, 8, 8, 8, 8, 1, 1, 1]
    assert stage.primary.sizes[8] == 7
    assert set(stage.primary.sizes[9:]) == {8}
    assert stage.is_untouched


# What always holds

errors = [RuntimeError("no driver"), OutOfMemory("full"), Unavailable("gone"), TimedOut("cut off"), ItemError("bad")]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    behaviours=st.lists(
        st.tuples(
            st.integers(1, 20),
            st.dictionaries(st.sampled_from([str(item) for item in range(20)]), st.sampled_from(Does), max_size=6),
            st.dictionaries(st.sampled_from([str(item) for item in range(20)]), st.integers(0, 8), max_size=3),
            st.none() | st.none() | st.sampled_from(errors),
            st.sampled_from([0, 1, 60, 200]),
        ),
        max_size=8,
    ),
    per_item=st.booleans(),
    failures=st.integers(1, 6),
)
def test_gate_is_kept_to(
    behaviours: list[tuple[int, dict[str, Does], dict[str, int], Exception | None, float]],
    per_item: bool,
    failures: int,
) -> None:
    """Whatever the rung does: a permit for each call, one end for the calls of a batch and one for each probe, one item
    a probe; refused is who was not called, and nobody else."""
    stage = Stage(ScriptedRung("gpu"), per_item=per_item, breaker=Breaker(scope="host", failures=failures))
    gate = stage.gate
    for count, script, fits, always, seconds in behaviours:
        stage.primary.script, stage.primary.fits, stage.primary.always = script, fits, always
        asks, calls, ends = len(gate.permits), len(stage.primary.calls), len(gate.ends)
        results = stage.run(count)
        decisions = gate.decisions[asks:]
        called = {item for call in stage.primary.calls[calls:] for item in call}
        refused = {result.item_id for result in results if result.attempts[0].outcome is AttemptOutcome.REFUSED}
        assert REFUSE not in decisions[:-1]
        if decisions[-1] is REFUSE:
            assert refused == {work.item_id for work in works(count)} - called
        else:
            assert not refused
        assert all(result.rung in ("gpu", "cpu") for result in results)
        probes = [permit.token for permit in gate.permits[asks:] if permit.is_probe]
        batch = [permit.token for permit in gate.permits[asks:] if permit.decision is CALL][:1]
        assert [token for token, _ in gate.ends[ends:]] == [*probes, *batch]
        if any(result.rung == "gpu" for result in results):
            assert gate.ends[-1][1] is SERVED
        stage.clock.advance(seconds)
    called_with = [permit for permit in gate.permits if not permit.is_refused]
    for permit, call in zip(called_with, stage.primary.calls, strict=True):
        assert len(call) == 1 or not (permit.is_probe or per_item)
    assert gate.state.lease is None
