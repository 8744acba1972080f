"""The retry queue: the items to process again, and their order.

An item enters and leaves the queue in the transaction that stores it or marks it failed, so that the queue always fits
the results. A run claims an item before it works on it; see `claims`.

==========  =====================================================================================
state       meaning
==========  =====================================================================================
``queued``  may be claimed, after a failed try only from `not_before` on
``claimed`` a run works on it; the claim expires at `claimed_until`
``parked``  was tried too often without improvement; only an operator can requeue it
==========  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Status
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.schema import items, retry_queue, step_results

IDS_PER_STATEMENT = 10_000
"""Databases limit the parameters of a statement: SQLite to 32,766, PostgreSQL's protocol to 65,535."""

QUEUED, CLAIMED, PARKED = "queued", "claimed", "parked"


CLAIM_ORDER = (
    retry_queue.c.priority,
    retry_queue.c.quality.nulls_first(),
    retry_queue.c.enqueued_at,
    retry_queue.c.item_id,
)
"""The order in which items are claimed: by priority, then the lowest quality, then age. A failed item has no quality
and comes before those that have one. SQLite reads the order from an index; PostgreSQL's index has nulls last, so it
sorts the items of one priority."""


class Priority(IntEnum):
    """The priority of a queued item. The lowest number is claimed first."""

    HIGH = 1  # queued by an operator
    NORMAL = 2  # failed
    LOW = 3  # stored, of low quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One item in the queue."""

    item_id: str
    priority: Priority
    quality: float | None
    enqueued_at: datetime
    not_before: datetime
    tries: int
    state: str
    claimed_until: datetime | None

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.item_id,
            "priority": self.priority.name,
            "quality": self.quality,
            "state": self.state,
            "tries": self.tries,
            "enqueued_at": self.enqueued_at.isoformat(),
            "not_before": self.not_before.isoformat(),
            "claimed_until": self.claimed_until and self.claimed_until.isoformat(),
        }


def _has_retryable(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Return the condition on `items` that a step result is retryable and meets `conditions`."""
    found = sa.exists().where(step_results.c.item_id == items.c.id, step_results.c.retryable, *conditions)
    return found.correlate(items)


def _is_wanted(below: float | None) -> sa.ColumnElement[bool]:
    """Return the condition on `items` that an item belongs in the queue; failed items only, where `below` is None."""
    by_operator = sa.exists().where(retry_queue.c.item_id == items.c.id, retry_queue.c.priority == Priority.HIGH.value)
    may_succeed = sa.and_(items.c.state == "failed", _has_retryable(step_results.c.status == Status.FAILED))
    if below is None:
        return may_succeed
    is_low = sa.and_(sa.or_(items.c.quality < below, by_operator.correlate(items)), _has_retryable())
    return sa.or_(may_succeed, sa.and_(items.c.state == "stored", sa.or_(is_low, has_stale_result())))


def has_stale_result() -> sa.ColumnElement[bool]:
    """Return the condition on `items` that a succeeded result is stale. Such items are queued at any quality.

    A succeeded result is retryable only while it is stale: computed from an input that has changed since.
    """
    return _has_retryable(step_results.c.status == Status.SUCCEEDED)


def review(database: Database, connection: sa.Connection, item_ids: Sequence[str], below: float | None) -> None:
    """Queue these items, or remove them from the queue, by their present state and results. Idempotent.

    The priority of a queued item can only rise; its tries and its claim do not change. Concurrent callers wait on the
    row locks and see the committed results.

    Args:
        below: the quality below which stored items are queued. None: only failed items are reviewed.
    """
    reviewed_states = ["stored", "failed"] if below is not None else ["failed"]
    priority = sa.case((items.c.state == "failed", Priority.NORMAL.value), else_=Priority.LOW.value)
    now = database_time(connection)
    for chunk in chunks(item_ids):
        connection.execute(select_for_update(retry_queue.c.item_id.in_(chunk)))
        in_chunk = items.c.id.in_(chunk)
        wanted = (
            sa.select(items.c.id, priority, items.c.quality, _time(now), _time(now), sa.literal(0), sa.false())
            .where(in_chunk, _is_wanted(below))
            .order_by(items.c.id)
        )
        columns = ["item_id", "priority", "quality", "enqueued_at", "not_before", "tries", "is_parked"]
        insert = database.insert(retry_queue).from_select(columns, wanted)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=[retry_queue.c.item_id],
                set_={
                    "priority": sa.case(
                        (insert.excluded.priority < retry_queue.c.priority, insert.excluded.priority),
                        else_=retry_queue.c.priority,
                    ),
                    "quality": insert.excluded.quality,
                },
            )
        )
        unwanted = sa.select(items.c.id).where(in_chunk, items.c.state.in_(reviewed_states), sa.not_(_is_wanted(below)))
        connection.execute(sa.delete(retry_queue).where(retry_queue.c.item_id.in_(unwanted)))


def enqueue_by_operator(database: Database, item_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Queue items with priority HIGH, parked ones too, and reset their tries.

    Also mark every degraded, skipped or failed stage of these items retryable: the operator may know that its cause is
    gone.

    Returns:
        The ids that are queued now, and those that have nothing to retry: they succeeded, or are still pending.
    """
    queued: list[str] = []
    below_best = (Status.DEGRADED.value, Status.SKIPPED.value, Status.FAILED.value)
    with database.write() as connection:
        now = database_time(connection)
        for chunk in chunks(item_ids):
            ordered = sa.select(items.c.id).where(items.c.id.in_(chunk)).order_by(items.c.id)
            connection.execute(ordered.with_for_update(key_share=True))  # the lock of transactions that write results
            is_below_best = sa.and_(step_results.c.item_id.in_(chunk), step_results.c.status.in_(below_best))
            connection.execute(sa.update(step_results).where(is_below_best).values(retryable=True))
            rows = connection.execute(
                sa.select(items.c.id, items.c.quality)
                .where(items.c.id.in_(chunk), items.c.state != "pending", _has_retryable())
                .order_by(items.c.id)
            ).all()
            if not rows:
                continue
            insert = database.insert(retry_queue)
            first = {"priority": Priority.HIGH.value, "not_before": now, "tries": 0, "is_parked": False}
            connection.execute(
                insert.on_conflict_do_update(index_elements=[retry_queue.c.item_id], set_=first),
                [{"item_id": row.id, "quality": row.quality, "enqueued_at": now, **first} for row in rows],
            )
            queued += [row.id for row in rows]
    found = set(queued)
    return [id_ for id_ in item_ids if id_ in found], [id_ for id_ in item_ids if id_ not in found]


def unknown(database: Database, item_ids: Sequence[str]) -> list[str]:
    """Return the ids of which the store has no item."""
    known: set[str] = set()
    with database.read() as connection:
        for chunk in chunks(item_ids):
            known.update(connection.scalars(sa.select(items.c.id).where(items.c.id.in_(chunk))))
    return [id_ for id_ in item_ids if id_ not in known]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTally:
    """The number of items in the queue by state and, without the parked ones, by priority."""

    states: Mapping[str, int]
    priorities: Mapping[Priority, int]

    @property
    def waiting(self) -> int:
        """Return the number of items that are retried without an operator: all but the parked ones."""
        return sum(self.priorities.values())

    def as_json(self) -> dict[str, Any]:
        return {
            **{state: self.states.get(state, 0) for state in (QUEUED, CLAIMED, PARKED)},
            "priorities": {priority.name: self.priorities.get(priority, 0) for priority in Priority},
        }


def tally(database: Database, condition: sa.ColumnElement[bool] | None = None) -> QueueTally:
    """Count the items in the queue; where a `condition` on `items` is given, only those that meet it."""
    states: dict[str, int] = {}
    priorities: dict[Priority, int] = {}
    with database.read() as connection:
        state = _state(database_time(connection)).label("queue_state")  # no column's name: `items` has a `state`
        query = sa.select(state, retry_queue.c.priority, sa.func.count()).group_by(
            sa.text("queue_state"), retry_queue.c.priority
        )
        if condition is not None:
            query = query.join_from(retry_queue, items, items.c.id == retry_queue.c.item_id).where(condition)
        for name, priority, count in connection.execute(query):
            states[name] = states.get(name, 0) + count
            if name != PARKED:
                priorities[Priority(priority)] = priorities.get(Priority(priority), 0) + count
    return QueueTally(states=states, priorities=dict(sorted(priorities.items())))


def entries(database: Database, limit: int) -> list[Entry]:
    """Return up to `limit` entries in `CLAIM_ORDER`, the parked ones last."""
    with database.read() as connection:
        state = _state(database_time(connection)).label("state")
        columns = [c for c in retry_queue.c if c.name not in {"is_parked", "holder"}]
        query = sa.select(*columns, state).order_by(retry_queue.c.is_parked, *CLAIM_ORDER)
        rows = connection.execute(query.limit(limit)).mappings().all()
    return [Entry(**{**row, "priority": Priority(row["priority"])}) for row in rows]


def is_free(now: datetime) -> sa.ColumnElement[bool]:
    """Return the condition on `retry_queue` that the item is not claimed, or its claim has expired."""
    return sa.or_(retry_queue.c.holder.is_(None), retry_queue.c.claimed_until <= now)


def select_for_update(condition: sa.ColumnElement[bool]) -> sa.Select[tuple[str]]:
    """Return a query for the ids of queued items that locks their rows until the transaction ends.

    Every change of several rows locks them in this one order, so that no two transactions deadlock.
    """
    return sa.select(retry_queue.c.item_id).where(condition).order_by(retry_queue.c.item_id).with_for_update()


def _state(now: datetime) -> sa.ColumnElement[str]:
    return sa.case((retry_queue.c.is_parked, PARKED), (sa.not_(is_free(now)), CLAIMED), else_=QUEUED)


def _time(now: datetime) -> sa.ColumnElement[datetime]:
    return sa.literal(now, retry_queue.c.enqueued_at.type)


def chunks(item_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    """Yield the ids in chunks of `IDS_PER_STATEMENT`."""
    return (item_ids[start : start + IDS_PER_STATEMENT] for start in range(0, len(item_ids), IDS_PER_STATEMENT))
