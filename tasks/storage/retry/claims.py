"""Claims on queued items: leases that expire unless they are renewed.

A run claims a queued item before it works on it, so that no two runs process one queued item. The claims of a killed
process expire. All times are the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Status
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.retry.retries import PARKED, UNCHANGED, UPGRADED
from repli.tasks.storage.retry.retry_queue import CLAIM_ORDER, chunks, is_free, review, select_for_update
from repli.tasks.storage.schema import items, retries, retry_queue, step_results


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claimed item, with its quality at the time of the claim: None where it had failed."""

    item_id: str
    quality: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTarget:
    """Results of one stage that a better rung may improve now.

    Args:
        rungs: the rungs whose results to improve; None among them includes failed results.
        excluded_by: pairs of an earlier stage and its rungs. An item that one of these rungs served is excluded: the
            better rung is incompatible with it.
        include_stale: whether to include succeeded results that are stale: computed from an input that has changed
            since.
    """

    stage: str
    rungs: Collection[str | None]
    excluded_by: Sequence[tuple[str, Collection[str]]] = ()
    include_stale: bool = False


def claim(database: Database, holder: str, targets: Sequence[RetryTarget], limit: int, lease_s: float) -> list[Claim]:
    """Claim up to `limit` items, in the order of `CLAIM_ORDER`.

    Args:
        holder: the claim holder, the same for all claims of one run.
        targets: the results to improve. Items without one of these stay in the queue.
        lease_s: seconds after which the claims expire unless `renew` is called.
    """
    conditions = [_matches(target) for target in targets if target.rungs]
    if not conditions or limit < 1:
        return []
    has_target = sa.exists().where(
        step_results.c.item_id == retry_queue.c.item_id, step_results.c.retryable, sa.or_(*conditions)
    )
    with database.read() as connection:  # an empty search is the slowest: hold no write lock for it
        if not connection.execute(_claimable(has_target, database_time(connection)).limit(1)).first():
            return []
    with database.write() as connection:
        now = database_time(connection)
        query = _claimable(has_target, now).limit(limit)
        rows = connection.execute(query.with_for_update(skip_locked=True)).all()  # SQLite has one writer at a time
        _set_holder(connection, [row.item_id for row in rows], holder, now, lease_s)
    return [Claim(item_id=row.item_id, quality=row.quality) for row in rows]


def take(connection: sa.Connection, holder: str, item_ids: Sequence[str], lease_s: float) -> set[str]:
    """Claim the given items that are queued, for a run that works on items whether they are queued or not.

    Returns:
        The ids of the items that another run has claimed.
    """
    refused: set[str] = set()
    now = database_time(connection)
    for chunk in chunks(item_ids):
        is_claimable = sa.or_(is_free(now), retry_queue.c.holder == holder)
        rows = connection.execute(
            sa.select(retry_queue.c.item_id, is_claimable.label("is_claimable"))
            .where(retry_queue.c.item_id.in_(chunk))
            .order_by(retry_queue.c.item_id)
            .with_for_update()
        ).all()
        _set_holder(connection, [row.item_id for row in rows if row.is_claimable], holder, now, lease_s)
        refused.update(row.item_id for row in rows if not row.is_claimable)
    return refused


def renew(database: Database, holder: str, lease_s: float) -> None:
    """Extend all claims of the holder to `lease_s` seconds from now."""
    with database.write() as connection:
        until = database_time(connection) + timedelta(seconds=lease_s)
        is_held = retry_queue.c.item_id.in_(select_for_update(retry_queue.c.holder == holder))
        connection.execute(sa.update(retry_queue).where(is_held).values(claimed_until=until))


def holders(database: Database, item_ids: Sequence[str]) -> dict[str, str]:
    """Return the claim holder of each item, by id. Unclaimed items are absent."""
    with database.read() as connection:
        is_held = retry_queue.c.claimed_until > database_time(connection)
        query = sa.select(retry_queue.c.item_id, retry_queue.c.holder)
        rows = connection.execute(query.where(retry_queue.c.item_id.in_(item_ids), is_held)).all()
    return {row.item_id: row.holder for row in rows}


def release(database: Database, holder: str, item_ids: Sequence[str] | None = None) -> None:
    """Release the holder's claims on the given items; all of its claims where `item_ids` is None."""
    is_held = retry_queue.c.holder == holder
    if item_ids is not None:
        is_held = sa.and_(is_held, retry_queue.c.item_id.in_(item_ids))
    with database.write() as connection:
        released = retry_queue.c.item_id.in_(select_for_update(is_held))
        connection.execute(sa.update(retry_queue).where(released).values(holder=None, claimed_until=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settlement:
    """The outcome of one claimed item. `is_queued`: it stays in the queue, with these `tries`, parked or not."""

    item_id: str
    quality_before: float | None
    quality_after: float | None
    outcome: str
    is_queued: bool
    is_parked: bool
    tries: int


def settle(
    database: Database, holder: str, run_id: str, claims: Sequence[Claim], tried: Collection[str], policy: RetryPolicy
) -> None:
    """Record the outcome of claimed items and schedule their next try, in one transaction.

    An item that is still wanted goes back into the queue. Each time it was `tried` and is no better, its delay grows;
    after `policy.tries` such tries it is parked. Items that another run has since claimed or stored are skipped, so
    that no item counts as upgraded twice.

    Args:
        run_id: the run under which the holder stores items.
        tried: the ids of the items that the holder has processed; the others get no further try counted.
    """
    quality_before = {claim.item_id: claim.quality for claim in claims}
    with database.write() as connection:
        review(database, connection, list(quality_before), policy.below)
        now = database_time(connection)
        settlements = [
            _settlement(row, quality_before[row.id], row.id in tried, policy)
            for row in _rows_to_settle(connection, list(quality_before))
            if _belongs_to(row, holder, run_id)
        ]
        _requeue(connection, [one for one in settlements if one.is_queued], now, policy)
        _record_outcomes(database, connection, run_id, settlements, now)


def _rows_to_settle(connection: sa.Connection, item_ids: Sequence[str]) -> Sequence[sa.Row[Any]]:
    """Return the items with their places in the queue, in the order of the ids."""
    is_queued = retry_queue.c.item_id.is_not(None).label("is_queued")
    columns = items.c.id, items.c.state, items.c.quality, items.c.run_id
    return connection.execute(
        sa.select(*columns, is_queued, retry_queue.c.holder, retry_queue.c.tries)
        .join_from(items, retry_queue, retry_queue.c.item_id == items.c.id, isouter=True)
        .where(items.c.id.in_(item_ids))
        .order_by(items.c.id)
    ).all()


def _belongs_to(row: sa.Row[Any], holder: str, run_id: str) -> bool:
    """Return whether the item is the holder's to settle: not claimed, nor finished, by another run meanwhile."""
    if row.is_queued:
        return bool(row.holder == holder)
    return not _is_finished(row) or row.run_id == run_id


def _is_finished(row: sa.Row[Any]) -> bool:
    return row.state == "stored" and not row.is_queued


def _settlement(row: sa.Row[Any], quality_before: float | None, is_tried: bool, policy: RetryPolicy) -> _Settlement:
    """Decide the outcome of one item: upgraded, unchanged or parked."""
    has_gained = row.state == "stored" and (quality_before is None or row.quality > quality_before)
    is_upgraded = _is_finished(row) or has_gained
    tries = 0 if is_upgraded else (row.tries or 0) + is_tried
    is_parked = row.is_queued and tries >= policy.tries
    return _Settlement(
        item_id=row.id,
        quality_before=quality_before,
        quality_after=row.quality,
        outcome=UPGRADED if is_upgraded else PARKED if is_parked else UNCHANGED,
        is_queued=row.is_queued,
        is_parked=is_parked,
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
                is_parked=sa.bindparam("parked"),
                not_before=sa.bindparam("until"),
                holder=None,
                claimed_until=None,
            ),
            [
                {
                    "item": one.item_id,
                    "new_tries": one.tries,
                    "parked": one.is_parked,
                    "until": now + policy.delay(one.tries),
                }
                for one in settlements
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
                where=insert.excluded.outcome != UNCHANGED,
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


def _claimable(has_target: sa.ColumnElement[bool], now: datetime) -> sa.Select[tuple[str, float | None]]:
    """Return a query for the queued items that may be claimed now, with their qualities, in `CLAIM_ORDER`."""
    is_due = sa.not_(retry_queue.c.is_parked), retry_queue.c.not_before <= now, is_free(now)
    return sa.select(retry_queue.c.item_id, retry_queue.c.quality).where(*is_due, has_target).order_by(*CLAIM_ORDER)


def _set_holder(connection: sa.Connection, item_ids: Sequence[str], holder: str, now: datetime, lease_s: float) -> None:
    if item_ids:
        until = now + timedelta(seconds=lease_s)
        connection.execute(
            sa.update(retry_queue).where(retry_queue.c.item_id.in_(item_ids)).values(holder=holder, claimed_until=until)
        )


def _matches(target: RetryTarget) -> sa.ColumnElement[bool]:
    """Return the condition on `step_results` that a result is one of the target's."""
    earlier = step_results.alias()
    exclusions = [
        sa.exists().where(
            earlier.c.item_id == step_results.c.item_id, earlier.c.stage == stage, earlier.c.rung.in_(rungs)
        )
        for stage, rungs in target.excluded_by
    ]
    is_included = sa.or_(*(_rung_is(rung) for rung in target.rungs))
    if target.include_stale:
        is_included = sa.or_(is_included, step_results.c.status == Status.SUCCEEDED)
    return sa.and_(step_results.c.stage == target.stage, is_included, *(sa.not_(one) for one in exclusions))


def _rung_is(rung: str | None) -> sa.ColumnElement[bool]:
    return step_results.c.status == Status.FAILED if rung is None else step_results.c.rung == rung
