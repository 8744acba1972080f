"""One stage over one batch: what is due, doing it once, and keeping the better result."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from repli.tasks.execution.shared_breakers import BreakerRegistry
from repli.tasks.execution.stage_runner import RunOptions, StageReport, Upgrade, run_stage
from repli.tasks.fallback import (
    SKIP,
    AttemptOutcome,
    Breaker,
    Chain,
    Directives,
    Failed,
    InvalidItem,
    ItemError,
    Outcome,
    Rule,
    Rung,
    Served,
    Skip,
    Status,
    StepError,
    StepResult,
    Unavailable,
    parse_faults,
)
from repli.tasks.fallback.breaker import Cause, Overridden
from repli.tasks.items import Item, ItemState
from repli.tasks.pipeline import Pipeline, Stage, StageContext
from repli.tasks.pipeline.store import quality_so_far
from repli.tasks.settings import Settings
from repli.tasks.storage import breakers, catalogue, results, runs
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database
from repli.tasks.storage.outdated import enqueue as enqueue_outdated
from repli.tasks.storage.retry import claims, retry_queue
from repli.tasks.storage.retry.claims import RetryTarget
from tests.support.default_pipeline import CHAINS, PIPELINE, STAGE_NAMES, STAGES
from tests.support.in_process import enrich, fresh_runtime, kept
from tests.support.stages import stage_of
from tests.support.stores import store_at

IDS = ("a", "b", "c")


def _name(state: ItemState) -> Any:
    return state.item.name


@dataclass(slots=True)
class Price:
    """A stage of a project's own: an item's price in euros, from a service or from a table."""

    is_up: bool = True
    is_valid: bool = True
    has_table: bool = True
    asked: Counter[str] = field(default_factory=Counter)

    def from_service(self, names: Sequence[str], context: StageContext) -> Sequence[Outcome[float]]:
        self.asked.update(names)
        if not self.is_up:
            raise Unavailable("the price service does not answer")
        wrong = Failed.because(InvalidItem("it has no price and never will"))
        return [Served(9.5, confidence=0.99) if self.is_valid else wrong for _ in names]

    def from_table(self, names: Sequence[str], context: StageContext) -> Sequence[Outcome[float]]:
        missing = Failed.because(ItemError("it is not in the table yet"))
        return [Served(9.0, confidence=0.5) if self.has_table else missing for _ in names]

    def stage(self, *, is_required: bool = False) -> Stage:
        rungs: tuple[Rung[str, float, StageContext], ...] = (
            Rung("service", self.from_service, time_limit_s=10),
            Rung("table", self.from_table, penalty="0.9", time_limit_s=10),
        )
        chain = Chain("price", *rungs) if is_required else Chain("price", *rungs, Skip(penalty="0.6"))
        return stage_of(chain, _name)


@pytest.fixture
def run(settings: Settings) -> Callable[..., StageReport]:
    """Runs a stage over three items of a fresh run; its report."""
    database = Database(settings.database_url)
    database.migrate()

    def run(
        stage: Stage,
        earlier: Sequence[str] = (),
        *,
        run_id: str | None = None,
        refresh: bool = False,
        directives: Directives = Directives(),
        records: Sequence[Item] = tuple(Item(id=id_, name=id_) for id_ in IDS),
    ) -> StageReport:
        if run_id is None:
            run_id = runs.start(database, str(uuid.uuid4()), "items.jsonl", {}, datetime.now(UTC))
            catalogue.register(database, run_id, records)
        options = RunOptions(run_id=run_id, refresh=refresh, directives=directives)
        ids = [record.id for record in records]
        before = [stage_of(Chain(name, Rung("r", stage.chain.rungs[0].run, time_limit_s=1)), _name) for name in earlier]
        return run_stage(Pipeline([*before, stage]), stage.name, ids, options, settings, fresh_runtime())

    return run


def earlier_result(status: Status, item_id: str, **fields: object) -> StepResult:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return StepResult(item_id=item_id, stage="before", status=status, run_id="r", finished_at=now, **fields)  # type: ignore[arg-type]


class TestAStageOfOnesOwn:
    """What a user writes: rungs, a chain, a stage; and what comes of it."""

    def test_the_primary_serves(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """Every item is asked for once, and its plain value is in the store when the call returns."""
        price = Price()
        report = run(price.stage())
        assert price.asked == Counter(IDS)
        assert (report.items, report.statuses, report.rungs, report.mean_penalty) == (
            3,
            {"succeeded": 3},
            {"service": 3},
            Decimal(1),
        )
        assert not report.is_degraded
        result = kept(settings, "b")["price"]
        assert (result.status, result.value, result.confidence) == (Status.SUCCEEDED, 9.5, 0.99)

    def test_a_fallback_serves(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """Where the service is down, the table's price has its penalty and its reason."""
        report = run(Price(is_up=False).stage())
        assert report.is_degraded
        assert str(report) == "3 items: 3 degraded; mean penalty 0.900 · table 3"
        result = kept(settings, "a")["price"]
        assert (result.value, result.penalty, result.retryable) == (9.0, Decimal("0.9"), True)
        assert result.error is not None
        assert result.error.message == "the price service does not answer"

    def test_it_is_given_up(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """No rung serves: skipped, with the trail of all that was tried."""
        run(Price(is_up=False, has_table=False).stage())
        result = kept(settings, "a")["price"]
        assert (result.status, result.value, result.confidence) == (Status.SKIPPED, None, 0.0)
        assert [(attempt.rung, attempt.outcome) for attempt in result.attempts] == [
            ("service", AttemptOutcome.UNAVAILABLE),
            ("table", AttemptOutcome.FAILED),
            ("skip", AttemptOutcome.SERVED),
        ]

    def test_faults_and_forced_rungs_work_on_it(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """What drills and demos do to the six stages, they do to this one."""
        price = Price()
        faults = parse_faults(["price.service=oom"], [price.stage().chain])
        run(price.stage(), directives=Directives(faults=faults))
        assert kept(settings, "a")["price"].rung == "table"
        assert not price.asked
        run(price.stage(), refresh=True, directives=Directives(forced={"price": "service"}))
        assert kept(settings, "a")["price"].rung == "service"

    def test_it_may_stand_among_the_six(self, settings: Settings, tmp_path: Path) -> None:
        """Its penalty is part of the item's quality."""
        (tmp_path / "items.jsonl").write_text('{"id": "a", "name": "A lamp"}\n')
        stages = (*STAGES[:-1], Price(is_up=False).stage(), STAGES[-1])
        views = enrich(settings, tmp_path / "items.jsonl", stages=stages)
        assert views["a"].quality == 0.72
        assert views["a"].degraded == ["embed_text", "price"]


class TestOnce:
    """Nothing that is done is done twice."""

    def test_a_second_call_does_nothing(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """A task that Prefect or Dask computes again finds its results there."""
        price = Price()
        run(price.stage())
        before = kept(settings, "a")
        report = run(price.stage())
        assert (report.items, str(report)) == (0, "nothing left to do")
        assert price.asked == Counter(IDS)
        assert kept(settings, "a") == before

    def test_a_degraded_result_is_a_result(self, run: Callable[..., StageReport]) -> None:
        """A run does not do it again; that is what a refresh, and the retry queue, are for."""
        price = Price(is_up=False)
        run(price.stage())
        assert run(price.stage()).items == 0
        assert price.asked == Counter(IDS)

    def test_only_what_is_missing_is_done(self, run: Callable[..., StageReport]) -> None:
        """A batch that was cut off between two transactions goes on where it stopped."""
        price = Price()
        run(price.stage(), records=[Item(id="b", name="b")])
        assert run(price.stage()).items == 2
        assert price.asked == Counter(IDS)

    def test_items_that_nobody_knows_are_no_work(self, settings: Settings) -> None:
        """An id without a record is left out, and an empty batch calls nothing."""
        Database(settings.database_url).migrate()
        price = Price()
        for ids in ((), ("nobody",)):
            options = RunOptions(run_id="r")
            report = run_stage(Pipeline([price.stage()]), "price", ids, options, settings, fresh_runtime())
            assert report.items == 0
        assert not price.asked


class TestDue:
    """What a stage has work on."""

    def test_an_item_that_has_no_input_is_not_applicable(
        self, settings: Settings, run: Callable[..., StageReport]
    ) -> None:
        """No rung sees it, nothing is taken off its quality, and it is not asked about again."""
        price = Price()
        records = [Item(id="a", name="a"), Item(id="b", name=None), Item(id="c", name="c")]
        report = run(price.stage(), records=records)
        assert report.statuses == {"succeeded": 2, "not_applicable": 1}
        assert price.asked == Counter(("a", "c"))
        result = kept(settings, "b")["price"]
        assert (result.status, result.value, result.penalty, result.rung) == (
            Status.NOT_APPLICABLE,
            None,
            Decimal(1),
            None,
        )
        assert run(price.stage(), records=records).items == 0

    def test_only_items_that_came_so_far_are_done(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """One that failed before, and one that was not there yet, stay pending; skipped is done."""
        price = Price()
        run(Price().stage(), records=[Item(id=id_, name=id_) for id_ in "abcd"], directives=Directives())
        database = Database(settings.database_url)
        done = {"rung": "skip", "penalty": Decimal("0.7"), "confidence": 0.0}
        results.save(
            database,
            [earlier_result(Status.FAILED, "a", retryable=True), earlier_result(Status.SKIPPED, "b", **done)],
        )
        other = stage_of(Chain("after", *price.stage().chain.rungs, Skip(penalty="0.5")), _name)
        report = run(other, ["before"], records=[Item(id=id_, name=id_) for id_ in "abcd"])
        assert report.items == 1
        assert price.asked == Counter(["b"])
        assert "after" not in kept(settings, "a") and "after" not in kept(settings, "c")

    def test_a_failure_that_may_pass_is_tried_again(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """A required stage failed for want of a service: the next run does it."""
        price = Price(is_up=False, has_table=False)
        assert run(price.stage(is_required=True)).statuses == {"failed": 3}
        price.is_up = True
        report = run(price.stage(is_required=True))
        assert (report.statuses, report.rungs) == ({"succeeded": 3}, {"service": 3})
        assert price.asked == Counter(IDS * 2)

    def test_a_failure_for_good_is_left_alone(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """What is wrong in itself is not asked for again, not even by a refresh, until its record changes."""
        price = Price(is_valid=False, has_table=False)
        failing = stage_of(Chain("price", price.stage().chain.rungs[0]), _name)
        run(failing)
        assert kept(settings, "a")["price"].retryable is False
        assert run(failing).items == run(failing, refresh=True).items == 0
        assert price.asked == Counter(IDS)
        price.is_valid = True
        run(failing, records=[Item(id="a", name="a", attributes={"is": "new"})])
        assert kept(settings, "a")["price"].status is Status.SUCCEEDED


class TestRefresh:
    """Doing it again, and never worse."""

    def test_a_refresh_lifts_what_was_degraded(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """The service is back: its price takes the place of the table's."""
        price = Price(is_up=False)
        run(price.stage())
        price.is_up = True
        assert run(price.stage(), refresh=True).statuses == {"succeeded": 3}
        assert kept(settings, "a")["price"].value == 9.5

    def test_a_refresh_never_makes_it_worse(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """The service is down now: it was asked, and the price it gave earlier stays."""
        price = Price()
        run(price.stage())
        before = kept(settings, "a")
        price.is_up = False
        for has_table in (True, False):
            price.has_table = has_table
            run(price.stage(), refresh=True)
            assert kept(settings, "a") == before
        assert price.asked == Counter(IDS * 3)

    def test_what_a_refresh_found_worse_is_counted(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """Where the stored result stands; equal and better ones take its place and are not counted."""
        price = Price()
        run(price.stage(), records=[Item(id="a", name="a")])
        price.is_up = False
        assert run(price.stage(), refresh=True).worse == 1, "the other two had none"
        assert run(price.stage(), refresh=True).worse == 1
        price.is_up = True
        assert run(price.stage(), refresh=True).worse == 0
        price.is_up = price.has_table = False
        assert run(price.stage(), refresh=True).worse == 3
        assert kept(settings, "a")["price"].value == 9.5

    def test_the_reason_is_that_of_the_refresh(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """The table's price stands, and its reason is why the service did not serve this time."""
        price = Price()
        run(price.stage(), directives=Directives(faults=parse_faults(["price.service=oom"], [price.stage().chain])))
        before = kept(settings, "a")["price"]
        assert before.error == StepError(type="OutOfMemory", message="injected: price.service is out of memory")
        price.is_up = price.has_table = False
        run(price.stage(), refresh=True)
        after = kept(settings, "a")["price"]
        assert after.error
        assert "injected" not in after.error.message
        assert [attempt.error for attempt in after.attempts] == [after.error, None]
        assert replace(after, error=before.error, attempts=before.attempts) == before

    def test_a_refresh_is_done_once_a_run(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """Within one run a second call finds the results of the first."""
        price = Price()
        run(price.stage())
        run(price.stage(), refresh=True)
        run_id = kept(settings, "a")["price"].run_id
        assert run(price.stage(), refresh=True, run_id=run_id).items == 0
        assert price.asked == Counter(IDS * 2)


class TestSixStages:
    """The table of contents."""

    def test_the_chains_are_those_of_the_design(self) -> None:
        """Six stages in their order, each with its rungs and exact penalties."""
        chains = {
            chain.stage: {
                **{rung.name: rung.penalty for rung in chain.rungs},
                **({"skip": chain.skip.penalty} if chain.skip else {}),
            }
            for chain in CHAINS
        }
        assert chains == {
            "fetch": {"origin": "1", "cached": "0.95", "skip": "0.7"},
            "validate": {"expectations": "1", "basic": "0.95"},
            "extract_text": {"full": "1", "plain": "0.95", "name_only": "0.85", "skip": "0.8"},
            "classify_image": {"gpu": "1", "cpu": "0.9", "rules": "0.8", "skip": "0.7"},
            "embed_text": {"text_and_label": "1", "text_only": "0.95", "hashed": "0.8", "skip": "0.7"},
            "store": {"database": "1"},
        }
        assert tuple(chains) == STAGE_NAMES

    def test_a_stage_is_found_by_its_name(self) -> None:
        """With those before it; a name that is none is a KeyError."""
        assert PIPELINE.stage("embed_text") is STAGES[4]
        assert PIPELINE.before("extract_text") == ("fetch", "validate")
        assert PIPELINE.before("fetch") == ()
        with pytest.raises(KeyError):
            PIPELINE.stage("polish")

    def test_two_fallbacks_multiply_exactly(self, settings: Settings, run: Callable[..., StageReport]) -> None:
        """0.9 × 0.8 is 0.72, and a failed stage leaves no quality."""
        results_of = {
            "classify_image": earlier_result(Status.DEGRADED, "a", penalty=Decimal("0.9")),
            "embed_text": earlier_result(Status.DEGRADED, "a", penalty=Decimal("0.8")),
        }
        assert quality_so_far(ItemState(item=Item(id="a"), results=results_of)) == Decimal("0.72")
        results_of["validate"] = earlier_result(Status.FAILED, "a")
        assert quality_so_far(ItemState(item=Item(id="a"), results=results_of)) is None


class Rungs:
    """A stage whose rungs serve whom they are told to, with what they are told; what nobody spoke of is not here."""

    def __init__(self, name: str, *rungs: str, after: str | None = None, skip: str | None = "0.5") -> None:
        self.name = name
        self.serves: dict[str, Mapping[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.on_call: Callable[[], object] = lambda: None
        self.breaker = Breaker(scope="fleet")
        self.version = "1"
        self.penalties: Sequence[str] = ("1", "0.9", "0.8")
        self._after = after
        self._names = rungs
        self._skip = skip
        self._stages: dict[str, Stage] = {}

    @property
    def stage(self) -> Stage:
        """The stage, its rungs of the present version."""
        if self.version not in self._stages:
            declared = [
                Rung(
                    rung,
                    self._rung(rung),
                    penalty=penalty,
                    breaker=self.breaker,
                    time_limit_s=60,
                    version=self.version,
                )
                for rung, penalty in zip(self._names, self.penalties, strict=False)
            ]
            skip = [Skip(penalty=self._skip)] if self._skip else []
            chain: Chain[Any, Any, StageContext] = Chain(self.name, *declared, *skip)
            self._stages[self.version] = stage_of(chain, self._input)
        return self._stages[self.version]

    def serve_all(self, **answers: Any) -> None:
        """From here on these rungs serve every item, each with its answer; the other rungs are not here."""
        self.serves = {rung: dict.fromkeys(IDS, answer) for rung, answer in answers.items()}

    def _input(self, state: ItemState) -> list[Any]:
        return [state.item.id, state.value(self._after) if self._after else None]

    def _rung(self, rung: str) -> Callable[[Sequence[Any], StageContext], Sequence[Outcome[Any]]]:
        def call(inputs: Sequence[Any], context: StageContext) -> Sequence[Outcome[Any]]:
            if rung not in self.serves:
                raise Unavailable(f"{rung} is not here")
            self.asked += [(rung, item_id) for item_id, _ in inputs]
            self.on_call()
            sorry = Failed.because(ItemError(f"{rung} has no answer"))
            answers = [self.serves[rung].get(item_id) for item_id, _ in inputs]
            return [sorry if answer is None else Served(answer) for answer in answers]

        return call


RULE = Rule("label", {"guess", SKIP}, forbids="vector.with_label", because="a guess is no label")


class Two:
    """Two stages in a store of three items: a label, and a vector that may be made with it."""

    def __init__(self, database: Database, settings: Settings, run_id: str) -> None:
        self.database = database
        self.settings = replace(settings, database_url=database.url.render_as_string(hide_password=False))
        self.run_id = run_id
        self.label = Rungs("label", "model", "guess")
        self.vector = Rungs("vector", "with_label", "text", "hash", after="label")
        self.rules: tuple[Rule, ...] = (RULE,)

    def run(
        self, *stages: str, ids: Collection[str] = IDS, upgrade: Collection[str] | None = None, **options: Any
    ) -> list[StageReport]:
        """Both stages, or those that are named, each as a run of its own; an upgrade of what "me" holds, where it has
        the stages to upgrade."""
        pipeline = Pipeline([self.label.stage, self.vector.stage], self.rules)
        lift = None if upgrade is None else Upgrade(holder="me", stages=frozenset(upgrade))
        within = replace(fresh_runtime(), breaker_of=BreakerRegistry(self.database, device_scope="here").of)
        return [
            run_stage(
                pipeline,
                name,
                list(ids),
                RunOptions(run_id=str(uuid.uuid4()), upgrade=lift, **options),
                self.settings,
                within,
            )
            for name in stages or pipeline.names[:-1]
        ]

    def kept(self, stage: str, item_id: str = "a") -> StepResult:
        return results.load(self.database, [item_id])[0].results[stage]

    def rungs(self, stage: str) -> list[str | None]:
        """The rung that served each item."""
        return [self.kept(stage, item_id).rung for item_id in IDS]

    def calls(self) -> list[tuple[str, str]]:
        """What was called for which item since this was last asked."""
        calls = self.label.asked + self.vector.asked
        self.label.asked, self.vector.asked = [], []
        return sorted(calls)

    def queue(self) -> None:
        """Store the items at a low quality, the first at the lowest, so that they wait to be done again."""
        store_at(self.database, self.run_id, {id_: Decimal(f"0.{place}") for place, id_ in enumerate(IDS, 1)})

    def claim(self, holder: str, limit: int = 3, lease_s: float = 60) -> None:
        """The next items that wait are in the hands of `holder`."""
        owed = [
            RetryTarget(stage=stage.name, rungs=(None, *(names := stage.stage.chain.rung_names)), outdated=names)
            for stage in (self.label, self.vector)
        ]
        assert len(claims.claim(self.database, holder, owed, limit, lease_s)) == limit


def gains(report: StageReport) -> tuple[list[str], list[str]]:
    """The items for which a rung was called, and those that gained by it."""
    return sorted(report.tried), sorted(report.upgraded)


@pytest.fixture
def two(database: Database, settings: Settings, registered: Callable[..., str]) -> Two:
    return Two(database, settings, registered(*IDS))


class TestVoid:
    """What a rule forbids does not stand, however good it is."""

    @pytest.fixture
    def two(self, two: Two) -> Two:
        """As an older table of rules left them: `a` has what is forbidden by now, `b` and `c` have not."""
        two.rules = ()
        two.label.serves = {"model": {"b": "cat"}, "guess": {"a": "dog?", "c": "fox?"}}
        two.vector.serves = {"with_label": {"a": "A", "b": "B"}, "text": {"c": "C"}}
        two.run()
        assert (two.rungs("label"), two.rungs("vector")) == (["guess", "model", "guess"], ["with_label"] * 2 + ["text"])
        two.rules = (RULE,)
        two.calls()
        return two

    def test_it_is_done_again_by_a_plain_run(self, two: Two) -> None:
        """Even if what comes is worse, and for this item alone; the rule is in its trail."""
        two.vector.serve_all(with_label="new", text="new")
        label, vector = two.run()
        assert (label.items, vector.items, vector.rungs) == (0, 1, {"text": 1})
        assert two.calls() == [("text", "a")]
        assert two.rungs("vector") == ["text", "with_label", "text"]
        redone = two.kept("vector")
        assert (redone.status, redone.value) == (Status.DEGRADED, "new")
        assert redone.attempts[0].outcome is AttemptOutcome.INCOMPATIBLE
        assert redone.attempts[0].error and redone.attempts[0].error.message == str(RULE)
        assert two.kept("vector", "b").value == "B"

    def test_it_is_done_once(self, two: Two) -> None:
        """What took its place goes with the rest, so that the next run has nothing to do."""
        two.vector.serve_all(text="new")
        two.run()
        assert [report.items for report in two.run()] == [0, 0]

    def test_giving_up_is_better_than_what_is_forbidden(self, two: Two) -> None:
        """Where no other rung serves, the item goes without."""
        two.vector.serve_all()
        two.run()
        assert two.rungs("vector") == [SKIP, "with_label", "text"]

    def test_a_required_stage_fails_where_only_the_forbidden_rung_serves(self, two: Two) -> None:
        """Visibly, and to be tried again: the item is queued."""
        two.vector = Rungs("vector", "with_label", "text", after="label", skip=None)
        two.vector.serve_all(with_label="new")
        assert two.run("vector")[0].statuses == {"failed": 1}
        assert (two.kept("vector").status, two.kept("vector").retryable) == (Status.FAILED, True)
        assert [entry.item_id for entry in retry_queue.entries(two.database, 10)] == ["a"]

    def test_an_upgrade_of_other_stages_mends_it_too(self, two: Two) -> None:
        """It is no question of what may be had now; and what came instead is no gain."""
        two.queue()
        two.claim("me", 2)
        two.vector.serve_all(text="new")
        _, vector = two.run(upgrade=["label"])
        assert (vector.items, gains(vector)) == (1, (["a"], []))
        assert two.rungs("vector") == ["text", "with_label", "text"]

    def test_an_upgrade_of_the_earlier_stage_lifts_the_ban(self, two: Two) -> None:
        """With a real label the vector may be made with it, and is: it was made from another."""
        two.queue()
        two.claim("me", 2)
        two.label.serve_all(model="dog")
        two.vector.serve_all(with_label="new")
        two.run(upgrade=["label", "vector"])
        assert (two.rungs("label"), two.rungs("vector")) == (["model"] * 3, ["with_label"] * 3)
        assert [two.kept("vector", id_).value for id_ in IDS] == ["new", "B", "new"]

    def test_what_somebody_else_put_there_meanwhile_stands(self, two: Two) -> None:
        """While this run works on the item another lifts its label, and makes a vector that goes with it."""
        other = Two(two.database, two.settings, two.run_id)
        other.label.serve_all(model="dog")
        other.vector.serve_all(with_label="of the other")

        def meanwhile() -> None:
            two.vector.on_call = lambda: None
            other.run("label", ids=["a"], refresh=True)
            other.run("vector", ids=["a"])

        two.vector.serve_all(text="new")
        two.vector.on_call = meanwhile
        two.run("vector")
        assert (two.kept("vector").rung, two.kept("vector").value) == ("with_label", "of the other")


class TestAnswersAnother:
    """What was made from a value that is not there any more is made again."""

    def test_a_changed_value_is_followed(self, two: Two) -> None:
        """The label is another: the vector is made again by a plain run, from the new one, for that item alone."""
        two.label.serves = {"model": {"b": "cat"}, "guess": {"a": "dog?", "c": "fox?"}}
        two.vector.serve_all(text="old")
        two.run()
        two.calls()
        two.label.serves = {"model": {"a": "dog", "c": "fox?"}}
        two.vector.serve_all(text="new")
        label, _ = two.run("label", refresh=True), two.calls()
        assert label[0].rungs == {"model": 2, SKIP: 1}
        assert two.rungs("label") == ["model"] * 3
        [vector] = two.run("vector")
        assert (vector.items, two.calls()) == (1, [("text", "a")])
        assert [two.kept("vector", id_).value for id_ in IDS] == ["new", "old", "old"]
        assert two.run("vector")[0].items == 0

    def test_a_better_rung_with_the_same_value_changes_nothing(self, two: Two) -> None:
        """What was made from it is still the answer, though the rung is another."""
        two.label.serve_all(guess="dog")
        two.vector.serve_all(text="old")
        two.run()
        two.label.serve_all(model="dog")
        two.run("label", refresh=True)
        assert two.rungs("label") == ["model"] * 3
        assert two.run("vector")[0].items == 0

    def test_a_value_given_up_meanwhile_or_found_is_another(self, two: Two) -> None:
        """None is a value too."""
        two.label.serve_all()
        two.vector.serve_all(hash="old")
        two.run()
        two.label.serve_all(guess="dog")
        two.run("label", refresh=True)
        assert two.run("vector")[0].items == 3

    def test_what_does_not_say_what_it_was_made_from_is_left_alone(self, two: Two) -> None:
        """Results of an earlier version say nothing of it."""
        two.label.serve_all(model="dog")
        two.vector.serve_all(with_label="old")
        two.run()
        of_old = replace(two.kept("vector"), input_hash=None)
        results.save(two.database, [of_old])
        assert two.kept("vector").input_hash is None
        assert two.kept("vector", "b").input_hash is not None
        assert two.run("vector")[0].items == 0

    def test_an_upgrade_follows_it_at_stages_that_are_not_named(self, two: Two) -> None:
        """By every rung, the best first, whatever served before."""
        two.label.serve_all(guess="dog?")
        two.vector.serve_all(text="old")
        two.run()
        two.queue()
        two.claim("me")
        two.calls()
        two.label.serve_all(model="dog")
        two.vector.serve_all(text="new")
        _, vector = two.run(upgrade=["label"])
        assert two.calls() == sorted([("model", id_) for id_ in IDS] + [("text", id_) for id_ in IDS])
        assert gains(vector) == ([*IDS], [])  # another answer, not a better one
        assert [two.kept("vector", id_).value for id_ in IDS] == ["new"] * 3

    def test_what_cannot_be_made_again_as_well_now_is_owed(self, two: Two) -> None:
        """The label is upgraded and another, and only a poor vector may be had: the old one stands, and the item waits
        although it is whole. Once the vector is to be had it is made from the new label, by a run that was not asked
        for that stage."""
        two.rules = ()
        two.label.serve_all(guess="dog?")
        two.vector.serve_all(with_label="old")
        two.run()
        two.queue()
        two.claim("me")
        two.label.serve_all(model="dog")
        two.vector.serve_all(hash="poor")
        label, vector = two.run(upgrade=["label", "vector"])
        assert (gains(label), gains(vector)) == (([*IDS], [*IDS]), ([*IDS], []))
        assert vector.failed_by_rung == frozenset(IDS)
        assert (two.kept("vector").value, two.kept("vector").is_stale) == ("old", True)
        store_at(two.database, two.run_id, dict.fromkeys(IDS, Decimal(1)))
        assert [entry.item_id for entry in retry_queue.entries(two.database, 10)] == [*IDS]
        two.vector.serve_all(with_label="new")
        _, vector = two.run(upgrade=["label"])
        assert gains(vector) == ([*IDS], [*IDS])
        assert [(two.kept("vector", id_).value, two.kept("vector", id_).is_stale) for id_ in IDS] == [
            ("new", False)
        ] * 3
        store_at(two.database, two.run_id, dict.fromkeys(IDS, Decimal(1)))
        assert retry_queue.entries(two.database, 10) == []


class TestVersions:
    """A result has the version of its rung; an outdated one is made anew though its input is the same."""

    @pytest.fixture
    def outdated(self, two: Two) -> Two:
        """Three whole items, their labels by an older version of the model than the present one."""
        two.label.serve_all(model="dog")
        two.vector.serve_all(with_label="V")
        two.run()
        store_at(two.database, two.run_id, dict.fromkeys(IDS, Decimal(1)))
        two.label.version = "2"
        enqueue_outdated(two.database, {"label": {"model": "2"}})
        two.claim("me")
        two.calls()
        return two

    def test_what_served_has_its_version_and_what_was_given_up_has_none(self, two: Two) -> None:
        """In the store, and in the outside form."""
        two.label.version = "model 3"
        two.label.serve_all(model="dog")
        two.run()
        assert (two.kept("label").rung_version, two.kept("vector").rung) == ("model 3", SKIP)
        assert two.kept("vector").rung_version is None
        assert two.kept("label").as_json()["rung_version"] == "model 3"

    def test_it_is_made_anew_and_what_follows_if_it_changed(self, outdated: Two) -> None:
        """Equal answers change nothing that follows; each other one makes its vector stale, as always."""
        outdated.label.serves = {"model": {"a": "dog", "b": "fox", "c": "cat"}}
        label, _ = outdated.run(upgrade=["label"])
        assert gains(label) == ([*IDS], [*IDS])
        assert outdated.calls() == sorted([*(("model", id_) for id_ in IDS), ("with_label", "b"), ("with_label", "c")])
        assert [outdated.kept("label", id_).value for id_ in IDS] == ["dog", "fox", "cat"]
        assert [outdated.kept("label", id_).rung_version for id_ in IDS] == ["2"] * 3
        assert not any(outdated.kept("label", id_).is_outdated for id_ in IDS)
        assert outdated.run(upgrade=["label"])[0].items == 0

    def test_only_by_an_upgrade_of_its_stage(self, outdated: Two) -> None:
        """A run over a manifest does not pay for what `reprocess` was asked for."""
        assert [report.items for report in outdated.run()] == [0, 0]
        assert [report.items for report in outdated.run(upgrade=["vector"])] == [0, 0]
        assert outdated.calls() == []

    @pytest.mark.parametrize("answers", [{}, {"guess": "dog?"}], ids=["no rung serves", "a fallback serves"])
    def test_where_the_new_version_fails_the_old_result_stands(self, outdated: Two, answers: dict[str, str]) -> None:
        """With its version, and still to be made anew."""
        outdated.label.serve_all(**answers)
        label, vector = outdated.run(upgrade=["label"])
        assert gains(label)[1] == []
        assert label.failed_by_rung == frozenset(IDS)
        assert vector.items == 0
        kept = outdated.kept("label")
        assert (kept.rung, kept.value, kept.rung_version, kept.is_outdated) == ("model", "dog", "1", True)

    def test_a_fallback_is_made_anew_by_itself_and_replaced_by_a_better_rung(self, two: Two) -> None:
        """The chain begins at its best rung."""
        two.label.serve_all(guess="old")
        two.run()
        store_at(two.database, two.run_id, dict.fromkeys(IDS, Decimal("0.9")))
        two.label.version = "2"
        enqueue_outdated(two.database, {"label": {"guess": "2"}})
        two.claim("me")
        two.label.serves = {"model": {"a": "dog"}, "guess": dict.fromkeys(IDS, "new")}
        label, _ = two.run(upgrade=["label"])
        assert sorted(label.upgraded) == [*IDS]
        assert [two.kept("label", id_).value for id_ in IDS] == ["dog", "new", "new"]

    def test_the_same_rung_takes_its_place_whatever_its_penalty_is_by_now(self, two: Two) -> None:
        """A policy that trusts the rung less makes no older result of it better than a newer one."""
        two.label.serve_all(guess="old")
        two.run()
        store_at(two.database, two.run_id, dict.fromkeys(IDS, Decimal("0.9")))
        two.label.version, two.label.penalties = "2", ("1", "0.6")
        enqueue_outdated(two.database, {"label": {"guess": "2"}})
        two.claim("me")
        two.label.serve_all(guess="new")
        label, _ = two.run(upgrade=["label"])
        assert (gains(label), label.worse) == (([*IDS], [*IDS]), 0)
        kept = two.kept("label")
        assert (kept.value, kept.penalty, kept.rung_version, kept.is_outdated) == ("new", Decimal("0.6"), "2", False)

    def test_a_process_keeps_the_version_that_it_began_with(self, two: Two, tmp_path: Path) -> None:
        """A model's file that is replaced meanwhile is not the one that this process has loaded."""
        file = tmp_path / "weights"
        file.write_text("before")
        two.label.stage.hooks = replace(two.label.stage.hooks, version=lambda rung, models: file.read_text())
        two.label.serve_all(model="dog")
        two.run("label", ids="a")
        file.write_text("after")
        two.run("label", ids="b")
        assert (two.kept("label", "a").rung_version, two.kept("label", "b").rung_version) == ("before", "before")


class TestUpgrade:
    """Only what was less than whole, only by better rungs, and only what one has in hand."""

    @pytest.fixture
    def degraded(self, two: Two) -> Two:
        """Three items with guessed labels and hashed vectors, stored and queued."""
        two.label.serve_all(guess="dog?")
        two.vector.serve_all(hash="old")
        two.run()
        two.queue()
        two.calls()
        return two

    def test_only_items_in_hand(self, degraded: Two) -> None:
        """Neither what somebody else holds, nor what nobody does, nor what one held until a moment ago."""
        degraded.claim("me", 1)
        degraded.claim("somebody else", 1)
        degraded.vector.serve_all(text="new")
        _, vector = degraded.run(upgrade=["vector"])
        assert (vector.items, degraded.calls()) == (1, [("text", "a")])
        assert degraded.rungs("vector") == ["text", "hash", "hash"]

    def test_a_plain_run_asks_for_no_claim(self, degraded: Two) -> None:
        """A run over a manifest takes its items, whoever holds them: whichever result is better stays."""
        degraded.claim("somebody else", 1)
        degraded.vector.serve_all(text="new")
        [vector] = degraded.run("vector", refresh=True)
        assert (vector.items, degraded.rungs("vector")) == (3, ["text"] * 3)

    def test_a_claim_that_ran_out_is_none(self, degraded: Two) -> None:
        """It may be another's by now."""
        degraded.claim("me", lease_s=-1)
        degraded.vector.serve_all(text="new")
        assert [report.items for report in degraded.run(upgrade=["vector"])] == [0, 0]
        assert degraded.calls() == []

    @pytest.mark.parametrize(("stage", "rung"), [("label", "model"), ("vector", "text")])
    def test_only_stages_that_are_named(self, degraded: Two, stage: str, rung: str) -> None:
        """Though something better may be had at the other, too; one that says the same changes nothing after it."""
        degraded.claim("me")
        degraded.label.serve_all(model="dog?")
        degraded.vector.serve_all(text="new")
        degraded.run(upgrade=[stage])
        assert degraded.calls() == [(rung, id_) for id_ in IDS]
        upgraded = {"label": "guess", "vector": "hash"} | {stage: rung}
        assert {name: degraded.rungs(name) for name in upgraded} == {
            name: [kept] * 3 for name, kept in upgraded.items()
        }

    def test_only_rungs_better_than_the_kept_one(self, degraded: Two) -> None:
        """Each item's own measure; where nothing better serves, what is kept stays, with the reasons of this try."""
        degraded.vector.serves = {"text": {"a": "better"}}
        degraded.run("vector", refresh=True, ids=["a"])
        before = [degraded.kept("vector", id_) for id_ in IDS]
        degraded.claim("me")
        degraded.calls()
        degraded.vector.serves = {"text": {"b": "better"}, "hash": dict.fromkeys(IDS, "new")}
        _, vector = degraded.run(upgrade=["vector"])
        assert degraded.calls() == [("text", "b"), ("text", "c")]
        assert degraded.rungs("vector") == ["text", "text", "hash"]
        assert degraded.kept("vector", "a") == before[0], "no rung was called for it"
        barred, called, served = degraded.kept("vector", "c").attempts
        assert called.error == StepError(type="ItemError", message="text has no answer")
        assert (barred, served) == (before[2].attempts[0], before[2].attempts[-1])
        assert replace(degraded.kept("vector", "c"), attempts=before[2].attempts) == before[2]
        assert gains(vector) == (["b", "c"], ["b"])
        assert (vector.items, vector.statuses) == (3, {"pending": 2, "degraded": 1})
        assert str(vector) == "3 items: 1 degraded, 2 unchanged; mean penalty 0.900 · text 1"

    def test_an_injected_fault_does_not_outlive_its_run(self, two: Two) -> None:
        """The next try that does not serve either says why, and from then on only a call says more."""
        faults = parse_faults(["label.model=oom"], [two.label.stage.chain])
        two.label.serve_all(model="dog", guess="dog?")
        two.vector.serve_all(hash="old")
        two.run(directives=Directives(faults=faults))
        two.queue()
        two.claim("me")
        before = two.kept("label")
        found = []
        for serves in ({}, {"model": {}}, {}):
            two.label.serves = serves
            two.run("label", upgrade=["label"])
            kept = two.kept("label")
            assert replace(kept, error=before.error, attempts=before.attempts) == before
            found.append(kept.error and kept.error.message)
        assert before.error
        assert before.error.message == "injected: label.model is out of memory"
        assert found == ["model is not here", "model has no answer", "model has no answer"]

    def test_a_rung_that_a_rule_bars_is_no_try(self, degraded: Two) -> None:
        """Nor one that is not here: there was no call, so nothing of the item's tries is used up."""
        degraded.claim("me")
        degraded.vector.serves = {"with_label": dict.fromkeys(IDS, "new")}
        label, vector = degraded.run(upgrade=["label", "vector"])
        assert degraded.calls() == []
        for report in (label, vector):
            assert (report.items, report.statuses) == (3, {"pending": 3})
            assert gains(report) == ([], [])

    def test_a_rung_whose_breaker_is_open_is_no_try(self, degraded: Two) -> None:
        """It was refused."""
        breakers.apply(degraded.database, degraded.label.breaker, Key("label.model"), Overridden(Cause.FORCED_OPEN))
        degraded.claim("me")
        degraded.label.serve_all(model="dog")
        label, _ = degraded.run(upgrade=["label"])
        assert (label.statuses, gains(label), degraded.calls()) == ({"pending": 3}, ([], []), [])

    def test_a_rung_that_breaks_is_a_try(self, degraded: Two) -> None:
        """It was called, and nothing came of it."""
        degraded.claim("me")
        degraded.label.serves = {"model": {}}
        label, _ = degraded.run(upgrade=["label"])
        assert gains(label) == ([*IDS], [])

    def test_who_is_let_down_by_the_rungs_is_told_from_who_is_to_blame(self, degraded: Two) -> None:
        """A rung that is not here lets all down; one that has no answer for an item says nothing of the others; and a
        rung that a rule bars was not even asked."""
        degraded.claim("me")
        degraded.label.serves = {"model": {"a": "dog"}}
        label, vector = degraded.run(upgrade=["label", "vector"])
        assert (gains(label), label.failed_by_rung) == (([*IDS], ["a"]), frozenset())
        assert vector.failed_by_rung == frozenset(IDS), "neither the text nor, for `a`, the label can be had"
        degraded.vector.serves = {"text": {}}
        [vector] = degraded.run("vector", upgrade=["vector"])
        assert vector.failed_by_rung == frozenset()
        degraded.vector.serves = {"text": dict.fromkeys(IDS, "new")}
        degraded.run("vector", upgrade=["vector"])
        [vector] = degraded.run("vector", upgrade=["vector"])
        assert (vector.statuses, vector.failed_by_rung) == ({"pending": 3}, {"a"}), (
            "the others are barred from what is left"
        )

    def test_what_is_whole_is_not_touched(self, degraded: Two) -> None:
        """Only what is less asks for more."""
        degraded.label.serves = {"model": {"a": "dog"}}
        degraded.run("label", refresh=True, ids=["a"])
        degraded.claim("me")
        degraded.calls()
        degraded.label.serve_all(model="dog")
        [label] = degraded.run("label", upgrade=["label"])
        assert (degraded.calls(), label.items) == ([("model", "b"), ("model", "c")], 2)

    def test_what_was_given_up_on_purpose_stays_so(self, two: Two) -> None:
        """Until somebody asks for it: what could not be had is tried again, what was not wanted is not."""
        two.vector.serve_all(hash="old")
        two.run(directives=Directives(forced={"label": SKIP}), ids=["a"])
        two.run(ids=["b", "c"])
        two.queue()
        two.claim("me")
        two.calls()
        two.label.serve_all(model="dog")
        [label] = two.run("label", upgrade=["label"])
        assert two.calls() == [("model", "b"), ("model", "c")]
        assert gains(label) == (["b", "c"], ["b", "c"])
        assert two.rungs("label") == [SKIP, "model", "model"]

    def test_a_gain_at_both_stages_is_counted_at_both(self, degraded: Two) -> None:
        """The second follows the first, whose value is new."""
        degraded.claim("me")
        degraded.label.serve_all(model="dog")
        degraded.vector.serve_all(with_label="new")
        reports = degraded.run(upgrade=["label", "vector"])
        assert [gains(report) for report in reports] == [([*IDS], [*IDS])] * 2
        assert (degraded.rungs("label"), degraded.rungs("vector")) == (["model"] * 3, ["with_label"] * 3)

    def test_a_plain_run_says_nothing_of_gains(self, degraded: Two) -> None:
        """They are an upgrade's."""
        degraded.vector.serve_all(text="new")
        [vector] = degraded.run("vector", refresh=True)
        assert vector.items == 3
        assert gains(vector) == ([], [])
