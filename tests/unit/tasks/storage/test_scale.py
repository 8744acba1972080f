"""The cost of an item does not grow with the store: portions, indexes and lists that end. `scale` measures it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.items import Item
from repli.tasks.storage import catalogue, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims
from repli.tasks.storage.retry.claims import RetryTarget
from repli.tasks.storage.retry.retries import UNCHANGED
from repli.tasks.storage.schema import incoming, items, retries, retry_queue, run_items, step_results
from repli.tasks.storage.schema import runs as runs_table

NIGHT = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
NEEDS = (
    "classify_image=cpu?;store=database",
    "classify_image=rules?;store=database",
    "classify_image=!?",
    "embed_text=hashed?;store=database",  # no target matches it
)
TARGETS = [RetryTarget(stage="classify_image", rungs=("cpu", "rules", None))]


@dataclass(slots=True)
class Recorded:
    """What a block did to a store.

    Args:
        changed: of each transaction that changed rows, their number by the word and table of the statement.
        statements: each statement with its parameters.
        instructions: tens of instructions of SQLite's virtual machine.
    """

    changed: list[Counter[str]] = field(default_factory=list)
    statements: list[tuple[str, Any]] = field(default_factory=list)
    instructions: int = 0

    def reads(self) -> list[tuple[str, Any]]:
        return [(text, values) for text, values in self.statements if text.startswith(("SELECT", "WITH"))]


@contextmanager
def recorded(database: Database) -> Iterator[Recorded]:
    """Record every transaction of the block."""
    record = Recorded()
    of_transaction: Counter[str] = Counter()

    def count() -> int:
        record.instructions += 1
        return 0

    def begin(connection: sa.Connection) -> None:
        of_transaction.clear()
        if database.is_sqlite:
            connection.connection.driver_connection.set_progress_handler(count, 10)  # type: ignore[union-attr]

    def execute(_: object, cursor: Any, statement: str, values: Any, *others: object) -> None:
        record.statements.append((statement, values))
        word, *rest = statement.split()
        if word in {"INSERT", "UPDATE", "DELETE"}:
            of_transaction[f"{word} {rest[0] if word == 'UPDATE' else rest[1]}"] += max(0, cursor.rowcount)

    def commit(_: object) -> None:
        if of_transaction:
            record.changed.append(Counter(of_transaction))

    listeners: dict[str, Callable[..., None]] = {"begin": begin, "after_cursor_execute": execute, "commit": commit}
    for name, listener in listeners.items():
        sa.event.listen(database.engine, name, listener)
    try:
        yield record
    finally:
        for name, listener in listeners.items():
            sa.event.remove(database.engine, name, listener)
        if database.is_sqlite:
            with database.engine.connect() as connection:
                connection.connection.driver_connection.set_progress_handler(None, 0)  # type: ignore[union-attr]


class TestClaims:
    """A claim reads the items that it takes."""

    def test_a_claim_costs_the_same_in_a_long_queue(self, database: Database) -> None:
        """At most twice as much at 20,000 queued items as at 1,000: instructions on SQLite, rows on PostgreSQL."""
        costs = []
        for first, last in ((0, 1000), (1000, 20_000)):
            fill_queue(database, first, last)
            with recorded(database) as record:
                claimed = claims.claim(database, "holder", TARGETS, 128, 600)
            assert len(claimed) == 128
            claims.release(database, "holder")
            costs.append(record.instructions if database.is_sqlite else rows_read(database, record))
        assert 0 < costs[1] <= 2 * costs[0]

    def test_its_plan_is_the_index_of_turns(self, database: Database) -> None:
        """The items come out of it in their order: no row is read that is not claimed, and none is sorted."""
        fill_queue(database, 0, 20_000)
        with recorded(database) as record:
            claims.claim(database, "holder", TARGETS, 128, 600)
        claims.release(database, "holder")
        in_turn = [(text, values) for text, values in record.reads() if "ORDER BY retry_queue.priority" in text]
        of_needs = [(text, values) for text, values in in_turn if "retry_queue.needs = " in text]
        assert len(of_needs) == 3, "one for each needs that a target matches"
        for text, values in of_needs:
            lines = plan(database, text, values)
            assert any("retry_queue_by_turn" in line for line in lines), lines
            assert not any(word in line for line in lines for word in ("SCAN", "Seq Scan", "Sort", "B-TREE")), lines


def fill_queue(database: Database, first: int, last: int) -> None:
    """Queue items of several needs and qualities, as many of each."""
    ids = [f"item-{number:06d}" for number in range(first, last)]
    rows = [{"id": id_, "record": {}, "fingerprint": "", "state": "stored", "quality": 0.5} for id_ in ids]
    queued = [
        {
            "item_id": id_,
            "priority": 3,
            "quality": 0.5 + number * 37 % 100 / 400,
            "enqueued_at": NIGHT + timedelta(seconds=number * 7919 % 20_000),
            "state": "ready",
            "tries": 0,
            "needs": NEEDS[number % len(NEEDS)],
        }
        for number, id_ in enumerate(ids)
    ]
    with database.write() as connection:
        connection.execute(sa.insert(items), rows)
        connection.execute(sa.insert(retry_queue), queued)
        if not database.is_sqlite:
            connection.execute(sa.text("ANALYZE retry_queue"))  # as a run does, and PostgreSQL by itself in time


def plan(database: Database, statement: str, values: Any) -> list[str]:
    """Return the lines of the database's plan for a statement; it is not carried out."""
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    with database.read() as connection:
        return [str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", values)]


def rows_read(database: Database, record: Recorded) -> int:
    """Return the rows that PostgreSQL reads for the statements on the queue, carried out again and rolled back."""
    rows = 0
    with database.engine.connect() as connection:
        for statement, values in record.statements:
            if "retry_queue" in statement:
                explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
                rows += rows_of(explained.scalar_one()[0]["Plan"])
        connection.rollback()
    return rows


def rows_of(node: dict[str, Any]) -> int:
    """Return the rows that a node of a plan and those below it passed on or removed."""
    passed = node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
    return int(passed) + sum(rows_of(below) for below in node.get("Plans", ()))


class TestRegistration:
    """Nobody waits long for a registration, however large."""

    LINES = 2500

    def test_no_transaction_holds_more_than_a_portion(self, database: Database) -> None:
        """Neither of a new manifest, nor of one whose items are known, nor of one in which all have changed."""
        for name in ("name", "name", "another name"):
            run_id = begin_run(database)
            with recorded(database) as record:
                catalogue.register(database, run_id, made_up(self.LINES, name))
            portions = [max(changed.values()) for changed in record.changed]
            assert max(portions) == catalogue.LINES_PER_TRANSACTION
            assert len([size for size in portions if size > 1]) == 6, "three to take the lines in, three to merge them"
            total = sum(record.changed, Counter())
            assert total["INSERT run_items"] == total["DELETE incoming"] == self.LINES

    def test_the_lines_of_a_killed_run_go_in_portions(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runs, "ROWS_PER_DELETE", 100)
        killed = begin_run(database, alive_at=NIGHT)
        row = {"run_id": killed, "ordinal": 0, "record": {}, "fingerprint": ""}
        with database.write() as connection:
            connection.execute(sa.insert(incoming), [{**row, "item_id": f"item-{n}"} for n in range(250)])
        with recorded(database) as record:
            catalogue.register(database, begin_run(database), [])
        deleted = [changed["DELETE incoming"] for changed in record.changed if changed["DELETE incoming"]]
        assert deleted == [100, 100, 50]


class TestBatches:
    """The cost of a batch does not grow with the run."""

    @pytest.fixture(autouse=True)
    def _reads_are_small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(catalogue, "IDS_PER_READ", 100)

    @pytest.mark.parametrize("refresh", [False, True])
    def test_no_read_returns_more_than_a_portion(self, database: Database, *, refresh: bool) -> None:
        """And all of them together look at each item of the run once."""
        run_id = begin_run(database)
        catalogue.register(database, run_id, made_up(350))
        with recorded(database) as record:
            found = list(catalogue.batches(database, run_id, 64, refresh=refresh))
        assert [len(ids) for ids in found] == [64, 64, 64, 64, 64, 30]
        assert [id_ for ids in found for id_ in ids] == [item.id for item in made_up(350)]
        assert sizes_of_reads(database, record, "run_items") == [100, 100, 100, 50, 0]
        assert sizes_of_reads(database, record, "items") == [100, 100, 100, 50]

    def test_the_first_batch_reads_the_first_portion(self, database: Database) -> None:
        run_id = begin_run(database)
        catalogue.register(database, run_id, made_up(350))
        with recorded(database) as record:
            next(catalogue.batches(database, run_id, 64, refresh=False))
        assert sizes_of_reads(database, record, "run_items") == [100]

    def test_postgresql_knows_how_large_the_tables_are(self, database: Database) -> None:
        """Or it would read whole tables for a batch, until its own look at them after a minute. It looks again at those
        that have doubled, and at no other."""
        if not database.is_sqlite:
            with database.write() as connection:  # so that it knows nothing from other tests
                connection.execute(sa.text("TRUNCATE items, run_items, step_results CASCADE"))
        run_id = begin_run(database)
        catalogue.register(database, run_id, made_up(350))
        with recorded(database) as record:
            batches = catalogue.batches(database, run_id, 32, refresh=False)
            next(batches)
            if not database.is_sqlite:
                assert known_rows(database, "items", "run_items") == [350, 350]
            save_results(database, 350)
            list(batches)
            if not database.is_sqlite:
                assert known_rows(database, "step_results") == [350]
        looks = [text for text, _ in record.statements if text.startswith("ANALYZE")]
        assert looks == ([] if database.is_sqlite else ["ANALYZE items, run_items", "ANALYZE step_results"])


def known_rows(database: Database, *tables: str) -> list[float]:
    """Return how many rows PostgreSQL takes each table to have."""
    query = sa.text("SELECT reltuples FROM pg_class WHERE relname = ANY(:names) ORDER BY relname")
    with database.read() as connection:
        return list(connection.scalars(query, {"names": list(tables)}))


def save_results(database: Database, count: int) -> None:
    """Save a result of `count` items that are registered."""
    row = {"stage": "fetch", "status": "succeeded", "rank": 4, "retryable": False, "attempts": [], "run_id": "run"}
    with database.write() as connection:
        connection.execute(
            sa.insert(step_results), [{**row, "finished_at": NIGHT, "item_id": item.id} for item in made_up(count)]
        )


def sizes_of_reads(database: Database, record: Recorded, table: str) -> list[int]:
    """Return how many rows each read of a table returned."""
    with database.read() as connection:
        return [
            len(connection.exec_driver_sql(text, values).all())
            for text, values in record.reads()
            if f"FROM {table} " in text.replace("\n", " ").partition("WHERE")[0] + " "
        ]


class TestPrune:
    """A store does not grow with each run."""

    def test_lists_of_the_last_runs_stay(self, database: Database) -> None:
        """Of each source and kind. Summaries stay, and all of a run that is alive, however old."""
        now = database.now()
        minutes = iter(range(1000))

        def run(source: str, kind: str = runs.ENRICH, *, is_alive: bool = False) -> str:
            started_at = now - timedelta(minutes=1000 - next(minutes))
            run_id = begin_run(database, source=source, kind=kind, started_at=started_at)
            if kind == runs.ENRICH:
                catalogue.register(database, run_id, made_up(3))
            else:
                record_retries(database, run_id, 3)
            runs.summarize(database, run_id, {"of": run_id})
            if not is_alive:
                runs.finish(database, run_id, now, summary={"of": run_id})
            return run_id

        alive = run("a", is_alive=True)
        killed = run("a", is_alive=True)
        with database.write() as connection:
            long_ago = now - timedelta(seconds=2 * runs.DEAD_AFTER_S)
            connection.execute(
                sa.update(runs_table).where(runs_table.c.id == killed).values(alive_at=long_ago, finished_at=None)
            )
        of_a = [run("a") for _ in range(4)]
        of_b = [run("b") for _ in range(2)]
        healing = [run("queue", runs.REPROCESS) for _ in range(4)]
        runs.prune(database, 2)
        assert ids_with_rows(database, run_items) == {alive, *of_a[-2:], *of_b}
        assert ids_with_rows(database, retries) == set(healing[-2:])
        for run_id in (alive, killed, *of_a, *of_b, *healing):
            assert runs.find(database, run_id).summary == {"of": run_id}
        with recorded(database) as record:
            runs.prune(database, 2)
        assert not record.changed, "there is nothing left to delete"

    def test_in_portions(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits long for it."""
        monkeypatch.setattr(runs, "ROWS_PER_DELETE", 100)
        for size in (250, 3):
            run_id = begin_run(database)
            catalogue.register(database, run_id, made_up(size))
            record_retries(database, run_id, size)
            runs.finish(database, run_id, database.now())
        with recorded(database) as record:
            runs.prune(database, 1)
        for table in ("run_items", "retries"):
            deleted = [changed[f"DELETE {table}"] for changed in record.changed if changed[f"DELETE {table}"]]
            assert deleted == [100, 100, 50]


def begin_run(database: Database, *, source: str = "manifest.jsonl", kind: str = runs.ENRICH, **values: Any) -> str:
    """Start a run; `values` replace those of its row."""
    run_id = runs.start(database, str(uuid.uuid4()), source, {}, values.get("started_at", database.now()), kind=kind)
    if values:
        with database.write() as connection:
            connection.execute(sa.update(runs_table).where(runs_table.c.id == run_id).values(**values))
    return run_id


def made_up(count: int, name: str = "name") -> list[Item]:
    """Return items whose order is not that of their ids."""
    return [Item(id=f"item-{count - number:06d}", name=name) for number in range(count)]


def record_retries(database: Database, run_id: str, count: int) -> None:
    """Record an outcome for each of `count` items that are registered."""
    row = {"run_id": run_id, "outcome": UNCHANGED, "at": NIGHT}
    with database.write() as connection:
        connection.execute(sa.insert(retries), [{**row, "item_id": item.id} for item in made_up(count)])


def ids_with_rows(database: Database, table: sa.Table) -> set[str]:
    with database.read() as connection:
        return set(connection.scalars(sa.select(table.c.run_id).distinct()))
