"""Runs: when they began and ended, and what they, or the whole store, amount to. Counted by the database."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import AttemptOutcome, Status, mean_quality
from repli.tasks.storage.catalogue import has_work
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.schema import items, run_items, runs, step_results


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a set of items amounts to.

    `quality` counts stored items by quality; `stages` counts items by stage and status, pending included; `rungs`
    by stage and the rung that served.
    """

    items: int
    stored: int
    failed: int
    degraded: int
    quality: Mapping[float, int]
    stages: Mapping[str, Mapping[str, int]]
    rungs: Mapping[str, Mapping[str, int]]

    @property
    def mean_quality(self) -> float | None:
        return mean_quality(self.quality)

    @property
    def pending(self) -> int:
        """Items neither stored nor failed."""
        return self.items - self.stored - self.failed

    def as_json(self) -> dict[str, Any]:
        return {
            "items": self.items,
            "stored": self.stored,
            "failed": self.failed,
            "degraded": self.degraded,
            "mean_quality": self.mean_quality,
            "quality": {str(quality): count for quality, count in self.quality.items()},
            "stages": {stage: dict(counts) for stage, counts in self.stages.items()},
            "rungs": {stage: dict(counts) for stage, counts in self.rungs.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row of `runs`. `quality` counts all items that were stored when it ended, by quality."""

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
        """Return `ended`, `running`, or `cut off` where nothing has been heard of it for `DEAD_AFTER_S`.

        Args:
            now: the time by the store's clock, see `Database.now`.
        """
        if self.finished_at:
            return "ended"
        is_heard_of = self.alive_at is not None and now - self.alive_at < timedelta(seconds=DEAD_AFTER_S)
        return "running" if is_heard_of else "cut off"


ENRICH, REPROCESS = "enrich", "reprocess"
"""The kinds of runs."""

DEAD_AFTER_S = 60.0
"""A run that has not been heard of for so long is not working any more."""


def start(
    database: Database, flow_run_id: str, source: str, options: Mapping[str, Any], now: datetime, kind: str = ENRICH
) -> str:
    """Begin a run, under Prefect's `flow_run_id`; its id."""
    run_id = str(uuid.uuid4())
    with database.write() as connection:
        row = {"id": run_id, "flow_run_id": flow_run_id, "kind": kind, "source": source, "started_at": now}
        alive = {"options": dict(options), "alive_at": database_time(connection)}
        connection.execute(sa.insert(runs).values({**row, **alive}))
    return run_id


def beat(database: Database, run_id: str) -> None:
    """Note that a run is alive."""
    with database.write() as connection:
        now = database_time(connection)
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(alive_at=now))


def is_any_alive(database: Database, kind: str) -> bool:
    """Whether a run of this kind is at work."""
    with database.read() as connection:
        heard_of = runs.c.alive_at > database_time(connection) - timedelta(seconds=DEAD_AFTER_S)
        query = sa.select(runs.c.id).where(runs.c.kind == kind, runs.c.finished_at.is_(None), heard_of)
        return connection.execute(query.limit(1)).first() is not None


def finish(
    database: Database,
    run_id: str,
    now: datetime,
    notes: Iterable[str] = (),
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Note that a run ended, how good the store is then, and what its report is to say besides the counts."""
    told: dict[str, Any] = {"notes": list(notes), "summary": dict(summary) if summary else None}
    stored = sa.select(items.c.quality, sa.func.count()).where(items.c.state == "stored").group_by(items.c.quality)
    with database.write() as connection:
        told["quality"] = {
            str(quality): count for quality, count in connection.execute(stored.order_by(items.c.quality))
        }
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(finished_at=now, **told))


def find(database: Database, run_id: str) -> Run:
    """The run of this id, which there is."""
    with database.read() as connection:
        return Run(**connection.execute(sa.select(runs).where(runs.c.id == run_id)).mappings().one())


def of_flow_run(database: Database, flow_run_id: str) -> Run | None:
    """The run of this Prefect flow run; None where it ended before it began one."""
    with database.read() as connection:
        row = connection.execute(sa.select(runs).where(runs.c.flow_run_id == flow_run_id)).mappings().first()
    return Run(**row) if row else None


def latest(database: Database, kind: str = ENRICH, source: str | None = None) -> Run | None:
    """The run of this kind that began last, of one source where it is named."""
    wanted = runs.c.kind == kind if source is None else sa.and_(runs.c.kind == kind, runs.c.source == source)
    with database.read() as connection:
        row = (
            connection.execute(sa.select(runs).where(wanted).order_by(runs.c.started_at.desc()).limit(1))
            .mappings()
            .first()
        )
    return Run(**row) if row else None


def tally(database: Database, stages: Iterable[str], run_id: str | None = None) -> Tally:
    """What the items of a run amount to now; without `run_id`, all items in the store."""
    mine = of_run(run_id)
    with database.read() as connection:
        states = connection.execute(
            sa.select(items.c.state, items.c.quality, sa.func.count())
            .where(mine)
            .group_by(items.c.state, items.c.quality)
        ).all()
        steps = connection.execute(
            sa.select(step_results.c.stage, step_results.c.status, step_results.c.rung, sa.func.count())
            .where(sa.true() if run_id is None else step_results.c.item_id.in_(_ids_of(run_id)))
            .group_by(step_results.c.stage, step_results.c.status, step_results.c.rung)
        ).all()
    total = sum(count for *_, count in states)
    quality = {row.quality: row[2] for row in states if row.state == "stored"}
    by_status: dict[str, dict[str, int]] = {stage: {} for stage in stages}
    by_rung: dict[str, dict[str, int]] = {stage: {} for stage in stages}
    for stage, status, rung, count in steps:
        counts = by_status.setdefault(stage, {})
        counts[status] = counts.get(status, 0) + count
        if rung:
            rungs = by_rung.setdefault(stage, {})
            rungs[rung] = rungs.get(rung, 0) + count
    for counts in by_status.values():
        if missing := total - sum(counts.values()):
            counts[Status.PENDING.value] = missing
    return Tally(
        items=total,
        stored=sum(quality.values()),
        failed=sum(row[2] for row in states if row.state == "failed"),
        degraded=sum(count for value, count in quality.items() if value < 1),
        quality=dict(sorted(quality.items(), reverse=True)),
        stages=by_status,
        rungs=by_rung,
    )


def incompatibility_counts(database: Database, run_id: str) -> Counter[str]:
    """The rules of compatibility, in their own words, that kept a rung from being called for items of a run, and for
    how many of them each. Read as a stream."""
    fallen = Status.DEGRADED, Status.SKIPPED, Status.FAILED
    query = sa.select(step_results.c.attempts).where(
        step_results.c.item_id.in_(_ids_of(run_id)),
        step_results.c.status.in_(fallen),
        sa.cast(step_results.c.attempts, sa.Text).contains(f'"{AttemptOutcome.INCOMPATIBLE}"'),
    )
    counts: Counter[str] = Counter()
    with database.read() as connection:
        for attempts in connection.execution_options(yield_per=1000).scalars(query):
            barred = [one for one in attempts if one["outcome"] == AttemptOutcome.INCOMPATIBLE]
            counts.update({one["error"]["message"] for one in barred})
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is: its items, those with nothing left to do, and the stored ones among these by quality."""

    items: int
    finished: int
    failed: int
    quality: Mapping[float, int]


def progress(database: Database, run_id: str, *, refresh: bool) -> Progress:
    """How far a run is."""
    is_left = has_work(run_id, refresh=refresh)
    query = sa.select(items.c.state, items.c.quality, is_left.label("is_left"), sa.func.count())
    with database.read() as connection:
        rows = connection.execute(
            query.where(of_run(run_id)).group_by(items.c.state, items.c.quality, sa.text("is_left"))
        ).all()
    done = [row for row in rows if not row.is_left or row.state == "failed"]
    return Progress(
        items=sum(row[3] for row in rows),
        finished=sum(row[3] for row in done),
        failed=sum(row[3] for row in done if row.state == "failed"),
        quality={row.quality: row[3] for row in done if row.state == "stored"},
    )


def of_run(run_id: str | None) -> sa.ColumnElement[bool]:
    """The condition on `items` that they belong to a run; all items where there is no `run_id`."""
    if run_id is None:
        return sa.true()
    return items.c.id.in_(_ids_of(run_id))


def _ids_of(run_id: str) -> sa.Select[Any]:
    return sa.select(run_items.c.item_id).where(run_items.c.run_id == run_id)
