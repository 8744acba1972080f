"""Batches over the stage tasks, a bounded number in flight: memory does not grow with the catalogue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
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

from repli.flows.dispatch.routing import DESERTED_AFTER_S, Routing
from repli.flows.dispatch.worker_deaths import WorkerCrashes, split_after_crash
from repli.tasks.execution.stage_runner import RunOptions, StageReport
from repli.tasks.execution.stage_task import Batch, task_of
from repli.tasks.fallback import RepliError
from repli.tasks.pipeline import AnyStage, Pipeline
from repli.tasks.reporting import events
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database

WORKER_WAIT_S = 60
LOOK_EVERY_S = 2.0
"""While a batch is waited for, the workers are looked at so often."""
GATHERED_WITHIN_S = 10.0
"""The report of a task that is over is here by then, or it was lost."""
AHEAD = 2


def full_width(workers: int) -> int:
    """Two batches a worker and some ahead, so that no worker waits for the flow."""
    return 2 * workers + AHEAD


@dataclass(frozen=True, slots=True)
class InFlight:
    """A batch and its stage tasks, in the order of the stages; `bound` are the stages that ask for a resource."""

    batch: Batch
    futures: tuple[PrefectDaskFuture[StageReport], ...]
    resource_stages: frozenset[str]


class BatchDispatcher:
    """The batches of one run on their way through the cluster.

    Args:
        client: the Dask client of the flow's task runner.
        on_done: told of each batch that came through, and what each stage did to it.
        mark_poison_item: told of each batch of one item that workers die over, and of the stage.
        pipeline: the run's, under its policy.
        stages: those of it that batches are taken through, in their order.
        width: how many batches may be in flight with so many workers.
    """

    def __init__(
        self,
        client: Client,
        database: Database,
        options: RunOptions,
        settings: Settings,
        *,
        on_done: Callable[[Batch, Sequence[StageReport]], None],
        mark_poison_item: Callable[[Batch, str], None],
        routing: Routing,
        pipeline: Pipeline,
        stages: Sequence[AnyStage],
        width: Callable[[int], int] = full_width,
    ) -> None:
        self._client = client
        self._routing = routing
        self._deaths = WorkerCrashes(
            database,
            options.directives,
            pipeline=pipeline,
            place_of=routing.place_of,
            on_move=events.breaker_moved,
        )
        self._options = options
        self._settings = settings
        self._on_done = on_done
        self._mark_poison_item = mark_poison_item
        self.notes: list[str] = []
        self._stages = tuple(stages)
        self._width = width
        self._tasks = {stage.name: task_of(stage.name) for stage in stages}

    def run(self, batches: Iterable[Batch]) -> list[str]:
        """Take every batch through every stage; what went wrong on the way, save workers' deaths, which are mended."""
        self._wait_for_a_worker()
        fresh = iter(batches)
        suspected: deque[Batch] = deque()
        in_flight: deque[InFlight] = deque()
        problems: list[str] = []
        while True:
            self._routing.refresh_worker_locations()
            if suspected and not in_flight:
                in_flight.append(self._submit(suspected.popleft()))
            is_suspect_out = bool(in_flight) and in_flight[0].batch.is_suspect
            while not (suspected or is_suspect_out) and len(in_flight) < self._width(len(self._routing.workers())):
                if (batch := next(fresh, None)) is None:
                    break
                in_flight.append(self._submit(batch))
            if not in_flight:
                return problems
            reports: list[StageReport] = []
            stage, error = self._wait(in_flight, reports)
            batch = in_flight.popleft().batch
            if error is None:
                self._deaths.batch_succeeded(batch)
                self._on_done(batch, reports)
            elif isinstance(error, KilledWorker):
                is_telling = self._deaths.died(batch, stage, error.last_worker.address if error.last_worker else None)
                pieces = split_after_crash(batch, is_blamed=batch.is_suspect and is_telling)
                suspected.extend(pieces)
                if not pieces:
                    self._mark_poison_item(batch, stage)
            else:
                problems.append(f"{stage}, {batch}: {error}")

    def _wait_for_a_worker(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=WORKER_WAIT_S)
        except TimeoutError:
            address = self._client.scheduler_info()["address"]
            raise RepliError(
                f"no worker came to the Dask scheduler {address} in {WORKER_WAIT_S} s; start one"
            ) from None

    def _submit(self, batch: Batch) -> InFlight:
        resources = {stage.name: self._routing.resources_for(stage) for stage in self._stages}
        futures: list[PrefectDaskFuture[StageReport]] = []
        for stage in self._stages:
            wanted = dict(resources[stage.name])
            with dask.annotate(resources=wanted) if wanted else nullcontext():
                futures.append(self._send(stage, batch, futures[-1:]))
        return InFlight(batch, tuple(futures), frozenset(name for name, wanted in resources.items() if wanted))

    def _send(
        self, stage: AnyStage, batch: Batch, after: list[PrefectDaskFuture[StageReport]]
    ) -> PrefectDaskFuture[StageReport]:
        task = self._tasks[stage.name]
        return task.submit(  # type: ignore[return-value]  # the runner is Dask's, and so are its futures
            stage.name, batch, self._options, self._settings, wait_for=after
        )

    def _wait(self, in_flight: deque[InFlight], reports: list[StageReport]) -> tuple[str, Exception | None]:
        """Wait for the first batch; the first of its stages that did not end well, and why. What the others did goes
        into `reports`."""
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
                    f"the Dask cluster was lost ({why}); start the run again, it goes on from here"
                ) from error
            if isinstance(result, Exception):
                return stage.name, result
            self.notes.extend(result.notes)
            reports.append(result)
        return self._stages[-1].name, None

    def _requeue_stuck_batches(self, in_flight: deque[InFlight]) -> None:
        """Send again what waits for a worker in vain. Raises `RepliError` where there has been none at all for long."""
        if self._routing.has_no_workers():
            raise RepliError(
                f"the Dask cluster has had no worker for {DESERTED_AFTER_S:g} s; start one, and the run again"
            )
        no_resource = {stage.name for stage in self._stages if self._routing.should_requeue_without_resource(stage)}
        if any(sent.resource_stages & no_resource for sent in in_flight):
            running = self._routing.running_task_keys()
            in_flight.extend(
                [self._resubmit_anywhere(in_flight.popleft(), no_resource, running) for _ in range(len(in_flight))]
            )

    def _resubmit_anywhere(self, sent: InFlight, no_resource: set[str], running: set[Any]) -> InFlight:
        """The batch, sent again to any worker from the first stage on that waits `no_resource`, and has not `begun`.

        That may be a stage that was done before: what it came to died with its worker, and those after it wait for it.
        """
        for position, stage in enumerate(self._stages):
            future = sent.futures[position].wrapped_future
            if stage.name in sent.resource_stages & no_resource and future.key not in running and not future.done():
                break
        else:
            return sent
        get_run_logger().warning("%s waited in vain: sent again, to any worker, from %s on", sent.batch, stage.name)
        self._client.cancel([future.wrapped_future for future in sent.futures[position:]], force=True)
        futures = list(sent.futures[:position])
        for stage in self._stages[position:]:
            futures.append(self._send(stage, sent.batch, futures[-1:]))
        still_bound = sent.resource_stages & {stage.name for stage in self._stages[:position]}
        return replace(sent, futures=tuple(futures), resource_stages=still_bound)


def result_of(future: PrefectDaskFuture[StageReport]) -> StageReport | Exception | None:
    """Wait a moment for a task: its report, the error that it ended with, or None while there is neither.

    A task that is over may have no result yet: it died with its worker, and the task has to run again.
    """
    try:
        with suppress(CancelledError):  # the result says so
            future.wrapped_future.exception(timeout=LOOK_EVERY_S)
        return future.result(timeout=GATHERED_WITHIN_S, raise_on_failure=False)
    except TimeoutError:
        return None


def _mark_crashed(future: PrefectDaskFuture[StageReport], why: str) -> None:
    """Tell Prefect that a task run died with its worker; nobody else can, and the UI would show it running."""
    with get_client(sync_client=True) as client:
        try:
            client.set_task_run_state(future.task_run_id, Crashed(message=why), force=True)
        except (ObjectNotFound, PrefectHTTPStatusError):  # it died before the server had heard of it
            return
