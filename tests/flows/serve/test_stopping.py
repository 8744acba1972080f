"""However `repli serve` ends, nothing of it is left, and what it was at goes on where it was."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.flows.commandline import write_manifest
from tests.flows.serve.serving import Serving, until

pytestmark = pytest.mark.timeout(300)


def midway(serving: Serving, manifest: Path) -> str:
    """Start a run of `enrich`, and return its id once some of its tasks are done."""
    id_ = serving.start("enrich", source=str(manifest), batch_size=1)
    done = {"flow_runs": {"id": {"any_": [id_]}}, "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    until(lambda: serving.ask("task_runs/count", done) >= 3, otherwise="no task of the run came to its end")
    assert serving.flow_run(id_)["state_type"] == "RUNNING"
    return id_


def test_killed_or_interrupted_it_leaves_nothing_behind(served: Serving, tmp_path: Path) -> None:
    """In the midst of a run. After `kill -9` the next one on the same home says of the run that it was cut off, and
    runs that source again; then Ctrl-C."""
    manifest = write_manifest(tmp_path / "items", 24)
    cut_off = midway(served, manifest)
    status, _, alive = served.end(signal.SIGKILL)
    assert (status, alive) == (-signal.SIGKILL, [])

    with Serving(served.home, **served.variables) as again:
        run = again.flow_run(cut_off)
        assert run["state_type"] == "CRASHED"
        assert "start it again, it goes on from here" in run["state"]["message"]
        midway(again, manifest)
        status, said, alive = again.end(signal.SIGINT)
    assert (status, alive) == (0, [])
    assert said == "stopped\n"
