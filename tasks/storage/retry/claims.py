"""Claims on queued items: leases that expire unless they are renewed.

A run claims a queued item before it works on it, so that no two runs process one queued item. The claims of a killed
process expire. All times are the database's.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.storage import breakers
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.outages import retried
from repli.tasks.storage.retry import retries as outcomes
from repli.tasks.storage.retry.needs import RetryTarget, decode, digest, needs_store
from repli.tasks.storage.retry.retry_queue import (
    CLAIM_ORDER,
    CLAIMED,
    DELAYED,
    PARKED,
    READY,
    is_claimed,
    lock_items,
    review,
    select_for_update,
)
from repli.tasks.storage.schema import BEFORE_EVERY_QUALITY, is_ready, items, retries, retry_queue

READY_AT_ONCE = 5000
"""Items that are made ready in one transaction."""
MOST_NEEDS = 500
"""Different needs that one claim looks at. There are more only where items wait for very many keys: the next claims
look at the others."""
_CLAIM_LOCK = 0x636C61696D  # "claim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claimed item, with its quality at the time of the claim: None where it had failed."""

    item_id: str
    quality: float | None


def claim(database: Database, holder: str, targets: Sequence[RetryTarget], limit: int, lease_s: float) -> list[Claim]:
    """Claim up to `limit` items, in the order of `CLAIM_ORDER`. The cost does not grow with the queue.

    Args:
        holder: the claim holder, the same for all claims of one run.
        targets: the results to improve. Items without one of these stay in the queue.
        lease_s: seconds after which the claims expire unless `renew` is called.
    """
    if limit < 1:
        return []
    while _make_ready(database):
        pass
    return _claim(database, holder, str(uuid.uuid4()), targets, limit, lease_s)


@retried
def _make_ready(database: Database) -> bool:
    """Make delayed items ready whose time has come, and items whose claim has expired. Return whether any was.

    The holder of an expired claim stays its holder until another run claims the item: it may be late. In portions, so
    that no other transaction waits long.
    """
    with database.read() as connection:
        query = sa.select(retry_queue.c.item_id).where(_is_due(database_time(connection))).limit(READY_AT_ONCE)
        due = list(connection.scalars(query))
    if not due:
        return False
    with database.write() as connection:
        is_due = sa.and_(retry_queue.c.item_id.in_(due), _is_due(database_time(connection)))
        _set_ready(connection, is_due)
    return True


def _is_due(now: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(retry_queue.c.state.in_([DELAYED, CLAIMED]), retry_queue.c.due_at <= now)


def _set_ready(connection: sa.Connection, condition: sa.ColumnElement[bool], **values: Any) -> None:
    listed = retry_queue.c.item_id.in_(select_for_update(condition))
    connection.execute(sa.update(retry_queue).where(listed).values(state=READY, due_at=None, **values))


@retried
def _claim(
    database: Database, holder: str, claim_id: str, targets: Sequence[RetryTarget], limit: int, lease_s: float
) -> list[Claim]:
    """Claim items under `claim_id`. If an earlier try was committed, return its items."""
    with database.read() as connection:  # most searches at the end of a run find nothing: hold no lock for them
        claimed = _claimed_under(connection, holder, claim_id)
        if claimed or not _matching_needs(connection, targets):
            return claimed
    with database.write() as connection:
        if not database.is_sqlite:  # one claim at a time: two would choose the same items
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIM_LOCK)))
        rows = [row for needs in _matching_needs(connection, targets) for row in _first(connection, needs, limit)]
        chosen = sorted(rows, key=_turn)[:limit]
        until = database_time(connection) + timedelta(seconds=lease_s)
        connection.execute(
            sa.update(retry_queue)
            .where(retry_queue.c.item_id.in_(sorted(row.item_id for row in chosen)))
            .values(state=CLAIMED, due_at=until, holder=holder, claim_id=claim_id)
        )
    return [Claim(item_id=row.item_id, quality=row.quality) for row in chosen]


def _claimed_under(connection: sa.Connection, holder: str, claim_id: str) -> list[Claim]:
    is_claim = _is_held_by(holder), retry_queue.c.state == CLAIMED, retry_queue.c.claim_id == claim_id
    query = sa.select(retry_queue.c.item_id, retry_queue.c.quality).where(*is_claim).order_by(*CLAIM_ORDER)
    return [Claim(item_id=row.item_id, quality=row.quality) for row in connection.execute(query)]


def _matching_needs(connection: sa.Connection, targets: Sequence[RetryTarget]) -> list[str]:
    """Return the needs of ready items that one of the targets matches.

    The query skips from each distinct value to the next in the index, instead of reading all rows.
    """
    least = sa.func.min(retry_queue.c.needs)
    found = sa.select(least.label("needs")).where(is_ready).cte("found", recursive=True)
    following = sa.select(least).where(is_ready, retry_queue.c.needs > found.c.needs).scalar_subquery()
    found = found.union_all(sa.select(following).where(found.c.needs.is_not(None)))
    texts = connection.scalars(sa.select(found.c.needs).where(found.c.needs.is_not(None)))
    matching = (text for text in texts if any(target.matches(decode(text)) for target in targets))
    return list(islice(matching, MOST_NEEDS))


def _first(connection: sa.Connection, needs: str, limit: int) -> Sequence[sa.Row[Any]]:
    """Lock and return the first ready items with these needs, in `CLAIM_ORDER`."""
    columns = retry_queue.c.item_id, retry_queue.c.priority, retry_queue.c.quality, retry_queue.c.enqueued_at
    query = sa.select(*columns).where(is_ready, retry_queue.c.needs == needs).order_by(*CLAIM_ORDER).limit(limit)
    return connection.execute(query.with_for_update(skip_locked=True)).all()


def _turn(row: sa.Row[Any]) -> tuple[int, float, datetime, str]:
    """Return the place of an item in `CLAIM_ORDER`."""
    return row.priority, BEFORE_EVERY_QUALITY if row.quality is None else row.quality, row.enqueued_at, row.item_id


@retried
def renew(database: Database, holder: str, lease_s: float) -> None:
    """Extend all claims of the holder to `lease_s` seconds from now."""
    with database.write() as connection:
        until = database_time(connection) + timedelta(seconds=lease_s)
        is_held = retry_queue.c.item_id.in_(select_for_update(_is_held_by(holder)))
        connection.execute(sa.update(retry_queue).where(is_held).values(state=CLAIMED, due_at=until))


@retried
def holders(database: Database, item_ids: Sequence[str]) -> dict[str, str]:
    """Return the claim holder of each item, by id. Unclaimed items are absent."""
    with database.read() as connection:
        query = sa.select(retry_queue.c.item_id, retry_queue.c.holder).where(is_claimed(database_time(connection)))
        rows = connection.execute(query.where(retry_queue.c.item_id.in_(item_ids))).all()
    return {row.item_id: row.holder for row in rows}


@retried
def release(database: Database, holder: str) -> None:
    """Release all claims of the holder."""
    with database.write() as connection:
        _set_ready(connection, _is_held_by(holder), holder=None, claim_id=None)


def _is_held_by(holder: str) -> sa.ColumnElement[bool]:
    """Return the condition that an item is the holder's: claimed, or expired and not claimed since."""
    return sa.and_(retry_queue.c.state.in_([CLAIMED, READY]), retry_queue.c.holder == holder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settlement:
    """The outcome of one claimed item.

    `is_queued`: it stays in the queue, with these `tries`, parked or not. `is_refused`: it may be claimed at once.
    """

    item_id: str
    quality_before: float | None
    quality_after: float | None
    outcome: str
    is_queued: bool
    is_parked: bool
    is_refused: bool
    tries: int


@retried
def settle(
    database: Database,
    holder: str,
    run_id: str,
    claims: Sequence[Claim],
    tried: Collection[str],
    policy: RetryPolicy,
    *,
    refused: Collection[str] = (),
) -> None:
    """Record the outcome of claimed items and schedule their next try, in one transaction.

    An item that is still wanted goes back into the queue. Each time it was `tried` and is no better, its delay grows;
    after `policy.tries` such tries it is parked, unless it waits for a key whose breaker is not closed: then the key
    is to blame, and not the item. Items that another run has since claimed or stored are skipped, so that no item
    counts as upgraded twice.

    Args:
        run_id: the run under which the holder stores items.
        tried: the ids of the items that the holder has processed; the others get no further try counted.
        refused: those of them that were refused for their key: they wait for its breaker, and for no delay.
    """
    quality_before = {claim.item_id: claim.quality for claim in claims}
    with database.write() as connection:
        lock_items(connection, list(quality_before))
        review(database, connection, list(quality_before), policy.below)
        now = database_time(connection)
        rows = [
            row
            for row in _rows_to_settle(connection, list(quality_before))
            if _belongs_to(row, holder, run_id, quality_before[row.id])
        ]
        is_any_tired = any((row.tries or 0) + 1 >= policy.tries for row in rows)
        not_closed = breakers.not_closed(connection) if is_any_tired else ()
        down = frozenset(digest(str(key)) for key in not_closed)
        settlements = [
            _settlement(row, run_id, quality_before[row.id], row.id in tried, row.id in refused, policy, down)
            for row in rows
        ]
        _requeue(connection, [one for one in settlements if one.is_queued], now, policy)
        _record_outcomes(database, connection, run_id, settlements, now)


def _rows_to_settle(connection: sa.Connection, item_ids: Sequence[str]) -> Sequence[sa.Row[Any]]:
    """Return the items with their places in the queue, in the order of the ids."""
    is_queued = retry_queue.c.item_id.is_not(None).label("is_queued")
    columns = items.c.id, items.c.state, items.c.quality, items.c.run_id
    return connection.execute(
        sa.select(*columns, is_queued, retry_queue.c.holder, retry_queue.c.tries, retry_queue.c.needs)
        .join_from(items, retry_queue, retry_queue.c.item_id == items.c.id, isouter=True)
        .where(items.c.id.in_(item_ids))
        .order_by(items.c.id)
    ).all()


def _belongs_to(row: sa.Row[Any], holder: str, run_id: str, quality_before: float | None) -> bool:
    """Return whether the item is the holder's to settle: not claimed, nor upgraded, by another run meanwhile.

    An item may leave the queue as it was: a better rung has declined it, so no retry can help.
    """
    if row.is_queued:
        return bool(row.holder == holder)
    return not _is_finished(row) or row.run_id == run_id or bool(row.quality == quality_before)


def _is_finished(row: sa.Row[Any]) -> bool:
    return row.state == "stored" and not row.is_queued


def _settlement(
    row: sa.Row[Any],
    run_id: str,
    quality_before: float | None,
    is_tried: bool,
    is_refused: bool,
    policy: RetryPolicy,
    down: Collection[str],
) -> _Settlement:
    """Decide the outcome of one item: upgraded, unchanged or parked."""
    has_gained = row.state == "stored" and (quality_before is None or row.quality > quality_before)
    is_upgraded = has_gained or (_is_finished(row) and row.run_id == run_id)
    tries = 0 if is_upgraded else (row.tries or 0) + is_tried
    needs = decode(row.needs) if row.is_queued else {}
    is_due_to_key = any(not need.waits_for.isdisjoint(down) for need in needs.values())
    is_parked = row.is_queued and tries >= policy.tries and not is_due_to_key and not needs_store(needs)
    return _Settlement(
        item_id=row.id,
        quality_before=quality_before,
        quality_after=row.quality,
        outcome=outcomes.UPGRADED if is_upgraded else outcomes.PARKED if is_parked else outcomes.UNCHANGED,
        is_queued=row.is_queued,
        is_parked=is_parked,
        is_refused=is_refused and not is_tried,
        tries=tries,
    )


def _requeue(connection: sa.Connection, settlements: Sequence[_Settlement], now: datetime, policy: RetryPolicy) -> None:
    """Release the claims on these queued items and schedule their next try."""
    if settlements:
        connection.execute(
            sa.update(retry_queue)
            .where(retry_queue.c.item_id == sa.bindparam("item"))
            .values(
                tries=sa.bindparam("new_tries"),
                state=sa.bindparam("new_state"),
                due_at=sa.bindparam("until"),
                holder=None,
                claim_id=None,
            ),
            [
                {
                    "item": one.item_id,
                    "new_tries": one.tries,
                    "new_state": PARKED if one.is_parked else READY if one.is_refused else DELAYED,
                    "until": None if is_due else now + policy.delay(min(one.tries, policy.tries - 1)),
                }
                for one in settlements
                for is_due in [one.is_parked or one.is_refused]
            ],
        )


def _record_outcomes(
    database: Database, connection: sa.Connection, run_id: str, settlements: Sequence[_Settlement], now: datetime
) -> None:
    """Write the outcomes to `retries`."""
    if settlements:
        insert = database.insert(retries)
        changed = {name: insert.excluded[name] for name in ("quality_after", "outcome", "at")}
        connection.execute(
            insert.on_conflict_do_update(  # a long run may claim an item twice: "unchanged" replaces no earlier gain
                index_elements=[retries.c.run_id, retries.c.item_id],
                set_=changed,
                where=insert.excluded.outcome != outcomes.UNCHANGED,
            ),
            [
                {
                    "run_id": run_id,
                    "item_id": one.item_id,
                    "quality_before": one.quality_before,
                    "quality_after": one.quality_after,
                    "outcome": one.outcome,
                    "at": now,
                }
                for one in settlements
            ],
        )
