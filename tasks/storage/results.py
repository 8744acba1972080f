"""Step results in and out of the store: one bulk read and one bulk write a stage and batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from tasks.fallback import Attempt, AttemptOutcome, Status, StepError, StepResult
from tasks.items import Embedding, Item, ItemState, as_json
from tasks.storage.database import Database
from tasks.storage.schema import items, step_results


def load(database: Database, item_ids: Sequence[str]) -> list[ItemState]:
    """The items of these ids with what their stages have left, in the order of the ids; unknown ids are left out.

    Values come in their outside form (JSON), without vectors.
    """
    with database.read() as connection:
        records = connection.execute(sa.select(items.c.id, items.c.record).where(items.c.id.in_(item_ids))).all()
        results = connection.execute(
            sa.select(*(c for c in step_results.c if c is not step_results.c.vector)).where(
                step_results.c.item_id.in_(item_ids)
            )
        ).mappings()
        by_item: dict[str, dict[str, StepResult]] = {}
        for row in results:
            by_item.setdefault(row["item_id"], {})[row["stage"]] = _result(row)
    found = {row.id: Item(id=row.id, **{**row.record, "repaired": tuple(row.record["repaired"])}) for row in records}
    return [ItemState(item=found[id_], results=by_item.get(id_, {})) for id_ in item_ids if id_ in found]


def save(database: Database, results: Iterable[StepResult]) -> None:
    """Keep the `results` in one transaction, each where nothing better is kept already.

    Idempotent. Items with a result that failed are marked so in the same transaction.
    """
    rows = sorted((_row(result) for result in results), key=lambda row: str(row["item_id"]))
    if not rows:
        return
    insert = database.insert(step_results)
    keys = [step_results.c.item_id, step_results.c.stage]
    guarded = insert.on_conflict_do_update(
        index_elements=keys,
        set_={c.name: insert.excluded[c.name] for c in step_results.c if c.name not in {"item_id", "stage"}},
        where=step_results.c.standing <= insert.excluded.standing,
    )
    failed = [row["item_id"] for row in rows if row["status"] == Status.FAILED]
    with database.write() as connection:
        connection.execute(guarded, rows)
        if failed:
            is_kept = sa.exists().where(step_results.c.item_id == items.c.id, step_results.c.status == Status.FAILED)
            connection.execute(
                sa.update(items).where(items.c.id.in_(failed), is_kept).values(state="failed", quality=None)
            )


def mark_stored(database: Database, run_id: str, qualities: Mapping[str, Decimal]) -> None:
    """Make items findable, each with its quality: the last step. Idempotent."""
    update = (
        sa.update(items)
        .where(items.c.id == sa.bindparam("item"))
        .values(state="stored", quality=sa.bindparam("new_quality"), run_id=run_id)
    )
    with database.write() as connection:
        connection.execute(
            update, [{"item": id_, "new_quality": float(quality)} for id_, quality in sorted(qualities.items())]
        )


def _row(result: StepResult) -> dict[str, Any]:
    vector = result.value.vector.tobytes() if isinstance(result.value, Embedding) else None
    return {
        "item_id": result.item_id,
        "stage": result.stage,
        "status": result.status.value,
        "standing": result.standing,
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
    )
