"""The merge before an item is stored: what must not meet never does, and its quality is that of what is kept then."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import product
from math import prod
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks import store
from tasks.fallback import (
    SKIP,
    Failed,
    Incompatible,
    ItemError,
    Rule,
    Served,
    Status,
    StepError,
    StepResult,
)
from tasks.items import Stored
from tasks.settings import Settings
from tasks.stage import Pipeline, RunOptions, StageContext, StageReport, run_stage
from tasks.stages import PIPELINE
from tasks.storage import results, retry_queue
from tasks.storage.database import Database
from tasks.storage.schema import items
from tasks.store import Enriched, in_database, merge
from tests import writers
from tests.conftest import fresh_store
from tests.fleet import Fleet
from tests.in_process import fresh_runtime
from tests.stored import emptied
from tests.writers import ON_WHAT_IS_BETTER, ON_WHAT_IS_POOR, PENALTIES, Order

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
EARLIER = PIPELINE.chains[:-1]
WAYS: list[dict[str, str | None]] = [
    dict(zip(PIPELINE.names, rungs, strict=False))
    for rungs in product(*((*chain.rung_names, None) for chain in EARLIER))
]
"""Every combination of rungs that an item may come by; None is a stage that is not applicable to it."""
POISONED: dict[str, str | None] = {**dict.fromkeys(PIPELINE.names[:-1]), "classify_image": "rules"}
POISONED["embed_text"] = "text_and_label"
MAY_MERGE = partial(merge, PIPELINE.rules)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kept_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A store of each kind that stays from test to test."""
    with fresh_store(request, tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def database(kept_database: Database) -> Database:
    return emptied(kept_database)


def is_forbidden(way: Mapping[str, str | None]) -> bool:
    """The two rules of the README, by hand."""
    is_poisoned = way["classify_image"] in {"rules", SKIP} and way["embed_text"] == "text_and_label"
    return is_poisoned or (way["extract_text"] in {"name_only", SKIP} and way["embed_text"] == "hashed")


def penalty(stage: str, rung: str | None) -> Decimal:
    chain = PIPELINE.stage(stage).chain
    factors = {one.name: one.factor for one in chain.rungs} | ({SKIP: chain.skip.factor} if chain.skip else {})
    return factors[rung] if rung else Decimal(1)


def step(item_id: str, stage: str, rung: str | None, factor: Decimal, *, is_primary: bool = False) -> StepResult:
    """What a rung leaves; None: the stage is not applicable."""
    status = Status.DEGRADED
    if rung is None:
        status = Status.NOT_APPLICABLE
    elif rung == SKIP or is_primary:
        status = Status.SKIPPED if rung == SKIP else Status.SUCCEEDED
    return StepResult(
        item_id=item_id,
        stage=stage,
        status=status,
        rung=rung,
        penalty=factor,
        retryable=status in {Status.DEGRADED, Status.SKIPPED},
        run_id="run",
        finished_at=NOW,
    )


def steps(item_id: str, way: Mapping[str, str | None]) -> list[StepResult]:
    """What the stages of the project leave for an item that comes this way."""
    primaries = {chain.stage: chain.primary.name for chain in EARLIER}
    return [
        step(item_id, stage, rung, penalty(stage, rung), is_primary=rung == primaries[stage])
        for stage, rung in way.items()
    ]


def failed(item_id: str, stage: str) -> StepResult:
    error = StepError(type="ItemError", message="not today")
    return replace(step(item_id, stage, SKIP, Decimal(1)), status=Status.FAILED, rung=None, penalty=None, error=error)


def quality_of(way: Mapping[str, str | None]) -> Decimal:
    return prod((penalty(stage, rung) for stage, rung in way.items()), start=Decimal(1))


def in_the_store(database: Database) -> dict[str, tuple[str, float | None]]:
    """Each item's state and quality."""
    with database.read() as connection:
        rows = connection.execute(sa.select(items.c.id, items.c.state, items.c.quality))
        return {row.id: (row.state, row.quality) for row in rows}


def mark(database: Database, *ids: str, run_id: str = "run") -> dict[str, object]:
    return dict(results.mark_stored(database, run_id, ids, merge=MAY_MERGE, retry_below=0.8))


class TestOneItem:
    """What an item's results come to."""

    def test_every_combination_of_the_projects_rungs_is_merged_or_refused(self) -> None:
        """All of them: what a rule forbids is told, with the rule; all else is the exact product of the penalties."""
        refused = 0
        for way in WAYS:
            by_stage = {one.stage: one for one in steps("a", way)}
            if is_forbidden(way):
                refused += 1
                with pytest.raises(Incompatible, match=r"does not go with .*; embed_text is done again"):
                    MAY_MERGE(by_stage)
            else:
                assert MAY_MERGE(by_stage) == quality_of(way)
        assert (len(WAYS), refused) == (4 * 3 * 5 * 5 * 5, 4 * 3 * (2 * 5 + 2 * 5))

    def test_the_rule_is_told(self) -> None:
        """Its two rungs, its reason, and what is to be done again."""
        with pytest.raises(Incompatible) as refused:
            MAY_MERGE({one.stage: one for one in steps("a", POISONED)})
        assert str(refused.value) == (
            "embed_text.text_and_label does not go with classify_image by rules or skip: a guessed label would poison "
            "the vector; embed_text is done again when the item is tried again"
        )

    def test_a_stage_that_failed_meanwhile(self) -> None:
        """An item that is not whole has no quality."""
        by_stage = {one.stage: one for one in steps("a", WAYS[0])}
        with pytest.raises(ItemError, match="a stage failed meanwhile"):
            MAY_MERGE({**by_stage, "validate": failed("a", "validate")})

    @pytest.mark.parametrize("gone", PIPELINE.names[:-1])
    def test_a_stage_that_is_to_be_done_again_meanwhile(self, gone: str) -> None:
        """Its record changed, so what it had is gone: it is not whole, and what is left of it is no quality."""
        by_stage = {one.stage: one for one in steps("a", WAYS[0]) if one.stage != gone}
        with pytest.raises(ItemError, match=f"{gone} is not done any more"):
            MAY_MERGE(by_stage)


class TestStore:
    """Into the store, many at a time."""

    def test_no_forbidden_pair_is_ever_stored(self, database: Database, registered: Callable[..., str]) -> None:
        """Every combination of rungs, all in one batch: what is refused stays as it was, and all others are stored."""
        by_id = {f"item {number}": way for number, way in enumerate(WAYS)}
        registered(*by_id)
        results.save(database, [one for id_, way in by_id.items() for one in steps(id_, way)])
        answers = mark(database, *by_id)
        assert list(answers) == list(by_id)
        now = in_the_store(database)
        for id_, way in by_id.items():
            if is_forbidden(way):
                assert isinstance(answers[id_], Incompatible)
                assert now[id_] == ("pending", None)
            else:
                assert answers[id_] == quality_of(way)
                assert now[id_] == ("stored", float(quality_of(way)))
        waiting = retry_queue.tally(database).waiting
        assert waiting == sum(not is_forbidden(way) and quality_of(way) < Decimal("0.8") for way in WAYS)

    def test_what_is_refused_stays_as_it_was(self, database: Database, registered: Callable[..., str]) -> None:
        """Its state, its quality, its run; its neighbours are stored by the new one."""
        registered("poisoned", "neighbour")
        before = {**POISONED, "embed_text": "text_only"}
        results.save(database, [one for id_ in ("poisoned", "neighbour") for one in steps(id_, before)])
        mark(database, "poisoned", "neighbour", run_id="first")
        results.save(database, [one for one in steps("poisoned", POISONED) if one.stage == "embed_text"])
        results.save(database, [one for one in steps("neighbour", WAYS[0]) if one.stage == "classify_image"])
        answers = mark(database, "poisoned", "neighbour", run_id="second")
        assert isinstance(answers["poisoned"], Incompatible)
        with database.read() as connection:
            rows = connection.execute(sa.select(items.c.id, items.c.state, items.c.quality, items.c.run_id))
            assert {tuple(row) for row in rows} == {
                ("poisoned", "stored", 0.76, "first"),
                ("neighbour", "stored", 0.95, "second"),
            }

    def test_quality_is_of_what_is_kept_at_that_moment(
        self, database: Database, registered: Callable[..., str], settings: Settings
    ) -> None:
        """Not of what the stage was given when it looked: somebody did better meanwhile, somebody else undid it."""
        registered("better", "poisoned", "failed", "gone")
        given = [Enriched(item_id=id_, quality=Decimal("0.5")) for id_ in ("better", "poisoned", "failed", "gone")]
        results.save(database, [*steps("better", WAYS[0]), *steps("poisoned", POISONED), *steps("failed", WAYS[0])[1:]])
        results.save(database, [failed("failed", "fetch")])
        context = StageContext(settings=settings, database=database, run_id="run", now=NOW, rules=PIPELINE.rules)
        better, poisoned, fell, gone = in_database(given, context)
        assert better == Served(Stored(quality=1.0))
        assert [one.error.type for one in (poisoned, fell, gone) if isinstance(one, Failed)] == [
            "Incompatible",
            "ItemError",
            "ItemError",
        ]
        assert in_the_store(database) == {
            "better": ("stored", 1.0),
            "poisoned": ("pending", None),
            "failed": ("failed", None),
            "gone": ("pending", None),
        }

    def test_nobody_is_marked_where_nobody_is_named(self, database: Database) -> None:
        """An empty batch is no error, and neither is an item that is not there: it is refused."""
        assert mark(database) == {}
        assert isinstance(mark(database, "nobody")["nobody"], ItemError)


RULE = Rule("look", {"poor", SKIP}, forbids="tell.best", because="a guess tells nothing")


class TestMended:
    """A pair that came together behind the stages' back."""

    @pytest.fixture
    def run(self, database: Database, settings: Settings) -> Callable[..., dict[str, StageReport]]:
        """Takes items through three stages, whose rungs all serve, and into the store."""

        def run(*ids: str) -> dict[str, StageReport]:
            stages = [*writers.stages(lambda name, inputs: [Served(name) for _ in inputs]), store.STAGE]
            pipeline = Pipeline(stages, [RULE])
            url = database.url.render_as_string(hide_password=False)
            here = replace(settings, database_url=url)
            options = RunOptions(run_id="run")
            return {name: run_stage(pipeline, name, ids, options, here, fresh_runtime()) for name in pipeline.names}

        return run

    def kept(self, database: Database, item_id: str) -> Mapping[str, StepResult]:
        return results.load(database, [item_id])[0].results

    def put(self, database: Database, item_id: str, **rungs: str) -> None:
        """Results that somebody else wrote."""
        results.save(
            database,
            [
                step(item_id, stage, rung, Decimal(PENALTIES[stage][rung]), is_primary=rung == "best")
                for stage, rung in rungs.items()
            ],
        )

    def test_it_is_not_stored_and_is_queued(
        self, database: Database, registered: Callable[..., str], settings: Settings
    ) -> None:
        """The item fails in `store`, with the rule, and may be tried again; its neighbour is stored."""
        registered("pair", "neighbour")
        self.put(database, "pair", look="poor", read="best", tell="best")
        self.put(database, "neighbour", look="best", read="best", tell="best")
        here = replace(settings, database_url=database.url.render_as_string(hide_password=False))
        pipeline = Pipeline([*writers.stages(lambda name, inputs: []), store.STAGE], [RULE])
        options = RunOptions(run_id="run")
        report = run_stage(pipeline, "store", ["pair", "neighbour"], options, here, fresh_runtime())
        assert report.statuses == {"failed": 1, "succeeded": 1}
        assert in_the_store(database) == {"pair": ("failed", None), "neighbour": ("stored", 1.0)}
        refused = self.kept(database, "pair")["store"]
        assert refused.error and refused.retryable
        assert refused.error.type == "Incompatible"
        assert str(RULE) in refused.error.message
        assert [entry.item_id for entry in retry_queue.entries(database, 10)] == ["pair"]

    def test_the_next_run_does_the_later_stage_again(
        self, database: Database, registered: Callable[..., str], run: Callable[..., dict[str, StageReport]]
    ) -> None:
        """By a rung that goes, though it is worse; then the item is stored, and leaves the queue with its reason."""
        registered("pair", "neighbour")
        self.put(database, "pair", look="poor", read="best", tell="best")
        self.put(database, "neighbour", look="best", read="best", tell="best")
        reports = run("pair", "neighbour")
        assert {name: report.items for name, report in reports.items()} == {"look": 0, "read": 0, "tell": 1, "store": 2}
        assert self.kept(database, "pair")["tell"].rung == "fair"
        assert in_the_store(database) == {"pair": ("stored", 0.5963), "neighbour": ("stored", 1.0)}


IDS = ("a", "B", "b", "Ä", "z z", "10", "9", "🦜", "_", "A")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Four processes, for one test after the other."""
    with Fleet([{}] * 4) as fleet:
        yield fleet


def product_of(way: Mapping[str, str]) -> Decimal:
    return prod((Decimal(PENALTIES[stage][rung]) for stage, rung in way.items()), start=Decimal(1))


ALL_WAYS = [dict(zip(PENALTIES, rungs, strict=True)) for rungs in product(*PENALTIES.values())]
BY_QUALITY = {float(product_of(way)): way for way in ALL_WAYS}


def breaks(way: Mapping[str, str | None], table: Sequence[Rule]) -> bool:
    return any(way[rule.stage] in rule.rungs and rule.forbids == f"tell.{way['tell']}" for rule in table)


class TestManyWriters:
    """Real processes that write results of the same items at the same time."""

    def written(self, seed: int) -> tuple[list[list[Order]], dict[str, dict[str, StepResult]]]:
        """What four processes are ordered to write and mark, in any order; and the best of it, by item and stage.

        Each step has rungs that are tried of it, so that the best is not the primary everywhere.
        """
        draw = random.Random(seed)
        rungs: dict[tuple[str, str], list[str | None]] = {}
        for id_ in IDS:
            for stage in PENALTIES:
                some = draw.sample([*PENALTIES[stage]], draw.randint(1, 3))
                rungs[id_, stage] = [None] if draw.random() < 0.03 else [*some, None]
        best: dict[str, dict[str, StepResult]] = {id_: {} for id_ in IDS}

        def result(id_: str, stage: str, rung: str | None) -> StepResult:
            if rung is None:
                return failed(id_, stage)
            return step(id_, stage, rung, Decimal(PENALTIES[stage][rung]), is_primary=rung == "best")

        def some_results(steps_of: Sequence[tuple[str, str]]) -> list[StepResult]:
            chosen = [result(id_, stage, draw.choice(rungs[id_, stage])) for id_, stage in steps_of]
            for one in chosen:
                best_so_far = best[one.item_id].get(one.stage)
                if best_so_far is None or one.standing > best_so_far.standing:
                    best[one.item_id][one.stage] = one
            return chosen

        every = list(rungs)
        processes = [
            [Order(some_results(draw.sample(every, 8)), draw.sample(IDS, draw.randint(0, 6))) for _ in range(15)]
            for _ in range(4)
        ]
        for orders in processes:
            orders.append(Order(some_results(draw.sample(every, len(every))), draw.sample(IDS, len(IDS))))
        return processes, best

    @pytest.mark.parametrize("seed", range(3))
    def test_the_best_of_all_that_was_written_is_kept_and_counted(
        self, database: Database, registered: Callable[..., str], fleet: Fleet, seed: int
    ) -> None:
        """However late a fallback comes: the better result stays, the quality is that of what is kept, and no mark ever
        answered with the quality of what must not meet."""
        registered(*IDS)
        processes, best = self.written(seed)
        each = [{"orders": orders, "table": ON_WHAT_IS_BETTER} for orders in processes]
        answers = [answer for given in fleet.do(database, writers.write, each) for answer in given]
        assert all(
            not breaks(BY_QUALITY[float(one)], ON_WHAT_IS_BETTER) for _, one in answers if isinstance(one, Decimal)
        )
        now = in_the_store(database)
        kinds = set()
        for state in results.load(database, IDS):
            id_, kept = state.item.id, state.results
            assert {stage: (one.rung, one.standing) for stage, one in kept.items()} == {
                stage: (one.rung, one.standing) for stage, one in best[id_].items()
            }
            way = {stage: kept[stage].rung for stage in PENALTIES}
            if any(one.status is Status.FAILED for one in kept.values()):
                kinds.add("failed")
                assert now[id_] == ("failed", None)
            elif breaks(way, ON_WHAT_IS_BETTER):
                kinds.add("refused")
                assert any(about == id_ and "does not go with" in str(one) for about, one in answers)
                assert now[id_][1] is None or not breaks(BY_QUALITY[now[id_][1] or 0], ON_WHAT_IS_BETTER)
            else:
                kinds.add("stored")
                assert now[id_][0] == "stored"
                assert BY_QUALITY[now[id_][1] or 0] == way
        assert {"stored", "refused"} <= kinds

    @pytest.mark.parametrize(
        ("table", "mended"),
        [(ON_WHAT_IS_POOR, 0), (ON_WHAT_IS_BETTER, 1)],
        ids=["as the project's", "on what is better"],
    )
    def test_no_stored_item_has_a_forbidden_pair(
        self,
        database: Database,
        registered: Callable[..., str],
        fleet: Fleet,
        tmp_path: Path,
        table: Sequence[Rule],
        mended: int,
    ) -> None:
        """Whole runs beside each other, each of which refreshes what the others did. Under rules as the project's they
        never bring anything together; under others, what they did bring together the next run mends."""
        registered(*IDS)
        run = {"ids": IDS, "home": str(tmp_path), "table": table}
        fleet.do(database, writers.enrich, [{**run, "seed": n, "rounds": 4, "failing": 0.7} for n in range(4)])
        fleet.do(database, writers.enrich, [{**run, "seed": 4, "rounds": mended, "failing": 0.0}])
        now = in_the_store(database)
        for state in results.load(database, IDS):
            way = {stage: state.results[stage].rung for stage in PENALTIES}
            assert not breaks(way, table)
            assert now[state.item.id][0] == "stored"
            assert BY_QUALITY[now[state.item.id][1] or 0] == way
