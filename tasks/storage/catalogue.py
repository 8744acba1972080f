"""The catalogue: register the items of a run, and read the batches that have work left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Status
from repli.tasks.items import Item
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims
from repli.tasks.storage.retry.retry_queue import has_stale_result, select_for_update
from repli.tasks.storage.schema import incoming, items, retry_queue, run_items, runs, step_results

LINES_PER_TRANSACTION = 1000


def register(database: Database, run_id: str, records: Iterable[Item]) -> tuple[int, int]:
    """Register a manifest's `records` as the items of a run that `runs.start` began.

    The records are read as a stream. Of two records with one id the later counts. An item whose record has changed
    since its last run loses its results: they were computed from the old record.

    Returns:
        The number of items, and the number of records that a later one with the same id replaced.
    """
    _delete_abandoned(database)
    lines = 0
    stream = iter(records)
    while chunk := list(islice(stream, LINES_PER_TRANSACTION)):
        rows = [_incoming_row(run_id, lines + position, record) for position, record in enumerate(chunk)]
        lines += len(chunk)
        insert = database.insert(incoming)
        later_counts = insert.on_conflict_do_update(
            index_elements=[incoming.c.run_id, incoming.c.item_id],
            set_={name: insert.excluded[name] for name in ("ordinal", "name", "record", "fingerprint")},
        )
        with database.write() as connection:
            connection.execute(later_counts, rows)
    with database.write() as connection:
        count = _merge(database, connection, run_id)
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(lines=lines, duplicates=lines - count))
    return count, lines - count


def _delete_abandoned(database: Database) -> None:
    """Delete the `incoming` rows of runs that began a day ago or more: they were killed before the merge."""
    abandoned = sa.select(runs.c.id).where(runs.c.started_at < datetime.now(UTC) - timedelta(days=1))
    with database.write() as connection:
        connection.execute(sa.delete(incoming).where(incoming.c.run_id.in_(abandoned)))


def _incoming_row(run_id: str, ordinal: int, item: Item) -> dict[str, Any]:
    record = asdict(item)
    del record["id"]
    return {
        "run_id": run_id,
        "item_id": item.id,
        "ordinal": ordinal,
        "name": item.name if isinstance(item.name, str) else None,
        "record": record,
        "fingerprint": item.fingerprint,
    }


def _merge(database: Database, connection: sa.Connection, run_id: str) -> int:
    """Move a run's `incoming` rows to `items` and `run_items`; return their number."""
    is_of_run = incoming.c.run_id == run_id
    _lock(connection, is_of_run)
    changed = (
        sa.select(incoming.c.item_id)
        .join(items, items.c.id == incoming.c.item_id)
        .where(is_of_run, items.c.fingerprint != incoming.c.fingerprint)
    )
    connection.execute(sa.delete(step_results).where(step_results.c.item_id.in_(changed)))
    connection.execute(sa.delete(retry_queue).where(retry_queue.c.item_id.in_(changed)))
    columns = ["id", "name", "record", "fingerprint", "state"]
    values = incoming.c.item_id, incoming.c.name, incoming.c.record, incoming.c.fingerprint
    arrived = sa.select(*values, sa.literal("pending")).where(is_of_run).order_by(incoming.c.item_id)  # the lock order
    insert = database.insert(items).from_select(columns, arrived)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[items.c.id],
            set_={name: insert.excluded[name] for name in columns[1:]} | {"quality": None},
            where=items.c.fingerprint != insert.excluded.fingerprint,
        )
    )
    listed = sa.select(incoming.c.run_id, incoming.c.ordinal, incoming.c.item_id).where(is_of_run)
    connection.execute(sa.insert(run_items).from_select(["run_id", "ordinal", "item_id"], listed))
    count = connection.scalar(sa.select(sa.func.count()).select_from(incoming).where(is_of_run)) or 0
    connection.execute(sa.delete(incoming).where(is_of_run))
    return count


def _lock(connection: sa.Connection, is_of_run: sa.ColumnElement[bool]) -> None:
    """Lock the items of these `incoming` rows, then their rows in the queue.

    Transactions that write results or review the queue lock in the same order, so that none deadlock.
    """
    ids = sa.select(incoming.c.item_id).where(is_of_run)
    known = sa.select(items.c.id).where(items.c.id.in_(ids)).order_by(items.c.id).with_for_update(key_share=True)
    for rows in (known, select_for_update(retry_queue.c.item_id.in_(ids))):
        connection.execute(sa.select(sa.func.count()).select_from(rows.subquery()))


def has_work(run_id: str, *, refresh: bool) -> sa.ColumnElement[bool]:
    """Return the condition on `items` that a run has work left on an item.

    It holds for items that are neither stored nor failed for good, and for queued items with a stale result; with
    `refresh`, for all items that this run has not stored.
    """
    failed_for_good = (
        sa.exists()
        .where(step_results.c.item_id == items.c.id)
        .where(step_results.c.status == Status.FAILED, sa.not_(step_results.c.retryable))
    )
    if refresh:
        return sa.or_(items.c.run_id.is_(None), items.c.run_id != run_id)
    is_queued = sa.exists().where(retry_queue.c.item_id == items.c.id).correlate(items)  # cheap, and rarely true
    return sa.case((items.c.state != "stored", sa.not_(failed_for_good)), else_=sa.and_(is_queued, has_stale_result()))


def batches(database: Database, run_id: str, size: int, *, refresh: bool, lease_s: float) -> Iterator[tuple[str, ...]]:
    """Yield the ids of a run's items with work left, up to `size` at a time, in the manifest's order.

    Queued items are claimed for the run, for `lease_s` seconds. Items claimed by another run are skipped.
    """
    last = -1
    while True:
        query = (
            sa.select(run_items.c.ordinal, run_items.c.item_id, retry_queue.c.item_id.is_not(None).label("is_queued"))
            .join(items, items.c.id == run_items.c.item_id)
            .outerjoin(retry_queue, retry_queue.c.item_id == run_items.c.item_id)
            .where(run_items.c.run_id == run_id, run_items.c.ordinal > last, has_work(run_id, refresh=refresh))
            .order_by(run_items.c.ordinal)
            .limit(size)
        )
        with database.read() as connection:
            rows = connection.execute(query).all()
        if not rows:
            return
        last = rows[-1].ordinal
        queued = [row.item_id for row in rows if row.is_queued]
        claimed_by_others: set[str] = set()
        if queued:
            with database.write() as connection:
                claimed_by_others = claims.take(connection, run_id, queued, lease_s)
        if batch := tuple(row.item_id for row in rows if row.item_id not in claimed_by_others):
            yield batch
