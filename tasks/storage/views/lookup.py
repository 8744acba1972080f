"""Views of single items: one item in full, the items of the lowest quality, and the failed items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import AttemptOutcome, Status, StepResult
from repli.tasks.items import ItemState, clean_text
from repli.tasks.storage import results
from repli.tasks.storage.counts import of_run
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.pipelines import StoredPipeline
from repli.tasks.storage.schema import items, step_results

_BELOW_BEST = (Status.DEGRADED.value, Status.SKIPPED.value)


@dataclass(frozen=True, slots=True)
class Scores:
    """The quality and the expected accuracy of an item; both None unless it is stored."""

    quality: float | None = None
    expected_accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemView:
    """One item as `repli show` prints it. Every stage has a result here; `pending` where the store has none."""

    state: ItemState
    quality: float | None
    expected_accuracy: float | None
    stages: Mapping[str, StepResult]
    pipeline: StoredPipeline

    @classmethod
    def of(cls, state: ItemState, scores: Scores, pipeline: StoredPipeline) -> ItemView:
        """Return the view of an item, with the stages of its pipeline in their order."""
        saved = state.results
        return cls(
            state=state,
            quality=scores.quality,
            expected_accuracy=scores.expected_accuracy,
            stages={name: saved.get(name) or StepResult.pending(state.item.id, name) for name in pipeline.names},
            pipeline=pipeline,
        )

    def produced(self, role: str) -> Mapping[str, Any]:
        """Return the item's value of this role, as JSON: that of the last stage that has one; empty where none has."""
        values = (self.state.value(stage) for stage in self.pipeline.stages_of(role))
        return next((value for value in values if value is not None), {})

    @property
    def degraded(self) -> list[str]:
        """Return the names of the degraded and skipped stages."""
        return [name for name, result in self.stages.items() if result.status in _BELOW_BEST]

    @property
    def declined(self) -> list[str]:
        """Return the names of those of the degraded stages in which a rung was not sure."""
        declined = AttemptOutcome.DECLINED
        return [name for name in self.degraded if any(one.outcome is declined for one in self.stages[name].attempts)]

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.state.item.id,
            "name": self.state.item.name,
            "quality": self.quality,
            "expected_accuracy": self.expected_accuracy,
            "degraded": self.degraded,
            "stages": {name: result.as_json() for name, result in self.stages.items()},
        }


@retried
def view(database: Database, item_id: str, pipeline: StoredPipeline) -> ItemView | None:
    """Return the view of the item of this id, with the pipeline's stages; None where there is no such item."""
    item_id = clean_text(item_id)
    states = results.load(database, [item_id])
    if not states:
        return None
    with database.read() as connection:
        query = sa.select(items.c.quality, items.c.expected_accuracy).where(items.c.id == item_id)
        row = connection.execute(query).first()
    return ItemView.of(states[0], Scores(*row) if row else Scores(), pipeline)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlaggedItem:
    """A failed or degraded item, with one line per stage that failed, was degraded or was skipped."""

    id: str
    name: str | None
    quality: float | None
    reasons: tuple[str, ...]


def lowest(database: Database, run_id: str | None, limit: int) -> list[FlaggedItem]:
    """Return the `limit` stored items of the lowest quality, below 1; of one run, where `run_id` is given."""
    query = sa.select(items.c.id, items.c.name, items.c.quality).where(
        of_run(run_id), items.c.state == "stored", items.c.quality < 1
    )
    return _findings(database, query.order_by(items.c.quality, items.c.id).limit(limit), _BELOW_BEST)


def failed(database: Database, run_id: str | None, limit: int) -> list[FlaggedItem]:
    """Return up to `limit` failed items; of one run, where `run_id` is given."""
    is_failed = items.c.quality.is_(None), items.c.state == "failed"  # one index covers both
    query = sa.select(items.c.id, items.c.name, items.c.quality).where(of_run(run_id), *is_failed)
    return _findings(database, query.order_by(items.c.id).limit(limit), (Status.FAILED.value,))


@retried
def _findings(database: Database, query: sa.Select[Any], statuses: Sequence[str]) -> list[FlaggedItem]:
    c = step_results.c
    with database.read() as connection:
        found = connection.execute(query).all()
        steps = connection.execute(
            sa.select(c.item_id, c.stage, c.rung, c.error, c.attempts)
            .where(c.item_id.in_([row.id for row in found]), c.status.in_(statuses))
            .order_by(c.finished_at)
        ).all()
    reasons: dict[str, list[str]] = {}
    for step in steps:
        served = f" → {step.rung}{_limit(step.attempts)}" if step.rung else ""
        reason = step.error["message"] if step.error else "by policy"
        reasons.setdefault(step.item_id, []).append(f"{step.stage}{served}: {reason}")
    return [
        FlaggedItem(id=row.id, name=row.name, quality=row.quality, reasons=tuple(reasons.get(row.id, ())))
        for row in found
    ]


def _limit(attempts: Sequence[Mapping[str, Any]]) -> str:
    """Return the part that the last rung served, where it served only a part."""
    is_limited = attempts and attempts[-1]["outcome"] == AttemptOutcome.SERVED and attempts[-1]["error"]
    return f" ({attempts[-1]['error']['message']})" if is_limited else ""
