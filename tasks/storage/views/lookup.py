"""Looking at single items: one whole, the lowest in quality, the failed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Status, StepResult
from repli.tasks.items import ItemState, clean_text
from repli.tasks.storage import results
from repli.tasks.storage.database import Database
from repli.tasks.storage.runs import of_run
from repli.tasks.storage.schema import items, step_results

_LESS_THAN_WHOLE = (Status.DEGRADED.value, Status.SKIPPED.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemView:
    """One item as `repli show` gives it: every stage has a result here, `pending` where nothing was left."""

    state: ItemState
    quality: float | None
    stages: Mapping[str, StepResult]

    @classmethod
    def of(cls, state: ItemState, quality: float | None, stages: Sequence[str]) -> ItemView:
        """The item with what its `stages` left, in their order."""
        left = state.results
        return cls(
            state=state,
            quality=quality,
            stages={name: left.get(name) or StepResult.pending(state.item.id, name) for name in stages},
        )

    @property
    def degraded(self) -> list[str]:
        """The stages that a fallback served, or that were given up."""
        return [name for name, result in self.stages.items() if result.status in _LESS_THAN_WHOLE]

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.state.item.id,
            "name": self.state.item.name,
            "quality": self.quality,
            "degraded": self.degraded,
            "stages": {name: result.as_json() for name, result in self.stages.items()},
        }


def view(database: Database, item_id: str, stages: Sequence[str]) -> ItemView | None:
    """The item of this id, its `stages` in their order; None where there is none."""
    item_id = clean_text(item_id)
    states = results.load(database, [item_id])
    if not states:
        return None
    with database.read() as connection:
        quality = connection.scalar(sa.select(items.c.quality).where(items.c.id == item_id))
    return ItemView.of(states[0], quality, stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An item worth a look, and why: a line for each stage that was less than whole."""

    id: str
    name: str | None
    quality: float | None
    reasons: tuple[str, ...]


def lowest(database: Database, run_id: str | None, limit: int) -> list[Finding]:
    """The stored items of the lowest quality below 1."""
    query = sa.select(items.c.id, items.c.name, items.c.quality).where(
        of_run(run_id), items.c.state == "stored", items.c.quality < 1
    )
    return _findings(database, query.order_by(items.c.quality, items.c.id).limit(limit), _LESS_THAN_WHOLE)


def failed(database: Database, run_id: str | None, limit: int) -> list[Finding]:
    """The items that failed."""
    is_failed = items.c.quality.is_(None), items.c.state == "failed"  # an index has both
    query = sa.select(items.c.id, items.c.name, items.c.quality).where(of_run(run_id), *is_failed)
    return _findings(database, query.order_by(items.c.id).limit(limit), (Status.FAILED.value,))


def _findings(database: Database, query: sa.Select[Any], statuses: Sequence[str]) -> list[Finding]:
    with database.read() as connection:
        found = connection.execute(query).all()
        steps = connection.execute(
            sa.select(step_results.c.item_id, step_results.c.stage, step_results.c.rung, step_results.c.error)
            .where(step_results.c.item_id.in_([row.id for row in found]), step_results.c.status.in_(statuses))
            .order_by(step_results.c.finished_at)
        ).all()
    reasons: dict[str, list[str]] = {}
    for step in steps:
        served = f" → {step.rung}" if step.rung else ""
        reason = step.error["message"] if step.error else "by policy"
        reasons.setdefault(step.item_id, []).append(f"{step.stage}{served}: {reason}")
    return [
        Finding(id=row.id, name=row.name, quality=row.quality, reasons=tuple(reasons.get(row.id, ()))) for row in found
    ]
