"""Batches over the stage tasks, a bounded number in flight: memory does not grow with the catalogue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, KilledWorker
from distributed.client import FutureCancelledError
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Crashed
from prefect_dask.task_runners import PrefectDaskFuture

from flows.lost_workers import suspects
from tasks.fallback import RepliError
from tasks.settings import Settings
from tasks.stage import RunOptions, StageReport
from tasks.stage_task import Batch, task_of
from tasks.stages import STAGES

WORKER_WAIT_S = 60
AHEAD = 2
"""Batches in flight beyond two a worker: enough that no worker waits for the flow."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A batch and its stage tasks, in the order of the stages."""

    batch: Batch
    futures: tuple[PrefectDaskFuture[StageReport], ...]


class Window:
    """The batches of one run on their way through the cluster.

    Args:
        client: the Dask client of the flow's task runner.
        on_done: told of each batch that came through.
        set_aside: told of each batch of one item that workers die over, and of the stage.
    """

    def __init__(
        self,
        client: Client,
        options: RunOptions,
        settings: Settings,
        *,
        on_done: Callable[[Batch], None],
        set_aside: Callable[[Batch, str], None],
    ) -> None:
        self._client = client
        self._options = options
        self._settings = settings
        self._on_done = on_done
        self._set_aside = set_aside
        self._tasks = {stage.name: task_of(stage.name) for stage in STAGES}

    def run(self, batches: Iterable[tuple[str, ...]]) -> list[str]:
        """Take every batch through every stage; what went wrong on the way, save workers' deaths, which are mended."""
        self._wait_for_a_worker()
        fresh = (Batch(number=number, item_ids=item_ids) for number, item_ids in enumerate(batches, 1))
        suspected: deque[Batch] = deque()
        in_flight: deque[InFlight] = deque()
        problems: list[str] = []
        while True:
            if suspected and not in_flight:
                in_flight.append(self._submit(suspected.popleft()))
            is_suspect_out = bool(in_flight) and in_flight[0].batch.is_suspect
            while not (suspected or is_suspect_out) and len(in_flight) < self._width():
                if (batch := next(fresh, None)) is None:
                    break
                in_flight.append(self._submit(batch))
            if not in_flight:
                return problems
            sent = in_flight.popleft()
            stage, error = self._wait(sent)
            if error is None:
                self._on_done(sent.batch)
            elif isinstance(error, KilledWorker):
                pieces = suspects(sent.batch, was_alone=sent.batch.is_suspect)
                suspected.extend(pieces)
                if not pieces:
                    self._set_aside(sent.batch, stage)
            else:
                problems.append(f"{stage}, {sent.batch}: {error}")

    def _wait_for_a_worker(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=WORKER_WAIT_S)
        except TimeoutError:
            address = self._client.scheduler_info()["address"]
            raise RepliError(
                f"no worker came to the Dask scheduler {address} in {WORKER_WAIT_S} s; start one"
            ) from None

    def _width(self) -> int:
        return 2 * len(self._workers()) + AHEAD

    def _workers(self) -> dict[str, Any]:
        workers: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return workers

    def _submit(self, batch: Batch) -> InFlight:
        futures: list[PrefectDaskFuture[StageReport]] = []
        for stage in STAGES:
            with self._placed(stage.chain.primary.resources):
                future = self._tasks[stage.name].submit(
                    stage.name, batch, self._options, self._settings, wait_for=futures[-1:]
                )
            futures.append(future)  # type: ignore[arg-type]  # the runner is Dask's, and so are its futures
        return InFlight(batch, tuple(futures))

    def _placed(self, resources: Any) -> AbstractContextManager[Any]:
        """Sends what is submitted inside to workers with these resources, where one lives; else anywhere, for a
        task whose resource nobody has waits for ever."""
        if not resources:
            return nullcontext()
        has_one = any(
            all(worker["resources"].get(name, 0) >= amount for name, amount in resources.items())
            for worker in self._workers().values()
        )
        return dask.annotate(resources=dict(resources)) if has_one else nullcontext()

    def _wait(self, sent: InFlight) -> tuple[str, Exception | None]:
        """Wait for a batch; the first of its stages that did not end well, and why."""
        for stage, future in zip(STAGES, sent.futures, strict=True):
            try:
                result = future.result(raise_on_failure=False)
            except KilledWorker as error:
                _mark_crashed(future, str(error))
                return stage.name, error
            except (OSError, TimeoutError, CancelledError, FutureCancelledError) as error:
                why = str(error) or type(error).__name__
                raise RepliError(
                    f"the Dask cluster was lost ({why}); start the run again, it goes on from here"
                ) from error
            if isinstance(result, Exception):
                return stage.name, result
        return STAGES[-1].name, None


def _mark_crashed(future: PrefectDaskFuture[StageReport], why: str) -> None:
    """Tell Prefect that a task run died with its worker; nobody else can, and the UI would show it running."""
    with get_client(sync_client=True) as client:
        try:
            client.set_task_run_state(future.task_run_id, Crashed(message=why), force=True)
        except (ObjectNotFound, PrefectHTTPStatusError):  # it died before the server had heard of it
            return
