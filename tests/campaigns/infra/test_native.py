"""The standing form, run natively: real PostgreSQL, Prefect server, work pool, Dask workers, and real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from infra.compose_file import parts
from repli.flows.server.ports import find_free_port
from tests.campaigns.infra.conftest import Native, RestartablePostgres, declare, environment
from tests.support.command_line import command, write_manifest
from tests.support.default_pipeline import STAGE_NAMES
from tests.support.locations import Whereabouts, seen
from tests.support.prefect_api import ENDED, Deployments, ask

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1200)]

Standing = tuple[Native, dict[str, str]]
ITEMS = 8
"""More than the window holds, each a batch: there is something left to classify when the worker dies."""


def until(condition: Callable[[], Any], within_s: float = 300) -> Any:
    """What the condition gives once that is true."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it does not come to be"
        time.sleep(0.1)
    return found


def status(environment: dict[str, str]) -> dict[str, Any]:
    """What `repli status --json` says, from a shell that exported what it was told to."""
    done = subprocess.run(command("status", "--json"), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def words(process: psutil.Process) -> set[str]:
    """The last parts of what stands in its command line; nothing of one that is over."""
    try:
        return {word.rpartition("/")[2] for word in process.cmdline()}
    except psutil.Error:
        return set()


@pytest.mark.server_errors("classify_image", "rungs reached")
def test_schedules_fire(standing_form: Standing, tmp_path: Path) -> None:
    """Each deployment, moved to the next minutes, runs to its end with nobody near: the source of `enrich` is stored,
    `reprocess` ends well, and the drill has a verdict. The UI is there too."""
    _, environment = standing_form
    server = Deployments(environment["PREFECT_API_URL"])
    first = subprocess.run(
        command("run", write_manifest(tmp_path / "items", 2)), env=environment, capture_output=True, check=False
    )
    assert first.returncode == 0, first.stderr
    nightly = {"source": str(write_manifest(tmp_path / "items", 4))}
    server.ask(f"deployments/{server.deployment('enrich')['id']}", {"parameters": nightly}, method="PATCH")
    for name in ("enrich", "reprocess", "drill"):
        server.fire_soon(name)
    ended = {name: until(partial(server.fired, name, ()), 400)[0]["state"] for name in ("enrich", "reprocess", "drill")}
    assert (ended["enrich"]["type"], ended["reprocess"]["type"]) == ("COMPLETED", "COMPLETED"), ended
    assert "18 of 18 rungs reached" in ended["drill"]["message"]
    assert status(environment)["stored"] == 4
    with urllib.request.urlopen(environment["PREFECT_API_URL"].removesuffix("/api"), timeout=30) as answer:
        assert "<title>Prefect" in answer.read().decode()


@pytest.mark.server_errors(
    "workers died while trying to run it", "CommClosedError", "Worker process died", "Couldn't gather keys", "AllExit"
)
def test_enrich_as_a_deployment_survives_the_gpu_worker(standing_form: Standing, tmp_path: Path) -> None:
    """Through the work pool: classification runs on the worker tagged `GPU`, everything else on the others; that worker
    is killed with its nanny, and the run completes on the others. It is stopped before, so that it does no more."""
    native, environment = standing_form
    manifest = write_manifest(tmp_path / "items", ITEMS)
    with Client(environment["REPLI_DASK_ADDRESS"], set_as_default=False) as client:
        client.wait_for_workers(3, timeout=60)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        [with_device] = [address for address, worker in workers.items() if "GPU" in worker["resources"]]
        pid = client.run(os.getpid, workers=[with_device])[with_device]
        nanny = psutil.Process(pid).ppid()
        client.register_plugin(Whereabouts(suspends=[pid, nanny], after=("classify_image", "GPU")))

        deployment = ask(environment, "deployments/name/enrich/enrich")
        parameters = {"source": str(manifest), "batch_size": 1}
        run = ask(environment, f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})

        def state() -> dict[str, Any]:
            return dict(ask(environment, f"flow_runs/{run['id']}")["state"] or {})

        def classified() -> list[tuple[str, str]]:
            assert state().get("type") not in ENDED, state()
            found = seen(client)
            return found if ("classify_image", "GPU") in found else []

        before = until(classified)
        for process in (nanny, pid):
            os.kill(process, signal.SIGKILL)
        ended = until(lambda: state() if state().get("type") in ENDED else None)
        after = seen(client)[len(before) :]

    assert ended["type"] == "COMPLETED", ended
    assert {tag for stage, tag in before if stage == "classify_image"} == {"GPU"}
    assert {stage for stage, tag in before + after if tag == "GPU"} == {"classify_image"}
    assert {stage for stage, tag in before + after if tag == "CPU"} == set(STAGE_NAMES)
    assert ("classify_image", "CPU") in after, "there was something left to do when the worker died"
    found = status(environment)
    assert (found["items"], found["stored"], found["failed"]) == (ITEMS, ITEMS, 0)
    assert "SIGKILL" in native.read_until("# dask-gpu-worker ended")


def test_a_command_line_uses_it(standing_form: Standing, tmp_path: Path) -> None:
    """`repli run --dask ADDRESS` runs on its workers, into its PostgreSQL, on the record of its Prefect server."""
    _, environment = standing_form
    manifest = write_manifest(tmp_path / "more", 4)
    address = environment["REPLI_DASK_ADDRESS"]
    variables = {name: value for name, value in environment.items() if name != "REPLI_DASK_ADDRESS"}
    done = subprocess.run(
        command("run", manifest, "--refresh", "--dask", address, "--json"),
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stored"] == 4
    assert ask(environment, "flow_runs/count", {"flows": {"name": {"any_": ["enrich"]}}}) >= 1


def test_who_holds_a_place_is_known_after_a_stop(tmp_path: Path) -> None:
    """A deployment that runs once at a time gets its place back from a run that died with the server: Prefect keeps
    who holds it in a file on the volume, where its own default is the server's memory."""
    found = parts({"POSTGRES_PASSWORD": "x"}, tmp_path, find_free_port)
    [server] = [part for part in found if part.service == "prefect-server"]
    said = "from prefect.server.concurrency.lease_storage import get_concurrency_lease_storage as storage; "
    asked = subprocess.run(
        [sys.executable, "-c", said + "print(storage().storage_path)"],
        env=environment(**server.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    assert Path(asked.stdout.strip()).is_relative_to(tmp_path / "repli-home")


@pytest.mark.server_errors("")
def test_a_database_that_was_away_leaves_no_run_running(open_folder: Path, tmp_path: Path) -> None:
    """PostgreSQL is away for ten seconds in the midst of a run. Within five minutes Prefect shows how that run ended,
    and the store agrees."""
    postgres = RestartablePostgres(open_folder / "away")
    native = Native(open_folder / "away", variables=postgres.variables)
    try:
        environment = native.exported()
        declare(environment)
        server = Deployments(environment["PREFECT_API_URL"])
        run = server.start("enrich", source=str(write_manifest(tmp_path / "items", 60)), batch_size=1)
        until(lambda: server.ask("task_runs/count", {"flow_runs": {"id": {"any_": [run]}}}) > 10)
        postgres.stop()
        time.sleep(10)
        postgres.start()
        until(lambda: server.flow_run(run)["state_type"] in ENDED, 300)
        assert status(environment)["last_run"]["state"] in {"ended", "cut off"}
    finally:
        native.kill()
        postgres.stop()


def test_a_hard_stop_leaves_no_run_running(open_folder: Path, tmp_path: Path) -> None:
    """Everything is killed in the midst of a run, and starts again. Within five minutes the run is *Crashed*."""
    native = Native(open_folder / "killed")
    environment = native.exported()
    declare(environment)
    server = Deployments(environment["PREFECT_API_URL"])
    run = server.start("enrich", source=str(write_manifest(tmp_path / "items", 60)), batch_size=1)
    until(lambda: server.ask("task_runs/count", {"flow_runs": {"id": {"any_": [run]}}}) > 10)
    _, ending = native.end(signal.SIGKILL)
    psutil.wait_procs(ending, timeout=60)
    again = Native(open_folder / "killed")
    try:
        server = Deployments(again.exported()["PREFECT_API_URL"])
        assert server.flow_run(run)["state_type"] == "RUNNING"
        until(lambda: server.flow_run(run)["state_type"] == "CRASHED", 300)
    finally:
        again.kill()


def test_a_second_start_is_refused(standing_form: Standing) -> None:
    """On one folder there is one, and the other says so in one line that names its process."""
    native, _ = standing_form
    second = Native(native.folder)
    code, _ = second.ended([])
    assert code == 1
    [line] = second.printed
    assert f"runs in {native.folder} already (process {native.process.pid})" in line


@pytest.mark.server_errors("")  # the others lose it while they are stopped
def test_a_part_that_dies_ends_the_rest(standing_form: Standing) -> None:
    """Where the scheduler is killed, everything ends, and one line says which part it was and where its log is."""
    native, _ = standing_form
    started = native.started()
    [scheduler] = [process for process in started if {"dask", "scheduler"} <= words(process)]
    scheduler.kill()
    code, left = native.ended(started)
    assert (code, left) == (1, [])
    assert "dask-scheduler ended (SIGKILL), so every part was stopped" in native.printed[-1]
    assert "dask-scheduler.log" in native.printed[-1]


@pytest.mark.server_errors("Application startup failed", "Traceback")
def test_ctrl_c_ends_it_while_it_starts(open_folder: Path) -> None:
    """Half begun, it stops as well, leaves nothing behind, and the same folder can be stood up again."""
    native = Native(open_folder / "cut-off")
    until(lambda: [process for process in native.started() if "prefect" in words(process)])
    code, left = native.end(signal.SIGINT)
    assert (code, left) == (0, [])
    again = Native(open_folder / "cut-off", variables={"PREFECT_DATABASE_URL": "postgresql+asyncpg://127.0.0.1:1/none"})
    code, left = again.ended([])
    assert (code, left) == (1, [])
    assert "prefect-server ended" in again.printed[-1]
    assert "prefect-server.log" in again.printed[-1]


@pytest.mark.parametrize(
    ("variables", "options", "code", "message"),
    [
        ({"REPLI_DATABASE_URL": "sqlite:////tmp/x.db"}, (), 2, "needs PostgreSQL"),
        ({"REPLI_DATABASE_URL": "postgresql://repli:secret@127.0.0.1:1/repli"}, (), 1, "unset REPLI_DATABASE_URL"),
        ({"PREFECT_PORT": "many"}, (), 2, "PREFECT_PORT='many' is no port"),
        ({"REPLI_WORKERS": "0"}, (), 2, "from 1 to 1000"),
        ({}, ("--workers", "0"), 2, "from 1 to 1000"),
    ],
)
def test_what_cannot_stand_is_one_line(
    open_folder: Path, variables: dict[str, str], options: tuple[str, ...], code: int, message: str
) -> None:
    """The line says what to do, and holds no password."""
    native = Native(open_folder / "refused", options, variables)
    assert native.ended([])[0] == code
    [line] = native.printed
    assert message in line
    assert "secret" not in line


def test_a_port_that_is_taken_is_named(open_folder: Path) -> None:
    """The line names the variable that chooses another."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        native = Native(open_folder / "refused", variables={"DASK_PORT": str(port)})
        assert native.ended([])[0] == 1
    assert f"port {port} is in use" in native.printed[0]
    assert "DASK_PORT" in native.printed[0]
