"""What happens to a batch whose worker died: it runs again in smaller pieces, each alone, down to the item that did it.

Dask blames every task that waited on the worker, so a death among many batches says little. Suspects therefore run
one at a time with nothing else in flight: a death then has one possible cause, and no innocent item is set aside.

Such a death is also a failure of the rung that was called, and its breaker counts it, until another piece comes
through: a rung that kills its worker for every item is refused after a few deaths, and its items fall back.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime

from repli.tasks.execution.stage_task import Batch
from repli.tasks.fallback import (
    Breaker,
    Directives,
    Ended,
    Event,
    Excused,
    Position,
    Status,
    StepError,
    StepResult,
    Verdict,
)
from repli.tasks.pipeline import Pipeline
from repli.tasks.storage import breakers, results
from repli.tasks.storage.breakers import FLEET, Key, Move
from repli.tasks.storage.database import Database

PIECES = 8
FATAL_DEATHS = 2
"""An item over which so many workers died, the last time alone, is set aside."""


def split_after_crash(batch: Batch, *, is_blamed: bool) -> list[Batch]:
    """The pieces in which to run a batch again whose worker died; none where it is an item to set aside.

    Args:
        is_blamed: whether the death says something of the items: they were alone.
    """
    deaths = batch.deaths + is_blamed
    if len(batch.item_ids) == 1 and deaths >= FATAL_DEATHS:
        return []
    size = max(1, -(-len(batch.item_ids) // PIECES))
    return [
        Batch(number=batch.number, item_ids=batch.item_ids[start : start + size], deaths=deaths, is_suspect=True)
        for start in range(0, len(batch.item_ids), size)
    ]


def mark_poison_item(database: Database, run_id: str, batch: Batch, stage: str) -> None:
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


class WorkerCrashes:
    """WorkerCrashes of workers, as failures of the rungs that they died in.

    Args:
        pipeline: the one that the run goes by.
        place_of: the place of a worker by its address, None where it is not known.
        on_move: told of each move of a breaker that a death caused.
    """

    def __init__(
        self,
        database: Database,
        directives: Directives,
        *,
        pipeline: Pipeline,
        place_of: Callable[[str], str | None],
        on_move: Callable[[Move], None],
    ) -> None:
        self._database = database
        self._directives = directives
        self._pipeline = pipeline
        self._place_of = place_of
        self._on_move = on_move
        self._excusable: dict[tuple[Breaker, Key], set[str]] = defaultdict(set)

    def died(self, batch: Batch, stage: str, worker: str | None) -> bool:
        """A worker died over `batch` at `stage`: whether that says something of its items.

        It counts against the rung where the batch was alone and nobody forced a rung. A probe of a rung that was
        refused already says nothing of the items that it was tried with.
        """
        place = self._place_of(worker) if worker else None
        if not batch.is_suspect or place is None or stage in self._directives.forced:
            return True
        chain = self._pipeline.stage(stage).chain
        for rung in chain.rungs:
            if rung.breaker is None:
                return True
            name = f"{stage}.{rung.name}"
            key = Key(name, FLEET if rung.breaker.scope == "fleet" else place)
            states, _ = breakers.read(self._database, rung.breaker, [key, Key(name)])
            why = f"WorkerDied: {name} killed its worker"
            if lease := states[key].lease:
                self._tell(rung.breaker, key, Ended(lease.token, Verdict.FAILED, why))
                return False
            is_called = Position.CLOSED, Position.FORCED_CLOSED
            if states[key].position in is_called and states[Key(name)].position in is_called:
                token = uuid.uuid4().hex
                self._excusable[rung.breaker, key].add(token)
                self._tell(rung.breaker, key, Ended(token, Verdict.FAILED, why))
                return True
        return True

    def batch_succeeded(self, batch: Batch) -> None:
        """`batch` was served: what killed the workers before it was an item's doing."""
        if batch.is_suspect:
            for (breaker, key), tokens in self._excusable.items():
                self._tell(breaker, key, Excused(frozenset(tokens)))
            self._excusable.clear()

    def _tell(self, breaker: Breaker, key: Key, event: Event) -> None:
        change = breakers.apply(self._database, breaker, key, event)
        if change.move:
            self._on_move(change.move)
