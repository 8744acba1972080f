"""Runs: their kind, start, heartbeat and end."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.outages import retried
from repli.tasks.storage.schema import items, retries, run_items, runs


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
    progress: Mapping[str, Any] | None = None
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
        is_alive = self.alive_at is not None and abs(now - self.alive_at) < timedelta(seconds=DEAD_AFTER_S)
        return "running" if is_alive else "cut off"


ENRICH, REPROCESS = "enrich", "reprocess"
"""The kinds of runs."""

DEAD_AFTER_S = 60.0
"""Seconds without a heartbeat after which a run counts as dead."""

ROWS_PER_DELETE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a run.

    Args:
        items: The number of its items.
        finished: How many of them are done.
        failed: How many have failed.
        earlier: How many were done before the run began.
        quality: How many are stored, by quality.
        stages: How many of the items that the run works on are through each stage, in the pipeline's order.
        is_probing: Whether the run still tries a few items at a time, which says nothing of its speed.

    Example:
        >>> Progress(items=10, earlier=4, stages={"fetch": 6, "store": 0}).share
        0.7
    """

    items: int
    finished: int = 0
    failed: int = 0
    earlier: int = 0
    quality: Mapping[float, int] = field(default_factory=dict)
    stages: Mapping[str, int] = field(default_factory=dict)
    is_probing: bool = False

    @property
    def share(self) -> float:
        """Return the share of the results that are there, one for each item and stage: between 0 and 1."""
        if not self.stages:
            return min(1.0, self.finished / max(1, self.items))
        done = self.earlier * len(self.stages) + sum(self.stages.values())
        return min(1.0, done / max(1, self.items * len(self.stages)))

    def __str__(self) -> str:
        stored = sum(self.quality.values())
        return f"{self.finished} of {self.items} items done: {stored} stored, {self.failed} failed"

    def after(self, items: int, failed: int, quality: Mapping[float, int]) -> Progress:
        """Return the progress after `items` more, of which some `failed` and others were stored at these qualities."""
        merged = Counter(self.quality)
        merged.update(quality)
        return replace(self, finished=self.finished + items, failed=self.failed + failed, quality=dict(merged))

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "quality": {str(value): count for value, count in self.quality.items()}}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Progress:
        """Return the progress that `as_json` gave."""
        return cls(**{**saved, "quality": {float(value): count for value, count in saved["quality"].items()}})


def source_key(source: str) -> str:
    """Return the key of a source: its SHA-256, since a path may be too long for an index."""
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


def start(
    database: Database, flow_run_id: str, source: str, options: Mapping[str, Any], now: datetime, kind: str = ENRICH
) -> str:
    """Record the start of a run under Prefect's `flow_run_id`; return the run's id."""
    run_id = str(uuid.uuid4())
    row = {"id": run_id, "flow_run_id": flow_run_id, "kind": kind, "source": source, "started_at": now}
    _insert(database, {**row, "options": dict(options)})
    return run_id


@retried
def _insert(database: Database, row: Mapping[str, Any]) -> None:
    with database.write() as connection:
        insert = database.insert(runs).values(**row, alive_at=database_time(connection))
        connection.execute(
            insert.on_conflict_do_nothing(index_elements=[runs.c.id])
        )  # an earlier try may have been committed


@retried
def beat(database: Database, run_id: str, progress: Progress | None = None) -> None:
    """Record a heartbeat of a run, with its progress where it is known."""
    values = {"progress": progress.as_json()} if progress else {}
    with database.write() as connection:
        now = database_time(connection)
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(alive_at=now, **values))


def is_over(now: datetime) -> sa.ColumnElement[bool]:
    """Return the condition on `runs` that a run has ended, or has had no heartbeat for `DEAD_AFTER_S`.

    A heartbeat of the future is of a clock that was wrong: a live run replaces it soon.
    """
    limit = timedelta(seconds=DEAD_AFTER_S)
    is_alive = sa.and_(runs.c.finished_at.is_(None), runs.c.alive_at.between(now - limit, now + limit))
    return sa.not_(sa.func.coalesce(is_alive, sa.false()))


@retried
def is_any_alive(database: Database, kind: str) -> bool:
    """Return whether a run of this kind is alive."""
    with database.read() as connection:
        query = sa.select(runs.c.id).where(runs.c.kind == kind, sa.not_(is_over(database_time(connection))))
        return connection.execute(query.limit(1)).first() is not None


@retried
def is_other_alive(database: Database, run_id: str | None = None) -> bool:
    """Return whether a run other than this one is alive."""
    with database.read() as connection:
        is_alive = sa.not_(is_over(database_time(connection))), runs.c.id != (run_id or "")
        return connection.execute(sa.select(runs.c.id).where(*is_alive).limit(1)).first() is not None


@retried
def finish(
    database: Database,
    run_id: str,
    now: datetime,
    notes: Sequence[str] = (),
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Record the end of a run and the qualities of all stored items at that time.

    Args:
        notes: lines that the run's report shows besides the counts.
        summary: further data for the report, as JSON.
    """
    values: dict[str, Any] = {"notes": list(notes), "summary": dict(summary) if summary else None}
    stored = sa.select(items.c.quality, sa.func.count()).where(items.c.state == "stored").group_by(items.c.quality)
    with database.read() as connection:  # the count takes a while in a large store: hold no lock for it
        counted = connection.execute(stored.order_by(items.c.quality)).all()
    values["quality"] = {str(quality): count for quality, count in counted}
    with database.write() as connection:
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(finished_at=now, **values))


@retried
def add_notes(database: Database, run_id: str, notes: Sequence[str]) -> None:
    """Add lines to the notes of a run that has ended, each once."""
    with database.write() as connection:
        kept = connection.scalar(sa.select(runs.c.notes).where(runs.c.id == run_id)) or []
        merged = list(dict.fromkeys([*kept, *notes]))
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(notes=merged))


@retried
def summarize(database: Database, run_id: str, summary: Mapping[str, Any]) -> None:
    """Save the summary of a run, which stays when the lists of its items are pruned."""
    with database.write() as connection:
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(summary=dict(summary)))


TEXT_MODEL, TEXT_MODEL_OF_BLOCK = "text_model", "text_model_of_block"
"""Options of a run: its text model, where that is not the default one, and whether a Prefect block names it."""


def text_model_of_block(database: Database) -> str | None:
    """Return the text model that a Prefect block has named for the latest run; None where the block names none."""
    last = latest(database)
    return last.options.get(TEXT_MODEL) if last and last.options.get(TEXT_MODEL_OF_BLOCK) else None


@retried
def text_models(database: Database) -> list[str]:
    """Return the text models that runs have named, beside the default one, in the order of their names."""
    source = runs.c.options[TEXT_MODEL].as_string()
    with database.read() as connection:
        return list(connection.scalars(sa.select(source).where(source.is_not(None)).distinct().order_by(source)))


def prune(database: Database, keep: int) -> None:
    """Delete the lists of items of all but the latest `keep` runs of each source. Their summaries stay.

    In portions, so that no other transaction waits long. Live runs are kept.
    """
    for run_id in _to_prune(database, keep):
        while delete_portion(database, run_items, run_id) or delete_portion(database, retries, run_id):
            pass


@retried
def _to_prune(database: Database, keep: int) -> Sequence[str]:
    """Return the ids of the older runs that still have lists of items."""
    age = sa.func.row_number().over(partition_by=(runs.c.kind, runs.c.source), order_by=runs.c.started_at.desc())
    aged = sa.select(runs.c.id, age.label("age")).subquery()
    has_lists = sa.or_(*(sa.exists().where(table.c.run_id == runs.c.id) for table in (run_items, retries)))
    with database.read() as connection:
        query = sa.select(runs.c.id).join(aged, aged.c.id == runs.c.id)
        is_older = aged.c.age > keep, is_over(database_time(connection)), has_lists
        return connection.scalars(query.where(*is_older)).all()


@retried
def delete_portion(database: Database, table: sa.Table, run_id: str) -> bool:
    """Delete a portion of a run's rows, and return whether there were any."""
    is_of_run = table.c.run_id == run_id
    with database.write() as connection:
        ids = list(connection.scalars(sa.select(table.c.item_id).where(is_of_run).limit(ROWS_PER_DELETE)))
        connection.execute(sa.delete(table).where(is_of_run, table.c.item_id.in_(ids)))
    return bool(ids)


@retried
def find(database: Database, run_id: str) -> Run:
    """Return the run of this id. Raises NoResultFound where there is none."""
    with database.read() as connection:
        return Run(**connection.execute(sa.select(runs).where(runs.c.id == run_id)).mappings().one())


@retried
def of_flow_run(database: Database, flow_run_id: str) -> Run | None:
    """Return the run of this Prefect flow run; None where the flow run ended before it started one."""
    with database.read() as connection:
        row = connection.execute(sa.select(runs).where(runs.c.flow_run_id == flow_run_id)).mappings().first()
    return Run(**row) if row else None


@retried
def latest(database: Database, kind: str = ENRICH, source: str | None = None) -> Run | None:
    """Return the latest run of this kind; of one source, where it is given. None where there is none."""
    condition = runs.c.kind == kind if source is None else sa.and_(runs.c.kind == kind, runs.c.source == source)
    with database.read() as connection:
        is_future = runs.c.started_at > database_time(connection)  # of a clock that was ahead
        query = sa.select(runs).where(condition).order_by(is_future, runs.c.started_at.desc())
        row = connection.execute(query.limit(1)).mappings().first()
    return Run(**row) if row else None
