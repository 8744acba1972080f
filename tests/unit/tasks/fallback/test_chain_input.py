"""What a chain is given to do: only what is better than what an item has, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from repli.tasks.fallback import (
    SKIP,
    AttemptOutcome,
    Breaker,
    ChainInput,
    Directives,
    Status,
    StepError,
    StepResult,
    TimedOut,
    Unavailable,
    run_chain,
)
from repli.tasks.fallback.breaker import Cause, Overridden
from tests.support.fakes import NIGHT, RUN_ID, STAGE, Does, LocalGates, ScriptedRung, chain_of, runtime, works
from tests.unit.tasks.fallback.test_properties import NAMES, Scenario, always, scenarios, without_seconds

REASON = "they do not go together"


def scripted(**does: Does | Exception) -> list[ScriptedRung]:
    """Rungs that do this with the item "0"; where it is an error, with every item."""
    return [
        ScriptedRung(name, always=what) if isinstance(what, Exception) else ScriptedRung(name, {"0": what})
        for name, what in does.items()
    ]


def improved(
    improve_on: str | None,
    *rungs: ScriptedRung,
    skip: str | None = "0.1",
    forbidden: Mapping[str, str] | None = None,
    forced: str | None = None,
) -> StepResult:
    """What comes of an item that has a result by this rung."""
    return run_chain(
        chain_of(*rungs, skip=skip),
        [ChainInput("0", "0", improve_on=improve_on, forbidden=forbidden or {})],
        None,
        run_id=RUN_ID,
        runtime=runtime(),
        directives=Directives(forced={STAGE: forced} if forced else {}),
    )[0]


def trail(result: StepResult) -> list[str]:
    return [f"{attempt.rung} {attempt.outcome}" for attempt in result.attempts]


class TestOnlyBetterRungs:
    """An item that has a result asks for a better one."""

    def test_a_better_rung_serves(self) -> None:
        """It is a result like any other."""
        gpu, cpu, rules = rungs = scripted(gpu=Does.FAIL, cpu=Does.SERVE, rules=Does.SERVE)
        result = improved("rules", *rungs)
        assert (result.status, result.rung, result.value) == (Status.DEGRADED, "cpu", "0 by cpu")
        assert (trail(result), result.retryable) == (["gpu failed", "cpu served"], True)
        assert (gpu.sizes, cpu.sizes, rules.sizes) == ([1], [1], [])

    def test_no_better_rung_serves(self) -> None:
        """What the item has stands: it is pending, with the trail; its own rung is not called, nor any worse one."""
        gpu, cpu, rules = rungs = scripted(gpu=Does.FAIL, cpu=Does.SERVE, rules=Does.SERVE)
        assert improved("cpu", *rungs) == StepResult(
            item_id="0",
            stage=STAGE,
            status=Status.PENDING,
            attempts=improved(None, *scripted(gpu=Does.FAIL, cpu=Does.SERVE)).attempts[:1],
            run_id=RUN_ID,
            finished_at=NIGHT,
        )
        assert (gpu.sizes, cpu.sizes, rules.sizes) == ([1], [], [])

    def test_nothing_is_better_than_the_primary(self) -> None:
        """Nothing is called, and there is nothing to tell."""
        rungs = scripted(gpu=Does.SERVE, cpu=Does.SERVE)
        result = improved("gpu", *rungs)
        assert (result.status, result.attempts, result.was_called) == (Status.PENDING, (), False)
        assert not any(rung.calls for rung in rungs)

    def test_better_than_giving_up(self) -> None:
        """Every rung is called, and giving up again is no gain."""
        assert improved(SKIP, *scripted(gpu=Does.FAIL, cpu=Does.SERVE)).rung == "cpu"
        result = improved(SKIP, *scripted(gpu=Does.FAIL, cpu=Does.FAIL))
        assert (result.status, result.rung, result.penalty) == (Status.PENDING, None, None)
        assert trail(result) == ["gpu failed", "cpu failed"]

    def test_better_than_a_rung_that_is_no_more(self) -> None:
        """The chain was declared anew: whatever serves is a result, giving up too, and the store keeps the better."""
        assert improved("tpu", *scripted(gpu=Does.FAIL, cpu=Does.SERVE)).rung == "cpu"
        result = improved("tpu", *scripted(gpu=Does.FAIL, cpu=Does.FAIL))
        assert (result.status, trail(result)[-1]) == (Status.SKIPPED, "skip served")

    @pytest.mark.parametrize("kept", ["cpu", "tpu", SKIP])
    def test_a_required_stage_does_not_fail_where_it_has_a_result(self, kept: str) -> None:
        """What was served before is not taken away by a try that came to nothing."""
        result = improved(kept, *scripted(gpu=Does.FAIL, cpu=Does.FAIL_FOR_GOOD), skip=None)
        assert (result.status, result.error, result.retryable) == (Status.PENDING, None, False)
        assert trail(result) == (["gpu failed"] if kept == "cpu" else ["gpu failed", "cpu failed"])

    def test_what_is_forced_past_stays_so(self) -> None:
        """Forcing what the item has, or less, leaves nothing to call."""
        rungs = scripted(gpu=Does.SERVE, cpu=Does.SERVE, rules=Does.SERVE)
        for forced in ("cpu", "rules", SKIP):
            result = improved("cpu", *rungs, forced=forced)
            assert (result.status, trail(result), result.was_called) == (Status.PENDING, ["gpu forced_past"], False)
        assert not any(rung.calls for rung in rungs)

    def test_neighbours_ask_for_something_else(self) -> None:
        """Each item in a batch has its own measure."""
        rungs = scripted(gpu=RuntimeError("broken"), cpu=Does.SERVE, rules=Does.SERVE)
        kept = (None, SKIP, "rules", "cpu", "gpu")
        batch = [replace(work, improve_on=one) for work, one in zip(works(5), kept, strict=True)]
        results = run_chain(chain_of(*rungs), batch, None, run_id=RUN_ID, runtime=runtime())
        assert [result.rung for result in results] == ["cpu", "cpu", "cpu", None, None]
        assert rungs[1].calls == [["0", "1", "2"]]


@settings(always, max_examples=60)
@given(scenarios(), st.data())
def test_an_item_has_the_better_part_of_what_it_would_have_had(scenario: Scenario, data: st.DataObject) -> None:
    """Whatever rungs do: where one above the kept one serves, the result is the one of a first time; where none does,
    the trail ends there, and what is kept stands. No other rung is called for the item."""
    assume(not scenario.miscounts and not scenario.may_be_given_up)  # then the other items of the batch matter
    names = [*NAMES[: len(scenario.behaviours)], *([SKIP] if scenario.skip else [])]
    kept = data.draw(
        st.lists(st.sampled_from([None, *names, "gone"]), min_size=scenario.count, max_size=scenario.count)
    )
    bars = st.dictionaries(st.sampled_from(NAMES), st.just(REASON), max_size=2)
    batch = [
        replace(work, improve_on=one, forbidden=data.draw(bars))
        for work, one in zip(works(len(kept)), kept, strict=True)
    ]
    rungs = scenario.rungs()
    for work, result in zip(batch, scenario.run(batch, rungs), strict=True):
        whole = without_seconds(scenario.run([replace(work, improve_on=None)])[0])
        end = names.index(work.improve_on) if work.improve_on in names else len(names)
        if work.improve_on is None or whole.rung in names[:end]:
            assert without_seconds(result) == whole
        else:
            assert without_seconds(result) == StepResult(
                item_id=work.item_id,
                stage=scenario.stage,
                status=Status.PENDING,
                attempts=whole.attempts[:end],
                run_id=RUN_ID,
                finished_at=NIGHT,
            )
        assert not any(work.item_id in call for rung in rungs[end:] for call in rung.calls)


class TestWasCalled:
    """Whether anything was tried: what is refused, absent, barred or passed over is no try."""

    @pytest.mark.parametrize(
        ("does", "was_called"),
        [
            (Does.SERVE, True),
            (Does.FAIL, True),
            (Does.FAIL_FOR_GOOD, True),
            (Does.ANSWER_NONSENSE, True),
            (RuntimeError("broken"), True),
            (TimedOut("cut off"), True),
            (MemoryError(), True),
            (Unavailable("no CUDA device"), False),
        ],
        ids=str,
    )
    def test_by_what_the_rung_does(self, does: Does | Exception, was_called: bool) -> None:
        """A rung whose device is not here has not tried; one that failed in any other way has."""
        assert improved("cpu", *scripted(gpu=does, cpu=Does.SERVE)).was_called is was_called

    def test_a_barred_rung_was_not(self) -> None:
        """A rule is in the trail, and no call was made."""
        result = improved("cpu", *scripted(gpu=Does.SERVE, cpu=Does.SERVE), forbidden={"gpu": REASON})
        assert (result.status, trail(result), result.was_called) == (Status.PENDING, ["gpu incompatible"], False)
        assert result.attempts[0].error == StepError(type="Incompatible", message=REASON)

    def test_a_refused_rung_was_not(self) -> None:
        """An open breaker costs the item no try."""
        gates = LocalGates()
        breaker = Breaker(scope="fleet")
        gates.of(f"{STAGE}.gpu", breaker)
        gates.by_name[f"{STAGE}.gpu"].happens(Overridden(Cause.FORCED_OPEN))
        chain = chain_of(*scripted(gpu=Does.SERVE, cpu=Does.SERVE), breakers={"gpu": breaker})
        within = runtime(breaker_of=gates.of)
        [result] = run_chain(chain, [ChainInput("0", "0", improve_on="cpu")], None, run_id=RUN_ID, runtime=within)
        assert (result.status, trail(result), result.was_called) == (Status.PENDING, ["gpu refused"], False)

    def test_giving_up_is_no_try(self) -> None:
        """To skip, by policy or because nothing is here, calls nothing."""
        for result in (
            improved(None, *scripted(gpu=Unavailable("not here"))),
            improved(None, *scripted(gpu=Does.SERVE), forced=SKIP),
        ):
            assert (result.attempts[-1].outcome, result.was_called) == (AttemptOutcome.SERVED, False)

    def test_one_call_among_others_is_enough(self) -> None:
        """Wherever in the trail it stands."""
        rungs = scripted(gpu=Unavailable("not here"), cpu=Does.FAIL, rules=Does.SERVE)
        assert improved("rules", *rungs).was_called
        assert not improved("cpu", *rungs).was_called

    def test_what_has_not_run_was_not_called(self) -> None:
        """A pending step has no trail."""
        assert not StepResult.pending("0", STAGE).was_called
