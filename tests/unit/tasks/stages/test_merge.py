"""The merge before an item is stored: what must not meet never does, and its quality is that of what is kept then."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.execution.stage_runner import RunOptions, StageReport, run_stage
from repli.tasks.fallback import (
    SKIP,
    Incompatible,
    ItemError,
    Outcome,
    Rule,
    Served,
    Status,
    StepError,
    StepResult,
)
from repli.tasks.pipeline import Pipeline, store
from repli.tasks.pipeline.store import merge
from repli.tasks.settings import Settings
from repli.tasks.storage import results
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.schema import items
from tests.support import stores, writers
from tests.support.default_pipeline import PIPELINE
from tests.support.fleet import Fleet
from tests.support.in_process import fresh_runtime
from tests.support.writers import ON_WHAT_IS_BETTER, ON_WHAT_IS_POOR, PENALTIES, Call, Order

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


def is_forbidden(way: Mapping[str, str | None]) -> bool:
    """The two rules of docs/concepts/rules.md, by hand."""
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


def mark(database: Database, *ids: str, run_id: str = "run") -> dict[str, Any]:
    return dict(stores.mark_stored(database, run_id, ids, merge=MAY_MERGE, retry_below=0.8))


class TestOneItem:
    """What an item's results come to."""

    def test_every_combination_of_the_projects_rungs_is_merged_or_refused(self) -> None:
        """All of them: what a rule forbids is told, with the rule; all else is the exact product of the penalties."""
        refused = 0
        for way in WAYS:
            by_stage = {one.stage: one for one in steps("a", way)}
            if is_forbidden(way):
                refused += 1
                with pytest.raises(Incompatible, match=r"does not go with .*; embed_text runs again"):
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
            "the vector; embed_text runs again at the next retry"
        )

    def test_a_stage_that_failed_meanwhile(self) -> None:
        """An item that is not whole has no quality."""
        by_stage = {one.stage: one for one in steps("a", WAYS[0])}
        with pytest.raises(ItemError, match="an earlier stage has failed since"):
            MAY_MERGE({**by_stage, "validate": failed("a", "validate")})

    @pytest.mark.parametrize("gone", PIPELINE.names[:-1])
    def test_a_stage_that_is_to_be_done_again_meanwhile(self, gone: str) -> None:
        """Its record changed, so what it had is gone: it is not whole, and what is left of it is no quality."""
        by_stage = {one.stage: one for one in steps("a", WAYS[0]) if one.stage != gone}
        with pytest.raises(ItemError, match=f"{gone} has no result any more"):
            MAY_MERGE(by_stage)


class TestStore:
    """Into the store, many at a time."""

    def test_no_forbidden_pair_is_ever_stored(self, database: Database, registered: Callable[..., str]) -> None:
        """Every combination of rungs, all in one batch: what is refused has failed, and all others are stored."""
        by_id = {f"item {number}": way for number, way in enumerate(WAYS)}
        registered(*by_id)
        results.save(database, [one for id_, way in by_id.items() for one in steps(id_, way)])
        answers = mark(database, *by_id)
        assert list(answers) == list(by_id)
        now = in_the_store(database)
        for id_, way in by_id.items():
            if is_forbidden(way):
                assert answers[id_].type == "Incompatible"
                assert now[id_] == ("failed", None)
            else:
                assert answers[id_] == quality_of(way)
                assert now[id_] == ("stored", float(quality_of(way)))
        waiting = retry_queue.tally(database).waiting
        assert waiting == sum(is_forbidden(way) or quality_of(way) < Decimal("0.8") for way in WAYS)

    def test_what_is_refused_has_failed(self, database: Database, registered: Callable[..., str]) -> None:
        """Though it was stored before; its neighbour is stored again."""
        registered("poisoned", "neighbour")
        before = {**POISONED, "embed_text": "text_only"}
        results.save(database, [one for id_ in ("poisoned", "neighbour") for one in steps(id_, before)])
        mark(database, "poisoned", "neighbour", run_id="first")
        results.save(database, [one for one in steps("poisoned", POISONED) if one.stage == "embed_text"])
        results.save(database, [one for one in steps("neighbour", WAYS[0]) if one.stage == "classify_image"])
        answers = mark(database, "poisoned", "neighbour", run_id="second")
        kept = {state.item.id: state.results["store"] for state in results.load(database, ["poisoned", "neighbour"])}
        assert kept["poisoned"].error == answers["poisoned"]
        assert (kept["poisoned"].status, kept["neighbour"].status) == (Status.FAILED, Status.SUCCEEDED)
        with database.read() as connection:
            rows = connection.execute(sa.select(items.c.id, items.c.state, items.c.quality, items.c.run_id))
            assert {tuple(row) for row in rows} == {
                ("poisoned", "failed", None, "first"),
                ("neighbour", "stored", 0.95, "second"),
            }

    def test_quality_is_of_what_is_kept_at_that_moment(
        self, database: Database, registered: Callable[..., str]
    ) -> None:
        """Not of what the stage was given when it looked: somebody did better meanwhile, somebody else undid it."""
        registered("better", "poisoned", "failed", "gone")
        results.save(database, [*steps("better", WAYS[0]), *steps("poisoned", POISONED), *steps("failed", WAYS[0])[1:]])
        results.save(database, [failed("failed", "fetch")])
        answers = mark(database, "better", "poisoned", "failed", "gone")
        assert answers["better"] == 1
        assert [answers[id_].type for id_ in ("poisoned", "failed", "gone")] == [
            "Incompatible",
            "ItemError",
            "ItemError",
        ]
        assert in_the_store(database) == {
            "better": ("stored", 1.0),
            "poisoned": ("failed", None),
            "failed": ("failed", None),
            "gone": ("failed", None),
        }

    def test_the_result_and_the_stored_item_are_one_transaction(
        self, database: Database, registered: Callable[..., str]
    ) -> None:
        """A process that dies before its commit leaves neither: no item is stored whose `store` is pending."""
        registered("a")
        results.save(database, steps("a", WAYS[0]))
        with stores.commits_fail(database):
            mark(database, "a")
        assert "store" not in results.load(database, ["a"])[0].results
        assert in_the_store(database) == {"a": ("pending", None)}
        mark(database, "a")
        assert results.load(database, ["a"])[0].results["store"].value == {"quality": 1.0}

    def test_nobody_is_marked_where_nobody_is_named(self, database: Database) -> None:
        """An empty batch is no error, and neither is an item that is not there: nothing is written of it."""
        assert mark(database) == {}
        assert mark(database, "nobody") == {}


RULE = ON_WHAT_IS_POOR[0]


def serve_all(name: str, inputs: Sequence[object]) -> Sequence[Outcome[str]]:
    return [Served(name) for _ in inputs]


class TestMended:
    """A pair that came together behind the stages' back."""

    @pytest.fixture
    def run(self, database: Database, settings: Settings) -> Callable[..., StageReport]:
        """Takes items through a stage, whose rungs all serve unless `call` says otherwise."""
        here = replace(settings, database_url=database.url.render_as_string(hide_password=False))

        def run(stage: str, *ids: str, call: Call = serve_all, table: Sequence[Rule] = (RULE,)) -> StageReport:
            pipeline = Pipeline([*writers.stages(call), store.STAGE], table)
            return run_stage(pipeline, stage, ids, RunOptions(run_id="run"), here, fresh_runtime())

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

    @pytest.mark.parametrize("was_stored", [False, True])
    def test_it_is_not_stored_and_is_queued(
        self, database: Database, registered: Callable[..., str], run: Callable[..., StageReport], was_stored: bool
    ) -> None:
        """The item fails in `store`, with the rule, though it was stored before; its neighbour is stored."""
        registered("pair", "neighbour")
        self.put(database, "pair", look="poor", read="best", tell="fair")
        self.put(database, "neighbour", look="best", read="best", tell="best")
        if was_stored:
            assert run("store", "pair").statuses == {"succeeded": 1}
            assert in_the_store(database)["pair"] == ("stored", 0.5963)
        self.put(database, "pair", tell="best")
        assert run("store", "pair", "neighbour").statuses == {"failed": 1, "succeeded": 1}
        assert in_the_store(database) == {"pair": ("failed", None), "neighbour": ("stored", 1.0)}
        refused = self.kept(database, "pair")["store"]
        assert refused.error and refused.retryable
        assert refused.error.type == "Incompatible"
        assert str(RULE) in refused.error.message
        [entry] = retry_queue.entries(database, 10)
        assert (entry.item_id, entry.priority) == ("pair", retry_queue.Priority.NORMAL)

    def test_the_next_run_does_the_later_stage_again(
        self, database: Database, registered: Callable[..., str], run: Callable[..., StageReport]
    ) -> None:
        """By a rung that goes, though it is worse; then the item is stored."""
        registered("pair", "neighbour")
        self.put(database, "pair", look="poor", read="best", tell="best")
        self.put(database, "neighbour", look="best", read="best", tell="best")
        run("store", "pair", "neighbour")
        reports = [run(name, "pair", "neighbour") for name in (*PENALTIES, "store")]
        assert [report.items for report in reports] == [0, 0, 1, 1]
        assert self.kept(database, "pair")["tell"].rung == "fair"
        assert in_the_store(database) == {"pair": ("stored", 0.5963), "neighbour": ("stored", 1.0)}

    def test_two_runs_that_meet_in_the_middle(
        self, database: Database, registered: Callable[..., str], run: Callable[..., StageReport]
    ) -> None:
        """While one makes what goes with the old result, another lifts that, and stores the item: what the first one
        then saves is better, and forbidden. The item is not stored with it, and the next run mends it."""
        registered("a")
        self.put(database, "a", look="best", read=SKIP)
        table = ON_WHAT_IS_BETTER

        def meanwhile(name: str, inputs: Sequence[object]) -> Sequence[Outcome[str]]:
            self.put(database, "a", read="fair", tell="poor")
            assert run("store", "a", table=table).statuses == {"succeeded": 1}
            assert in_the_store(database) == {"a": ("stored", 0.4819)}
            return serve_all(name, inputs)

        run("tell", "a", call=meanwhile, table=table)
        assert {stage: one.rung for stage, one in self.kept(database, "a").items()} == {
            "look": "best",
            "read": "fair",
            "tell": "best",
            "store": "database",
        }
        run("store", "a", table=table)
        assert in_the_store(database) == {"a": ("failed", None)}
        for stage in (*PENALTIES, "store"):
            run(stage, "a", table=table)
        assert in_the_store(database) == {"a": ("stored", 0.5293)}


@pytest.mark.parametrize("kept_database", ["postgresql"], indirect=True)  # on SQLite writers queue by themselves
class TestTurns:
    """Two writers of the same items at the same moment."""

    def waiting(self, database: Database) -> int:
        """How many wait for another's lock."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        with database.read() as connection:
            return int(connection.scalar(sa.text(query)) or 0)

    def until_it_waits(self, database: Database, others: int, job: Future[Any]) -> None:
        """Until the job waits for a lock, beside so many others, or has ended."""
        while self.waiting(database) <= others and not job.done():
            wait([job], 0.01)

    def test_who_marks_second_waits_and_merges_what_is_there_then(
        self, database: Database, registered: Callable[..., str]
    ) -> None:
        """Just before an item is marked with what was kept a moment ago, somebody else does better and marks it too."""
        registered("a")
        results.save(database, steps("a", {**WAYS[0], "embed_text": "text_only"}))
        with ThreadPoolExecutor() as threads:
            others: list[Future[Any]] = []
            saved_before: list[bool] = []
            has_saved = threading.Event()

            def do_better() -> None:
                results.save(database, steps("a", WAYS[0]))
                has_saved.set()
                mark(database, "a")

            def get_in(connection: object, cursor: object, statement: str, *_: object) -> None:
                if statement.startswith("UPDATE items") and not others:
                    others.append(threads.submit(do_better))
                    self.until_it_waits(database, 0, others[0])
                    saved_before.append(has_saved.is_set())

            sa.event.listen(database.engine, "before_cursor_execute", get_in)
            assert mark(database, "a") == {"a": Decimal("0.95")}
            sa.event.remove(database.engine, "before_cursor_execute", get_in)
            others[0].result()
        assert saved_before == [False]
        assert in_the_store(database) == {"a": ("stored", 1.0)}

    def test_no_two_wait_for_each_other(self, database: Database, registered: Callable[..., str]) -> None:
        """One saves failures of two items that lie in one order while another marks them in the other."""
        registered("b", "a")
        for id_ in ("a", "b"):
            results.save(database, steps(id_, WAYS[0]))
        with ThreadPoolExecutor() as threads:
            with database.write() as connection:
                connection.execute(sa.select(items.c.id).where(items.c.id == "b").with_for_update())
                saves = threads.submit(results.save, database, [failed(id_, "extra") for id_ in ("a", "b")])
                self.until_it_waits(database, 0, saves)
                marks = threads.submit(mark, database, "a", "b")
                self.until_it_waits(database, 1, marks)
            saves.result()
            marks.result()
        assert in_the_store(database) == {"a": ("failed", None), "b": ("failed", None)}


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
                if best_so_far is None or one.rank > best_so_far.rank:
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
            assert {stage: (one.rung, one.rank) for stage, one in kept.items() if stage != "store"} == {
                stage: (one.rung, one.rank) for stage, one in best[id_].items()
            }
            way = {stage: kept[stage].rung for stage in PENALTIES}
            if any(kept[stage].status is Status.FAILED for stage in PENALTIES):
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
        "table", [ON_WHAT_IS_POOR, ON_WHAT_IS_BETTER], ids=["as the project's", "on what is better"]
    )
    def test_no_stored_item_has_a_forbidden_pair(
        self,
        database: Database,
        registered: Callable[..., str],
        fleet: Fleet,
        tmp_path: Path,
        table: Sequence[Rule],
    ) -> None:
        """Whole runs beside each other, each of which refreshes what the others did; and after another one by itself
        every item is stored."""
        registered(*IDS)
        run = {"ids": IDS, "home": str(tmp_path), "table": table}

        def ways() -> dict[str, dict[str, str | None]]:
            states = results.load(database, IDS)
            return {one.item.id: {stage: one.results[stage].rung for stage in PENALTIES} for one in states}

        fleet.do(database, writers.enrich, [{**run, "seed": n, "rounds": 4, "failing": 0.7} for n in range(4)])
        now = in_the_store(database)
        assert not [id_ for id_, way in ways().items() if now[id_][0] == "stored" and breaks(way, table)]
        fleet.do(database, writers.enrich, [{**run, "seed": 4, "rounds": 1, "failing": 0.0}])
        now = in_the_store(database)
        for id_, way in ways().items():
            assert not breaks(way, table)
            assert now[id_][0] == "stored"
            assert BY_QUALITY[now[id_][1] or 0] == way
