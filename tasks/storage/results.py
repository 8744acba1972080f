"""Step results in and out of the store: one bulk read and one bulk write a stage and batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Attempt, AttemptOutcome, RungError, Status, StepError, StepResult
from repli.tasks.items import Embedding, Item, ItemState, as_json
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.schema import items, step_results
from repli.tasks.storage.search import documents


def load(database: Database, item_ids: Sequence[str]) -> list[ItemState]:
    """The items of these ids with what their stages have left, in the order of the ids; unknown ids are left out.

    Values come in their outside form (JSON), without vectors.
    """
    with database.read() as connection:
        return load_with(connection, item_ids)


def load_with(connection: sa.Connection, item_ids: Sequence[str]) -> list[ItemState]:
    """The same over a connection that reads already."""
    records = connection.execute(sa.select(items.c.id, items.c.record).where(items.c.id.in_(item_ids))).all()
    by_item = _steps(connection, item_ids)
    found = {row.id: Item(id=row.id, **{**row.record, "repaired": tuple(row.record["repaired"])}) for row in records}
    return [ItemState(item=found[id_], results=by_item.get(id_, {})) for id_ in item_ids if id_ in found]


def save(database: Database, results: Sequence[StepResult], *, discard: Iterable[StepResult] = ()) -> None:
    """Keep the `results` in one transaction, each where nothing better is kept already.

    Idempotent. Items with a result that failed are marked so, and queued to be tried again, in the same transaction.
    That an item was stored before is retryable from here on: who comes after a run that was killed in between sees it.
    So is a whole result that stands only because what was made from a new input is worse: it answers to another.

    Args:
        discard: kept results that must not stand, such as those that a rule forbids. They are pending from here on, so
            that even something worse takes their place; what somebody else has put there meanwhile stands.
    """
    rows = sorted((_row(result) for result in results), key=lambda row: (str(row["item_id"]), str(row["stage"])))
    if not rows:
        return
    insert = database.insert(step_results)
    keys = [step_results.c.item_id, step_results.c.stage]
    values: dict[str, sa.ColumnElement[Any]] = {
        c.name: insert.excluded[c.name] for c in step_results.c if c.name not in {"item_id", "stage"}
    }
    has_changed = sa.and_(step_results.c.stage == "store", step_results.c.retryable)  # since it was marked stored
    values["retryable"] = sa.or_(has_changed, insert.excluded.retryable)
    guarded = insert.on_conflict_do_update(
        index_elements=keys, set_=values, where=step_results.c.standing <= insert.excluded.standing
    )
    failed = [row["item_id"] for row in rows if row["status"] == Status.FAILED]
    with database.write() as connection:
        _lock(connection, [row["item_id"] for row in rows])
        _make_pending(connection, discard)
        connection.execute(guarded, rows)
        _mark_stale(connection, rows)
        _mark_store_stale(connection, rows)
        if failed:
            is_kept = sa.exists().where(step_results.c.item_id == items.c.id, step_results.c.status == Status.FAILED)
            connection.execute(
                sa.update(items).where(items.c.id.in_(failed), is_kept).values(state="failed", quality=None)
            )
            retry_queue.review(database, connection, failed, below=None)


Merge = Callable[[Mapping[str, StepResult]], Decimal]


def mark_stored(
    database: Database, run_id: str, item_ids: Sequence[str], *, merge: Merge, retry_below: float
) -> dict[str, Decimal | RungError]:
    """Make items findable, each with the quality that `merge` makes of its results as they are kept now.

    The last step, in one transaction: who marks the same items at the same moment waits, and merges what is there
    then. Items of low quality are queued to be done again. Idempotent.

    Returns:
        Each item's quality, or what `merge` raised: such an item is left as it is, but where it was stored before,
        that it was does not stand in the way of a `store` that failed.
    """
    documents.make_room(database, item_ids)
    merged: dict[str, Decimal | RungError] = {}
    with database.write() as connection:
        _lock(connection, item_ids)
        steps = _steps(connection, item_ids)
        for id_ in item_ids:
            try:
                merged[id_] = merge({stage: one for stage, one in steps.get(id_, {}).items() if stage != "store"})
            except RungError as error:
                merged[id_] = error
        if refused := [id_ for id_, one in merged.items() if not isinstance(one, Decimal)]:
            was_stored = step_results.c.item_id.in_(refused), step_results.c.stage == "store"
            connection.execute(sa.delete(step_results).where(*was_stored))
        qualities = {id_: float(one) for id_, one in sorted(merged.items()) if isinstance(one, Decimal)}
        if qualities:
            connection.execute(
                sa.update(items)
                .where(items.c.id == sa.bindparam("item"))
                .values(state="stored", quality=sa.bindparam("new_quality"), run_id=run_id),
                [{"item": id_, "new_quality": quality} for id_, quality in qualities.items()],
            )
            was_stored = step_results.c.item_id.in_(list(qualities)), step_results.c.stage == "store"
            connection.execute(sa.update(step_results).where(*was_stored).values(retryable=False))
            documents.index(database, connection, list(qualities))
            retry_queue.review(database, connection, list(qualities), retry_below)
    return merged


def _mark_stale(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note on whole results that stand although they were made from another input than one of these `rows`, which
    is worse, that they are owed anew."""
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
    """Of the items that were stored before, note on those where one of these `rows` was kept that `store` is owed."""
    new = step_results.alias()
    is_kept = sa.exists().where(
        new.c.item_id == step_results.c.item_id,
        new.c.stage.in_({row["stage"] for row in rows} - {"store"}),
        new.c.run_id.in_({row["run_id"] for row in rows}),
    )
    of_these = step_results.c.item_id.in_([row["item_id"] for row in rows]), step_results.c.stage == "store"
    connection.execute(sa.update(step_results).where(*of_these, is_kept).values(retryable=True))


def _lock(connection: sa.Connection, item_ids: Sequence[str]) -> None:
    """Have everybody wait who is about to write results of these items, or to mark them, until this transaction ends.

    All take the items in one order, so that no two wait for each other.
    """
    ours = sa.select(items.c.id).where(items.c.id.in_(item_ids)).order_by(items.c.id)
    connection.execute(ours.with_for_update(key_share=True))  # who only refers to an item need not wait


def _steps(connection: sa.Connection, item_ids: Sequence[str]) -> dict[str, dict[str, StepResult]]:
    """What the stages have left, by item and stage, without vectors."""
    query = sa.select(*(c for c in step_results.c if c is not step_results.c.vector))
    by_item: dict[str, dict[str, StepResult]] = {}
    for row in connection.execute(query.where(step_results.c.item_id.in_(item_ids))).mappings():
        by_item.setdefault(row["item_id"], {})[row["stage"]] = _result(row)
    return by_item


def _make_pending(connection: sa.Connection, discard: Iterable[StepResult]) -> None:
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
        "made_from": result.made_from,
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
        made_from=row["made_from"],
    )
