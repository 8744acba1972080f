"""Prefect's task runner for Dask, without what it does anew for each task and what is the same for all tasks of a flow.

`DaskTaskRunner` writes out the whole context of the flow for each task, all of Prefect's settings included, and the
worker reads and checks them again: 35 and 52 ms of processor time a task, of some 100 in all. Here a flow writes its
context once, and a worker reads the settings of a flow once.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, cast
from uuid import UUID, uuid4

from distributed import Client
from prefect import Task
from prefect.client.schemas.objects import RunInput, State
from prefect.context import FlowRunContext, SettingsContext, serialize_context
from prefect.task_engine import run_task_sync
from prefect_dask import DaskTaskRunner
from prefect_dask.task_runners import PrefectDaskFuture


class StageTaskRunner(DaskTaskRunner):
    """A `DaskTaskRunner` for plain functions that take no other task's result. All have the tags of the first."""

    def submit(  # type: ignore[override]  # the overloads of Prefect's tell apart tasks with and without a result
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[Any] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> PrefectDaskFuture[Any]:
        """Submit a task to the cluster, in the context of the flow that runs here."""
        flow_context = FlowRunContext.get()
        flow_run_id = flow_context.flow_run.id if flow_context and flow_context.flow_run else None
        context, settings = _flow_context(flow_run_id)
        task_run_id = uuid4()
        future = Client.submit(
            self.client,
            _run_in_worker,
            task,
            settings,
            key=f"{task.name}-{task_run_id}",
            task_run_id=task_run_id,
            parameters=parameters,
            wait_for=wait_for,
            dependencies=dependencies,
            context=context,
        )
        return PrefectDaskFuture(wrapped_future=future, task_run_id=task_run_id)


@lru_cache(maxsize=4)
def _flow_context(flow_run_id: UUID | None) -> tuple[Mapping[str, Any], bytes]:
    """Return the context of the flow run that runs here, without the settings, and the settings by themselves."""
    context = serialize_context()
    settings = context.pop("settings_context")
    return context, pickle.dumps(settings)


def _run_in_worker(task: Task[..., Any], settings: bytes, **run: Any) -> State[Any]:
    """Run a task, and return its state."""
    with _settings_context(settings).model_copy():
        return cast(State[Any], run_task_sync(task, return_type="state", **run))


@lru_cache(maxsize=4)
def _settings_context(settings: bytes) -> SettingsContext:
    return SettingsContext(**pickle.loads(settings))  # noqa: S301  from the flow of this worker
