"""Step results in the store: one read and one write transaction per stage and batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import RungError, Status, StepError, StepResult
from repli.tasks.items import STORE, Item, ItemState, Stored
from repli.tasks.storage import accuracy, step_rows
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.schema import items, step_results
from repli.tasks.storage.search import documents
from repli.tasks.storage.step_rows import row_of, waits_row


@retried
def load(database: Database, item_ids: Sequence[str], *, with_trail: bool = True) -> list[ItemState]:
    """Return the items of these ids with their step results, in the order of the ids; unknown ids are absent.

    Values are JSON, as the outside contract has them, without vectors.

    Args:
        with_trail: whether the results have their errors and attempts; else these are None and empty.
    """
    with database.read() as connection:
        return load_with(connection, item_ids, with_trail=with_trail)


def load_with(connection: sa.Connection, item_ids: Sequence[str], *, with_trail: bool = True) -> list[ItemState]:
    """Return the same as `load`, over an open connection."""
    columns = items.c.id, items.c.record, items.c.revision
    rows = {row.id: row for row in connection.execute(sa.select(*columns).where(items.c.id.in_(item_ids))).all()}
    by_item = step_rows.read(connection, item_ids, with_trail=with_trail)
    return [
        ItemState(item=_item(row), results=by_item.get(id_, {}), revision=row.revision)
        for id_ in item_ids
        if (row := rows.get(id_))
    ]


def _item(row: sa.Row[Any]) -> Item:
    tuples = {name: tuple(row.record[name]) for name in ("repaired", "inline") if name in row.record}
    return Item(id=row.id, **{**row.record, **tuples})


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The inputs that the results of a stage were computed from.

    Args:
        states: the items by id, as they were loaded.
        earlier: the names of the stages before this one.
        input_hash: returns the hash of the stage's input for an item.
    """

    states: Mapping[str, ItemState]
    earlier: Sequence[str]
    input_hash: Callable[[ItemState], str | None]


@retried
def save(
    database: Database,
    results: Sequence[StepResult],
    *,
    discard: Sequence[StepResult] = (),
    basis: Basis | None = None,
) -> Sequence[StepResult]:
    """Save the `results` in one transaction; none replaces a better one, unless that is discarded.

    A result is dropped if its item's record or, by its `basis`, its input has changed since. Where a worse result of a
    new input does not replace the old one, that is marked stale; so is the `store` result of an item that gets a new
    result. Items that failed, or that now have a stale result, are queued.

    Args:
        discard: saved results to delete first, such as those that a rule forbids, so that even a worse result can take
            their place. A result that another run has replaced meanwhile is not deleted.
        basis: what the results were computed from; without it, only the record is checked.

    Returns:
        The results without those that were dropped.
    """
    if not results:
        return results
    with database.write() as connection:
        results, had_failed = _of_present_records(connection, results)
        if basis:
            results = _of_present_inputs(connection, results, basis)
        stale = _write(database, connection, results, discard)
        failed = {result.item_id for result in results if result.status is Status.FAILED}
        _mark_failed(connection, failed)
        mark_pending(connection, had_failed - failed)
        if changed := sorted({*failed, *had_failed, *stale}):
            retry_queue.review(database, connection, changed, below=None)
    return results


@retried
def replace_reasons(database: Database, results: Sequence[StepResult]) -> None:
    """Replace the error, the trail and `retryable` of saved results, and nothing else of them.

    A result that another run has replaced meanwhile stays as it is: `finished_at` tells.
    """
    rows = sorted(map(row_of, results), key=itemgetter("item_id", "stage"))
    if not rows:
        return
    keys, reasons = ("item_id", "stage", "finished_at"), ("error", "attempts", "retryable")
    is_same = [step_results.c[name] == sa.bindparam(f"of_{name}") for name in keys]
    update = sa.update(step_results).where(*is_same).values({name: sa.bindparam(f"new_{name}") for name in reasons})
    values = [{f"of_{n}": row[n] for n in keys} | {f"new_{n}": row[n] for n in reasons} for row in rows]
    with database.write() as connection:
        retry_queue.lock_items(connection, sorted({str(row["item_id"]) for row in rows}))
        connection.execute(update, values)


Merge = Callable[[Mapping[str, StepResult]], Decimal]


@retried
def store(
    database: Database,
    results: Sequence[StepResult],
    *,
    discard: Sequence[StepResult] = (),
    merge: Merge,
    retry_below: float,
) -> Sequence[StepResult]:
    """Save the results of `store`, mark their items stored and index them for search, in one transaction.

    The quality is what `merge` computes from the item's results as they stand then, and the expected accuracy is of the
    same: concurrent callers wait on the row lock and merge the committed results. Items of low quality are queued.

    Args:
        merge: gets an item's results by stage, without `store`, and returns the quality or raises RungError.
        retry_below: the quality below which items are queued.

    Returns:
        The results as they were saved, without those of a record that has changed since. A result whose items cannot
        be merged is saved as failed, in place of any earlier one.
    """
    documents.create_vector_indexes(database, [result.item_id for result in results])
    if not results:
        return results
    with database.write() as connection:
        results, _ = _of_present_records(connection, results)
        others = step_rows.read(connection, [result.item_id for result in results], with_trail=False)
        merged = [_merged(result, others.get(result.item_id, {}), merge) for result in results]
        refused = [new.item_id for old, new in zip(results, merged, strict=True) if new.status is not old.status]
        is_refused = step_results.c.item_id.in_(refused), step_results.c.stage == STORE
        connection.execute(sa.delete(step_results).where(*is_refused))
        _write(database, connection, merged, discard)
        stored = [result for result in merged if result.status is Status.SUCCEEDED]
        _mark_failed(connection, {result.item_id for result in merged if result.status is Status.FAILED})
        if stored:
            _mark_stored(connection, stored, others)
            documents.index(database, connection, [result.item_id for result in stored])
        retry_queue.review(database, connection, [result.item_id for result in merged], retry_below)
    return merged


def _mark_stored(
    connection: sa.Connection, stored: Sequence[StepResult], others: Mapping[str, Mapping[str, StepResult]]
) -> None:
    """Mark the items of these results of `store` stored, with their quality and expected accuracy.

    Args:
        others: the items' other results.
    """
    accuracies = accuracy.accuracies(connection, {one.item_id: others.get(one.item_id, {}) for one in stored})
    columns = "quality", "expected_accuracy", "run_id"
    update = sa.update(items).where(items.c.id == sa.bindparam("item"))
    rows = [
        {
            "item": one.item_id,
            "new_quality": one.value.quality,
            "new_expected_accuracy": accuracies[one.item_id],
            "new_run_id": one.run_id,
        }
        for one in sorted(stored, key=lambda one: one.item_id)
    ]
    connection.execute(update.values(state="stored", **{name: sa.bindparam(f"new_{name}") for name in columns}), rows)


def _merged(result: StepResult, others: Mapping[str, StepResult], merge: Merge) -> StepResult:
    """Return the result with the quality of the item's other results, or as failed if they cannot be merged."""
    if result.status is not Status.SUCCEEDED:
        return result
    try:
        quality = merge({stage: other for stage, other in others.items() if stage != STORE})
    except RungError as error:
        return result.failed(StepError.of(error))
    return replace(result, value=Stored(quality=float(quality)))


def _of_present_records(
    connection: sa.Connection, results: Sequence[StepResult]
) -> tuple[Sequence[StepResult], set[str]]:
    """Lock the items of these results. Return the results of the records as they stand, and the items that failed."""
    locked = retry_queue.lock_items(connection, sorted({result.item_id for result in results}))
    present = [
        result if result.revision == item.revision else replace(result, revision=item.revision)
        for result in results
        if (item := locked.get(result.item_id)) and result.revision in {None, item.revision}
    ]
    return present, {id_ for id_, item in locked.items() if item.state == "failed"}


def _of_present_inputs(connection: sa.Connection, results: Sequence[StepResult], basis: Basis) -> Sequence[StepResult]:
    """Return the results without those whose input another run has changed since it was loaded.

    Inputs are made again only for items of which an earlier result was replaced.
    """
    c = step_results.c
    is_earlier = c.item_id.in_([result.item_id for result in results]), c.stage.in_(basis.earlier)
    present: dict[str, dict[str, tuple[str, datetime]]] = {result.item_id: {} for result in results}
    for row in connection.execute(sa.select(c.item_id, c.stage, c.run_id, c.finished_at).where(*is_earlier)).all():
        present[row.item_id][row.stage] = row.run_id, row.finished_at
    changed = [
        result
        for result in results
        if present[result.item_id]
        != {
            stage: (earlier.run_id, earlier.finished_at)
            for stage, earlier in basis.states[result.item_id].results.items()
            if stage in basis.earlier
        }
    ]
    if not changed:
        return results
    current = load_with(connection, [result.item_id for result in changed], with_trail=False)
    states = {state.item.id: state for state in current}
    outdated = {result.item_id for result in changed if not _is_input_of(states[result.item_id], result, basis)}
    return [result for result in results if result.item_id not in outdated]


def _is_input_of(state: ItemState, result: StepResult, basis: Basis) -> bool:
    """Return whether the result was computed from the input as it stands."""
    is_ready = all((earlier := state.results.get(name)) and earlier.status.is_done for name in basis.earlier)
    return is_ready and result.input_hash is not None and basis.input_hash(state) == result.input_hash


def _write(
    database: Database, connection: sa.Connection, results: Sequence[StepResult], discard: Sequence[StepResult]
) -> set[str]:
    """Write these results of locked items, and mark as stale what they make so; return the items with a stale one."""
    rows = sorted(map(row_of, results), key=itemgetter("item_id", "stage"))
    if not rows:
        return set()
    is_written = {(row["item_id"], row["stage"]) for row in rows}
    _delete(connection, [old for old in discard if (old.item_id, old.stage) in is_written])
    insert = database.insert(step_results)
    keys = ["item_id", "stage"]
    upsert = insert.on_conflict_do_update(
        index_elements=keys,
        set_={column.name: insert.excluded[column.name] for column in step_results.c if column.name not in keys},
        where=step_results.c.rank <= insert.excluded.rank,
    ).returning(step_results.c.item_id, step_results.c.stage)
    written = {(row.item_id, row.stage) for row in connection.execute(upsert, rows).all()}
    _mark_kept_results_stale(connection, [row for row in rows if (row["item_id"], row["stage"]) not in written])
    _mark_store_stale(connection, sorted({item_id for item_id, stage in written if stage != STORE}))
    item_ids = sorted({str(row["item_id"]) for row in rows})
    is_stale = step_results.c.item_id.in_(item_ids), step_results.c.is_stale
    return set(connection.scalars(sa.select(step_results.c.item_id).where(*is_stale).distinct()))


def _mark_kept_results_stale(connection: sa.Connection, refused: Sequence[Mapping[str, Any]]) -> None:
    """Mark results stale that were kept, being better, but were computed from another input than the refused rows."""
    if hashed := [row for row in refused if row["input_hash"]]:
        connection.execute(
            sa.update(step_results)
            .where(
                step_results.c.item_id == sa.bindparam("of_item"),
                step_results.c.stage == sa.bindparam("of_stage"),
                step_results.c.input_hash != sa.bindparam("hash_now"),
            )
            .values(is_stale=True),
            [{"of_item": row["item_id"], "of_stage": row["stage"], "hash_now": row["input_hash"]} for row in hashed],
        )


def _mark_store_stale(connection: sa.Connection, item_ids: Sequence[str]) -> None:
    """Mark the `store` results of these items stale: a result of another stage was written."""
    if item_ids:
        is_store = step_results.c.item_id.in_(item_ids), step_results.c.stage == STORE
        connection.execute(sa.update(step_results).where(*is_store).values(is_stale=True))


def _mark_failed(connection: sa.Connection, item_ids: Collection[str]) -> None:
    """Mark the items failed that have a failed result: of these items, some have kept a better one."""
    if item_ids:
        has_failed = sa.exists().where(step_results.c.item_id == items.c.id, step_results.c.status == Status.FAILED)
        is_failed = items.c.id.in_(item_ids), has_failed
        connection.execute(
            sa.update(items).where(*is_failed).values(state="failed", quality=None, expected_accuracy=None)
        )


def mark_pending(connection: sa.Connection, item_ids: Collection[str]) -> None:
    """Mark the failed items pending that have no failed result any more."""
    if item_ids:
        has_failed = sa.exists().where(step_results.c.item_id == items.c.id, step_results.c.status == Status.FAILED)
        connection.execute(
            sa.update(items).where(items.c.id.in_(item_ids), sa.not_(has_failed)).values(state="pending")
        )


@retried
def note_waits(database: Database, unchanged: Sequence[StepResult]) -> None:
    """Note which keys' breakers kept better rungs from serving, where a try has left the saved results as they are."""
    rows = [
        {"of_item": one.item_id, "of_stage": one.stage, "now": waits_row(one)}
        for one in sorted(unchanged, key=lambda one: one.item_id)
        if one.attempts
    ]
    if rows:
        is_result = step_results.c.item_id == sa.bindparam("of_item"), step_results.c.stage == sa.bindparam("of_stage")
        with database.write() as connection:
            retry_queue.lock_items(connection, [str(row["of_item"]) for row in rows])
            connection.execute(sa.update(step_results).where(*is_result).values(waits_for=sa.bindparam("now")), rows)


def _delete(connection: sa.Connection, discard: Iterable[StepResult]) -> None:
    """Delete these results, unless another has replaced them: `finished_at` tells."""
    rows = [{"item": one.item_id, "of_stage": one.stage, "then": one.finished_at} for one in discard]
    if rows:
        connection.execute(
            sa.delete(step_results).where(
                step_results.c.item_id == sa.bindparam("item"),
                step_results.c.stage == sa.bindparam("of_stage"),
                step_results.c.finished_at == sa.bindparam("then"),
            ),
            sorted(rows, key=lambda row: str(row["item"])),
        )
