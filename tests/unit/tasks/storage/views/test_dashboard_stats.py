"""What a dashboard shows: the right counts, on both databases, through a way in that cannot write."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from repli.tasks.fallback import Breaker, Chain, RepliError, Rung, StoreError
from repli.tasks.fallback.breaker import Cause
from repli.tasks.storage import breakers, runs
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import HEAD, Database
from repli.tasks.storage.pipelines import StoredPipeline
from repli.tasks.storage.retry.retry_queue import Priority
from repli.tasks.storage.views import dashboard_stats
from repli.tasks.storage.views.dashboard_stats import RunQuality, Waiting, open_read_only
from tests.support.queue import STAGE, Queue

BREAKER = Breaker(scope="fleet")
NAME = f"{STAGE}.gpu"


PIPELINE = StoredPipeline(
    name="shop:pipeline",
    chains=(Chain(STAGE, Rung(NAME.partition(".")[2], lambda inputs, context: [], time_limit_s=1, breaker=BREAKER)),),
    produces={},
)


@pytest.fixture
def reader(database: Database) -> Iterator[Database]:
    """The same store, for reading only."""
    store = open_read_only(database.url.render_as_string(hide_password=False))
    yield store
    store.engine.dispose()


def test_the_figures_are_those_of_the_store(database: Database, reader: Database) -> None:
    """Items, runs, breakers and queue, each counted once."""
    queue = Queue(database)
    first = queue.register("whole", "low", "lower", "failed", "new")
    queue.store("whole", at="1")
    queue.store("low", "lower", at="0.5")
    queue.fail("failed")
    runs.finish(database, first, datetime.now(UTC))
    queue.store("lower", at="0.9")
    second = queue.begin_run()
    breakers.override(database, BREAKER, Key(NAME), Cause.FORCED_OPEN)
    breakers.override(database, BREAKER, Key(NAME), Cause.RESET)
    shown = dashboard_stats.collect_stats(reader, PIPELINE)

    assert (shown.tally.items, shown.tally.stored, shown.tally.failed, shown.tally.pending) == (5, 3, 1, 1)
    assert shown.tally.quality == {1.0: 1, 0.9: 1, 0.5: 1}
    assert shown.tally.stages[STAGE] == {"succeeded": 1, "degraded": 2, "failed": 1, "pending": 1}
    assert shown.tally.rungs[STAGE] == {"cpu": 3}
    assert [(run.run_id, run.quality) for run in shown.quality_over_time] == [(first, {0.5: 2, 1.0: 1})]
    assert shown.last_run
    assert (shown.last_run.id, shown.is_running) == (second, True)
    assert [str(move) for move in shown.moves] == [
        f"{NAME}: forced_open → closed (reset)",
        f"{NAME}: closed → forced_open (forced open)",
    ]
    assert [(view.key.name, view.state.position) for view in shown.breakers] == [(NAME, "closed")]
    assert (shown.queue.waiting, [entry.item_id for entry in shown.first_in_queue]) == (2, ["failed", "low"])
    assert [(one.id, one.quality) for one in shown.lowest] == [("low", 0.5), ("lower", 0.9)]
    assert shown.drills == []


def test_the_queue_is_told_by_priority_and_age(database: Database, reader: Database) -> None:
    """Whoever a person asked for comes first; the parked ones have no turn, and come last."""
    queue = Queue(database)
    queue.register(*"abcdef")
    queue.store("a", "b")
    queue.park("a")
    queue.pass_time(7 * 3600)
    queue.store("c", "d")
    queue.enqueue_by_operator("c")
    queue.pass_time(600)
    queue.store("e")
    queue.fail("f")
    with reader.read() as connection:
        assert dashboard_stats.waiting(reader, dashboard_stats.database_time(connection)) == [
            Waiting(priority=Priority.HIGH, age="under 1 h", items=1),
            Waiting(priority=Priority.NORMAL, age="under 5 min", items=1),
            Waiting(priority=Priority.LOW, age="under 5 min", items=1),
            Waiting(priority=Priority.LOW, age="under 1 h", items=1),
            Waiting(priority=Priority.LOW, age="under 1 day", items=1),
            Waiting(priority=None, age="under 1 day", items=1),
        ]


def test_quality_over_time_begins_with_the_oldest(database: Database, reader: Database) -> None:
    """Of many runs the last ones are told; one that has not ended has no quality yet."""
    queue = Queue(database)
    queue.register("a")
    start = datetime(2026, 11, 1, tzinfo=UTC)
    ended = []
    for day in range(4):
        queue.store("a", at=f"0.{day + 5}")
        ended.append(runs.start(database, str(uuid.uuid4()), "items.jsonl", {}, start))
        runs.finish(database, ended[-1], start + timedelta(days=day))
    queue.begin_run()
    found = dashboard_stats.quality_over_time(reader, 2)
    assert found == [
        RunQuality(run_id=ended[day], kind="enrich", finished_at=start + timedelta(days=day), quality={quality: 1})
        for day, quality in ((2, 0.7), (3, 0.8))
    ]


def test_an_empty_store_has_figures_too(reader: Database) -> None:
    """Nothing is divided by zero, and nothing is missing."""
    shown = dashboard_stats.collect_stats(reader, PIPELINE)
    assert (shown.tally.items, shown.last_run, shown.is_running, list(shown.waiting)) == (0, None, False, [])


def test_nothing_can_be_written(reader: Database) -> None:
    """The way in is for reading, whoever asks."""
    with pytest.raises((StoreError, sa.exc.DBAPIError), match=r"readonly|read-only"), reader.write() as connection:
        connection.execute(sa.text("DELETE FROM items"))


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """The message says how one is."""
    with pytest.raises(RepliError, match=r"there is no store at .*; make one with `repli run SOURCE`"):
        open_read_only(f"sqlite:///{tmp_path / 'store.db'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("0005", "made by an older Repli; run `repli status` to migrate it"),
        ("9999", "made by a newer Repli; upgrade Repli"),
    ],
)
def test_a_store_of_another_age_is_told(database: Database, reader: Database, version: str, told: str) -> None:
    """It is left as it is, and the message says what to do."""
    aged = sa.text("UPDATE alembic_version SET version_num = :version")
    with database.write() as connection:
        connection.execute(aged, {"version": version})
    try:
        with pytest.raises(RepliError, match=told):
            open_read_only(reader.url.render_as_string(hide_password=False))
        assert database.version() == version != HEAD
    finally:
        with database.write() as connection:
            connection.execute(aged, {"version": HEAD})
