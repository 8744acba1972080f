"""What a dashboard shows of a store: counts, all of them made by the database. No item is loaded.

Of 100,000 items the slowest of these takes a fraction of a second; `tests/benchmarks/search_latency.py` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from repli.tasks.fallback import Breaker, RepliError
from repli.tasks.storage import breakers, drills, runs
from repli.tasks.storage.breakers import BreakerView, Move
from repli.tasks.storage.database import HEAD, Database, database_time
from repli.tasks.storage.drills import Drill
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.retry.retry_queue import Entry, Priority, QueueTally
from repli.tasks.storage.runs import DEAD_AFTER_S, Run, Tally
from repli.tasks.storage.schema import retry_queue as queue_table
from repli.tasks.storage.schema import runs as runs_table
from repli.tasks.storage.views import lookup
from repli.tasks.storage.views.lookup import Finding

RUNS = 40
MOVES = 20
LISTED = 10
DRILLS = 5


def opened(url: str) -> Database:
    """The store at a URL, to be read and never written.

    Raises:
        RepliError: there is none, or it is of another age than this code.
    """
    database = Database(url, is_read_only=True)
    version = database.version()
    if version is None:
        raise RepliError(f"there is no store at {database}; make one with `repli run SOURCE`")
    if version < HEAD:
        raise RepliError(f"the store {database} is of an older Repli; `repli status` brings it up to date")
    if version > HEAD:
        raise RepliError(f"the store {database} is of a newer Repli than this one; upgrade this one")
    return database


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuality:
    """How good the whole store was when a run ended: its items by quality."""

    run_id: str
    kind: str
    finished_at: datetime
    quality: Mapping[float, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How many items of one priority have waited in the queue for so long. Parked ones have no priority."""

    priority: Priority | None
    age: str
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All that the first page shows, of one moment or nearly so."""

    at: datetime
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
    lowest: Sequence[Finding]


def figures(database: Database, stages: Sequence[str], declared: Mapping[str, Breaker]) -> Figures:
    """The figures of a store as it stands.

    Args:
        stages: in their order.
        declared: the breakers, by name.
    """
    with database.read() as connection:
        now = database_time(connection)
    last = max(
        (run for kind in (runs.ENRICH, runs.REPROCESS) if (run := runs.latest(database, kind))),
        key=lambda run: run.started_at,
        default=None,
    )
    return Figures(
        at=now,
        tally=runs.tally(database, stages),
        last_run=last,
        is_running=last is not None and is_at_work(last, now),
        quality_over_time=quality_over_time(database, RUNS),
        breakers=breakers.views(database, declared),
        moves=breakers.last_moves(database, MOVES),
        queue=retry_queue.tally(database),
        waiting=waiting(database, now),
        first_in_queue=retry_queue.entries(database, LISTED),
        drills=drills.latest(database, DRILLS),
        lowest=lookup.lowest(database, None, LISTED),
    )


def is_at_work(run: Run, now: datetime) -> bool:
    """Whether a run has not ended, and was heard of not long ago."""
    return run.finished_at is None and (run.alive_at or run.started_at) > now - timedelta(seconds=DEAD_AFTER_S)


def quality_over_time(database: Database, count: int) -> list[RunQuality]:
    """How good the store was at the ends of the last runs, oldest first; of runs before migration 0006 nobody knows."""
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
    """The queue by priority and age: HIGH first, the youngest first, parked items last."""
    queued = queue_table.c
    ages = [*AGES, OLDEST]
    age = sa.case(
        *((queued.enqueued_at > now - limit, number) for number, limit in enumerate(AGES.values())), else_=len(AGES)
    ).label("age")
    query = sa.select(queued.is_parked, queued.priority, age, sa.func.count())
    with database.read() as connection:
        rows = connection.execute(query.group_by(queued.is_parked, queued.priority, sa.text("age"))).all()
    found: dict[tuple[bool, int, int], int] = {}
    for is_parked, priority, number, count in rows:
        key = bool(is_parked), 0 if is_parked else priority, number
        found[key] = found.get(key, 0) + count
    return [
        Waiting(priority=None if is_parked else Priority(priority), age=ages[number], items=count)
        for (is_parked, priority, number), count in sorted(found.items())
    ]
