"""One stage over one batch of items: what to do, doing it, and keeping it. The checkpoint is here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

from tasks.fallback import Chain, Directives, Runtime, Status, StepResult, Work, quality, run_chain
from tasks.items import ItemState
from tasks.settings import Settings
from tasks.storage import results
from tasks.storage.database import Database

I = TypeVar("I")  # noqa: E741  as in fallback/chain.py
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What the rungs of a stage are handed beside their inputs."""

    settings: Settings
    database: Database
    run_id: str
    now: datetime


@dataclass(frozen=True, slots=True)
class Stage(Generic[I, V]):
    """A chain, and how an item becomes its input. None as input: the stage is not applicable to the item."""

    chain: Chain[I, V, StageContext]
    input: Callable[[ItemState], I | None]

    @property
    def name(self) -> str:
        return self.chain.stage


AnyStage = Stage[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What one run asks of every stage."""

    run_id: str
    refresh: bool = False
    directives: Directives = field(default_factory=Directives)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """What a stage did to one batch.

    `items` counts those it had work on; `rungs` counts those each rung served; `notes` are for the run's report.
    """

    stage: str
    items: int
    statuses: Mapping[str, int] = field(default_factory=dict)
    rungs: Mapping[str, int] = field(default_factory=dict)
    mean_penalty: Decimal | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_degraded(self) -> bool:
        """Whether a fallback, a skip or a failure is among the results."""
        return any(self.statuses.get(status) for status in (Status.DEGRADED, Status.SKIPPED, Status.FAILED))

    def __str__(self) -> str:
        if not self.items:
            return "nothing left to do"
        counts = [f"{count} {status}" for status, count in self.statuses.items()]
        rungs = [f"{rung} {count}" for rung, count in self.rungs.items()]
        mean = f"; mean penalty {float(self.mean_penalty):.3f}" if self.mean_penalty is not None else ""
        return f"{self.items} items: {', '.join(counts)}{mean}{' · ' + ', '.join(rungs) if rungs else ''}"


def run_stage(
    stage: AnyStage,
    earlier: Sequence[str],
    item_ids: Sequence[str],
    options: RunOptions,
    settings: Settings,
    runtime: Runtime,
) -> StageReport:
    """Do what is left of `stage` for these items, and keep the results before returning.

    Idempotent: an item that has its result is not touched again, so a run that was cut off, or a task that is
    computed twice, goes on where it stopped. Items that failed, or have not come so far, are left alone.

    Raises:
        StoreError: the results could not be read or kept; nothing was.
    """
    database = Database(settings.database_url)
    states = [state for state in results.load(database, item_ids) if is_due(state, stage.name, earlier, options)]
    context = StageContext(settings=settings, database=database, run_id=options.run_id, now=runtime.now())
    works, finished = [], []
    for state in states:
        value = stage.input(state)
        if value is None:
            finished.append(_not_applicable(state.item.id, stage.name, context))
        else:
            works.append(Work(state.item.id, value))
    if works:
        finished += run_chain(
            stage.chain, works, context, run_id=options.run_id, runtime=runtime, directives=options.directives
        )
    results.save(database, finished)
    return report(stage.name, finished)


def is_due(state: ItemState, stage: str, earlier: Sequence[str], options: RunOptions) -> bool:
    """Whether `stage` has work on an item: the stages before it are done, and it is not, or not by this run."""
    if not all((before := state.results.get(name)) and before.status.is_done for name in earlier):
        return False
    result = state.results.get(stage) or StepResult.pending(state.item.id, stage)
    if result.status is Status.FAILED:
        return result.retryable
    return result.status is Status.PENDING or (options.refresh and result.run_id != options.run_id)


def report(stage: str, finished: Sequence[StepResult]) -> StageReport:
    """The counts of a batch's results."""
    penalties = [result.penalty for result in finished if result.penalty is not None]
    return StageReport(
        stage=stage,
        items=len(finished),
        statuses=Counter(result.status.value for result in finished),
        rungs=Counter(result.rung for result in finished if result.rung),
        mean_penalty=sum(penalties, Decimal(0)) / len(penalties) if penalties else None,
    )


def quality_so_far(state: ItemState) -> Decimal | None:
    """The quality that an item's results come to, `store` itself left out: it takes nothing away."""
    return quality(result for stage, result in state.results.items() if stage != "store")


def _not_applicable(item_id: str, stage: str, context: StageContext) -> StepResult:
    return StepResult(
        item_id=item_id,
        stage=stage,
        status=Status.NOT_APPLICABLE,
        penalty=Decimal(1),
        run_id=context.run_id,
        finished_at=context.now,
    )
