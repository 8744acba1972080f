"""What happens to a batch whose worker died: it runs again in smaller pieces, each alone, down to the item that did it.

Dask blames every task that waited on the worker, so a death among many batches says little. Suspects therefore run
one at a time with nothing else in flight: a death then has one possible cause, and no innocent item is set aside.
"""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.fallback import Status, StepError, StepResult
from tasks.stage_task import Batch
from tasks.storage import results
from tasks.storage.database import Database

PIECES = 8
FATAL_DEATHS = 2
"""An item over which so many workers died, the last time alone, is set aside."""


def suspects(batch: Batch, *, was_alone: bool) -> list[Batch]:
    """The pieces in which to run a batch again whose worker died; none where it is an item to set aside."""
    deaths = batch.deaths + was_alone
    if len(batch.item_ids) == 1 and deaths >= FATAL_DEATHS:
        return []
    size = max(1, -(-len(batch.item_ids) // PIECES))
    return [
        Batch(number=batch.number, item_ids=batch.item_ids[start : start + size], deaths=deaths, is_suspect=True)
        for start in range(0, len(batch.item_ids), size)
    ]


def set_aside(database: Database, run_id: str, batch: Batch, stage: str) -> None:
    """Mark a culprit failed at `stage`, retryable, with the reason. A better result that is kept there stays."""
    results.save(database, [_failed(item_id, run_id, stage) for item_id in batch.item_ids])


def _failed(item_id: str, run_id: str, stage: str) -> StepResult:
    message = (
        f"{stage} killed its worker {FATAL_DEATHS} times or more over this item, the last time alone (a crash, a kill "
        "or too little memory); it is left out of this run, and the next run tries it again"
    )
    return StepResult(
        item_id=item_id,
        stage=stage,
        status=Status.FAILED,
        confidence=0.0,
        error=StepError(type="WorkerDied", message=message),
        retryable=True,
        run_id=run_id,
        finished_at=datetime.now(UTC),
    )
