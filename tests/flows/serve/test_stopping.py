"""However `repli serve` ends, nothing of it is left, and what it was at goes on where it was."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.flows.commandline import command, environment, write_manifest
from tests.flows.serve.serving import Serving, until
from tests.prefect_api import free_port

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(300)]


def midway(serving: Serving, manifest: Path) -> str:
    """Start a run of `enrich`, and return its id once some of its tasks are done."""
    id_ = serving.start("enrich", source=str(manifest), batch_size=1)
    done = {"flow_runs": {"id": {"any_": [id_]}}, "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    until(lambda: serving.ask("task_runs/count", done) >= 3, otherwise="no task of the run came to its end")
    assert serving.flow_run(id_)["state_type"] == "RUNNING"
    return id_


@pytest.mark.parametrize("begun", ["serving.json", "prefect/server.log", "prefect/setup.log"])
def test_interrupted_while_it_starts_it_stops(tmp_path: Path, begun: str) -> None:
    """Ctrl-C before anything is served, while the cluster starts, and while the server is told what is declared."""
    home = tmp_path / "home"
    process = subprocess.Popen(
        command("serve", "--port", str(free_port())),
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until((home / begun).exists)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert (process.returncode, "stopped" in said.splitlines(), alive) == (0, True, [])
    assert "Traceback" not in said


def test_killed_or_interrupted_it_leaves_nothing_behind(served: Serving, nightly: Path, tmp_path: Path) -> None:
    """In the midst of a run. After `kill -9` the next one on the same home says of the run that it was cut off, and
    runs that source again; then Ctrl-C. It is of another version, so that all is declared anew; schedules stay as they
    were, and it says so."""
    reprocess = served.deployment("reprocess")
    [often] = reprocess["schedules"]
    served.ask(f"deployments/{reprocess['id']}/schedules/{often['id']}", {"active": False}, method="PATCH")
    served.ask("variables/name/repli_declared", method="DELETE")
    manifest = write_manifest(tmp_path / "items", 24)
    cut_off = midway(served, manifest)
    status, _, alive = served.end(signal.SIGKILL)
    assert (status, alive) == (-signal.SIGKILL, [])

    with Serving(served.home, **served.variables) as again:
        assert again.ask("variables/name/repli_declared")["value"]
        assert f"nightly: from {nightly}, at" in again.page
        assert [one["active"] for one in again.deployment("enrich")["schedules"]] == [True]
        assert [one["active"] for one in again.deployment("reprocess")["schedules"]] == [False]
        run = again.flow_run(cut_off)
        assert run["state_type"] == "CRASHED"
        assert "start it again, it goes on from here" in run["state"]["message"]
        midway(again, manifest)
        status, said, alive = again.end(signal.SIGINT)
    assert (status, alive) == (0, [])
    assert said == "stopped\n"
