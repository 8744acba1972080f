"""Counts of the items of a run, or of the whole store, made by the database: no item is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import AttemptOutcome, NoInput, Status, mean_quality
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.schema import items, run_items, step_results

NOT_REACHED = "not_reached"
"""In tables of statuses: the stage stays pending, because the item failed at an earlier one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The counts of a set of items.

    `quality` counts stored items by quality; `expected_accuracy` counts them by the lower bound of a band of 0.1, and
    has none that were stored before there was an expected accuracy; `stages` counts items by stage and status, pending
    included; `rungs` counts them by stage and the rung that served; `declined` counts, by stage, those that a rung
    declined because it was not sure, whether another rung served them or none; `not_reached` counts, by stage, those of
    the pending that failed at an earlier one.
    """

    items: int
    stored: int
    failed: int
    degraded: int
    quality: Mapping[float, int]
    expected_accuracy: Mapping[float, int]
    mean_expected_accuracy: float | None
    stages: Mapping[str, Mapping[str, int]]
    rungs: Mapping[str, Mapping[str, int]]
    declined: Mapping[str, int]
    not_reached: Mapping[str, int]

    @property
    def mean_quality(self) -> float | None:
        return mean_quality(self.quality)

    @property
    def pending(self) -> int:
        """Return the number of items neither stored nor failed."""
        return self.items - self.stored - self.failed

    @property
    def shown_stages(self) -> Mapping[str, Mapping[str, int]]:
        """Return `stages` for tables: what failed items did not reach is apart, so that the other pending add up."""
        return {stage: self._shown(counts, self.not_reached.get(stage, 0)) for stage, counts in self.stages.items()}

    @staticmethod
    def _shown(counts: Mapping[str, int], not_reached: int) -> Mapping[str, int]:
        pending = max(0, counts.get(Status.PENDING, 0) - not_reached)
        shown = {**counts, Status.PENDING.value: pending, NOT_REACHED: not_reached}
        return {status: count for status, count in shown.items() if count}

    def as_json(self) -> dict[str, Any]:
        return {
            "items": self.items,
            "stored": self.stored,
            "failed": self.failed,
            "degraded": self.degraded,
            "mean_quality": self.mean_quality,
            "mean_expected_accuracy": self.mean_expected_accuracy,
            "quality": {str(quality): count for quality, count in self.quality.items()},
            "expected_accuracy": {str(start): count for start, count in self.expected_accuracy.items()},
            "stages": {stage: dict(counts) for stage, counts in self.stages.items()},
            "rungs": {stage: dict(counts) for stage, counts in self.rungs.items()},
            "declined": dict(self.declined),
            "not_reached": dict(self.not_reached),
        }


@retried
def tally(database: Database, stages: Iterable[str], run_id: str | None = None) -> Tally:
    """Count the items of a run in their present states; all items of the store, where `run_id` is None."""
    with database.read() as connection:
        states = connection.execute(
            sa.select(items.c.state, items.c.quality, sa.func.count())
            .where(of_run(run_id))
            .group_by(items.c.state, items.c.quality)
        ).all()
        by_band = _by_expected_accuracy(connection, run_id)
        steps = connection.execute(
            _of_results(
                run_id, step_results.c.stage, step_results.c.status, step_results.c.rung, sa.func.count()
            ).group_by(step_results.c.stage, step_results.c.status, step_results.c.rung)
        ).all()
        declined = connection.execute(
            _of_results(run_id, step_results.c.stage, sa.func.count())
            .where(was_declined())
            .group_by(step_results.c.stage)
        ).all()
        failed = sum(row[2] for row in states if row.state == "failed")
        reached = _reached_by_failed(connection, run_id) if failed else {}
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
        failed=failed,
        degraded=sum(count for value, count in quality.items() if value < 1),
        quality=dict(sorted(quality.items(), reverse=True)),
        expected_accuracy={start: count for start, (count, _) in sorted(by_band.items(), reverse=True)},
        mean_expected_accuracy=_mean(list(by_band.values())),
        stages=by_status,
        rungs=by_rung,
        declined={row.stage: row[1] for row in declined},
        not_reached={stage: missing for stage in by_status if (missing := failed - reached.get(stage, 0))},
    )


BANDS = tuple(tenth / 10 for tenth in range(9, -1, -1))
"""The lower bounds of the bands by which expected accuracies are counted, the highest first."""


def _by_expected_accuracy(connection: sa.Connection, run_id: str | None) -> Mapping[float, tuple[int, float]]:
    """Return, by the lower bound of a band of 0.1, the number of stored items and the sum of their accuracies."""
    column = items.c.expected_accuracy
    band = sa.case(*((column >= start, place) for place, start in enumerate(BANDS)))
    query = sa.select(band, sa.func.count(), sa.func.sum(column)).where(
        of_run(run_id), items.c.state == "stored", column.is_not(None)
    )
    return {BANDS[place]: (count, total) for place, count, total in connection.execute(query.group_by(band))}


def _mean(counted: Collection[tuple[int, float]]) -> float | None:
    count = sum(count for count, _ in counted)
    return round(sum(total for _, total in counted) / count, 4) if count else None


def _reached_by_failed(connection: sa.Connection, run_id: str | None) -> Mapping[str, int]:
    """Return, by stage, how many failed items have a result."""
    is_failed = items.c.quality.is_(None), items.c.state == "failed"  # one index covers both
    failed = sa.select(items.c.id).where(of_run(run_id), *is_failed)
    query = sa.select(step_results.c.stage, sa.func.count()).where(step_results.c.item_id.in_(failed))
    return {row.stage: row[1] for row in connection.execute(query.group_by(step_results.c.stage))}


def was_declined() -> sa.ColumnElement[bool]:
    """Return the condition on `step_results` that a rung declined the item because it was not sure."""
    below_best = step_results.c.status.in_([Status.DEGRADED.value, Status.SKIPPED.value])
    # As JSON has them: a quote within a message has a backslash before it. Without an input no rung of a stage is sure.
    attempts = sa.cast(step_results.c.attempts, sa.Text)
    has_input = ~attempts.contains(f'"{NoInput.__name__}"')
    return below_best & attempts.contains(f'"{AttemptOutcome.DECLINED}"') & has_input


@retried
def states_of(database: Database, item_ids: Sequence[str]) -> tuple[int, Mapping[float, int]]:
    """Return how many of these items have failed, and how many are stored at each quality."""
    query = sa.select(items.c.state, items.c.quality, sa.func.count()).where(items.c.id.in_(item_ids))
    with database.read() as connection:
        rows = connection.execute(query.group_by(items.c.state, items.c.quality)).all()
    failed = sum(row[2] for row in rows if row.state == "failed")
    return failed, {row.quality: row[2] for row in rows if row.state == "stored"}


@retried
def incompatibility_counts(database: Database, run_id: str) -> Counter[str]:
    """Count, by the text of a compatibility rule, the results of a run's items for which the rule forbade a rung.

    Only results below the best count. They are read as a stream.
    """
    below_best = Status.DEGRADED, Status.SKIPPED, Status.FAILED
    query = _of_results(run_id, step_results.c.attempts).where(
        step_results.c.status.in_(below_best),
        sa.cast(step_results.c.attempts, sa.Text).contains(f'"{AttemptOutcome.INCOMPATIBLE}"'),
    )
    counts: Counter[str] = Counter()
    with database.read() as connection:
        for attempts in connection.execution_options(yield_per=1000).scalars(query):
            incompatible = [one for one in attempts if one["outcome"] == AttemptOutcome.INCOMPATIBLE]
            counts.update({one["error"]["message"] for one in incompatible})
    return counts


@retried
def waits(database: Database, run_id: str) -> Counter[str]:
    """Count, by the breaker of a key, `STAGE.RUNG@KEY`, the results of a run's items that wait for it."""
    query = _of_results(run_id, step_results.c.waits_for, sa.func.count()).where(step_results.c.waits_for.is_not(None))
    found: Counter[str] = Counter()
    with database.read() as connection:
        for breakers, count in connection.execute(query.group_by(step_results.c.waits_for)):
            found.update(dict.fromkeys(breakers.splitlines(), count))
    return found


def of_run(run_id: str | None) -> sa.ColumnElement[bool]:
    """Return the condition on `items` that they belong to a run; always true where `run_id` is None."""
    if run_id is None:
        return sa.true()
    return items.c.id.in_(_ids_of(run_id))


def _of_results(run_id: str | None, *columns: Any) -> sa.Select[Any]:
    """Return a query for columns of the results of a run's items; of all items, where `run_id` is None.

    It joins the run's list instead of looking for its ids: SQLite then reads the results in the order in which the run
    wrote them, and each page once.
    """
    query = sa.select(*columns).select_from(step_results)
    if run_id is None:
        return query
    listed = query.join(run_items, run_items.c.item_id == step_results.c.item_id)
    return listed.where(run_items.c.run_id == run_id)


def _ids_of(run_id: str) -> sa.Select[Any]:
    return sa.select(run_items.c.item_id).where(run_items.c.run_id == run_id)
