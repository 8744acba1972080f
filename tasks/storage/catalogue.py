"""The catalogue: register the items of a run, and read the batches that have work left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Status
from repli.tasks.items import Item
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.outages import retried
from repli.tasks.storage.retry.retry_queue import lock_items, select_for_update
from repli.tasks.storage.runs import delete_portion, find, is_over, source_key
from repli.tasks.storage.schema import documents, incoming, items, retry_queue, run_items, runs, step_results

LINES_PER_TRANSACTION = 1000
IDS_PER_READ = 1000
_FILLED_BY_A_RUN = items, run_items, step_results, retry_queue, documents
ABANDONED_AFTER = timedelta(days=30)
_REGISTER_LOCK = 0x7265676973746572  # "register"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The items of a run.

    Args:
        items: their number.
        duplicates: the number of records that a later one with the same id replaced.
        failed: how many had failed for good.
        stored: how many were stored already, by quality.
    """

    items: int
    duplicates: int
    failed: int
    stored: Mapping[float, int]


def register(database: Database, run_id: str, records: Iterable[Item]) -> Registered:
    """Register a manifest's `records` as the items of a run that `runs.start` began.

    The records are read as a stream, and written in portions: no other transaction waits long. Of two records with one
    id the later counts. An item whose record has changed since its last run gets a new revision and loses its results:
    they were computed from the old record.
    """
    delete_abandoned(database, run_id)
    lines = 0
    stream = iter(records)
    while chunk := list(islice(stream, LINES_PER_TRANSACTION)):
        _add_incoming(database, [_incoming_row(run_id, lines + n, record) for n, record in enumerate(chunk)])
        lines += len(chunk)
    done: Counter[float | None] = Counter()
    key = source_key(find(database, run_id).source)
    last = ""
    while ids := _next_incoming(database, run_id, last):
        _merge(database, run_id, ids, key)
        done.update(_count_done(database, run_id, ids))
        last = ids[-1]
    count = _finish_registration(database, run_id, lines)
    stored = {quality: items for quality, items in done.items() if quality is not None}
    return Registered(items=count, duplicates=lines - count, failed=done[None], stored=stored)


@retried
def _add_incoming(database: Database, rows: Sequence[Mapping[str, Any]]) -> None:
    insert = database.insert(incoming)
    later_counts = insert.on_conflict_do_update(
        index_elements=[incoming.c.run_id, incoming.c.item_id],
        set_={name: insert.excluded[name] for name in ("ordinal", "name", "record", "fingerprint")},
    )
    with database.write() as connection:
        connection.execute(later_counts, rows)


def delete_abandoned(database: Database, run_id: str) -> None:
    """Delete the `incoming` rows of runs that were killed before they were merged."""
    for abandoned in _abandoned(database, run_id):
        while delete_portion(database, incoming, abandoned):
            pass


@retried
def _abandoned(database: Database, run_id: str) -> Sequence[str]:
    """Return the runs whose heartbeat has stopped: those of this run's source, and those that began long ago.

    A clock that jumps makes a live run look dead for a moment. No live run has the same source: a source is enriched by
    one run at a time.
    """
    with database.read() as connection:
        now = database_time(connection)
        has_rows = sa.exists().where(incoming.c.run_id == runs.c.id)
        source = sa.select(runs.c.source).where(runs.c.id == run_id).scalar_subquery()
        is_old = runs.c.started_at < now - ABANDONED_AFTER
        is_abandoned = runs.c.id != run_id, has_rows, is_over(now), sa.or_(runs.c.source == source, is_old)
        return connection.scalars(sa.select(runs.c.id).where(*is_abandoned)).all()


def _incoming_row(run_id: str, ordinal: int, item: Item) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "item_id": item.id,
        "ordinal": ordinal,
        "name": item.name if isinstance(item.name, str) else None,
        "record": item.record,
        "fingerprint": item.fingerprint,
    }


@retried
def _next_incoming(database: Database, run_id: str, last: str) -> list[str]:
    """Return the ids of a run's next portion of `incoming` rows after the id `last`, in their order."""
    is_next = incoming.c.run_id == run_id, incoming.c.item_id > last
    with database.read() as connection:
        query = sa.select(incoming.c.item_id).where(*is_next).order_by(incoming.c.item_id)
        return list(connection.scalars(query.limit(LINES_PER_TRANSACTION)))


@retried
def _merge(database: Database, run_id: str, ids: Sequence[str], key: str) -> None:
    """Move the run's `incoming` rows of these ids to `items` and `run_items`. Idempotent.

    Args:
        key: the key of the run's source.
    """
    is_in_portion = sa.and_(incoming.c.run_id == run_id, incoming.c.item_id.in_(ids))
    with database.write() as connection:
        if not database.is_sqlite:  # one at a time: two that insert the same new items in portions would deadlock
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_REGISTER_LOCK)))
        lock_items(connection, ids)
        connection.execute(select_for_update(retry_queue.c.item_id.in_(ids)))
        _delete_results_of_changed(connection, is_in_portion)
        _upsert_items(database, connection, is_in_portion)
        is_of_other = items.c.id.in_(ids), items.c.source_key.is_distinct_from(key)
        connection.execute(sa.update(items).where(*is_of_other).values(source_key=key))
        listed = sa.select(incoming.c.run_id, incoming.c.ordinal, incoming.c.item_id).where(is_in_portion)
        insert = database.insert(run_items).from_select(["run_id", "ordinal", "item_id"], listed)
        connection.execute(insert.on_conflict_do_nothing())
        connection.execute(sa.delete(incoming).where(is_in_portion))


@retried
def _count_done(database: Database, run_id: str, ids: Sequence[str]) -> Mapping[float | None, int]:
    """Count those of these items that have no work left by quality: None for those that failed for good."""
    is_done = items.c.id.in_(ids), sa.not_(has_work(run_id, refresh=False))
    query = sa.select(items.c.quality, sa.func.count()).where(*is_done).group_by(items.c.quality)
    with database.read() as connection:
        return dict(connection.execute(query).tuples().all())


def _delete_results_of_changed(connection: sa.Connection, is_in_portion: sa.ColumnElement[bool]) -> None:
    changed = list(
        connection.scalars(
            sa.select(incoming.c.item_id)
            .join(items, items.c.id == incoming.c.item_id)
            .where(is_in_portion, items.c.fingerprint != incoming.c.fingerprint)
        )
    )
    if changed:
        connection.execute(sa.delete(step_results).where(step_results.c.item_id.in_(changed)))
        connection.execute(sa.delete(retry_queue).where(retry_queue.c.item_id.in_(changed)))


def _upsert_items(database: Database, connection: sa.Connection, is_in_portion: sa.ColumnElement[bool]) -> None:
    columns = ["id", "name", "record", "fingerprint", "state"]
    values = incoming.c.item_id, incoming.c.name, incoming.c.record, incoming.c.fingerprint
    arrived = sa.select(*values, sa.literal("pending")).where(is_in_portion).order_by(incoming.c.item_id)
    insert = database.insert(items).from_select(columns, arrived)
    changes = {name: insert.excluded[name] for name in columns[1:]} | {"quality": None, "expected_accuracy": None}
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[items.c.id],
            set_=changes | {"revision": items.c.revision + 1},
            where=items.c.fingerprint != insert.excluded.fingerprint,
        )
    )


@retried
def _finish_registration(database: Database, run_id: str, lines: int) -> int:
    """Save the number of the run's lines and duplicates; return the number of its items."""
    with database.write() as connection:
        count = connection.scalar(sa.select(sa.func.count()).where(run_items.c.run_id == run_id)) or 0
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(lines=lines, duplicates=lines - count))
    return count


def has_work(run_id: str, *, refresh: bool) -> sa.ColumnElement[bool]:
    """Return the condition on `items` that a run has work left on an item.

    It holds for items that are pending, or failed and retryable; with `refresh`, for all items that this run has not
    stored. What is stored and may be improved is for `reprocess`.
    """
    if refresh:
        return sa.or_(items.c.run_id.is_(None), items.c.run_id != run_id)
    is_retryable = sa.exists().where(
        step_results.c.item_id == items.c.id, step_results.c.status == Status.FAILED, step_results.c.retryable
    )
    return sa.or_(items.c.state == "pending", sa.and_(items.c.state == "failed", is_retryable))


def batches(database: Database, run_id: str, size: int, *, refresh: bool) -> Iterator[tuple[str, ...]]:
    """Yield the ids of a run's items with work left, `size` at a time, in the manifest's order.

    The cost of a batch does not grow with the run: each read takes up where the last one ended.
    """
    last, found = -1, list[str]()
    _gather_statistics(database)
    while (portion := _next_with_work(database, run_id, last, refresh=refresh)) is not None:
        last, ids = portion
        found += ids
        while len(found) >= size:
            yield tuple(found[:size])
            found = found[size:]
        _gather_statistics(database)
    if found:
        yield tuple(found)


_GROWN = sa.text(
    "SELECT relname FROM pg_class WHERE relname = ANY(:names) AND oid = to_regclass(relname::text) "
    "AND pg_relation_size(oid) > 2 * relpages::bigint * current_setting('block_size')::int ORDER BY relname"
)


@retried
def _gather_statistics(database: Database) -> None:
    """Run ANALYZE on those tables of a run that have doubled since the last one. PostgreSQL only.

    PostgreSQL does so by itself, but only after a minute or two. Until then it plans for small tables, and reads the
    results of all items for each batch.
    """
    if database.is_sqlite:
        return
    with database.write() as connection:
        grown = connection.scalars(_GROWN, {"names": [table.name for table in _FILLED_BY_A_RUN]}).all()
        if grown:
            connection.execute(sa.text(f"ANALYZE {', '.join(grown)}"))


@retried
def _next_with_work(database: Database, run_id: str, last: int, *, refresh: bool) -> tuple[int, list[str]] | None:
    """Look at the run's next items after the ordinal `last`; return the last one's, and the ids of those with work.

    None where no item is left. The database's planner gets no chance to read the whole run: the items are looked up by
    their ids.
    """
    following = sa.select(run_items.c.ordinal, run_items.c.item_id).where(
        run_items.c.run_id == run_id, run_items.c.ordinal > last
    )
    with database.read() as connection:
        rows = connection.execute(following.order_by(run_items.c.ordinal).limit(IDS_PER_READ)).all()
        if not rows:
            return None
        ids = [row.item_id for row in rows]
        with_work = set(
            connection.scalars(sa.select(items.c.id).where(items.c.id.in_(ids), has_work(run_id, refresh=refresh)))
        )
    return rows[-1].ordinal, [id_ for id_ in ids if id_ in with_work]
