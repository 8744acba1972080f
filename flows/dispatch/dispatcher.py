"""Dispatch batches to stage tasks, a bounded number in flight: memory does not grow with the catalogue."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from uuid import UUID

import dask
from distributed import Client, KilledWorker
from distributed.client import FutureCancelledError
from prefect.logging import get_run_logger
from prefect_dask.task_runners import PrefectDaskFuture

from repli.flows.dispatch.routing import NO_WORKERS_LIMIT_S, Routing
from repli.flows.dispatch.stage_futures import ended_task, mark_crashed, result_of
from repli.flows.dispatch.worker_deaths import WorkerCrashes, WorkerDeaths, split_after_crash
from repli.tasks.execution.dask_worker import TOPIC, Begun, LetGo, Note, ProcessEnds, read_note
from repli.tasks.execution.run_pipeline import PipelineMismatch
from repli.tasks.execution.stage_runner import RunOptions, StageReport
from repli.tasks.execution.stage_task import Batch, task_of
from repli.tasks.fallback import ProcessPoisoned, RepliError, StoreError
from repli.tasks.pipeline import Pipeline, Stage
from repli.tasks.reporting import events
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database

FIRST_WORKER_LIMIT_S = 60
POLL_EVERY_S = 2.0
"""Seconds between two looks at the workers."""
BATCHES_AHEAD = 2
SLOW_PER_WIDTH = 4
"""Slow tasks in flight, for each batch in flight, at which no fresh batch is submitted: each holds a thread."""


UNBEGUN_DEATHS = 100
"""Tasks that died with a worker that had not begun them, with none that ended since, after which the run fails."""


def full_width(threads: int) -> int:
    """Return two batches per thread of a worker and some ahead, so that no worker waits for the flow."""
    return 2 * threads + BATCHES_AHEAD


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A batch, and the position of the stage that it is to pass next.

    Args:
        after: The task run of the stage before, for the graph in the UI; None for the first stage.
        must_be_alone: Run it with nothing else in flight, so that a death has one possible cause.
    """

    batch: Batch
    position: int
    after: UUID | None = None
    must_be_alone: bool = False


@dataclass(slots=True)
class _Running:
    """A submitted step.

    Args:
        resources: The resources that its task asks for.
        is_slow: It has let its other items go, and holds up no worker.
    """

    step: _Step
    future: PrefectDaskFuture[StageReport]
    resources: Mapping[str, float]
    is_slow: bool = False


class BatchDispatcher:
    """Dispatcher of the batches of one run to the cluster: each goes to its next stage when the one before ends.

    `notes` are the lines for the run's report; `store_error` is the outage of the store that ended the run, or None.

    Args:
        stages: The stages of the pipeline that the batches pass, in their order.
        on_stage_done: Called with each batch that passed a stage, and the stage's report.
        on_done: Called with each batch that passed the last stage.
        mark_poison_item: Called with each batch of one item that kills workers, and the stage.
        width: Returns how many batches may be in flight for a number of threads of workers.
    """

    def __init__(
        self,
        context: RunContext,
        stages: Sequence[Stage],
        *,
        on_stage_done: Callable[[Batch, StageReport], None],
        on_done: Callable[[Batch], None],
        mark_poison_item: Callable[[Batch, str], None],
        width: Callable[[int], int] = full_width,
    ) -> None:
        self._context = context
        self._routing = context.routing
        self._stages = tuple(stages)
        self._tasks = {stage.name: task_of(stage.name) for stage in stages}
        self._on_stage_done = on_stage_done
        self._on_done = on_done
        self._mark_poison_item = mark_poison_item
        self._width = width
        self._crashes = WorkerCrashes(
            context.database,
            context.options.directives,
            pipeline=context.pipeline,
            scope_of=context.routing.scope_of,
            on_move=events.emit_breaker_move,
        )
        self._deaths = WorkerDeaths()
        self._messages: SimpleQueue[Note | str] = SimpleQueue()
        self._fresh: Iterator[Batch] = iter(())
        self._ready: deque[_Step] = deque()
        self._suspects: list[_Step] = []
        self._alone: deque[_Step] = deque()
        self._running: dict[str, _Running] = {}
        self._problems: list[str] = []
        self._check_at = 0.0
        self._unbegun_deaths = 0
        self.notes: list[str] = []
        self.store_error: StoreError | None = None

    def run(self, batches: Iterable[Batch]) -> list[str]:
        """Take every batch through every stage.

        If the store is unavailable for longer than the stages wait for it, nothing more is submitted; what runs ends,
        so that no result is lost that can still be saved.

        Returns:
            A line for each batch that failed. A worker's death is not among them: what it had begun runs again in
            pieces, and an item that kills workers is handed to `mark_poison_item`. Nor is the store's outage: see
            `store_error`.

        Raises:
            RepliError: The cluster has no worker, or was lost.
        """
        self._wait_for_a_worker()
        self._fresh = iter(batches)
        client = self._context.client
        client.subscribe_topic(TOPIC, lambda event: self._messages.put(read_note(event)))
        try:
            while self._submit_what_may_run():
                self._look_at_the_cluster()
                with suppress(Empty):
                    self._handle(self._messages.get(timeout=POLL_EVERY_S))
        finally:
            client.unsubscribe_topic(TOPIC)
        return self._problems

    def _wait_for_a_worker(self) -> None:
        client = self._context.client
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER_LIMIT_S)
        except TimeoutError:
            address = client.scheduler_info()["address"]
            raise RepliError(
                f"no worker joined the Dask scheduler {address} in {FIRST_WORKER_LIMIT_S} s; start one"
            ) from None

    def _submit_what_may_run(self) -> bool:
        """Submit the steps that may run now, and return whether any is in flight.

        A step that must be alone waits until nothing is in flight, and all others wait for it.
        """
        if self._alone and not self._running and not self.store_error:
            self._submit(self._alone.popleft())
        is_reserved = self._alone or any(running.step.must_be_alone for running in self._running.values())
        while not is_reserved and (step := self._next_step()):
            self._submit(step)
        return bool(self._running)

    def _next_step(self) -> _Step | None:
        """Return the next step to submit; None where there is none, too much is in flight, or the store is away."""
        if self.store_error:
            return None
        if self._ready:
            return self._ready.popleft()
        threads = self._routing.threads()
        running_suspects = sum(running.step.batch.is_suspect for running in self._running.values())
        if self._suspects and running_suspects < max(1, threads):
            # The least suspect first: a rung that kills for every item is refused before an item is left out for it.
            step = min(self._suspects, key=lambda step: step.batch.deaths)
            self._suspects.remove(step)
            return step
        width = self._width(threads)
        slow = sum(running.is_slow for running in self._running.values())
        if len(self._running) - slow >= width or slow >= SLOW_PER_WIDTH * width:
            return None
        try:
            batch = next(self._fresh, None)
        except StoreError as error:
            self.store_error = error
            return None
        return _Step(batch=batch, position=0) if batch else None

    def _submit(self, step: _Step) -> None:
        stage = self._stages[step.position]
        wanted = dict(self._routing.resources_for(stage))
        with dask.annotate(resources=wanted) if wanted else nullcontext():
            future: PrefectDaskFuture[StageReport] = self._tasks[stage.name].submit(  # type: ignore[assignment]  # Dask's
                stage.name,
                step.batch,
                self._context.options,
                self._context.settings,
                wait_for=[ended_task(step.after)] if step.after else None,
            )
        self._running[str(future.wrapped_future.key)] = _Running(step, future, wanted)
        self._tell_when_ended(future)

    def _tell_when_ended(self, future: PrefectDaskFuture[StageReport]) -> None:
        future.wrapped_future.add_done_callback(lambda ended: self._messages.put(str(ended.key)))

    def _look_at_the_cluster(self) -> None:
        """Send tasks again that wait for a resource which no worker carries any more; every `POLL_EVERY_S`.

        Raises:
            RepliError: There has been no worker at all for `NO_WORKERS_LIMIT_S`.
        """
        if time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + POLL_EVERY_S
        self._routing.refresh_worker_locations()
        if self._routing.has_no_workers():
            raise RepliError(
                f"the Dask cluster has had no worker for {NO_WORKERS_LIMIT_S:g} s; start one, and the run again"
            )
        for key, running in list(self._running.items()):
            if running.resources and self._routing.is_lost(running.resources):
                stage = self._stages[running.step.position].name
                get_run_logger().warning("%s, %s: no worker could take it; sent to any", stage, running.step.batch)
                del self._running[key]
                self._context.client.cancel([running.future.wrapped_future], force=True)
                self._ready.append(running.step)

    def _handle(self, message: Note | str) -> None:
        """Take note of what a worker says, or of the end of a task, by its key."""
        try:
            match message:
                case Begun(key, worker, scope):
                    self._deaths.begun(key, worker)
                    self._routing.note_scope(worker, scope)  # it may die before anybody asks it
                case ProcessEnds(worker):
                    self._deaths.ends_itself(worker)
                case LetGo():
                    self._let_go(message)
                case str(key):
                    self._task_ended(key)
        except StoreError as lost:
            self.store_error = self.store_error or lost

    def _let_go(self, note: LetGo) -> None:
        """Send the items on that a slow task has let go, and leave it the others."""
        running = self._running.get(note.key)
        if running is None:  # of another run
            return
        batch = running.step.batch
        gone = {*note.finished, *note.untouched}
        kept = tuple(id_ for id_ in batch.item_ids if id_ not in gone)
        running.step = replace(running.step, batch=replace(batch, item_ids=kept))
        running.is_slow = True
        if note.untouched:
            self._ready.append(replace(running.step, batch=replace(batch, item_ids=note.untouched)))
        if note.finished:
            self._passed(running, replace(batch, item_ids=note.finished), note.report)

    def _passed(self, running: _Running, batch: Batch, report: StageReport) -> None:
        """Send a batch on that has passed the stage of a task."""
        self.notes.extend(report.notes)
        self._on_stage_done(batch, report)
        batch, position = replace(batch, deaths=0, is_suspect=False), running.step.position + 1
        if position < len(self._stages):
            self._ready.append(_Step(batch=batch, position=position, after=running.future.task_run_id))
        else:
            self._on_done(batch)

    def _task_ended(self, key: str) -> None:
        running = self._running.get(key)
        if running is None:  # it was sent again
            return
        step, stage = running.step, self._stages[running.step.position].name
        try:
            result = result_of(running.future)
        except KilledWorker as error:
            del self._running[key]
            mark_crashed(running.future, str(error))
            self._worker_died(step, stage, key, error)
            return
        except (OSError, CancelledError, FutureCancelledError) as error:
            why = str(error) or type(error).__name__
            raise RepliError(
                f"the Dask cluster was lost ({why}); start the run again, it continues from here"
            ) from error
        if result is None:
            self._tell_when_ended(running.future)
            return
        del self._running[key]
        self._deaths.ended(key)
        self._unbegun_deaths = 0
        match result:
            case StoreError():
                raise result
            case ProcessPoisoned():
                self._process_poisoned(step, stage, result)
            case Exception():
                self._problems.append(f"{stage}, {step.batch}: {result}")
                if isinstance(result, PipelineMismatch):  # that worker would take the other batches too
                    self._fresh = iter(())
            case report:
                self._crashes.batch_succeeded(step.batch)
                self._passed(running, step.batch, report)

    def _worker_died(self, step: _Step, stage: str, key: str, error: KilledWorker) -> None:
        """Run a step again whose worker died: as it is where the worker had not begun it, else in pieces."""
        worker = error.last_worker.address if error.last_worker else None
        begun = self._deaths.begun_with(key, worker)
        if not begun:
            self._unbegun_deaths += 1
            if self._unbegun_deaths > UNBEGUN_DEATHS:
                raise RepliError("the Dask workers die before they begin anything; see their logs, then run this again")
            if step.must_be_alone:
                self._alone.appendleft(step)
            elif step.batch.is_suspect:
                self._suspects.append(step)
            else:
                self._ready.appendleft(step)
            return
        is_alone = begun == {key}
        may_be_item_error = self._crashes.worker_died(step.batch, stage, worker) if is_alone else False
        is_blamed = step.batch.is_suspect and is_alone and may_be_item_error
        self._run_in_pieces(step, stage, is_blamed=is_blamed, must_be_alone=not is_alone)

    def _process_poisoned(self, step: _Step, stage: str, error: ProcessPoisoned) -> None:
        """Run a step again that left its process unusable: first as it is, elsewhere; then in pieces."""
        get_run_logger().warning("%s, %s: %s; it runs again in another process", stage, step.batch, error)
        if step.batch.deaths:
            self._run_in_pieces(step, stage, is_blamed=True, must_be_alone=False)
        else:
            self._ready.append(replace(step, batch=replace(step.batch, deaths=1)))

    def _run_in_pieces(self, step: _Step, stage: str, *, is_blamed: bool, must_be_alone: bool) -> None:
        pieces = split_after_crash(step.batch, is_blamed=is_blamed)
        if not pieces:
            self._mark_poison_item(step.batch, stage)
        waiting: deque[_Step] | list[_Step] = self._alone if must_be_alone else self._suspects
        waiting.extend(replace(step, batch=piece, must_be_alone=must_be_alone) for piece in pieces)
