"""The outcome of each item in the runs of `reprocess`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import mean_quality
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.schema import items, retries, retry_queue

UPGRADED, UNCHANGED, PARKED = "upgraded", "unchanged", "parked"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTally:
    """The items of one run, counted by outcome and by quality before and after. Failed items have no quality."""

    outcomes: Mapping[str, int]
    before: Mapping[float, int]
    after: Mapping[float, int]

    @property
    def claimed(self) -> int:
        return sum(self.outcomes.values())

    def __str__(self) -> str:
        counts = ", ".join(f"{self.outcomes.get(name, 0)} {name}" for name in (UPGRADED, UNCHANGED, PARKED))
        means = [f"{mean:.3f}" if mean is not None else "none" for mean in map(mean_quality, (self.before, self.after))]
        return f"{self.claimed} items claimed: {counts}; mean quality {' → '.join(means)}"

    def as_json(self) -> dict[str, Any]:
        return {
            "claimed": self.claimed,
            **{name: self.outcomes.get(name, 0) for name in (UPGRADED, UNCHANGED, PARKED)},
            "mean_quality_before": mean_quality(self.before),
            "mean_quality_after": mean_quality(self.after),
        }


@retried
def tally(database: Database, run_id: str) -> RetryTally:
    """Count the outcomes that a run of `reprocess` has recorded so far."""
    columns = retries.c.outcome, retries.c.quality_before, retries.c.quality_after
    query = sa.select(*columns, sa.func.count()).where(retries.c.run_id == run_id).group_by(*columns)
    outcomes: Counter[str] = Counter()
    before: Counter[float] = Counter()
    after: Counter[float] = Counter()
    with database.read() as connection:
        for outcome, old, new, count in connection.execute(query):
            outcomes[outcome] += count
            if old is not None:
                before[old] += count
            if new is not None:
                after[new] += count
    return RetryTally(outcomes=outcomes, before=before, after=after)


@retried
def parked(database: Database, limit: int) -> list[str]:
    """Return the ids of up to `limit` parked items, the lowest quality first. Only an operator can requeue them."""
    query = (
        sa.select(items.c.id)
        .join_from(items, retry_queue, retry_queue.c.item_id == items.c.id)
        .where(retry_queue.c.state == PARKED)
        .order_by(sa.func.coalesce(items.c.quality, 0.0), items.c.id)
    )
    with database.read() as connection:
        return list(connection.scalars(query.limit(limit)))
