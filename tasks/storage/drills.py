"""The history of drills."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.schema import drills


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """One drill that ended. `report` is the output of `drill --json`.

    Reports of older versions lack fields, which are filled in: such a drill covered every rung, had no notes, measured
    no relative accuracy, and asked and proposed nothing.
    """

    id: str
    flow_run_id: str | None
    started_at: datetime
    finished_at: datetime
    verdict: str
    report: Mapping[str, Any]


def keep(
    database: Database,
    flow_run_id: str | None,
    started_at: datetime,
    finished_at: datetime,
    report: Mapping[str, Any],
) -> str:
    """Add a drill to the history and return its id."""
    id_ = str(uuid.uuid4())
    times = {"started_at": started_at, "finished_at": finished_at}
    _insert(database, {"id": id_, "flow_run_id": flow_run_id, "verdict": report["verdict"], "report": report, **times})
    return id_


@retried
def _insert(database: Database, row: Mapping[str, Any]) -> None:
    insert = database.insert(drills).values({**row, "report": dict(row["report"])})
    with database.write() as connection:
        connection.execute(
            insert.on_conflict_do_nothing(index_elements=[drills.c.id])
        )  # an earlier try may have been committed


def forget_items(connection: sa.Connection, item_ids: Collection[str]) -> None:
    """Remove the questions about these items, which show how their names and texts begin, from all reports."""
    ids = set(item_ids)
    for id_, report in connection.execute(sa.select(drills.c.id, drills.c.report)).all():
        asked = report.get("questions", [])
        kept = [question for question in asked if question["item_id"] not in ids]
        if len(kept) < len(asked):
            update = sa.update(drills).where(drills.c.id == id_)
            connection.execute(update.values(report={**report, "questions": kept}))


@retried
def latest(database: Database, count: int = 2) -> list[Drill]:
    """Return the latest `count` drills, the newest first."""
    with database.read() as connection:
        rows = connection.execute(sa.select(drills).order_by(drills.c.finished_at.desc()).limit(count)).mappings()
        return [_drill(row) for row in rows]


@retried
def of_flow_run(database: Database, flow_run_id: str) -> Drill | None:
    """Return the drill of a Prefect flow run; None where the run ended before there was a verdict."""
    with database.read() as connection:
        row = connection.execute(sa.select(drills).where(drills.c.flow_run_id == flow_run_id)).mappings().first()
    return _drill(row) if row else None


_ADDED_TO_RUNGS: Mapping[str, Any] = {
    "note": "",
    "relative_accuracy": None,
    "relative_interval": None,
    "basis": None,
    "accuracy": None,
    "accuracy_interval": None,
    "mean_confidence": None,
    "answered": 0,
}


def _drill(row: Mapping[Any, Any]) -> Drill:
    report = dict(row["report"])
    report.setdefault("not_covered", [])
    report.setdefault("questions", [])
    report.setdefault("proposals", [])
    report["rungs"] = [{**_ADDED_TO_RUNGS, **rung} for rung in report["rungs"]]
    return Drill(**{**row, "report": report})
