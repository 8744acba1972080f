"""Step results in the store: one read and one write transaction per stage and batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Attempt, AttemptOutcome, RungError, Status, StepError, StepResult
from repli.tasks.items import STORE, Embedding, Item, ItemState, Stored
from repli.tasks.json_values import as_json
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.schema import items, step_results
from repli.tasks.storage.search import documents


@retried
def load(database: Database, item_ids: Sequence[str]) -> list[ItemState]:
    """Return the items of these ids with their step results, in the order of the ids; unknown ids are absent.

    Values are JSON, as the outside contract has them, without vectors.
    """
    with database.read() as connection:
        return load_with(connection, item_ids)


def load_with(connection: sa.Connection, item_ids: Sequence[str]) -> list[ItemState]:
    """Return the same as `load`, over an open connection."""
    columns = items.c.id, items.c.record, items.c.revision
    rows = {row.id: row for row in connection.execute(sa.select(*columns).where(items.c.id.in_(item_ids)))}
    by_item = _load_results(connection, item_ids)
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

    The quality is what `merge` computes from the item's results as they stand then: concurrent callers wait on the row
    lock and merge the committed results. Items of low quality are queued.

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
        others = _load_results(connection, [result.item_id for result in results])
        merged = [_merged(result, others.get(result.item_id, {}), merge) for result in results]
        refused = [new.item_id for old, new in zip(results, merged, strict=True) if new.status is not old.status]
        is_refused = step_results.c.item_id.in_(refused), step_results.c.stage == STORE
        connection.execute(sa.delete(step_results).where(*is_refused))
        _write(database, connection, merged, discard)
        stored = [result for result in merged if result.status is Status.SUCCEEDED]
        _mark_failed(connection, {result.item_id for result in merged if result.status is Status.FAILED})
        if stored:
            connection.execute(
                sa.update(items)
                .where(items.c.id == sa.bindparam("item"))
                .values(state="stored", quality=sa.bindparam("new_quality"), run_id=sa.bindparam("new_run")),
                [
                    {"item": one.item_id, "new_quality": one.value.quality, "new_run": one.run_id}
                    for one in sorted(stored, key=lambda one: one.item_id)
                ],
            )
            documents.index(database, connection, [result.item_id for result in stored])
        retry_queue.review(database, connection, [result.item_id for result in merged], retry_below)
    return merged


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
        replace(result, revision=item.revision)
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
    for row in connection.execute(sa.select(c.item_id, c.stage, c.run_id, c.finished_at).where(*is_earlier)):
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
    states = {state.item.id: state for state in load_with(connection, [result.item_id for result in changed])}
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
    rows = sorted((_row(result) for result in results), key=lambda row: (str(row["item_id"]), str(row["stage"])))
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
    written = {(row.item_id, row.stage) for row in connection.execute(upsert, rows)}
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
        connection.execute(sa.update(items).where(*is_failed).values(state="failed", quality=None))


def mark_pending(connection: sa.Connection, item_ids: Collection[str]) -> None:
    """Mark the failed items pending that have no failed result any more."""
    if item_ids:
        has_failed = sa.exists().where(step_results.c.item_id == items.c.id, step_results.c.status == Status.FAILED)
        connection.execute(
            sa.update(items).where(items.c.id.in_(item_ids), sa.not_(has_failed)).values(state="pending")
        )


def _load_results(connection: sa.Connection, item_ids: Sequence[str]) -> dict[str, dict[str, StepResult]]:
    """Return the step results by item and stage, without vectors."""
    query = sa.select(*(c for c in step_results.c if c is not step_results.c.vector))
    by_item: dict[str, dict[str, StepResult]] = {}
    for row in connection.execute(query.where(step_results.c.item_id.in_(item_ids))).mappings():
        by_item.setdefault(row["item_id"], {})[row["stage"]] = _result(row)
    return by_item


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


def _row(result: StepResult) -> dict[str, Any]:
    vector = result.value.vector.tobytes() if isinstance(result.value, Embedding) else None
    return {
        "item_id": result.item_id,
        "stage": result.stage,
        "status": result.status.value,
        "rank": result.rank,
        "value": as_json(result.value),
        "vector": vector,
        "confidence": None if result.confidence is None else float(result.confidence),
        "rung": result.rung,
        "penalty": None if result.penalty is None else float(result.penalty),
        "error": _error_row(result.error),
        "retryable": result.retryable,
        "attempts": [{**attempt.as_json(), "error": _error_row(attempt.error)} for attempt in result.attempts],
        "run_id": result.run_id,
        "finished_at": result.finished_at,
        "input_hash": result.input_hash,
        "revision": result.revision,
        "is_stale": result.is_stale,
    }


def _error_row(error: StepError | None) -> dict[str, Any] | None:
    return {**error.as_json(), "retryable": error.retryable} if error else None


def _result(row: sa.RowMapping) -> StepResult:
    return StepResult(
        item_id=row["item_id"],
        stage=row["stage"],
        status=Status(row["status"]),
        value=row["value"],
        confidence=row["confidence"],
        rung=row["rung"],
        penalty=None if row["penalty"] is None else Decimal(repr(row["penalty"])),
        error=StepError(**row["error"]) if row["error"] else None,
        retryable=row["retryable"],
        attempts=tuple(
            Attempt(
                rung=attempt["rung"],
                outcome=AttemptOutcome(attempt["outcome"]),
                error=StepError(**attempt["error"]) if attempt["error"] else None,
                seconds=attempt["seconds"],
                where=attempt.get("where"),  # results of an older Repli have none
            )
            for attempt in row["attempts"]
        ),
        run_id=row["run_id"],
        finished_at=row["finished_at"],
        input_hash=row["input_hash"],
        revision=row["revision"],
        is_stale=row["is_stale"],
    )
