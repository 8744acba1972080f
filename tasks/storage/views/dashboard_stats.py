"""The stats of the dashboard, counted by the database: no item is loaded.

With 100,000 items the slowest query takes a fraction of a second; `tests/benchmarks/search_latency.py` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from repli.tasks.fallback import RepliError
from repli.tasks.storage import breakers, counts, drills, pipelines, runs
from repli.tasks.storage.breakers import BreakerView, Move
from repli.tasks.storage.counts import Tally
from repli.tasks.storage.database import HEAD, Database, database_time
from repli.tasks.storage.drills import Drill
from repli.tasks.storage.pipelines import StoredPipeline
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.retry.retry_queue import PARKED, Entry, Priority, QueueTally
from repli.tasks.storage.runs import DEAD_AFTER_S, Run
from repli.tasks.storage.schema import retry_queue as queue_table
from repli.tasks.storage.schema import runs as runs_table
from repli.tasks.storage.views import lookup
from repli.tasks.storage.views.lookup import FlaggedItem

RUNS = 40
MOVES = 20
LISTED = 10
DRILLS = 5


def open_read_only(url: str) -> Database:
    """Open the store at a URL for reading only.

    Raises:
        RepliError: there is no store, or its migration is not this version's.
    """
    database = Database(url, is_read_only=True)
    version = database.version()
    if version is None:
        raise RepliError(f"there is no store at {database}; make one with `repli run SOURCE`")
    if version < HEAD:
        raise RepliError(f"the store {database} was made by an older Repli; run `repli status` to migrate it")
    if version > HEAD:
        raise RepliError(f"the store {database} was made by a newer Repli; upgrade Repli")
    return database


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuality:
    """The number of stored items by quality at the end of a run."""

    run_id: str
    kind: str
    finished_at: datetime
    quality: Mapping[float, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The number of queued items of one priority and age. Parked items have no priority."""

    priority: Priority | None
    age: str
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardStats:
    """The stats of the first page, all from about the same time."""

    at: datetime
    pipeline: StoredPipeline
    tally: Tally
    last_run: Run | None
    is_running: bool
    quality_over_time: Sequence[RunQuality]
    breakers: Sequence[BreakerView]
    moves: Sequence[Move]
    queue: QueueTally
    waiting: Sequence[Waiting]
    first_in_queue: Sequence[Entry]
    drills: Sequence[Drill]
    lowest: Sequence[FlaggedItem]


def collect_stats(database: Database, pipeline: StoredPipeline) -> DashboardStats:
    """Collect the present stats of a store that this pipeline fills."""
    with database.read() as connection:
        now = database_time(connection)
    last = max(
        (run for kind in (runs.ENRICH, runs.REPROCESS) if (run := runs.latest(database, kind))),
        key=lambda run: run.started_at,
        default=None,
    )
    return DashboardStats(
        at=now,
        pipeline=pipeline,
        tally=counts.tally(database, pipeline.names),
        last_run=last,
        is_running=last is not None and is_at_work(last, now),
        quality_over_time=quality_over_time(database, RUNS),
        breakers=breakers.views(database, {**pipeline.breakers, **pipelines.task_breakers(database)}),
        moves=breakers.last_moves(database, MOVES),
        queue=retry_queue.tally(database),
        waiting=waiting(database, now),
        first_in_queue=retry_queue.entries(database, LISTED),
        drills=drills.latest(database, DRILLS),
        lowest=lookup.lowest(database, None, LISTED),
    )


def is_at_work(run: Run, now: datetime) -> bool:
    """Return whether a run has not ended and its last heartbeat is younger than `DEAD_AFTER_S`."""
    return run.finished_at is None and (run.alive_at or run.started_at) > now - timedelta(seconds=DEAD_AFTER_S)


def quality_over_time(database: Database, count: int) -> list[RunQuality]:
    """Return the qualities of the store at the ends of the latest `count` runs, oldest first.

    Runs before migration 0006 recorded none and are absent.
    """
    columns = runs_table.c.id, runs_table.c.kind, runs_table.c.finished_at, runs_table.c.quality
    query = sa.select(*columns).where(runs_table.c.finished_at.is_not(None))
    with database.read() as connection:
        rows = connection.execute(query.order_by(runs_table.c.finished_at.desc()).limit(count)).all()
    return [
        RunQuality(
            run_id=row.id,
            kind=row.kind,
            finished_at=row.finished_at,
            quality={float(quality): items for quality, items in row.quality.items()},
        )
        for row in reversed(rows)
        if row.quality is not None
    ]


AGES: Mapping[str, timedelta] = {
    "under 5 min": timedelta(minutes=5),
    "under 1 h": timedelta(hours=1),
    "under 6 h": timedelta(hours=6),
    "under 1 day": timedelta(days=1),
}
OLDEST = "older"


def waiting(database: Database, now: datetime) -> list[Waiting]:
    """Count the queue by priority and age: HIGH first, then the youngest first, parked items last."""
    queued = queue_table.c
    ages = [*AGES, OLDEST]
    age = sa.case(
        *((queued.enqueued_at > now - limit, number) for number, limit in enumerate(AGES.values())), else_=len(AGES)
    ).label("age")
    is_parked = (queued.state == PARKED).label("is_parked")
    query = sa.select(is_parked, queued.priority, age, sa.func.count())
    with database.read() as connection:
        rows = connection.execute(query.group_by(sa.text("is_parked"), queued.priority, sa.text("age"))).all()
    found: dict[tuple[bool, int, int], int] = {}
    for is_parked, priority, number, count in rows:
        key = bool(is_parked), 0 if is_parked else priority, number
        found[key] = found.get(key, 0) + count
    return [
        Waiting(priority=None if is_parked else Priority(priority), age=ages[number], items=count)
        for (is_parked, priority, number), count in sorted(found.items())
    ]
