"""Tasks on a Dask cluster, in the context of their flow, which is written and read once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from distributed import LocalCluster
from prefect import flow, tags, task
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run, task_run
from prefect.settings import PREFECT_API_URL, PREFECT_TASKS_DEFAULT_RETRIES, temporary_settings
from prefect.states import Completed

from repli.tasks.execution import task_runner
from repli.tasks.execution.task_runner import StageTaskRunner
from tests.support.topology import environment_kept


@pytest.fixture(scope="module")
def address(server: dict[str, str]) -> Iterator[str]:
    """A Dask cluster of one worker, a process of its own, with another idea of where Prefect's server is."""
    options = {
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "env": {"PREFECT_API_URL": "http://[::1]:9/api"},
    }
    with environment_kept(), LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster:
        yield cluster.scheduler_address


@task(persist_result=False)
def look(number: int) -> dict[str, Any]:
    """What a task sees of the flow that it is of."""
    return {
        "number": number,
        "flow_run": str(flow_run.get_id()),
        "task_run": str(task_run.get_id()),
        "tags": sorted(task_run.get_tags()),
        "server": PREFECT_API_URL.value(),
        "retries": PREFECT_TASKS_DEFAULT_RETRIES.value(),
        "settings_read": task_runner._settings_context.cache_info().misses,
    }


@task(persist_result=False)
def degrade(number: int) -> State[int]:
    return Completed(name="Degraded", message="a fallback served", data=number)


@task(persist_result=False)
def fail(number: int) -> int:
    raise ValueError(f"{number} is wrong")


def on(address: str, function: Any) -> Any:
    return flow(task_runner=StageTaskRunner(address=address), persist_result=False)(function)


def test_a_task_runs_in_the_context_of_its_flow(address: str, server: dict[str, str]) -> None:
    """It knows its flow run, its own id, its tags, and the settings of the flow, not those of its worker."""

    def nightly() -> tuple[str, list[tuple[str, dict[str, Any]]]]:
        with tags("nightly"):
            futures = [look.submit(number) for number in range(3)]
        return str(flow_run.get_id()), [(str(future.task_run_id), future.result()) for future in futures]

    with temporary_settings({PREFECT_TASKS_DEFAULT_RETRIES: 1}):
        run_id, seen = on(address, nightly)()
    assert [look["number"] for _, look in seen] == [0, 1, 2]
    for task_run_id, look_ in seen:
        assert look_ == look_ | {"flow_run": run_id, "task_run": task_run_id, "tags": ["nightly"], "retries": 1}
        assert look_["server"] == server["PREFECT_API_URL"]
    assert len({look_["settings_read"] for _, look_ in seen}) == 1


def test_two_flows_have_contexts_of_their_own(address: str) -> None:
    """The context that is kept is that of a flow run, and not of the process."""

    def nightly() -> tuple[str, str]:
        return str(flow_run.get_id()), look.submit(0).result()["flow_run"]

    first, second = on(address, nightly)(), on(address, nightly)()
    assert first[0] == first[1] != second[0] == second[1]


def test_states_come_back_as_the_tasks_ended(address: str) -> None:
    """A named state keeps its name and its message, and an error fails its task alone."""
    states: list[State[Any]] = []

    def nightly() -> None:
        futures = [degrade.submit(1), fail.submit(2), look.submit(3)]
        for future in futures:
            future.wait()
        states.extend(future.state for future in futures)

    on(address, nightly)()
    degraded, failed, done = states
    assert (degraded.name, degraded.message) == ("Degraded", "a fallback served")
    assert failed.is_failed()
    assert "2 is wrong" in str(failed.message)
    assert done.is_completed()
