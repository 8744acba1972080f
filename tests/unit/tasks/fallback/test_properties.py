"""What always holds, for any mixture of what rungs can do.

Left out on purpose, as documented in `run_chain` and `splitting`: more bad items than a rung is given up after, and
rungs that are unavailable, hang or miscount for some batches and not for others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import prod
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from repli.tasks.fallback import (
    AttemptOutcome,
    ChainInput,
    Directives,
    Fault,
    FaultKind,
    Status,
    StepResult,
    TimedOut,
    Unavailable,
    WorkingSizes,
    quality,
    run_chain,
)
from repli.tasks.fallback.splitting import GIVE_UP_AFTER
from tests.support.fakes import RUN_ID, Does, ManualClock, ScriptedRung, chain_of, runtime, works

BAD_ITEMS_WITHIN_BUDGET = GIVE_UP_AFTER - 2
"""One call of the whole batch, so many bad items, and one item that is served."""
MILD = (Does.SERVE, Does.FAIL, Does.FAIL_FOR_GOOD)
BAD = (Does.BREAK, Does.ANSWER_NONE, Does.ANSWER_NAN, Does.ANSWER_NONSENSE)
NAMES = ("gpu", "cpu", "rules")
WHOLE_RUNGS = (RuntimeError("no driver"), MemoryError(), TimedOut("cut off"), Unavailable("no CUDA device"))
FAULTS = [kind for kind in FaultKind if kind is not FaultKind.KILL]

always = settings(derandomize=True, deadline=None, max_examples=150)


@dataclass(frozen=True)
class Behaviour:
    """What one rung does, with each item and with all."""

    script: Mapping[str, Does]
    fits: Mapping[str, int]
    whole: Exception | None
    per_item: bool
    fault: Fault | None

    def within_budget(self, items: Sequence[str]) -> Behaviour:
        """The same, without what may concern other items of a batch: a fault of too many, and a wrong count."""
        script = {item: does for item, does in self.script.items() if does is not Does.MISCOUNT}
        fewer = replace(self, script=script)
        is_too_much = sum(map(fewer.bad, items)) > BAD_ITEMS_WITHIN_BUDGET
        return replace(fewer, fault=None, fits={}) if is_too_much else fewer

    def bad(self, item: str) -> bool:
        """Whether the rung fails with this item, through no error of the item's own."""
        is_hit = bool(self.fault and self.fault.hits(item))
        return is_hit or self.script.get(item) in BAD or self.fits.get(item) == 0


@dataclass(frozen=True)
class Scenario:
    """A stage over some items: what its rungs do, and what a person asked for."""

    stage: str
    count: int
    behaviours: tuple[Behaviour, ...]
    penalties: tuple[str, ...]
    skip: str | None
    forced: str | None

    @property
    def miscounts(self) -> bool:
        """Whether a rung may answer a call for one item too few."""
        return any(Does.MISCOUNT in one.script.values() for one in self.behaviours)

    @property
    def may_be_given_up(self) -> bool:
        """Whether a rung may be given up for its bad items, and so for others of their batch."""
        bad = [sum(map(one.bad, map(str, range(self.count)))) for one in self.behaviours if one.whole is None]
        return any(count > BAD_ITEMS_WITHIN_BUDGET for count in bad)

    def rungs(self) -> list[ScriptedRung]:
        """New rungs, with empty memories, on one clock."""
        clock = ManualClock()
        return [
            ScriptedRung(name, does.script, does.fits, does.whole, clock=clock, call_takes_s=1)
            for name, does in zip(NAMES, self.behaviours, strict=False)
        ]

    def run(
        self, batch: Sequence[ChainInput[str]], rungs: Sequence[ScriptedRung] = (), sizes: WorkingSizes | None = None
    ) -> list[StepResult]:
        """The results of one batch."""
        rungs = rungs or self.rungs()
        chain = chain_of(
            *rungs,
            penalties=self.penalties,
            skip=self.skip,
            per_item=[name for name, does in zip(NAMES, self.behaviours, strict=False) if does.per_item],
            stage=self.stage,
        )
        directives = Directives(
            forced={self.stage: self.forced} if self.forced else {},
            faults=tuple(does.fault for does in self.behaviours if does.fault),
        )
        timer = rungs[0].clock.timer
        within = replace(runtime(sizes=sizes), timer=timer)
        return run_chain(chain, batch, None, run_id=RUN_ID, runtime=within, directives=directives)


@st.composite
def behaviours(draw: st.DrawFn, stage: str, name: str, items: list[str]) -> Behaviour:
    """A rung that is broken as a whole, or does something else with every item, or has a fault injected."""
    whole = draw(st.none() | st.none() | st.sampled_from(WHOLE_RUNGS))
    fault = None
    if whole is None and draw(st.booleans()):
        rate = draw(st.sampled_from([0.0, 0.05, 0.1, 0.7, 1.0]))
        kind = draw(st.sampled_from(FAULTS))
        fault = Fault(stage=stage, rung=name, kind=kind, rate=rate, seed=draw(st.integers(0, 3)))
    one = st.sampled_from(items)
    mild = draw(st.dictionaries(one, st.sampled_from((*MILD, *([Does.MISCOUNT] if draw(st.booleans()) else [])))))
    bad = draw(st.dictionaries(one, st.sampled_from(BAD), max_size=BAD_ITEMS_WITHIN_BUDGET))
    return Behaviour(
        script=mild | bad,
        fits=draw(st.dictionaries(one, st.integers(1, 8))) | draw(st.dictionaries(one, st.just(0), max_size=1)),
        whole=whole,
        per_item=draw(st.booleans()),
        fault=fault,
    )


@st.composite
def scenarios(draw: st.DrawFn, stage: str = "stage") -> Scenario:
    """Any mixture of rung behaviours over up to 40 items."""
    count = draw(st.integers(1, 40))
    items = [work.item_id for work in works(count)]
    rungs = draw(st.integers(1, len(NAMES)))
    percents = sorted(draw(st.lists(st.integers(1, 100), min_size=rungs, max_size=rungs)), reverse=True)
    has_skip = draw(st.booleans())
    names = (*NAMES[:rungs], *(["skip"] if has_skip else []))
    return Scenario(
        stage=stage,
        count=count,
        behaviours=tuple(draw(behaviours(stage, name, items)) for name in NAMES[:rungs]),
        penalties=("1", *(f"{percent / 100}" for percent in percents[:-1])),
        skip=f"{percents[-1] / 100}" if has_skip else None,
        forced=draw(st.none() | st.none() | st.sampled_from(names)),
    )


@st.composite
def batchings(draw: st.DrawFn, count: int) -> list[list[ChainInput[str]]]:
    """The items in any order, cut into batches of any sizes."""
    batch = draw(st.permutations(works(count)))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, count - 1)))))
    edges = [0, *(cut for cut in cuts if cut < count), count]
    return [batch[start:end] for start, end in pairwise(edges)]


def without_seconds(result: StepResult) -> StepResult:
    """The result without what its calls took, which is shared among those who travel together."""
    return replace(result, attempts=tuple(replace(attempt, seconds=0.0) for attempt in result.attempts))


@always
@given(scenarios())
def test_every_item_ends_with_exactly_one_terminal_status(scenario: Scenario) -> None:
    """As many results as items, in their order, each terminal and in keeping with what its status means."""
    results = scenario.run(works(scenario.count))
    assert [result.item_id for result in results] == [work.item_id for work in works(scenario.count)]
    for result in results:
        served = [attempt.rung for attempt in result.attempts if attempt.outcome is AttemptOutcome.SERVED]
        errors = [attempt.error for attempt in result.attempts if attempt.error]
        is_policy = scenario.forced == "skip"
        tried = [attempt.error for attempt in result.attempts if attempt.outcome is AttemptOutcome.FAILED]
        reason = next(iter([*tried, *errors]), None)
        match result.status:
            case Status.SUCCEEDED:
                assert served == [result.rung] == ["gpu"]
                assert (result.value, result.error, result.retryable) == (f"{result.item_id} by gpu", None, False)
            case Status.DEGRADED:
                assert served == [result.rung]
                assert result.value == f"{result.item_id} by {result.rung}"
                assert (result.error, result.retryable) == (errors[0], True)
            case Status.SKIPPED:
                assert served == [result.rung] == ["skip"]
                assert (result.value, result.confidence) == (None, 0)
                is_invalid = bool(tried) and not any(error.retryable for error in tried if error)
                may_help = not is_policy and not is_invalid and any(error.retryable for error in errors)
                assert (result.error, result.retryable) == (None if is_policy else reason, may_help)
            case Status.FAILED:
                assert not served
                assert scenario.skip is None
                assert (result.value, result.penalty, result.error) == (None, None, reason)
                assert result.retryable is all(error.retryable for error in errors)
            case _:
                raise AssertionError(result.status)


@always
@given(scenarios())
def test_trail_has_each_rung_once_and_in_order(scenario: Scenario) -> None:
    """The trail goes down the chain without a gap, ends where somebody served, and adds up to the clock's seconds."""
    rungs = scenario.rungs()
    results = scenario.run(works(scenario.count), rungs)
    chain = [*NAMES[: len(scenario.behaviours)], *(["skip"] if scenario.skip else [])]
    for result in results:
        trail = [attempt.rung for attempt in result.attempts]
        assert trail == chain[: len(trail)]
        assert result.status is not Status.FAILED or trail == chain
        assert all((attempt.error is None) is (attempt.outcome is AttemptOutcome.SERVED) for attempt in result.attempts)
    seconds = sum(attempt.seconds for result in results for attempt in result.attempts)
    assert abs(seconds - rungs[0].clock.seconds) < 1e-6


@always
@given(scenarios(), st.data())
def test_no_result_depends_on_its_batch(scenario: Scenario, data: st.DataObject) -> None:
    """Whatever the sizes and the order of batches, and whatever was learnt from earlier ones, an item's result is the
    one that it has alone."""
    assume(not scenario.miscounts and not scenario.may_be_given_up)
    alone = {work.item_id: without_seconds(scenario.run([work])[0]) for work in works(scenario.count)}
    sizes, rungs = WorkingSizes(), scenario.rungs()
    for batch in data.draw(batchings(scenario.count)):
        for result in scenario.run(batch, rungs, sizes):
            assert without_seconds(result) == alone[result.item_id]


@always
@given(scenarios())
def test_no_rung_is_called_for_an_item_that_has_its_result(scenario: Scenario) -> None:
    """After the call that answered for an item, its rung is not called for it again; nor is one below, once served."""
    rungs = scenario.rungs()
    results = scenario.run(works(scenario.count), rungs)
    served_by = {result.item_id: result.rung for result in results if result.value is not None}
    names = [rung.name for rung in rungs]
    for rung in rungs:
        answered = [item for items in rung.answered for item in items]
        assert len(answered) == len(set(answered))
        too_late = {item for item, name in served_by.items() if name and names.index(name) < names.index(rung.name)}
        assert not too_late & {item for items in rung.calls for item in items}
        last_calls = {item: items for items in rung.calls for item in items}
        mine = [item for item, name in served_by.items() if name == rung.name]
        assert all(last_calls[item] in rung.answered for item in mine)


@always
@given(scenarios())
def test_rungs_above_the_forced_one_are_not_called(scenario: Scenario) -> None:
    """Forcing a rung spares every rung before it, for every item."""
    rungs = scenario.rungs()
    scenario.run(works(scenario.count), rungs)
    names = [*(rung.name for rung in rungs), "skip"]
    spared = rungs[: names.index(scenario.forced)] if scenario.forced else []
    assert not any(rung.calls for rung in spared)


@always
@given(scenarios())
def test_what_a_rung_costs_is_bounded(scenario: Scenario) -> None:
    """Unavailable: one call; timed out: one, or two of one item each; broken: a few; at worst two an item."""
    rungs = scenario.rungs()
    scenario.run(works(scenario.count), rungs)
    for rung, does in zip(rungs, scenario.behaviours, strict=True):
        match does.whole:
            case Unavailable():
                assert len(rung.calls) <= 1
            case TimedOut():
                assert len(rung.calls) <= (2 if does.per_item else 1)
            case RuntimeError():
                assert len(rung.calls) <= GIVE_UP_AFTER
            case MemoryError():
                assert len(rung.calls) <= GIVE_UP_AFTER + scenario.count.bit_length()
            case _:
                assert len(rung.calls) <= 2 * scenario.count


@always
@given(st.integers(1, 5).flatmap(lambda stages: st.tuples(*(scenarios(f"stage_{n}") for n in range(stages)))))
def test_quality_is_the_product_of_the_penalties(stages: tuple[Scenario, ...]) -> None:
    """Over any stages an item's quality is exactly the product of what its serving rungs declare; none if it failed."""
    results: list[StepResult] = []
    for scenario in stages:
        (result,) = scenario.run(works(1))
        results.append(result)
    declared: list[Any] = []
    for scenario, result in zip(stages, results, strict=True):
        by_name = dict(zip(NAMES, scenario.penalties, strict=False)) | {"skip": scenario.skip}
        declared.append(None if result.status is Status.FAILED else by_name[result.rung or ""])
    found = quality(results)
    if None in declared:
        assert found is None
    else:
        assert found is not None
        assert Fraction(found) == prod(Fraction(penalty) for penalty in declared)
