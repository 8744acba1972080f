"""Rungs that do not go together: which tables of rules are refused, and that no barred rung ever serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repli.tasks.fallback import (
    SKIP,
    AnyChain,
    AttemptOutcome,
    Chain,
    ChainInput,
    Directives,
    Rule,
    Rules,
    Status,
    StepError,
    StepResult,
    run_chain,
)
from tests.support.default_pipeline import PIPELINE
from tests.support.fakes import RUN_ID, ManualClock, ScriptedRung, chain_of, runtime
from tests.unit.tasks.fallback.test_properties import Behaviour, batchings, behaviours, without_seconds

always = settings(derandomize=True, deadline=None, max_examples=60)
over_the_real_ones = settings(always, max_examples=15)


def declared(stage: str, *rungs: str, skip: str | None = "0.1") -> AnyChain:
    """A chain of these rungs, which is only looked at."""
    return chain_of(*(ScriptedRung(name) for name in rungs), stage=stage, skip=skip)


CHAINS = (
    declared("read", "full", "plain"),
    declared("look", "model", "guess"),
    declared("embed", "with_label", "text_only"),
    declared("store", "database", "file", skip=None),
)


def rule(stage: str, *rungs: str, forbids: str) -> Rule:
    return Rule(stage, set(rungs), forbids=forbids, because="they quarrel")


class TestRefused:
    """Rules that cannot work are refused when they are declared, by name."""

    @pytest.mark.parametrize(
        ("bad", "fault"),
        [
            (rule("lok", "guess", forbids="embed.with_label"), "no stage 'lok'; choose from read, look, embed, store"),
            (rule("look", "guess", forbids="embd.with_label"), "no stage 'embd'; choose from read, look, embed, store"),
            (
                rule("look", "gues", forbids="embed.with_label"),
                "look has no rung 'gues'; choose from model, guess, skip",
            ),
            (
                rule("look", "guess", "skipp", forbids="embed.with_label"),
                "look has no rung 'skipp'; choose from model, guess, skip",
            ),
            (
                rule("look", "guess", forbids="embed.label"),
                "embed has no rung 'label'; choose from with_label, text_only, skip",
            ),
            (rule("look", "guess", forbids="embed"), "embed has no rung ''"),
            (rule("look", "guess", forbids="store.skip"), "store has no rung 'skip'; choose from database, file"),
            (rule("embed", "skip", forbids="look.model"), "embed does not come before look; name an earlier stage"),
            (rule("look", "model", forbids="look.guess"), "look does not come before look; name an earlier stage"),
            (rule("look", "guess", forbids="embed.skip"), "`skip` cannot be forbidden; name another rung"),
        ],
        ids=lambda one: str(one).partition(";")[0],
    )
    def test_a_rule_that_cannot_work(self, bad: Rule, fault: str) -> None:
        """The message has the rule, and what is wrong with it; good rules beside it do not hide it."""
        good = rule("read", "plain", forbids="embed.text_only")
        with pytest.raises(ValueError, match="rule ") as refused:
            Rules(CHAINS, good, bad)
        assert str(refused.value).startswith(f"rule {bad}: ")
        assert fault in str(refused.value)

    def test_one_name_is_no_set_of_rungs(self) -> None:
        """Its letters would be, and `ski` would be in it."""
        with pytest.raises(ValueError, match=r"a rule takes a set of rungs, not a str; write \{'skip'\}"):
            Rule("look", "skip", forbids="embed.with_label", because="x")

    def test_a_required_stage_left_without_a_rung(self) -> None:
        """By one way through the stages before it: the message says which, and by which rules."""
        first = rule("read", "plain", SKIP, forbids="store.database")
        second = rule("look", "guess", forbids="store.file")
        Rules(CHAINS, first), Rules(CHAINS, second)
        with pytest.raises(
            ValueError,
            match="leave store without a rung after look by guess and read by plain; change one of these rules: ",
        ) as no:
            Rules(CHAINS, first, second)
        assert f"{first}; {second}" in str(no.value)

    def test_a_way_that_no_item_goes_does_not_count(self) -> None:
        """Where another rule keeps two rungs from meeting, it does not matter what they would leave together."""
        first = rule("look", "guess", forbids="store.database")
        second = rule("embed", "with_label", forbids="store.file")
        with pytest.raises(ValueError, match="leave store without a rung after embed by with_label and look by guess"):
            Rules(CHAINS, first, second)
        Rules(CHAINS, first, second, rule("look", "guess", forbids="embed.with_label"))

    def test_a_stage_that_may_be_given_up_may_be_left_with_that(self) -> None:
        """All that can be called is barred: what is left is to skip."""
        rules = Rules(
            CHAINS, rule("look", "guess", forbids="embed.with_label"), rule("look", "guess", forbids="embed.text_only")
        )
        assert set(rules.forbidden_rungs("embed", {"look": "guess"})) == {"with_label", "text_only"}


class TestTable:
    """What a table of rules says of an item."""

    FIRST = rule("look", "guess", SKIP, forbids="embed.with_label")
    SECOND = rule("read", SKIP, forbids="embed.with_label")
    OTHER = rule("read", "plain", forbids="store.file")
    RULES = Rules(CHAINS, FIRST, SECOND, OTHER)

    @pytest.mark.parametrize(
        ("rungs", "barred"),
        [
            ({}, {}),
            ({"look": "model", "read": "full"}, {}),
            ({"look": "guess"}, {"with_label": FIRST}),
            ({"look": SKIP, "read": "plain"}, {"with_label": FIRST}),
            ({"look": "model", "read": SKIP}, {"with_label": SECOND}),
            ({"read": SKIP, "look": "guess"}, {"with_label": FIRST}),
        ],
    )
    def test_the_first_rule_that_applies_is_told(self, rungs: Mapping[str, str], barred: Mapping[str, Rule]) -> None:
        """Rules of other stages say nothing here, nor does a stage that is not applicable to the item."""
        assert self.RULES.forbidden_rungs("embed", rungs) == barred

    def test_broken_rules_are_told_in_their_order(self) -> None:
        """All that an item breaks; what has not come so far breaks none."""
        together = {"read": SKIP, "look": "guess", "embed": "with_label", "store": "file"}
        assert self.RULES.violated(together) == [self.FIRST, self.SECOND]
        assert self.RULES.violated({**together, "embed": "text_only"}) == []
        assert self.RULES.violated({"read": "plain", "store": "file"}) == [self.OTHER]
        assert self.RULES.violated({"look": "guess", "read": SKIP}) == []

    def test_a_rule_reads_as_a_sentence(self) -> None:
        """It stands in trails and reports, the same in every process: a set has no order of its own."""
        assert str(self.FIRST) == "embed.with_label does not go with look by guess or skip: they quarrel"

    def test_no_rules_forbid_nothing(self) -> None:
        """The default."""
        assert Rules().forbidden_rungs("embed", {"look": "guess"}) == {}
        assert Rules(CHAINS).violated({"look": "guess", "embed": "with_label"}) == []


NAMES = ("best", "fair", "poor")


@st.composite
def chains(draw: st.DrawFn) -> tuple[AnyChain, ...]:
    """Two to four stages of up to three rungs, some of them required."""
    shapes = draw(st.lists(st.tuples(st.integers(1, len(NAMES)), st.booleans()), min_size=2, max_size=4))
    return tuple(
        declared(f"stage_{number}", *NAMES[:rungs], skip="0.1" if may_skip else None)
        for number, (rungs, may_skip) in enumerate(shapes)
    )


@st.composite
def tables(draw: st.DrawFn, stages: Sequence[AnyChain]) -> list[Rule]:
    """Rules between these stages, which name what there is and look back."""

    def one(pair: tuple[int, int]) -> st.SearchStrategy[Rule]:
        before, after = (stages[number] for number in sorted(pair))
        rungs = st.sets(st.sampled_from(before.rung_names), min_size=1)
        forbidden = st.sampled_from([rung.name for rung in after.rungs])
        return st.builds(
            lambda rungs, name: rule(before.stage, *rungs, forbids=f"{after.stage}.{name}"), rungs, forbidden
        )

    numbers = st.integers(0, len(stages) - 1)
    pairs = st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1])
    return draw(st.lists(pairs.flatmap(one), min_size=1, max_size=8))


def barred_by_hand(table: Sequence[Rule], stage: str, rungs: Mapping[str, str | None]) -> dict[str, str]:
    """What a table bars from a stage after these rungs, and why: looked up without `Rules`."""
    applying = [rule for rule in reversed(table) if rungs.get(rule.stage) in set(rule.rungs)]
    return {name: str(rule) for rule in applying for where, name in [rule.forbids.split(".")] if where == stage}


def ways_through(stages: Sequence[AnyChain]) -> list[dict[str, str | None]]:
    """Every combination of rungs; None is a stage that is not applicable to the item."""
    names = [chain.stage for chain in stages]
    return [dict(zip(names, rungs, strict=True)) for rungs in product(*((*one.rung_names, None) for one in stages))]


def is_a_dead_end(stages: Sequence[AnyChain], table: Sequence[Rule]) -> bool:
    """Whether an item can come to a stage where nothing is left to it: every way is tried out."""
    ways: list[dict[str, str | None]] = [{}]
    for chain in stages:
        onward = []
        for way in ways:
            left = [name for name in chain.rung_names if name not in barred_by_hand(table, chain.stage, way)]
            if not left:
                return True
            onward += [{**way, chain.stage: rung} for rung in (*left, None)]
        ways = onward
    return False


@settings(always, max_examples=150)
@given(chains().flatmap(lambda stages: st.tuples(st.just(stages), tables(stages))))
def test_exactly_the_dead_ends_are_refused(project: tuple[tuple[AnyChain, ...], list[Rule]]) -> None:
    """A table is refused where some item would be left without a rung, and nowhere else."""
    stages, table = project
    is_refused = False
    try:
        Rules(stages, *table)
    except ValueError as error:
        is_refused = True
        assert "without a rung after" in str(error)
    assert is_refused is is_a_dead_end(stages, table)


@dataclass(frozen=True)
class Acted:
    """A stage as it is declared, what its rungs do, and which of them a person forced."""

    chain: AnyChain
    does: Mapping[str, Behaviour]
    forced: str | None

    def rungs(self) -> list[ScriptedRung]:
        """New rungs, with empty memories."""
        clock = ManualClock()
        return [ScriptedRung(name, does.script, does.fits, does.whole, clock=clock) for name, does in self.does.items()]

    def run(self, batch: Sequence[ChainInput[str]], rungs: Sequence[ScriptedRung] = ()) -> list[StepResult]:
        """The results of one batch."""
        chain: Chain[str, str, None] = chain_of(
            *(rungs or self.rungs()),
            penalties=[rung.penalty for rung in self.chain.rungs],
            skip=self.chain.skip.penalty if self.chain.skip else None,
            per_item=[name for name, does in self.does.items() if does.per_item],
            stage=self.chain.stage,
        )
        directives = Directives(
            forced={self.chain.stage: self.forced} if self.forced else {},
            faults=tuple(does.fault for does in self.does.values() if does.fault),
        )
        return run_chain(chain, batch, None, run_id=RUN_ID, runtime=runtime(), directives=directives)


@st.composite
def acted(draw: st.DrawFn, chain: AnyChain, items: list[str]) -> Acted:
    """Any mixture of what rungs can do."""
    does = {rung.name: draw(behaviours(chain.stage, rung.name, items)) for rung in chain.rungs}
    return Acted(chain, does, draw(st.none() | st.none() | st.sampled_from(chain.rung_names)))


@dataclass(frozen=True)
class Project:
    """Stages and the rules between their rungs."""

    chains: Sequence[AnyChain]
    table: Sequence[Rule]

    def work(self, item_id: str, stage: str, rungs: Mapping[str, str | None]) -> ChainInput[str]:
        """What a stage is given for an item that these rungs have served."""
        served = {stage: rung for stage, rung in rungs.items() if rung}
        barred = Rules(self.chains, *self.table).forbidden_rungs(stage, served)
        return ChainInput(item_id, item_id, forbidden={rung: str(rule) for rung, rule in barred.items()})


@st.composite
def projects(draw: st.DrawFn) -> Project:
    """Drawn stages, with as many of the drawn rules as may stand together."""
    stages = draw(chains())
    table: list[Rule] = []
    for one in draw(tables(stages)):
        if not is_a_dead_end(stages, [*table, one]):
            table.append(one)
    return Project(stages, table)


@dataclass(frozen=True)
class Crossroads:
    """A stage before which items stand that came by every combination of rungs."""

    project: Project
    acted: Acted
    ways: Mapping[str, Mapping[str, str | None]]
    works: Sequence[ChainInput[str]]


@st.composite
def crossroads(draw: st.DrawFn, project: Project) -> Crossroads:
    """A stage of which a rule forbids something, if there is one, whatever its rungs do."""
    concerned = {one.forbidden_stage for one in project.table}
    numbers = [number for number, chain in enumerate(project.chains) if not concerned or chain.stage in concerned]
    number = draw(st.sampled_from(numbers))
    chain = project.chains[number]
    ways = {str(place): way for place, way in enumerate(ways_through(project.chains[:number]))}
    works = [project.work(item_id, chain.stage, way) for item_id, way in ways.items()]
    return Crossroads(project, draw(acted(chain, list(ways))), ways, works)


drawn_crossroads = projects().flatmap(crossroads)
real_crossroads = crossroads(Project(PIPELINE.chains, PIPELINE.rules.table))


def see_that_no_barred_rung_serves(here: Crossroads) -> None:
    """One terminal result an item; a barred rung is not called for it, does not serve it, and is in its trail."""
    rungs = here.acted.rungs()
    results = here.acted.run(here.works, rungs)
    names = here.acted.chain.rung_names
    forced_past = names[: names.index(here.acted.forced)] if here.acted.forced else ()
    assert [result.item_id for result in results] == list(here.ways)
    for result in results:
        barred = barred_by_hand(here.project.table, here.acted.chain.stage, here.ways[result.item_id])
        assert result.status.is_terminal
        assert result.rung not in barred
        assert [attempt.rung for attempt in result.attempts] == list(names[: len(result.attempts)])
        assert result.rung in {result.attempts[-1].rung, None}
        assert (result.rung is None) is (result.status is Status.FAILED)
        for attempt in result.attempts:
            if attempt.rung in forced_past:
                assert attempt.outcome is AttemptOutcome.FORCED_PAST
            elif attempt.rung in barred:
                assert attempt.outcome is AttemptOutcome.INCOMPATIBLE
                assert attempt.error == StepError(type="Incompatible", message=barred[attempt.rung])
            else:
                assert attempt.outcome not in {AttemptOutcome.INCOMPATIBLE, AttemptOutcome.FORCED_PAST}
        for rung in rungs:
            assert rung.name not in barred or not any(result.item_id in call for call in rung.calls)


def see_that_nobody_is_concerned_but_the_item(here: Crossroads, batches: Sequence[Sequence[ChainInput[str]]]) -> None:
    """However the items are batched, each has the result that it has alone."""
    does = {name: one.within_budget(list(here.ways)) for name, one in here.acted.does.items()}
    acted = replace(here.acted, does=does)
    alone = {work.item_id: without_seconds(acted.run([work])[0]) for work in here.works}
    barred = {work.item_id: work for work in here.works}
    for batch in batches:
        for result in acted.run([barred[work.item_id] for work in batch]):
            assert without_seconds(result) == alone[result.item_id]


@over_the_real_ones
@given(real_crossroads)
def test_no_barred_rung_of_the_project_ever_serves(here: Crossroads) -> None:
    """By every combination of the rungs before it."""
    see_that_no_barred_rung_serves(here)


@always
@given(drawn_crossroads)
def test_no_barred_rung_ever_serves(here: Crossroads) -> None:
    """Under any rules over any stages, by every combination of rungs."""
    see_that_no_barred_rung_serves(here)


@settings(over_the_real_ones, max_examples=5)
@given(real_crossroads, st.data())
def test_what_bars_an_item_of_the_project_never_concerns_its_neighbours(here: Crossroads, data: st.DataObject) -> None:
    """Whatever the items beside it may not be served by."""
    see_that_nobody_is_concerned_but_the_item(here, data.draw(batchings(len(here.works))))


@settings(always, max_examples=30)
@given(drawn_crossroads, st.data())
def test_what_bars_an_item_never_concerns_its_neighbours(here: Crossroads, data: st.DataObject) -> None:
    """The same under any rules."""
    see_that_nobody_is_concerned_but_the_item(here, data.draw(batchings(len(here.works))))


ITEMS = 6


@st.composite
def journeys(draw: st.DrawFn) -> tuple[Project, list[Acted]]:
    """Some items' way through all stages of a project, whatever happens there."""
    project = draw(projects())
    return project, [draw(acted(chain, [str(number) for number in range(ITEMS)])) for chain in project.chains]


@settings(always, max_examples=30)
@given(journeys())
def test_no_item_ever_breaks_a_rule_on_its_way(journey: tuple[Project, list[Acted]]) -> None:
    """Stage after stage, each on what the earlier ones left: no two results that must not meet ever do."""
    project, stages = journey
    ways: dict[str, dict[str, str | None]] = {str(number): {} for number in range(ITEMS)}
    for stage in stages:
        works = [project.work(item_id, stage.chain.stage, way) for item_id, way in ways.items()]
        for result in stage.run(works):
            if result.status is Status.FAILED:
                del ways[result.item_id]
            else:
                ways[result.item_id][result.stage] = result.rung
    for way in ways.values():
        for one in project.table:
            stage_name, name = one.forbids.split(".")
            assert not (way[one.stage] in one.rungs and way[stage_name] == name)


def one_item(barred: Mapping[str, str], *rungs: ScriptedRung, skip: str | None = "0.1") -> StepResult:
    """The result of an item that these rungs are barred from."""
    works = [ChainInput("0", "0", forbidden=barred)]
    return run_chain(chain_of(*rungs, skip=skip), works, None, run_id=RUN_ID, runtime=runtime())[0]


class TestResult:
    """What a barred rung makes of the item's result."""

    def test_a_fallback_in_place_of_a_barred_primary_is_degraded(self) -> None:
        """Its error is the rule, and it may be lifted when the earlier stage is."""
        result = one_item({"best": "a guess is no label"}, ScriptedRung("best"), ScriptedRung("fair"))
        assert (result.status, result.rung, result.retryable) == (Status.DEGRADED, "fair", True)
        assert result.error == StepError(type="Incompatible", message="a guess is no label")

    def test_an_item_barred_from_all_rungs_is_given_up(self) -> None:
        """With the rule as its reason; nothing is called."""
        rungs = ScriptedRung("best"), ScriptedRung("fair")
        result = one_item({"best": "first", "fair": "second"}, *rungs)
        assert (result.status, result.rung, result.retryable) == (Status.SKIPPED, SKIP, True)
        assert result.error == StepError(type="Incompatible", message="first")
        assert not any(rung.calls for rung in rungs)

    def test_a_rung_that_failed_is_the_better_reason(self) -> None:
        """That a rung was barred says less of the item than what went wrong with it."""
        failing = ScriptedRung("fair", always=RuntimeError("something broke"))
        result = one_item({"best": "a guess is no label"}, ScriptedRung("best"), failing)
        assert result.error
        assert result.error.message == "something broke"

    def test_a_required_stage_whose_last_rung_fails_may_be_tried_again(self) -> None:
        """A rule is no fault of the item: when the earlier stage is lifted, the barred rung may serve."""
        failing = ScriptedRung("fair", always=RuntimeError("something broke"))
        result = one_item({"best": "a guess is no label"}, ScriptedRung("best"), failing, skip=None)
        assert (result.status, result.retryable) == (Status.FAILED, True)

    def test_a_forced_rung_may_be_barred(self) -> None:
        """A person's word does not go before a rule: the next rung serves."""
        chain = chain_of(ScriptedRung("best"), ScriptedRung("fair"), ScriptedRung("poor"))
        works = [ChainInput("0", "0", forbidden={"fair": "no"}), ChainInput("1", "1")]
        directives = Directives(forced={chain.stage: "fair"})
        first, second = run_chain(chain, works, None, run_id=RUN_ID, runtime=runtime(), directives=directives)
        outcomes = [attempt.outcome.value for attempt in first.attempts]
        assert outcomes == ["forced_past", "incompatible", "served"]
        assert (first.rung, second.rung) == ("poor", "fair")

    def test_a_long_rule_is_told_on_one_line(self) -> None:
        """Line breaks in a reason do not break the report's tables."""
        result = one_item({"best": "a guess\n  is no\tlabel"}, ScriptedRung("best"))
        assert replace(result, attempts=()).error == StepError(type="Incompatible", message="a guess is no label")
