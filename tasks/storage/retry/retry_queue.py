"""The items that wait to be done again: which they are, and what becomes of the queue as a whole.

An item enters the queue, and leaves it, in the transaction that stores it or marks it failed. Who works on one holds
a claim; see `claims`.

==========  =====================================================================================
state       meaning
==========  =====================================================================================
``queued``  it waits, until `not_before` where a try has failed
``claimed`` somebody works on it, until `claimed_until` at most
``parked``  it was tried so often that only a person's word brings it back
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
"""A database takes some ten thousand parameters a query."""


QUEUED, CLAIMED, PARKED = "queued", "claimed", "parked"


CLAIM_ORDER = (
    retry_queue.c.priority,
    retry_queue.c.quality.nulls_first(),
    retry_queue.c.enqueued_at,
    retry_queue.c.item_id,
)
"""The order in which items are claimed, and on SQLite that of an index; PostgreSQL, whose index has nulls last, sorts
those of one priority. A failed one has the lowest quality of all."""


class Priority(IntEnum):
    """Who goes first: the lower number."""

    HIGH = 1  # a person asked
    NORMAL = 2  # it failed
    LOW = 3  # it is stored, of low quality


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


def _owes(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """The condition on `items` that there is a stage which somebody, or time, may still mend."""
    owed = sa.exists().where(step_results.c.item_id == items.c.id, step_results.c.retryable, *conditions)
    return owed.correlate(items)


def _is_wanted(below: float | None) -> sa.ColumnElement[bool]:
    """The condition on `items` that one belongs in the queue; stored ones do not, where `below` is None."""
    asked_for = sa.exists().where(retry_queue.c.item_id == items.c.id, retry_queue.c.priority == Priority.HIGH.value)
    may_be_mended = sa.and_(items.c.state == "failed", _owes(step_results.c.status == Status.FAILED))
    if below is None:
        return may_be_mended
    is_low = sa.and_(sa.or_(items.c.quality < below, asked_for.correlate(items)), _owes())
    return sa.or_(may_be_mended, sa.and_(items.c.state == "stored", sa.or_(is_low, has_stale_result())))


def has_stale_result() -> sa.ColumnElement[bool]:
    """The condition on `items` that a stage is whole and answers to what is not there any more, so that it is to be
    done again at any quality."""
    return _owes(step_results.c.status == Status.SUCCEEDED)


def review(database: Database, connection: sa.Connection, item_ids: Sequence[str], below: float | None) -> None:
    """Bring the queue in line with how these items stand now. Idempotent.

    An item that is queued already is never doubled; its priority can only rise. Tries and claims stay as they are.
    Who reviews, or asks for, one of the items at the same moment waits, and sees what is there then.

    Args:
        below: the quality below which stored items are queued. None: only failed ones are looked at.
    """
    over = ["stored", "failed"] if below is not None else ["failed"]
    priority = sa.case((items.c.state == "failed", Priority.NORMAL.value), else_=Priority.LOW.value)
    now = database_time(connection)
    for some in portions(item_ids):
        connection.execute(locked(retry_queue.c.item_id.in_(some)))
        here = items.c.id.in_(some)
        wanted = (
            sa.select(items.c.id, priority, items.c.quality, _time(now), _time(now), sa.literal(0), sa.false())
            .where(here, _is_wanted(below))
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
        left = sa.select(items.c.id).where(here, items.c.state.in_(over), sa.not_(_is_wanted(below)))
        connection.execute(sa.delete(retry_queue).where(retry_queue.c.item_id.in_(left)))


def enqueue_by_operator(database: Database, item_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Queue items on a person's word: first in line, parked or not, with all their tries before them.

    A person's word also makes every stage that is less than whole worth another try, whatever it was that ended it.

    Returns:
        The ids that are queued now, and those about which nothing can be done again: they are whole, or have never
        been through.
    """
    queued: list[str] = []
    less = (Status.DEGRADED.value, Status.SKIPPED.value, Status.FAILED.value)
    with database.write() as connection:
        now = database_time(connection)
        for some in portions(item_ids):
            these = sa.select(items.c.id).where(items.c.id.in_(some)).order_by(items.c.id)
            connection.execute(these.with_for_update(key_share=True))  # as those do who write results
            below_whole = sa.and_(step_results.c.item_id.in_(some), step_results.c.status.in_(less))
            connection.execute(sa.update(step_results).where(below_whole).values(retryable=True))
            rows = connection.execute(
                sa.select(items.c.id, items.c.quality)
                .where(items.c.id.in_(some), items.c.state != "pending", _owes())
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
    """The ids that there are no items of."""
    known: set[str] = set()
    with database.read() as connection:
        for some in portions(item_ids):
            known.update(connection.scalars(sa.select(items.c.id).where(items.c.id.in_(some))))
    return [id_ for id_ in item_ids if id_ not in known]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTally:
    """How many items are in the queue: by state and, of those not parked, by priority."""

    states: Mapping[str, int]
    priorities: Mapping[Priority, int]

    @property
    def waiting(self) -> int:
        """Those that will be tried again by themselves."""
        return sum(self.priorities.values())

    def as_json(self) -> dict[str, Any]:
        return {
            **{state: self.states.get(state, 0) for state in (QUEUED, CLAIMED, PARKED)},
            "priorities": {priority.name: self.priorities.get(priority, 0) for priority in Priority},
        }


def tally(database: Database, mine: sa.ColumnElement[bool] | None = None) -> QueueTally:
    """How many items are in the queue; of the `items` that meet a condition, where one is given."""
    states: dict[str, int] = {}
    priorities: dict[Priority, int] = {}
    with database.read() as connection:
        state = _state(database_time(connection)).label("queue_state")  # no column's name: `items` has a `state`
        query = sa.select(state, retry_queue.c.priority, sa.func.count()).group_by(
            sa.text("queue_state"), retry_queue.c.priority
        )
        if mine is not None:
            query = query.join_from(retry_queue, items, items.c.id == retry_queue.c.item_id).where(mine)
        for name, priority, count in connection.execute(query):
            states[name] = states.get(name, 0) + count
            if name != PARKED:
                priorities[Priority(priority)] = priorities.get(Priority(priority), 0) + count
    return QueueTally(states=states, priorities=dict(sorted(priorities.items())))


def entries(database: Database, limit: int) -> list[Entry]:
    """The first of the queue, in the order in which they are claimed; the parked ones come last."""
    with database.read() as connection:
        state = _state(database_time(connection)).label("state")
        columns = [c for c in retry_queue.c if c.name not in {"is_parked", "holder"}]
        query = sa.select(*columns, state).order_by(retry_queue.c.is_parked, *CLAIM_ORDER)
        rows = connection.execute(query.limit(limit)).mappings().all()
    return [Entry(**{**row, "priority": Priority(row["priority"])}) for row in rows]


def is_free(now: datetime) -> sa.ColumnElement[bool]:
    """The condition on `retry_queue` that nobody works on the item."""
    return sa.or_(retry_queue.c.holder.is_(None), retry_queue.c.claimed_until <= now)


def locked(condition: sa.ColumnElement[bool]) -> sa.Select[tuple[str]]:
    """The ids of queued items, nobody else's to change until the transaction ends.

    All that change several rows take them in this one order, so that no two wait for each other.
    """
    return sa.select(retry_queue.c.item_id).where(condition).order_by(retry_queue.c.item_id).with_for_update()


def _state(now: datetime) -> sa.ColumnElement[str]:
    return sa.case((retry_queue.c.is_parked, PARKED), (sa.not_(is_free(now)), CLAIMED), else_=QUEUED)


def _time(now: datetime) -> sa.ColumnElement[datetime]:
    return sa.literal(now, retry_queue.c.enqueued_at.type)


def portions(item_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    """The ids, as many at a time as a statement takes."""
    return (item_ids[start : start + IDS_PER_STATEMENT] for start in range(0, len(item_ids), IDS_PER_STATEMENT))
