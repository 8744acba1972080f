"""The retry queue: the items to process again, and their order.

An item enters and leaves the queue in the transaction that saves its results, so that the queue always fits them. A run
claims an item before it works on it; see `claims`.

===========  ====================================================================================
state        meaning
===========  ====================================================================================
``ready``    may be claimed
``delayed``  may be claimed from `due_at` on, after a try that improved nothing
``claimed``  a run works on it; the claim expires at `due_at`
``parked``   was tried too often without improvement; only an operator can requeue it
===========  ====================================================================================

`claims.claim` makes the items ready whose `due_at` has come. Until then they stand in the table as delayed or claimed;
the views here show them, and all that may be claimed sometime, as ``queued``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Status
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.outages import retried
from repli.tasks.storage.retry.needs import Needs, Result, decode, encode, needs_of, needs_store
from repli.tasks.storage.schema import is_ready, items, order_of_quality, retry_queue, step_results

IDS_PER_STATEMENT = 10_000
"""Databases limit the parameters of a statement: SQLite to 32,766, PostgreSQL's protocol to 65,535."""

READY, DELAYED, CLAIMED, PARKED = "ready", "delayed", "claimed", "parked"
QUEUED = "queued"
"""The state that views show for items that are ready or delayed."""

CLAIM_ORDER = (retry_queue.c.priority, order_of_quality, retry_queue.c.enqueued_at, retry_queue.c.item_id)
"""The order in which items are claimed: by priority, then the lowest quality, then age. A failed item has no quality
and comes before those that have one."""


class Priority(IntEnum):
    """The priority of a queued item. The lowest number is claimed first."""

    HIGH = 1  # queued by an operator
    NORMAL = 2  # failed
    LOW = 3  # stored, of low quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One item in the queue.

    `waits_for`: the breakers of keys that keep better rungs from serving it. `outdated`: the stages whose results are
    to be made anew by the present version of their rung.
    """

    item_id: str
    priority: Priority
    quality: float | None
    enqueued_at: datetime
    not_before: datetime
    tries: int
    state: str
    claimed_until: datetime | None
    waits_for: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()

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
            "waits_for": list(self.waits_for),
            "outdated": list(self.outdated),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """An item that may belong in the queue."""

    id: str
    state: str
    quality: float | None
    needs: Needs

    def is_wanted(self, below: float | None, *, is_queued: bool, by_operator: bool) -> bool:
        """Return whether the item belongs in the queue: it failed, is of low quality, or has a stale or an
        outdated result.

        An unfinished item stays queued until it is stored, because its run may be killed.
        """
        needs = self.needs.values()
        if self.state == "pending":
            return is_queued
        if self.state == "failed":
            return any(need.is_failed and need.is_retryable for need in needs)
        if self.state != "stored" or self.quality is None:
            return False
        is_low = by_operator or (below is not None and self.quality < below)
        return any(need.is_stale or need.is_outdated or (is_low and need.is_retryable) for need in needs)


def review(database: Database, connection: sa.Connection, item_ids: Sequence[str], below: float | None) -> None:
    """Queue these items, or remove them from the queue, by their present state and results. Idempotent.

    The priority of a queued item can only rise; its tries and its claim do not change. The caller holds the locks of
    the items, see `lock_items`.

    Args:
        below: the quality below which stored items are queued. None: stored items enter only if they have a stale
            or outdated result, and none leaves.
    """
    now = database_time(connection)
    for chunk in chunks(item_ids):
        priorities = _lock_entries(connection, chunk)
        wanted: list[_Candidate] = []
        unwanted: list[str] = []
        for item in _candidates(connection, chunk):
            by_operator = priorities.get(item.id) == Priority.HIGH
            if item.is_wanted(below, is_queued=item.id in priorities, by_operator=by_operator):
                wanted.append(item)
            elif item.id in priorities and (item.state == "failed" or (item.state == "stored" and below is not None)):
                unwanted.append(item.id)
        _enqueue(database, connection, wanted, now)
        if to_store := [item.id for item in wanted if needs_store(item.needs)]:
            is_parked = retry_queue.c.item_id.in_(to_store), retry_queue.c.state == PARKED
            connection.execute(sa.update(retry_queue).where(*is_parked).values(state=READY))
        if unwanted:
            connection.execute(sa.delete(retry_queue).where(retry_queue.c.item_id.in_(unwanted)))


def _lock_entries(connection: sa.Connection, item_ids: Sequence[str]) -> dict[str, int]:
    """Lock the entries of these items, in the order of the ids; return their priorities by item."""
    query = sa.select(retry_queue.c.item_id, retry_queue.c.priority).where(retry_queue.c.item_id.in_(item_ids))
    rows = connection.execute(query.order_by(retry_queue.c.item_id).with_for_update()).all()
    return {row.item_id: row.priority for row in rows}


def _candidates(connection: sa.Connection, item_ids: Sequence[str]) -> list[_Candidate]:
    """Return these items, in the order of the ids, each with its needs."""
    c = step_results.c
    results = connection.execute(
        sa.select(c.item_id, c.stage, c.status, c.rung, c.retryable, c.is_stale, c.is_outdated, c.waits_for).where(
            c.item_id.in_(item_ids)
        )
    )
    by_item: dict[str, list[Result]] = defaultdict(list)
    for item_id, *result in results:
        by_item[item_id].append(tuple(result))
    found = connection.execute(
        sa.select(items.c.id, items.c.state, items.c.quality).where(items.c.id.in_(item_ids)).order_by(items.c.id)
    )
    return [
        _Candidate(
            id=row.id,
            state=row.state,
            quality=row.quality,
            needs=needs_of(by_item[row.id], is_pending=row.state == "pending"),
        )
        for row in found
    ]


def _enqueue(
    database: Database, connection: sa.Connection, wanted: Sequence[_Candidate], now: datetime, **values: Any
) -> None:
    """Insert or update the entries of these items. `values` are set for old and new entries alike."""
    if not wanted:
        return
    insert = database.insert(retry_queue)
    is_higher = insert.excluded.priority < retry_queue.c.priority
    raised = sa.case((is_higher, insert.excluded.priority), else_=retry_queue.c.priority)
    changed = {"priority": raised, "quality": insert.excluded.quality, "needs": insert.excluded.needs}
    upsert = insert.on_conflict_do_update(index_elements=[retry_queue.c.item_id], set_={**changed, **values})
    new = {"enqueued_at": now, "state": READY, "tries": 0, **values}
    connection.execute(
        upsert,
        [
            {
                "priority": (Priority.NORMAL if item.state == "failed" else Priority.LOW).value,
                **new,
                "item_id": item.id,
                "quality": item.quality,
                "needs": encode(item.needs),
            }
            for item in wanted
        ],
    )


def enqueue_unfinished(database: Database, connection: sa.Connection, item_ids: Sequence[str]) -> None:
    """Queue these pending items, so that `reprocess` takes them to their end. The caller holds their locks."""
    for chunk in chunks(item_ids):
        _lock_entries(connection, chunk)
        free = {"state": READY, "due_at": None, "holder": None, "claim_id": None}
        _enqueue(database, connection, _candidates(connection, chunk), database_time(connection), tries=0, **free)


@retried
def enqueue_by_operator(database: Database, item_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Queue items with priority HIGH, parked ones too, and reset their tries.

    Also mark every degraded, skipped or failed stage of these items retryable: the operator may know that its cause is
    gone.

    Returns:
        The ids that are queued now, and those that have nothing to retry: they succeeded, or are still pending.
    """
    queued: set[str] = set()
    below_best = (Status.DEGRADED.value, Status.SKIPPED.value, Status.FAILED.value)
    for chunk in chunks(sorted(item_ids)):
        with database.write() as connection:
            now = database_time(connection)
            lock_items(connection, chunk)
            is_below_best = sa.and_(step_results.c.item_id.in_(chunk), step_results.c.status.in_(below_best))
            connection.execute(sa.update(step_results).where(is_below_best).values(retryable=True))
            claims = _claimed(connection, chunk, now)
            wanted = [
                item for item in _candidates(connection, chunk) if item.state != "pending" and _is_worth_a_try(item)
            ]
            high = {"priority": Priority.HIGH.value, "tries": 0}
            free = [item for item in wanted if item.id not in claims]
            _enqueue(database, connection, free, now, **high, state=READY, due_at=None, holder=None, claim_id=None)
            _enqueue(database, connection, [item for item in wanted if item.id in claims], now, **high)
            queued.update(item.id for item in wanted)
    return [id_ for id_ in item_ids if id_ in queued], [id_ for id_ in item_ids if id_ not in queued]


def _is_worth_a_try(item: _Candidate) -> bool:
    return any(need.is_retryable or need.is_stale or need.is_outdated for need in item.needs.values())


def _claimed(connection: sa.Connection, item_ids: Sequence[str], now: datetime) -> set[str]:
    """Lock the entries of these items, and return the ids of those that a run works on."""
    _lock_entries(connection, item_ids)
    return set(
        connection.scalars(sa.select(retry_queue.c.item_id).where(retry_queue.c.item_id.in_(item_ids), is_claimed(now)))
    )


def lock_items(connection: sa.Connection, item_ids: Sequence[str]) -> dict[str, sa.Row[tuple[str, int, str]]]:
    """Lock these items until the transaction ends. Transactions that write them wait for it.

    All transactions lock in the order of the ids, and items before their entries in the queue, so that none deadlock.

    Returns:
        `id`, `revision` and `state` of each item, by id.
    """
    ordered = (
        sa.select(items.c.id, items.c.revision, items.c.state).where(items.c.id.in_(item_ids)).order_by(items.c.id)
    )
    rows = connection.execute(ordered.with_for_update(key_share=True)).all()  # foreign-key checks need not wait
    return {row.id: row for row in rows}


@retried
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


@retried
def tally(database: Database, condition: sa.ColumnElement[bool] | None = None) -> QueueTally:
    """Count the items in the queue; where a `condition` on `items` is given, only those that meet it."""
    states: dict[str, int] = {}
    priorities: dict[Priority, int] = {}
    with database.read() as connection:
        state = _shown_state(database_time(connection)).label("shown_state")
        query = sa.select(state, retry_queue.c.priority, sa.func.count()).group_by(
            sa.text("shown_state"), retry_queue.c.priority
        )
        if condition is not None:
            query = query.join_from(retry_queue, items, items.c.id == retry_queue.c.item_id).where(condition)
        for name, priority, count in connection.execute(query):
            states[name] = states.get(name, 0) + count
            if name != PARKED:
                priorities[Priority(priority)] = priorities.get(Priority(priority), 0) + count
    return QueueTally(states=states, priorities=dict(sorted(priorities.items())))


@retried
def entries(database: Database, limit: int) -> list[Entry]:
    """Return up to `limit` entries in `CLAIM_ORDER`, the parked ones last."""
    c = retry_queue.c
    with database.read() as connection:
        shown = _shown_state(database_time(connection)).label("shown_state")
        columns = c.item_id, c.priority, c.quality, c.enqueued_at, c.tries, c.state, c.due_at, c.needs, shown
        query = sa.select(*columns).order_by(c.state == PARKED, *CLAIM_ORDER)
        rows = connection.execute(query.limit(limit)).all()
        waits = _waits_of(connection, [row.item_id for row in rows])
    return [
        Entry(
            item_id=row.item_id,
            priority=Priority(row.priority),
            quality=row.quality,
            enqueued_at=row.enqueued_at,
            not_before=row.due_at if row.state == DELAYED else row.enqueued_at,
            tries=row.tries,
            state=row.shown_state,
            claimed_until=row.due_at if row.shown_state == CLAIMED else None,
            waits_for=tuple(waits[row.item_id]),
            outdated=tuple(stage for stage, need in decode(row.needs).items() if need.is_outdated),
        )
        for row in rows
    ]


def _waits_of(connection: sa.Connection, item_ids: Sequence[str]) -> Mapping[str, list[str]]:
    """Return the breakers of keys that results of these items wait for."""
    waits: dict[str, list[str]] = defaultdict(list)
    c = step_results.c
    for chunk in chunks(item_ids):
        query = sa.select(c.item_id, c.waits_for).where(c.item_id.in_(chunk), c.waits_for.is_not(None))
        for item_id, breakers in connection.execute(query.order_by(c.item_id, c.stage)):
            waits[item_id] += breakers.splitlines()
    return waits


@retried
def next_due(database: Database) -> datetime | None:
    """Return when the first of the delayed items is due, if none is ready; None where no item is delayed."""
    c = retry_queue.c
    with database.read() as connection:
        if connection.execute(sa.select(c.item_id).where(is_ready).limit(1)).first():
            return None
        due: datetime | None = connection.scalar(sa.select(sa.func.min(c.due_at)).where(c.state == DELAYED))
    return due


def is_claimed(now: datetime) -> sa.ColumnElement[bool]:
    """Return the condition on `retry_queue` that a run works on the item, and its claim has not expired."""
    return sa.and_(retry_queue.c.state == CLAIMED, retry_queue.c.due_at > now)


def select_for_update(condition: sa.ColumnElement[bool]) -> sa.Select[tuple[str]]:
    """Return a query for the ids of queued items that locks their rows until the transaction ends.

    Every change of several rows locks them in this one order, so that no two transactions deadlock.
    """
    return sa.select(retry_queue.c.item_id).where(condition).order_by(retry_queue.c.item_id).with_for_update()


def _shown_state(now: datetime) -> sa.ColumnElement[str]:
    return sa.case((retry_queue.c.state == PARKED, PARKED), (is_claimed(now), CLAIMED), else_=QUEUED)


def chunks(item_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    """Yield the ids in chunks of `IDS_PER_STATEMENT`."""
    return (item_ids[start : start + IDS_PER_STATEMENT] for start in range(0, len(item_ids), IDS_PER_STATEMENT))
