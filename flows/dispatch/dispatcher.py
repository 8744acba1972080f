"""Dispatch batches to stage tasks, a bounded number in flight: memory does not grow with the catalogue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import dask
from distributed import Client, KilledWorker
from distributed.client import FutureCancelledError
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.states import Crashed
from prefect_dask.task_runners import PrefectDaskFuture

from repli.flows.dispatch.routing import NO_WORKERS_LIMIT_S, Routing
from repli.flows.dispatch.worker_deaths import WorkerCrashes, split_after_crash
from repli.tasks.execution.run_pipeline import PipelineMismatch
from repli.tasks.execution.stage_runner import RunOptions, StageReport
from repli.tasks.execution.stage_task import Batch, task_of
from repli.tasks.fallback import RepliError, StoreError
from repli.tasks.pipeline import Pipeline, Stage
from repli.tasks.reporting import events
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database

FIRST_WORKER_LIMIT_S = 60
POLL_EVERY_S = 2.0
"""Seconds between two looks at the workers while the dispatcher waits for a batch."""
RESULT_LIMIT_S = 10.0
"""Seconds after the end of a task by which its report has arrived, or was lost."""
BATCHES_AHEAD = 2


def full_width(workers: int) -> int:
    """Return two batches per worker and some ahead, so that no worker waits for the flow."""
    return 2 * workers + BATCHES_AHEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The values that all batches of a run share.

    Args:
        client: The Dask client of the flow's task runner.
        pipeline: The run's pipeline, under its policy.
    """

    client: Client
    database: Database
    options: RunOptions
    settings: Settings
    routing: Routing
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class InFlight:
    """One batch and its stage tasks, in the order of the stages.

    Args:
        resource_stages: The stages whose tasks ask for a resource.
    """

    batch: Batch
    futures: tuple[PrefectDaskFuture[StageReport], ...]
    resource_stages: frozenset[str]


class BatchDispatcher:
    """Dispatcher of the batches of one run to the cluster.

    `notes` are the lines for the run's report; `store_error` is the outage of the store that ended the run, or None.

    Args:
        stages: The stages of the pipeline that the batches pass, in their order.
        on_done: Called with each batch that passed, and the report of each stage.
        mark_poison_item: Called with each batch of one item that kills workers, and the stage.
        width: Returns how many batches may be in flight for a number of workers.
    """

    def __init__(
        self,
        context: RunContext,
        stages: Sequence[Stage],
        *,
        on_done: Callable[[Batch, Sequence[StageReport]], None],
        mark_poison_item: Callable[[Batch, str], None],
        width: Callable[[int], int] = full_width,
    ) -> None:
        self._context = context
        self._routing = context.routing
        self._crashes = WorkerCrashes(
            context.database,
            context.options.directives,
            pipeline=context.pipeline,
            scope_of=context.routing.scope_of,
            on_move=events.emit_breaker_move,
        )
        self._on_done = on_done
        self._mark_poison_item = mark_poison_item
        self.notes: list[str] = []
        self._stages = tuple(stages)
        self._width = width
        self._tasks = {stage.name: task_of(stage.name) for stage in stages}
        self._fresh: Iterator[Batch] = iter(())
        self.store_error: StoreError | None = None

    def run(self, batches: Iterable[Batch]) -> list[str]:
        """Take every batch through every stage.

        If the store is unavailable for longer than the stages wait for it, no further batch is submitted; those in
        flight end, so that no result is lost that can still be saved.

        Returns:
            A line for each batch that failed. A worker's death is not among them: its batches run again, and an item
            that kills workers is handed to `mark_poison_item`. Nor is the store's outage: see `store_error`.

        Raises:
            RepliError: The cluster has no worker, or was lost.
        """
        self._wait_for_a_worker()
        self._fresh = iter(batches)
        suspected: deque[Batch] = deque()
        in_flight: deque[InFlight] = deque()
        problems: list[str] = []
        self.store_error = None
        while True:
            self._routing.refresh_worker_locations()
            if suspected and not in_flight and not self.store_error:
                in_flight.append(self._submit(suspected.popleft()))
            is_suspect_running = bool(in_flight) and in_flight[0].batch.is_suspect
            while not (suspected or is_suspect_running) and len(in_flight) < self._width(len(self._routing.workers())):
                if (batch := self._next_batch()) is None:
                    break
                in_flight.append(self._submit(batch))
            if not in_flight:
                return problems
            reports: list[StageReport] = []
            stage, error = self._wait(in_flight, reports)
            batch = in_flight.popleft().batch
            try:
                if isinstance(error, StoreError):
                    raise error
                if error is None:
                    self._crashes.batch_succeeded(batch)
                    self._on_done(batch, reports)
                elif isinstance(error, KilledWorker):
                    suspected.extend(self._pieces_of(batch, stage, error))
                else:
                    problems.append(f"{stage}, {batch}: {error}")
                    if isinstance(error, PipelineMismatch):  # that worker would take the other batches too
                        self._fresh = iter(())
            except StoreError as lost:
                self.store_error = self.store_error or lost

    def _next_batch(self) -> Batch | None:
        """Return the next batch to submit; None where there is none, or the store is unavailable."""
        if self.store_error:
            return None
        try:
            return next(self._fresh, None)
        except StoreError as error:
            self.store_error = error
            return None

    def _pieces_of(self, batch: Batch, stage: str, error: KilledWorker) -> list[Batch]:
        """Return the pieces in which to run a batch again whose worker died; mark an item that kills workers."""
        worker = error.last_worker.address if error.last_worker else None
        may_be_item_error = self._crashes.worker_died(batch, stage, worker)
        pieces = split_after_crash(batch, is_blamed=batch.is_suspect and may_be_item_error)
        if not pieces:
            self._mark_poison_item(batch, stage)
        return pieces

    def _wait_for_a_worker(self) -> None:
        client = self._context.client
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER_LIMIT_S)
        except TimeoutError:
            address = client.scheduler_info()["address"]
            raise RepliError(
                f"no worker joined the Dask scheduler {address} in {FIRST_WORKER_LIMIT_S} s; start one"
            ) from None

    def _submit(self, batch: Batch) -> InFlight:
        resources = {stage.name: self._routing.resources_for(stage) for stage in self._stages}
        futures: list[PrefectDaskFuture[StageReport]] = []
        for stage in self._stages:
            wanted = dict(resources[stage.name])
            with dask.annotate(resources=wanted) if wanted else nullcontext():
                futures.append(self._submit_stage(stage, batch, futures[-1:]))
        return InFlight(batch, tuple(futures), frozenset(name for name, wanted in resources.items() if wanted))

    def _submit_stage(
        self, stage: Stage, batch: Batch, after: list[PrefectDaskFuture[StageReport]]
    ) -> PrefectDaskFuture[StageReport]:
        task = self._tasks[stage.name]
        return task.submit(  # type: ignore[return-value]  # the runner is Dask's, and so are its futures
            stage.name, batch, self._context.options, self._context.settings, wait_for=after
        )

    def _wait(self, in_flight: deque[InFlight], reports: list[StageReport]) -> tuple[str, Exception | None]:
        """Wait for the first batch, and append the reports of its successful stages to `reports`.

        Returns:
            The first stage that failed, and its error; the last stage and None where all succeeded.
        """
        for position, stage in enumerate(self._stages):
            try:
                while (result := result_of(in_flight[0].futures[position])) is None:
                    self._requeue_stuck_batches(in_flight)
            except KilledWorker as error:
                _mark_crashed(in_flight[0].futures[position], str(error))
                return stage.name, error
            except (OSError, CancelledError, FutureCancelledError) as error:
                why = str(error) or type(error).__name__
                raise RepliError(
                    f"the Dask cluster was lost ({why}); start the run again, it continues from here"
                ) from error
            if isinstance(result, Exception):
                return stage.name, result
            self.notes.extend(result.notes)
            reports.append(result)
        return self._stages[-1].name, None

    def _requeue_stuck_batches(self, in_flight: deque[InFlight]) -> None:
        """Send tasks that wait for a resource again, to any worker, where the resource is lost.

        Raises:
            RepliError: There has been no worker at all for `NO_WORKERS_LIMIT_S`.
        """
        if self._routing.has_no_workers():
            raise RepliError(
                f"the Dask cluster has had no worker for {NO_WORKERS_LIMIT_S:g} s; start one, and the run again"
            )
        stuck = {stage.name for stage in self._stages if self._routing.should_requeue_without_resource(stage)}
        if any(sent.resource_stages & stuck for sent in in_flight):
            running = self._routing.running_task_keys()
            in_flight.extend(
                [self._resubmit_anywhere(in_flight.popleft(), stuck, running) for _ in range(len(in_flight))]
            )

    def _resubmit_anywhere(self, sent: InFlight, stuck: set[str], running: set[Any]) -> InFlight:
        """Return the batch, sent again to any worker from its first `stuck` stage on that is not running.

        A stage that was done before counts too: its result died with its worker, and the later stages wait for it.
        """
        for position, stage in enumerate(self._stages):
            future = sent.futures[position].wrapped_future
            if stage.name in sent.resource_stages & stuck and future.key not in running and not future.done():
                break
        else:
            return sent
        get_run_logger().warning("%s: no worker could take it; sent to any worker from %s on", sent.batch, stage.name)
        self._context.client.cancel([future.wrapped_future for future in sent.futures[position:]], force=True)
        futures = list(sent.futures[:position])
        for stage in self._stages[position:]:
            futures.append(self._submit_stage(stage, sent.batch, futures[-1:]))
        kept = sent.resource_stages & {stage.name for stage in self._stages[:position]}
        return replace(sent, futures=tuple(futures), resource_stages=kept)


def result_of(future: PrefectDaskFuture[StageReport]) -> StageReport | Exception | None:
    """Return a task's report, or the error that it ended with; None if neither comes within `POLL_EVERY_S`.

    Once the task has ended, its report is waited for up to `RESULT_LIMIT_S`. A finished task may have no result: it
    died with its worker, and the task has to run again.

    Raises:
        KilledWorker: The worker died at the task.
    """
    try:
        with suppress(CancelledError):  # the result says so
            future.wrapped_future.exception(timeout=POLL_EVERY_S)
        return future.result(timeout=RESULT_LIMIT_S, raise_on_failure=False)
    except TimeoutError:
        return None


def _mark_crashed(future: PrefectDaskFuture[StageReport], why: str) -> None:
    """Set the task run to *Crashed*: its worker died before it could, and the UI would show it as running."""
    with get_client(sync_client=True) as client:
        try:
            client.set_task_run_state(future.task_run_id, Crashed(message=why), force=True)
        except (ObjectNotFound, PrefectHTTPStatusError):  # the worker died before the server knew the task run
            return
