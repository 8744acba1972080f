"""The future of a stage task: its report, and the state of its task run."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateDetails
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Completed, Crashed
from prefect_dask.task_runners import PrefectDaskFuture

from repli.tasks.execution.stage_runner import StageReport

END_LIMIT_S = 2.0
"""Seconds that a task whose end was told may still take to end: one whose result was lost runs again."""
RECORDED_AFTER_S = 2.0
"""Seconds after which a private server has written a state that it was told: it writes them once a second."""
RESULT_LIMIT_S = 10.0
"""Seconds after the end of a task by which its report has arrived, or was lost."""


def ended_task(task_run_id: UUID) -> State[str]:
    """Return the state of a task run that has ended: what waits for it is drawn behind it in the UI."""
    return Completed(data="ended", state_details=StateDetails(task_run_id=task_run_id))  # without data, Prefect refuses


def result_of(future: PrefectDaskFuture[StageReport]) -> StageReport | Exception | None:
    """Return a task's report, or the error that it ended with; None if neither comes within `END_LIMIT_S`.

    Once the task has ended, its report is waited for up to `RESULT_LIMIT_S`. A finished task may have no result: it
    died with its worker, and the task has to run again.

    Raises:
        KilledWorker: The worker died at the task.
    """
    try:
        with suppress(CancelledError):  # the result says so
            future.wrapped_future.exception(timeout=END_LIMIT_S)
        return future.result(timeout=RESULT_LIMIT_S, raise_on_failure=False)
    except TimeoutError:
        return None


def mark_crashed(future: PrefectDaskFuture[StageReport], why: str) -> None:
    """Set the task run to *Crashed*: its worker died before it could, and the UI would show it as running.

    A task run that the server does not know yet is set once more, later: its worker may have told of its begin.
    """
    if not _set_crashed(future.task_run_id, why):
        later = threading.Timer(RECORDED_AFTER_S, _set_crashed, (future.task_run_id, why))
        later.daemon = True
        later.start()


def _set_crashed(task_run_id: UUID, why: str) -> bool:
    """Set the task run to *Crashed*, and return whether the server knows it."""
    with get_client(sync_client=True) as client:
        try:
            client.set_task_run_state(task_run_id, Crashed(message=why), force=True)
        except (ObjectNotFound, PrefectHTTPStatusError):
            return False
    return True
