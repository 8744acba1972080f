"""Runs: their kind, start, heartbeat and end."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.schema import items, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row of `runs`. `quality` counts, by quality, all items of the store that were stored when the run ended."""

    id: str
    flow_run_id: str | None
    kind: str
    source: str
    started_at: datetime
    alive_at: datetime | None
    finished_at: datetime | None
    options: Mapping[str, Any] = field(default_factory=dict)
    lines: int = 0
    duplicates: int = 0
    notes: Sequence[str] | None = None
    summary: Mapping[str, Any] | None = None
    quality: Mapping[str, int] | None = None

    def state(self, now: datetime) -> str:
        """Return `ended`, `running`, or `cut off` where the last heartbeat is older than `DEAD_AFTER_S`.

        Args:
            now: the time by the store's clock, see `Database.now`.
        """
        if self.finished_at:
            return "ended"
        is_alive = self.alive_at is not None and now - self.alive_at < timedelta(seconds=DEAD_AFTER_S)
        return "running" if is_alive else "cut off"


ENRICH, REPROCESS = "enrich", "reprocess"
"""The kinds of runs."""

DEAD_AFTER_S = 60.0
"""Seconds without a heartbeat after which a run counts as dead."""


def start(
    database: Database, flow_run_id: str, source: str, options: Mapping[str, Any], now: datetime, kind: str = ENRICH
) -> str:
    """Record the start of a run under Prefect's `flow_run_id`; return the run's id."""
    run_id = str(uuid.uuid4())
    with database.write() as connection:
        row = {"id": run_id, "flow_run_id": flow_run_id, "kind": kind, "source": source, "started_at": now}
        alive = {"options": dict(options), "alive_at": database_time(connection)}
        connection.execute(sa.insert(runs).values({**row, **alive}))
    return run_id


def beat(database: Database, run_id: str) -> None:
    """Record a heartbeat of a run."""
    with database.write() as connection:
        now = database_time(connection)
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(alive_at=now))


def is_any_alive(database: Database, kind: str) -> bool:
    """Return whether a run of this kind is alive."""
    with database.read() as connection:
        is_alive = runs.c.alive_at > database_time(connection) - timedelta(seconds=DEAD_AFTER_S)
        query = sa.select(runs.c.id).where(runs.c.kind == kind, runs.c.finished_at.is_(None), is_alive)
        return connection.execute(query.limit(1)).first() is not None


def finish(
    database: Database,
    run_id: str,
    now: datetime,
    notes: Iterable[str] = (),
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Record the end of a run and the qualities of all stored items at that time.

    Args:
        notes: lines that the run's report shows besides the counts.
        summary: further data for the report, as JSON.
    """
    values: dict[str, Any] = {"notes": list(notes), "summary": dict(summary) if summary else None}
    stored = sa.select(items.c.quality, sa.func.count()).where(items.c.state == "stored").group_by(items.c.quality)
    with database.write() as connection:
        values["quality"] = {
            str(quality): count for quality, count in connection.execute(stored.order_by(items.c.quality))
        }
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(finished_at=now, **values))


def find(database: Database, run_id: str) -> Run:
    """Return the run of this id. Raises NoResultFound where there is none."""
    with database.read() as connection:
        return Run(**connection.execute(sa.select(runs).where(runs.c.id == run_id)).mappings().one())


def of_flow_run(database: Database, flow_run_id: str) -> Run | None:
    """Return the run of this Prefect flow run; None where the flow run ended before it started one."""
    with database.read() as connection:
        row = connection.execute(sa.select(runs).where(runs.c.flow_run_id == flow_run_id)).mappings().first()
    return Run(**row) if row else None


def latest(database: Database, kind: str = ENRICH, source: str | None = None) -> Run | None:
    """Return the latest run of this kind; of one source, where it is given. None where there is none."""
    condition = runs.c.kind == kind if source is None else sa.and_(runs.c.kind == kind, runs.c.source == source)
    with database.read() as connection:
        row = (
            connection.execute(sa.select(runs).where(condition).order_by(runs.c.started_at.desc()).limit(1))
            .mappings()
            .first()
        )
    return Run(**row) if row else None
