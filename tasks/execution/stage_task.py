"""The stages as Prefect tasks: one task run per stage and batch, one sub-task per fallback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from repli.tasks.execution import dask_worker
from repli.tasks.execution.dask_slots import fleet_slots
from repli.tasks.execution.run_pipeline import pipeline_of
from repli.tasks.execution.shared_breakers import current_device_scope, process_breakers
from repli.tasks.execution.stage_runner import RunOptions, StageReport, run_stage
from repli.tasks.fallback import ProcessPoisoned, Served
from repli.tasks.fallback.splitting import RungResult
from repli.tasks.reporting import events
from repli.tasks.runtime.process import process_runtime
from repli.tasks.runtime.timeline import timed, worker
from repli.tasks.settings import Settings
from repli.tasks.storage.breakers import Move

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Items that are scheduled together.

    Args:
        number: the batch's number in its run, which a part of it keeps.
        item_ids: the ids of the items.
        deaths: how many workers died over this batch, with no other batch begun.
        is_suspect: whether this is a part of a batch that its worker had begun when it died.
    """

    number: int
    item_ids: tuple[str, ...]
    deaths: int = 0
    is_suspect: bool = False

    def __str__(self) -> str:
        again = ", run again after its worker died" if self.is_suspect else ""
        return f"batch {self.number} ({len(self.item_ids)} items{again})"


@task(task_run_name="{stage}: {batch}", cache_policy=NO_CACHE, persist_result=False)
def stage_task(stage: str, batch: Batch, options: RunOptions, settings: Settings) -> State[StageReport]:
    """Run one stage over one batch. Idempotent; see `repli.tasks.execution.stage_runner.run_stage`."""
    dask_worker.note_begun()
    pipeline = pipeline_of(settings)
    breakers = process_breakers(settings.database_url, report_move)
    runtime = process_runtime(
        may_exit=True,
        around_fallback=as_subtask,
        breaker_of=breakers.of,
        slot_of=fleet_slots().of,
        lacks=dask_worker.lacks,
        accelerator=current_device_scope().partition("/")[2] or None,
    )
    try:
        with timed(worker(), f"{stage}: {batch}"):
            report = run_stage(pipeline, stage, batch.item_ids, options, settings, runtime, dask_worker.let_go)
    except ProcessPoisoned:
        dask_worker.end_process()
        raise
    finally:  # also after a StoreError: the notes say since when the store was unreachable
        for note in (notes := breakers.drain_notes()):
            get_run_logger().warning(note)
    dask_worker.end_process_for_abandoned_calls()
    report = replace(report, notes=notes)
    if report.is_degraded:
        return Completed(name="Degraded", message=str(report), data=report)
    return Completed(message=str(report), data=report)


def report_move(move: Move) -> None:
    """Log the move of a breaker, and send it to Prefect as an event."""
    get_run_logger().warning("breaker %s%s", move, f": {move.why}" if move.why else "")
    events.emit_breaker_move(move)


def task_of(stage: str) -> Task[..., State[StageReport]]:
    """Return the task of one stage, under the stage's name."""
    return stage_task.with_options(name=stage)


def as_subtask(stage: str, rung: str, items: int, work: Callable[[], RungResult[V]]) -> RungResult[V]:
    """Run a fallback as a Prefect sub-task, so that the UI shows which batch used which rung, and its result."""
    results: list[RungResult[V]] = []
    fallback = Task(
        fn=partial(_run_fallback, work, results, items, f"{stage}.{rung}"),
        name=f"{stage}.{rung}",
        task_run_name=f"{stage}.{rung}: {items} items",
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    state = fallback(return_state=True)
    if not results:  # a bug in the engine: a rung's failure is a value in the result
        state.result()
    return results[0]


def _run_fallback(work: Callable[[], RungResult[V]], results: list[RungResult[V]], items: int, name: str) -> State[Any]:
    result = work()
    results.append(result)
    served = sum(isinstance(outcome, Served) for outcome in result.outcomes.values())
    message = f"{name} served {served} of {items} items"
    return Completed(name="Degraded" if served else "Served none", message=message)
