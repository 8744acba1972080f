"""One stage over one batch: what is due, doing it once, and keeping the better result."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tasks.fallback import (
    AttemptOutcome,
    Chain,
    Directives,
    Failed,
    InvalidItem,
    ItemError,
    Outcome,
    Rung,
    Served,
    Skip,
    Status,
    StepResult,
    Unavailable,
    parse_faults,
)
from tasks.items import Item, ItemState
from tasks.settings import Settings
from tasks.stage import Pipeline, RunOptions, Stage, StageContext, StageReport, quality_so_far, run_stage
from tasks.stages import CHAINS, PIPELINE, STAGE_NAMES, STAGES
from tasks.storage import catalogue, results, runs
from tasks.storage.database import Database
from tests.in_process import enrich, fresh_runtime, kept

IDS = ("a", "b", "c")


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

    def stage(self, *, is_required: bool = False) -> Stage[str, float]:
        rungs: tuple[Rung[str, float, StageContext], ...] = (
            Rung("service", self.from_service, time_limit_s=10),
            Rung("table", self.from_table, penalty="0.9", time_limit_s=10),
        )
        chain = Chain("price", *rungs) if is_required else Chain("price", *rungs, Skip(penalty="0.6"))
        return Stage(chain, lambda state: state.item.name)


@pytest.fixture
def run(settings: Settings) -> Callable[..., StageReport]:
    """Runs a stage over three items of a fresh run; its report."""
    database = Database(settings.database_url)
    database.migrate()

    def run(
        stage: Stage[str, float],
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
        before = [
            Stage(Chain(name, Rung("r", stage.chain.rungs[0].run, time_limit_s=1)), stage.input) for name in earlier
        ]
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
        other = Stage(Chain("after", *price.stage().chain.rungs, Skip(penalty="0.5")), price.stage().input)
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
        failing = Stage(Chain("price", price.stage().chain.rungs[0]), price.stage().input)
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
