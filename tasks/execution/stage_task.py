"""The stages as Prefect tasks: one task run a stage and batch, one sub-task for each fallback it needed."""

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

from repli.tasks.execution.runtime import process_breakers, process_runtime
from repli.tasks.execution.stage_runner import RunOptions, StageReport, run_stage
from repli.tasks.fallback import RungResult, Served
from repli.tasks.reporting import events
from repli.tasks.settings import Settings
from repli.tasks.stages.default import PIPELINE
from repli.tasks.storage.breakers import Move

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Items that travel together.

    A suspect is what is left of a batch whose worker died; it travels alone. `deaths` counts the workers that died
    while it did.
    """

    number: int
    item_ids: tuple[str, ...]
    deaths: int = 0
    is_suspect: bool = False

    def __str__(self) -> str:
        again = ", again, after its worker died" if self.is_suspect else ""
        return f"batch {self.number} ({len(self.item_ids)} items{again})"


@task(task_run_name="{stage}: {batch}", cache_policy=NO_CACHE, persist_result=False)
def stage_task(stage: str, batch: Batch, options: RunOptions, settings: Settings) -> State[StageReport]:
    """Do one stage for one batch. Idempotent; see `repli.tasks.execution.stage_runner.run_stage`."""
    gates = process_breakers(settings.database_url, _tell)
    runtime = process_runtime(may_exit=True, around_fallback=as_subtask, gates=gates)
    try:
        report = run_stage(PIPELINE.with_policy(settings.policy), stage, batch.item_ids, options, settings, runtime)
    finally:  # also where the store is gone for longer than the stage takes
        for note in (notes := gates.drain_notes()):
            get_run_logger().warning(note)
    report = replace(report, notes=notes)
    get_run_logger().info("%s: %s", batch, report)
    if report.is_degraded:
        return Completed(name="Degraded", message=str(report), data=report)
    return Completed(message=str(report), data=report)


def _tell(move: Move) -> None:
    get_run_logger().warning("breaker %s%s", move, f": {move.why}" if move.why else "")
    events.breaker_moved(move)


def task_of(stage: str) -> Task[..., State[StageReport]]:
    """The task of one stage, under its own name."""
    return stage_task.with_options(name=stage)


def as_subtask(stage: str, rung: str, items: int, work: Callable[[], RungResult[V]]) -> RungResult[V]:
    """Runs a fallback as a Prefect sub-task, so that the UI shows which batch fell to which rung, and how it fared."""
    kept: list[RungResult[V]] = []
    fallback = Task(
        fn=partial(_fallback, work, kept, items, f"{stage}.{rung}"),
        name=f"{stage}.{rung}",
        task_run_name=f"{stage}.{rung}: {items} items",
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    state = fallback(return_state=True)
    if not kept:  # a bug in the engine, not a rung's failure: those are values in the replies
        state.result()
    return kept[0]


def _fallback(work: Callable[[], RungResult[V]], kept: list[RungResult[V]], items: int, name: str) -> State[Any]:
    replies = work()
    kept.append(replies)
    served = sum(isinstance(outcome, Served) for outcome in replies.outcomes.values())
    message = f"{name} served {served} of {items} items"
    return Completed(name="Degraded" if served else "Served none", message=message)
