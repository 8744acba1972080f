"""Step results in the store: one read and one write transaction per stage and batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Attempt, AttemptOutcome, RungError, Status, StepError, StepResult
from repli.tasks.items import Embedding, Item, ItemState
from repli.tasks.json_values import as_json
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.schema import items, step_results
from repli.tasks.storage.search import documents


def load(database: Database, item_ids: Sequence[str]) -> list[ItemState]:
    """Return the items of these ids with their step results, in the order of the ids; unknown ids are absent.

    Values are JSON, as the outside contract has them, without vectors.
    """
    with database.read() as connection:
        return load_with(connection, item_ids)


def load_with(connection: sa.Connection, item_ids: Sequence[str]) -> list[ItemState]:
    """Return the same as `load`, over an open connection."""
    records = connection.execute(sa.select(items.c.id, items.c.record).where(items.c.id.in_(item_ids))).all()
    by_item = _load_results(connection, item_ids)
    found = {row.id: Item(id=row.id, **{**row.record, "repaired": tuple(row.record["repaired"])}) for row in records}
    return [ItemState(item=found[id_], results=by_item.get(id_, {})) for id_ in item_ids if id_ in found]


def save(database: Database, results: Sequence[StepResult], *, discard: Iterable[StepResult] = ()) -> None:
    """Save the `results` in one transaction; none replaces a better one, unless that is discarded.

    Items with a failed result are marked failed and queued, in the same transaction. The `store` result of an item
    that was stored before is marked stale, so that the item is stored again, also after a crash. A
    succeeded result is marked stale where a new input gave only a worse result, which does not replace it.

    Args:
        discard: saved results to delete first, such as those that a rule forbids, so that even a worse result can take
            their place. A result that another run has replaced meanwhile is not deleted.
    """
    rows = sorted((_row(result) for result in results), key=lambda row: (str(row["item_id"]), str(row["stage"])))
    if not rows:
        return
    insert = database.insert(step_results)
    keys = [step_results.c.item_id, step_results.c.stage]
    values: dict[str, sa.ColumnElement[Any]] = {
        c.name: insert.excluded[c.name] for c in step_results.c if c.name not in {"item_id", "stage"}
    }
    is_stale_store = sa.and_(step_results.c.stage == "store", step_results.c.retryable)  # until it is marked stored
    values["retryable"] = sa.or_(is_stale_store, insert.excluded.retryable)
    unless_worse = insert.on_conflict_do_update(
        index_elements=keys, set_=values, where=step_results.c.standing <= insert.excluded.standing
    )
    failed = [row["item_id"] for row in rows if row["status"] == Status.FAILED]
    with database.write() as connection:
        _lock(connection, [row["item_id"] for row in rows])
        _delete(connection, discard)
        connection.execute(unless_worse, rows)
        _mark_stale(connection, rows)
        _mark_store_stale(connection, rows)
        if failed:
            has_failed = sa.exists().where(step_results.c.item_id == items.c.id, step_results.c.status == Status.FAILED)
            connection.execute(
                sa.update(items).where(items.c.id.in_(failed), has_failed).values(state="failed", quality=None)
            )
            retry_queue.review(database, connection, failed, below=None)


Merge = Callable[[Mapping[str, StepResult]], Decimal]


def mark_stored(
    database: Database, run_id: str, item_ids: Sequence[str], *, merge: Merge, retry_below: float
) -> dict[str, Decimal | RungError]:
    """Mark items stored, with the quality that `merge` computes from their saved results, and index them for search.

    The last step, in one transaction: concurrent callers wait on the row lock and merge the committed results. Items
    of low quality are queued. Idempotent.

    Args:
        merge: gets an item's results by stage, without `store`, and returns the quality or raises RungError.
        retry_below: the quality below which items are queued.

    Returns:
        Each item's quality, or the error that `merge` raised. Of such an item only the `store` result is deleted, so
        that the caller can save the failure.
    """
    documents.create_vector_indexes(database, item_ids)
    merged: dict[str, Decimal | RungError] = {}
    with database.write() as connection:
        _lock(connection, item_ids)
        by_item = _load_results(connection, item_ids)
        for id_ in item_ids:
            try:
                merged[id_] = merge({stage: one for stage, one in by_item.get(id_, {}).items() if stage != "store"})
            except RungError as error:
                merged[id_] = error
        if refused := [id_ for id_, one in merged.items() if not isinstance(one, Decimal)]:
            store_results = step_results.c.item_id.in_(refused), step_results.c.stage == "store"
            connection.execute(sa.delete(step_results).where(*store_results))
        qualities = {id_: float(one) for id_, one in sorted(merged.items()) if isinstance(one, Decimal)}
        if qualities:
            connection.execute(
                sa.update(items)
                .where(items.c.id == sa.bindparam("item"))
                .values(state="stored", quality=sa.bindparam("new_quality"), run_id=run_id),
                [{"item": id_, "new_quality": quality} for id_, quality in qualities.items()],
            )
            store_results = step_results.c.item_id.in_(list(qualities)), step_results.c.stage == "store"
            connection.execute(sa.update(step_results).where(*store_results).values(retryable=False))
            documents.index(database, connection, list(qualities))
            retry_queue.review(database, connection, list(qualities), retry_below)
    return merged


def _mark_stale(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Mark succeeded results stale where one of these `rows` was computed from another input and is worse.

    The column `retryable` holds the mark: a succeeded result has no other use for it.
    """
    worse = [
        {"item": row["item_id"], "of_stage": row["stage"], "input_now": row["made_from"]}
        for row in rows
        if row["made_from"] and row["status"] != Status.SUCCEEDED
    ]
    if worse:
        connection.execute(
            sa.update(step_results)
            .where(
                step_results.c.item_id == sa.bindparam("item"),
                step_results.c.stage == sa.bindparam("of_stage"),
                step_results.c.status == Status.SUCCEEDED,
                step_results.c.made_from != sa.bindparam("input_now"),
            )
            .values(retryable=True),
            worse,
        )


def _mark_store_stale(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """For stored items that got a new result from one of these `rows`, mark the `store` result stale."""
    new = step_results.alias()
    is_saved = sa.exists().where(
        new.c.item_id == step_results.c.item_id,
        new.c.stage.in_({row["stage"] for row in rows} - {"store"}),
        new.c.run_id.in_({row["run_id"] for row in rows}),
    )
    store_results = step_results.c.item_id.in_([row["item_id"] for row in rows]), step_results.c.stage == "store"
    connection.execute(sa.update(step_results).where(*store_results, is_saved).values(retryable=True))


def _lock(connection: sa.Connection, item_ids: Sequence[str]) -> None:
    """Lock these items until the transaction ends. Other transactions that write or mark them wait for it.

    All transactions lock in the order of the ids, so that none deadlock.
    """
    ordered = sa.select(items.c.id).where(items.c.id.in_(item_ids)).order_by(items.c.id)
    connection.execute(ordered.with_for_update(key_share=True))  # foreign-key checks need not wait


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
        "standing": result.rank,
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
        "made_from": result.input_hash,
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
            )
            for attempt in row["attempts"]
        ),
        run_id=row["run_id"],
        finished_at=row["finished_at"],
        input_hash=row["made_from"],
    )
