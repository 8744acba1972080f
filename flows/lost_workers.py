"""What happens to a batch whose worker died: it runs again in smaller pieces, down to the item that did it."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.fallback import Status, StepError, StepResult
from tasks.stage_task import Batch
from tasks.storage import results
from tasks.storage.database import Database

PIECES = 8
DEATHS_ALONE = 2
"""An item that was alone when its worker died, and is among `DEATHS_ALONE` deaths or more, is set aside."""


def smaller(batch: Batch) -> list[Batch]:
    """The pieces in which a batch is run again; the batch itself where it is one item that has another try."""
    size = max(1, -(-len(batch.item_ids) // PIECES))
    starts = range(0, len(batch.item_ids), size)
    return [
        Batch(number=batch.number, item_ids=batch.item_ids[start : start + size], deaths=batch.deaths + 1)
        for start in starts
    ]


def is_culprit(batch: Batch) -> bool:
    """Whether the batch is one item over which workers died again and again."""
    return len(batch.item_ids) == 1 and batch.deaths + 1 >= DEATHS_ALONE


def set_aside(database: Database, run_id: str, batch: Batch, stage: str) -> None:
    """Mark a culprit failed, retryable, with the reason. Where the stage has its result already, nothing changes."""
    deaths = batch.deaths + 1
    message = (
        f"{stage} killed its worker {deaths} times over this item, the last time alone (a crash, a kill, or memory); "
        "it is left out of this run, and the next run tries it again"
    )
    results.save(
        database,
        [
            StepResult(
                item_id=item_id,
                stage=stage,
                status=Status.FAILED,
                confidence=0.0,
                error=StepError(type="WorkerDied", message=message),
                retryable=True,
                run_id=run_id,
                finished_at=datetime.now(UTC),
            )
            for item_id in batch.item_ids
        ],
    )
