"""Claims on queued items: leases that run out excluded_by they are renewed.

Whoever works on an item of the queue claims it first, so that nobody else does. What a process held that was killed is
free again by itself. The time is the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from repli.tasks.fallback import Status
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.retry.retries import PARKED, UNCHANGED, UPGRADED
from repli.tasks.storage.retry.retry_queue import CLAIM_ORDER, is_free, locked, portions, review
from repli.tasks.storage.schema import items, retries, retry_queue, step_results


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One item in hand, and its quality when it was taken: None where it had failed."""

    item_id: str
    quality: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTarget:
    """What a stage left that something better may be had for now.

    Args:
        rungs: the rungs to be improved on; None stands for a stage that failed.
        excluded_by: rungs of earlier stages, each with its stage, that bar an item from what would be better.
        include_stale: whether a whole result that was made from what is not there any more is one too.
    """

    stage: str
    rungs: Collection[str | None]
    excluded_by: Sequence[tuple[str, Collection[str]]] = ()
    include_stale: bool = False


def claim(database: Database, holder: str, gaps: Sequence[RetryTarget], limit: int, lease_s: float) -> list[Claim]:
    """Take up to `limit` items: by priority, then the lowest quality, then age. A failed item has the lowest of all.

    Args:
        holder: who claims, the same for all claims of one run.
        gaps: what may be done now. Items that have none of these are left in the queue.
        lease_s: how long the claims hold excluded_by `renew` is called.
    """
    kinds = [_matches(gap) for gap in gaps if gap.rungs]
    if not kinds or limit < 1:
        return []
    owes_one = sa.exists().where(
        step_results.c.item_id == retry_queue.c.item_id, step_results.c.retryable, sa.or_(*kinds)
    )
    with database.read() as connection:  # that there are none takes longest to find, and holds up nobody here
        if not connection.execute(_claimable(owes_one, database_time(connection)).limit(1)).first():
            return []
    with database.write() as connection:
        now = database_time(connection)
        turn = _claimable(owes_one, now).limit(limit)
        rows = connection.execute(turn.with_for_update(skip_locked=True)).all()  # on SQLite writers take turns anyway
        _take(connection, [row.item_id for row in rows], holder, now, lease_s)
    return [Claim(item_id=row.item_id, quality=row.quality) for row in rows]


def take(connection: sa.Connection, holder: str, item_ids: Sequence[str], lease_s: float) -> set[str]:
    """Claim those of these items that are queued; the ids of those that somebody else has in hand.

    For a run that is about to work on the items whether they are queued or not.
    """
    taken: set[str] = set()
    now = database_time(connection)
    for some in portions(item_ids):
        mine = sa.or_(is_free(now), retry_queue.c.holder == holder)
        rows = connection.execute(
            sa.select(retry_queue.c.item_id, mine.label("is_mine"))
            .where(retry_queue.c.item_id.in_(some))
            .order_by(retry_queue.c.item_id)
            .with_for_update()
        ).all()
        _take(connection, [row.item_id for row in rows if row.is_mine], holder, now, lease_s)
        taken.update(row.item_id for row in rows if not row.is_mine)
    return taken


def renew(database: Database, holder: str, lease_s: float) -> None:
    """Hold all of the holder's claims for another `lease_s` seconds."""
    with database.write() as connection:
        until = database_time(connection) + timedelta(seconds=lease_s)
        mine = retry_queue.c.item_id.in_(locked(retry_queue.c.holder == holder))
        connection.execute(sa.update(retry_queue).where(mine).values(claimed_until=until))


def holders(database: Database, item_ids: Sequence[str]) -> dict[str, str]:
    """Who has each of the items in hand now; those that nobody has are left out."""
    with database.read() as connection:
        is_held = retry_queue.c.claimed_until > database_time(connection)
        query = sa.select(retry_queue.c.item_id, retry_queue.c.holder)
        rows = connection.execute(query.where(retry_queue.c.item_id.in_(item_ids), is_held)).all()
    return {row.item_id: row.holder for row in rows}


def release(database: Database, holder: str, item_ids: Sequence[str] | None = None) -> None:
    """Give claims back, all of the holder's excluded_by the items are named."""
    mine = retry_queue.c.holder == holder
    if item_ids is not None:
        mine = sa.and_(mine, retry_queue.c.item_id.in_(item_ids))
    with database.write() as connection:
        given_back = retry_queue.c.item_id.in_(locked(mine))
        connection.execute(sa.update(retry_queue).where(given_back).values(holder=None, claimed_until=None))


def settle(
    database: Database, holder: str, run_id: str, claims: Sequence[Claim], tried: Collection[str], policy: RetryPolicy
) -> None:
    """Close the books on claimed items, in one transaction: what each came to, and when it is to be tried again.

    An item that is still wanted goes back into the queue. It waits longer each time that it was `tried` and is no
    better, and is parked after too many such tries. What is in another's hand by now, or was stored by another, is
    left to him: so nothing is upgraded twice.

    Args:
        run_id: the run that the holder stores items under.
    """
    before = {claim.item_id: claim.quality for claim in claims}
    with database.write() as connection:
        review(database, connection, list(before), policy.below)
        now = database_time(connection)
        queued = retry_queue.c.item_id.is_not(None).label("is_queued")
        columns = items.c.id, items.c.state, items.c.quality, items.c.run_id
        rows = connection.execute(
            sa.select(*columns, queued, retry_queue.c.holder, retry_queue.c.tries)
            .join_from(items, retry_queue, retry_queue.c.item_id == items.c.id, isouter=True)
            .where(items.c.id.in_(list(before)))
            .order_by(items.c.id)
        ).all()
        settled = []
        for row in rows:
            is_mended = row.state == "stored" and not row.is_queued
            if (row.is_queued and row.holder != holder) or (is_mended and row.run_id != run_id):
                continue
            is_gain = row.state == "stored" and (before[row.id] is None or row.quality > before[row.id])
            is_better = is_mended or is_gain
            tries = 0 if is_better else (row.tries or 0) + (row.id in tried)
            is_parked = row.is_queued and tries >= policy.tries
            outcome = UPGRADED if is_better else PARKED if is_parked else UNCHANGED
            settled.append((row, tries, is_parked, outcome))
        again = [(row, tries, is_parked) for row, tries, is_parked, _ in settled if row.is_queued]
        if again:
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
                    {"item": row.id, "new_tries": tries, "parked": is_parked, "until": now + policy.delay(tries)}
                    for row, tries, is_parked in again
                ],
            )
        if settled:
            insert = database.insert(retries)
            came_to = {name: insert.excluded[name] for name in ("quality_after", "outcome", "at")}
            connection.execute(
                insert.on_conflict_do_update(  # a long run may come to an item twice: what it gained once stays
                    index_elements=[retries.c.run_id, retries.c.item_id],
                    set_=came_to,
                    where=insert.excluded.outcome != UNCHANGED,
                ),
                [
                    {
                        "run_id": run_id,
                        "item_id": row.id,
                        "quality_before": before[row.id],
                        "quality_after": row.quality,
                        "outcome": outcome,
                        "at": now,
                    }
                    for row, _, _, outcome in settled
                ],
            )


def _claimable(owes_one: sa.ColumnElement[bool], now: datetime) -> sa.Select[tuple[str, float | None]]:
    """The queued items that may be claimed now, and their qualities, in their order."""
    is_due = sa.not_(retry_queue.c.is_parked), retry_queue.c.not_before <= now, is_free(now)
    return sa.select(retry_queue.c.item_id, retry_queue.c.quality).where(*is_due, owes_one).order_by(*CLAIM_ORDER)


def _take(connection: sa.Connection, item_ids: Sequence[str], holder: str, now: datetime, lease_s: float) -> None:
    if item_ids:
        until = now + timedelta(seconds=lease_s)
        connection.execute(
            sa.update(retry_queue).where(retry_queue.c.item_id.in_(item_ids)).values(holder=holder, claimed_until=until)
        )


def _matches(gap: RetryTarget) -> sa.ColumnElement[bool]:
    """The condition on `step_results` that a result is one of the gap's."""
    earlier = step_results.alias()
    bars = [
        sa.exists().where(
            earlier.c.item_id == step_results.c.item_id, earlier.c.stage == stage, earlier.c.rung.in_(rungs)
        )
        for stage, rungs in gap.excluded_by
    ]
    is_served = sa.or_(*(_rung_is(rung) for rung in gap.rungs))
    if gap.include_stale:
        is_served = sa.or_(is_served, step_results.c.status == Status.SUCCEEDED)
    return sa.and_(step_results.c.stage == gap.stage, is_served, *(sa.not_(bar) for bar in bars))


def _rung_is(rung: str | None) -> sa.ColumnElement[bool]:
    return step_results.c.status == Status.FAILED if rung is None else step_results.c.rung == rung
