"""Split a batch whose worker died, and run the pieces again, down to the item that kills workers.

Dask blames every task that waited on the worker. Each worker notes what it begins, so that only that is suspect; the
others run again as they are. Where a worker had begun several tasks, which has several threads, their pieces run one at
a time with nothing else in flight: a death then has one possible cause, and no innocent item is excluded.

Where as many workers die in a rung as its breaker allows failures, and no piece of what they had begun succeeds between
them, the deaths are the rung's failures: it is refused from then on, and its items fall back.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime

from repli.tasks.execution.stage_task import Batch
from repli.tasks.fallback import Breaker, Directives, Position, Status, StepError, StepResult
from repli.tasks.fallback.breaker import CallEnded, Verdict
from repli.tasks.pipeline import Pipeline
from repli.tasks.storage import breakers, results
from repli.tasks.storage.breakers import FLEET, Key, Move
from repli.tasks.storage.database import Database

PIECES = 8
FATAL_DEATHS = 2
"""Deaths of workers over an item, the last with it alone in flight, that make it a poison item: left out of the run."""


def split_after_crash(batch: Batch, *, is_blamed: bool) -> list[Batch]:
    """Return the pieces in which to run a batch again whose worker died; none where it is one poison item.

    Args:
        is_blamed: Whether the items may have caused the death: they were alone in flight.
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
    """Store a poison item as failed at `stage`, retryable, with the reason. A better stored result stays."""
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


class WorkerDeaths:
    """What each worker has begun and not ended, and which workers end themselves."""

    def __init__(self) -> None:
        self._workers: dict[str, str] = {}
        self._begun_at_death: dict[str, frozenset[str]] = {}
        self._end_themselves: set[str] = set()

    def begun(self, key: str, worker: str) -> None:
        """Note that a worker has begun the task `key`."""
        self._workers[key] = worker
        self._begun_at_death.pop(worker, None)  # a new process at an old address
        self._end_themselves.discard(worker)

    def ended(self, key: str) -> None:
        """Note that a task has ended."""
        self._workers.pop(key, None)

    def ends_itself(self, worker: str) -> None:
        """Note that a worker process is about to end, which no task is to blame for."""
        self._end_themselves.add(worker)

    def begun_with(self, key: str, worker: str | None) -> frozenset[str]:
        """Return the tasks that a dead worker had begun, if `key` is among them; none where it is not to blame."""
        if worker is None or worker in self._end_themselves:
            self._workers.pop(key, None)
            return frozenset()
        if worker not in self._begun_at_death:
            self._begun_at_death[worker] = frozenset(one for one, at in self._workers.items() if at == worker)
        self._workers.pop(key, None)
        begun = self._begun_at_death[worker]
        return begun if key in begun else frozenset()


class WorkerCrashes:
    """Deaths of workers, recorded as failures of the rungs that they died in once no item can explain them.

    Args:
        pipeline: The run's pipeline, under its policy.
        scope_of: Returns the device scope of a worker by its address, None where it is unknown.
        on_move: Called with each transition of a breaker that a death caused.
    """

    def __init__(
        self,
        database: Database,
        directives: Directives,
        *,
        pipeline: Pipeline,
        scope_of: Callable[[str], str | None],
        on_move: Callable[[Move], None],
    ) -> None:
        self._database = database
        self._directives = directives
        self._pipeline = pipeline
        self._scope_of = scope_of
        self._on_move = on_move
        self._in_a_row: dict[tuple[Breaker, Key], int] = defaultdict(int)

    def worker_died(self, batch: Batch, stage: str, worker: str | None) -> bool:
        """Count the death of a worker over `batch` alone, at `stage`. Return whether an item may have caused it.

        It counts against the rung unless one was forced. A probe of a rung that was refused already says nothing about
        the items that it was tried with.
        """
        scope_key = self._scope_of(worker) if worker else None
        if scope_key is None or stage in self._directives.forced:
            return True
        chain = self._pipeline.stage(stage).chain
        for rung in chain.rungs:
            if rung.breaker is None or rung.breaker.scope == "key":  # which key it was about is not known
                return True
            name = f"{stage}.{rung.name}"
            key = Key(name, FLEET if rung.breaker.scope == "fleet" else scope_key)
            states, _ = breakers.read(self._database, rung.breaker, [key, Key(name)])
            why = f"WorkerDied: {name} killed its worker"
            if lease := states[key].lease:
                self._record(rung.breaker, key, lease.token, why)
                return False
            is_called = Position.CLOSED, Position.FORCED_CLOSED
            if states[key].position in is_called and states[Key(name)].position in is_called:
                self._count(rung.breaker, key, why)
                return True
        return True

    def batch_succeeded(self, batch: Batch) -> None:
        """Count from 0 again if `batch` was a suspect: the rung works, so an item caused the deaths before."""
        if batch.is_suspect:
            self._in_a_row.clear()

    def _count(self, breaker: Breaker, key: Key, why: str) -> None:
        self._in_a_row[breaker, key] += 1
        if self._in_a_row[breaker, key] >= breaker.failures:
            for _ in range(self._in_a_row.pop((breaker, key))):
                self._record(breaker, key, uuid.uuid4().hex, why)

    def _record(self, breaker: Breaker, key: Key, token: str, why: str) -> None:
        change = breakers.apply(self._database, breaker, key, CallEnded(token, Verdict.FAILED, why))
        if change.move:
            self._on_move(change.move)
