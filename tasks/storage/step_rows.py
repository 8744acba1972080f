"""The rows of step results: how a result is written, and read again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Attempt, AttemptOutcome, Status, StepError, StepResult
from repli.tasks.items import Embedding
from repli.tasks.json_values import as_json
from repli.tasks.storage.schema import step_results

_WITHOUT_TRAIL = tuple(
    column for column in step_results.c if column.name not in {"vector", "rank", "error", "attempts"}
)
_TRAIL = step_results.c.error, step_results.c.attempts


def read(
    connection: sa.Connection, item_ids: Sequence[str], *, with_trail: bool = True
) -> Mapping[str, Mapping[str, StepResult]]:
    """Return the step results by item and stage, without vectors.

    Args:
        with_trail: whether to read errors and attempts; else they are None and empty.
    """
    columns = (*_WITHOUT_TRAIL, *_TRAIL) if with_trail else _WITHOUT_TRAIL
    by_item: dict[str, dict[str, StepResult]] = defaultdict(dict)
    for row in connection.execute(sa.select(*columns).where(step_results.c.item_id.in_(item_ids))).all():
        by_item[row.item_id][row.stage] = _result(row, with_trail=with_trail)
    return by_item


def _result(row: sa.Row[Any], *, with_trail: bool) -> StepResult:
    return StepResult(
        item_id=row.item_id,
        stage=row.stage,
        status=Status(row.status),
        value=row.value,
        confidence=row.confidence,
        rung=row.rung,
        penalty=None if row.penalty is None else Decimal(repr(row.penalty)),
        error=_error(row.error) if with_trail else None,
        retryable=row.retryable,
        attempts=tuple(map(_attempt, row.attempts)) if with_trail else (),
        run_id=row.run_id,
        finished_at=row.finished_at,
        input_hash=row.input_hash,
        revision=row.revision,
        is_stale=row.is_stale,
        rung_version=row.rung_version,
        is_outdated=row.is_outdated,
    )


def _attempt(attempt: Mapping[str, Any]) -> Attempt:
    return Attempt(
        rung=attempt["rung"],
        outcome=AttemptOutcome(attempt["outcome"]),
        error=_error(attempt["error"]),
        seconds=attempt["seconds"],
        where=attempt.get("where"),  # results of an older Repli have none
    )


def _error(error: Mapping[str, Any] | None) -> StepError | None:
    return StepError(**error) if error else None


def row_of(result: StepResult) -> dict[str, Any]:
    """Return the row of a result, by column."""
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
        "rung_version": result.rung_version,
        "is_outdated": result.is_outdated,
        "waits_for": waits_row(result),
    }


def waits_row(result: StepResult) -> str | None:
    """Return the column `waits_for` of a result: null where a better rung served, or none may serve later."""
    is_below_best = result.status not in {Status.SUCCEEDED, Status.NOT_APPLICABLE}
    return "\n".join(result.waits_for) or None if is_below_best else None


def _error_row(error: StepError | None) -> dict[str, Any] | None:
    return {**error.as_json(), "retryable": error.retryable} if error else None
