"""The Dask worker that a stage task runs in: its notes to the flow, its resources, and its end.

A note is at the Dask scheduler before the function that sends it returns. So a worker that dies over a task has noted
that it had begun it.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from distributed import Status, Worker, get_worker, secede
from distributed.utils import sync
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

from repli.tasks.execution.shared_breakers import current_device_scope
from repli.tasks.execution.stage_runner import StageReport
from repli.tasks.runtime.time_limit import abandoned_calls

TOPIC = "repli"
SEND_LIMIT_S = 30.0
"""Seconds after which a scheduler that takes no note is lost."""
MANY_ABANDONED = 16
"""Calls that run on after their limit, at which a process is replaced although other tasks run in it."""
REPORT_LIMIT_S = 5.0
"""Seconds that a process which ends itself gives its last task to reach the scheduler."""
RECORDS_LIMIT_S = 3.0
"""Seconds that it then gives Prefect's events and logs, each."""


_thread = threading.local()


@dataclass(frozen=True, slots=True)
class Begun:
    """A worker has begun a task, in a device scope."""

    key: str
    worker: str
    scope: str


@dataclass(frozen=True, slots=True)
class LetGo:
    """A task that is slow has let items go: those that are finished, with their report, and those it had not begun."""

    key: str
    report: StageReport
    finished: tuple[str, ...]
    untouched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProcessEnds:
    """A worker process ends itself: whatever dies with it is not to blame."""

    worker: str


Note = Begun | LetGo | ProcessEnds


def read_note(event: tuple[float, Any]) -> Note:
    """Return the note in an event of the topic."""
    note: Note = pickle.loads(event[1])  # noqa: S301  from a worker of the cluster, which runs our code anyway
    return note


def lacks(resources: Mapping[str, float]) -> bool:
    """Return whether this process is a Dask worker that does not carry these resources."""
    if (worker := this_worker()) is None:
        return False
    return any(worker.state.total_resources.get(name, 0) < amount for name, amount in resources.items())


def note_begun() -> None:
    """Note that this worker has begun the task that this thread runs. Without a Dask worker, do nothing."""
    if (worker := this_worker()) is not None:
        _send(worker, Begun(str(worker.get_current_task()), worker.address, current_device_scope()))


def let_go(report: StageReport, finished: Sequence[str], untouched: Sequence[str]) -> None:
    """Hand items of this task over to the flow, and leave the worker free for its next task meanwhile."""
    if (worker := this_worker()) is not None:
        _send(worker, LetGo(str(worker.get_current_task()), report, tuple(finished), tuple(untouched)))
        if not getattr(_thread, "has_seceded", False):
            secede()
            _thread.has_seceded = True  # it ends with its task


def end_process_for_abandoned_calls() -> None:
    """End this worker process if calls in it run on after their limit, where a nanny starts another.

    It waits until nothing else runs in the process, unless there are `MANY_ABANDONED` such calls.
    """
    abandoned, worker = abandoned_calls(), this_worker()
    if not abandoned or worker is None or not worker.nanny:
        return
    if len(worker.state.all_running_tasks) == 1 or abandoned >= MANY_ABANDONED:
        end_process()


def end_process() -> None:
    """End this worker process once the task that calls this has reported its end. No other task begins in it.

    The nanny starts a new process. What else this one was to do runs elsewhere.
    """
    if (worker := this_worker()) is None:
        return
    _send(worker, ProcessEnds(worker.address))
    # Not `paused`, which the worker's watch over its memory takes back.
    worker.loop.add_callback(partial(setattr, worker, "status", Status.closing_gracefully))
    threading.Thread(target=_exit_after_task, args=(worker, str(worker.get_current_task())), daemon=True).start()


def _exit_after_task(worker: Worker, key: str) -> None:
    deadline = time.monotonic() + REPORT_LIMIT_S
    while time.monotonic() < deadline and any(task.key == key for task in worker.state.all_running_tasks):
        time.sleep(0.02)
    time.sleep(0.2)  # the scheduler has the report
    for records in (EventsWorker, APILogWorker):  # Prefect shows a task whose last event is lost as running
        with suppress(Exception):
            records.drain_all(timeout=RECORDS_LIMIT_S)
    os._exit(1)  # no clean end: what left the process unusable could hold it up


def _send(worker: Worker, note: Note) -> None:
    sync(worker.loop, worker.scheduler.log_event, topic=TOPIC, msg=pickle.dumps(note), callback_timeout=SEND_LIMIT_S)


def this_worker() -> Worker | None:
    """Return the Dask worker whose task this thread runs; None where there is none."""
    try:
        return get_worker()
    except ValueError:
        return None
