"""Runs whose Prefect server is killed, is away, or has no room on its disk: the items are stored all the same."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.prefect_api import ask
from tests.support.server_outage import BATCH, SlowRun, standing_server

pytestmark = pytest.mark.timeout(600)

ITEMS = 60
ENDS_WITHIN_S = 240.0
MOMENTS: dict[str, Callable[[SlowRun], bool]] = {
    "start": SlowRun.server_answers,
    "first task": lambda run: run.run() is not None,
    "amid": lambda run: run.stored() >= ITEMS // 3,
    "last items": lambda run: run.stored() == ITEMS - BATCH,
}


@pytest.mark.campaign
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_private_server_that_is_killed_costs_nothing_but_records(tmp_path: Path, moment: str) -> None:
    """It is started again, and the run ends as completed with nothing on stderr."""
    run = SlowRun(tmp_path, ITEMS)
    run.until(lambda: MOMENTS[moment](run))
    killed = run.server()
    run.kill_server()
    run.until(lambda: (server := run.server()) is not None and server != killed)
    run.release()
    status, report, stderr = run.end(ENDS_WITHIN_S)
    assert (status, stderr, report.get("stored")) == (0, "", ITEMS)
    ended = run.run()
    assert ended
    if moment in {"amid", "last items"}:
        [note] = ended.notes or ()
        assert note.startswith("the Prefect server did not answer from ")
        assert note.endswith("its records of that time are incomplete")


@pytest.mark.campaign
def test_a_private_server_that_is_killed_at_the_end_costs_nothing_but_records(tmp_path: Path) -> None:
    """Every item is stored, and the run waits for its server to take the report: it hangs, so that the run cannot end
    before it is killed."""
    run = SlowRun(tmp_path, ITEMS)
    run.until(lambda: MOMENTS["last items"](run))
    run.suspend_server()
    run.release()
    run.until(run.is_finished)
    run.kill_server()
    status, report, stderr = run.end(ENDS_WITHIN_S)
    assert (status, stderr, report.get("stored")) == (0, "", ITEMS)


@pytest.mark.campaign
def test_a_standing_server_that_hangs_costs_nothing_but_records(tmp_path: Path) -> None:
    """The items are stored while it hangs, and the flow run ends as completed once it goes on."""
    with standing_server(tmp_path / "server") as server:
        run = SlowRun(tmp_path, ITEMS, PREFECT_API_URL=server.api_url)
        run.until(lambda: MOMENTS["amid"](run))
        server.stop()
        run.release()
        run.until(lambda: run.stored() == ITEMS)
        server.go_on()
        status, report, stderr = run.end(ENDS_WITHIN_S)
        assert (status, stderr, report["stored"]) == (0, "", ITEMS)
        ended = run.run()
        assert ended
        flow_run = ask({"PREFECT_API_URL": server.api_url}, f"flow_runs/{ended.flow_run_id}")
        assert flow_run["state_type"] == "COMPLETED"


@pytest.mark.campaign
def test_a_standing_server_that_is_gone_costs_nothing_but_records(tmp_path: Path) -> None:
    """Every item is stored, and the run ends soon, with a note of the outage."""
    with standing_server(tmp_path / "server") as server:
        run = SlowRun(tmp_path, ITEMS, PREFECT_API_URL=server.api_url)
        run.until(lambda: MOMENTS["amid"](run))
        server.kill()
        run.release()
        status, report, stderr = run.end(ENDS_WITHIN_S)
        assert (status, stderr, report["stored"]) == (0, "", ITEMS)
        ended = run.run()
        assert ended
        [note] = ended.notes or ()
        assert note.startswith("the Prefect server did not answer from ")


def test_a_full_disk_of_a_private_server_is_told_in_one_line(tmp_path: Path) -> None:
    """The store is on another disk; the line names the disk and what to do."""
    with small_disk("1m") as disk:
        status, report, stderr = SlowRun(tmp_path, 4, home=disk / "home").end(ENDS_WITHIN_S)
        assert (status, report) == (1, {})
        assert stderr == (
            f"repli: the Prefect server cannot write to the disk of {disk}/home/prefect (No space left on device); "
            "make room there, or set REPLI_HOME to a folder on another disk\n"
        )


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A disk of its own; skips the test where none can be mounted."""
    with tempfile.TemporaryDirectory(prefix="repli-disk-") as folder:
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]
        done = subprocess.run(mounting, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk may be mounted here: {done.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
