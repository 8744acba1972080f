"""However `repli serve` ends, nothing of it is left, and what it was at goes on where it was."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from repli.flows.server.ports import find_free_port
from tests.support.command_line import command, environment, write_manifest
from tests.support.serving import ENDS_WITHIN_S, OUTLIVES_AT_MOST_S, READY, Serving, until
from tests.support.terminal import alive_after

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1200)]


PHASES = ("starting ", "waiting for the Prefect server", "registering blocks and deployments")


def midway(serving: Serving, manifest: Path) -> str:
    """Start a run of `enrich`, and return its id once some of its tasks are done, and many more are not."""
    id_ = serving.start("enrich", source=str(manifest), batch_size=1)
    done = {"flow_runs": {"id": {"any_": [id_]}}, "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    until(lambda: serving.ask("task_runs/count", done) >= 3, otherwise="no task of the run came to its end")
    assert serving.flow_run(id_)["state_type"] == "RUNNING"
    return id_


@pytest.mark.server_errors("no such table: work_queue")
def test_it_tells_what_fails_in_its_server(tmp_path: Path) -> None:
    """A service of Prefect's that fails at each turn writes to a log that nobody reads, so the terminal says it."""
    with Serving(tmp_path / "home") as serving:
        with closing(sqlite3.connect(serving.home / "prefect" / "prefect.db")) as database:
            database.execute("ALTER TABLE work_queue RENAME TO elsewhere")
        told = serving.read_until("error in the Prefect server").splitlines()[-1]
        with closing(sqlite3.connect(serving.home / "prefect" / "prefect.db")) as database:
            database.execute("ALTER TABLE elsewhere RENAME TO work_queue")
    assert "no such table: work_queue" in told
    assert "server.log" in told


def test_a_run_that_is_killed_does_not_stay_running(served: Serving, tmp_path: Path) -> None:
    """A `repli run` beside `repli serve` that is killed is *Crashed* within five minutes, and the store says so too."""
    manifest = write_manifest(tmp_path / "items", 48)
    run = subprocess.Popen(
        command("run", manifest, "--batch-size", "1"),
        env=served.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    [killed] = until(lambda: [one for one in served.flow_runs("enrich") if one["state_type"] == "RUNNING"])
    until(lambda: served.ask("task_runs/count", {"flow_runs": {"id": {"any_": [killed["id"]]}}}) > 3)
    run.kill()
    run.wait()
    until(lambda: served.flow_run(killed["id"])["state_type"] == "CRASHED", 300, "it stays *Running*")
    assert json.loads(served.repli("status", "--json").stdout)["last_run"]["state"] == "cut off"


def test_a_place_is_free_again_after_a_hard_stop(tmp_path: Path) -> None:
    """`reprocess` runs once at a time. One that was killed with its server holds up no other after the next start.
    Of the times that were missed meanwhile it runs once."""
    home = tmp_path / "home"
    manifest = write_manifest(tmp_path / "items", 48)
    with Serving(home, REPLI_RETRY_BELOW="1") as serving:
        assert serving.repli("run", manifest, "--force", "classify_image=cpu").returncode == 0
        until(lambda: serving.scheduled("reprocess"))
        cut_off = serving.start("reprocess", batch_size=1)
        until(lambda: serving.flow_run(cut_off)["state_type"] == "RUNNING")
        serving.end(signal.SIGKILL)
    an_hour_ago = f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%d %H:%M:%S.%f}"
    with closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        changed = database.execute(
            "UPDATE flow_run SET expected_start_time = ?, next_scheduled_start_time = ? "
            "WHERE state_type = 'SCHEDULED' AND auto_scheduled "
            "AND deployment_id = (SELECT id FROM deployment WHERE name = 'reprocess') RETURNING id",
            (an_hour_ago, an_hour_ago),
        )
        missed = [id_ for (id_,) in changed]
        database.commit()
    with Serving(home, REPLI_RETRY_BELOW="1") as serving:
        assert serving.flow_run(cut_off)["state_type"] == "CRASHED"
        states = Counter(serving.flow_run(run)["state_name"] == "Missed" for run in missed)
        assert len(missed) > 1
        assert states == {True: len(missed) - 1, False: 1}, "of the times that were missed the last one runs"
        next_one = serving.start("reprocess")
        until(lambda: serving.flow_run(next_one)["state_type"] == "COMPLETED", 330, "it waits for a place for ever")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("begun", ["serving.json", "prefect/server.log", "prefect/setup.log"])
def test_interrupted_while_it_starts_it_stops(tmp_path: Path, begun: str, how: signal.Signals) -> None:
    """Before anything is served, while the cluster starts, and while the server is told what is declared: it says so in
    one line, and nothing outlives it. It may be up by the time that the signal comes: then its page comes first."""
    home = tmp_path / "home"
    process = subprocess.Popen(
        command("serve", "--port", str(find_free_port())),
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until((home / begun).exists)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    out, err = process.communicate(timeout=ENDS_WITHIN_S)
    _, is_up, page_end = out.rpartition(READY)
    said = page_end.partition("\n")[2] if is_up else out
    assert (process.returncode, said, alive_after(family, OUTLIVES_AT_MOST_S)) == (0, "stopped\n", [])
    assert all(line.startswith(PHASES) for line in err.splitlines())


def test_killed_or_interrupted_it_leaves_nothing_behind(nightly: Path, tmp_path: Path) -> None:
    """In the midst of a run. After `kill -9` the next one on the same home says of the run that it was cut off, and
    runs that source again; then Ctrl-C. It is of another version, so that all is declared anew; schedules stay as they
    were, and it says so."""
    manifest = write_manifest(tmp_path / "items", 60)
    with Serving(tmp_path / "home", "--nightly", str(nightly), REPLI_RETRY_BELOW="1") as served:
        reprocess = served.deployment("reprocess")
        [often] = reprocess["schedules"]
        served.ask(f"deployments/{reprocess['id']}/schedules/{often['id']}", {"active": False}, method="PATCH")
        served.ask("variables/name/repli_declared", method="DELETE")
        cut_off = midway(served, manifest)
        status, _, alive = served.end(signal.SIGKILL)
        assert (status, alive) == (-signal.SIGKILL, [])
    with closing(sqlite3.connect(served.home / "prefect" / "prefect.db")) as database:  # as versions before 0.2 had it
        database.execute("UPDATE deployment SET entrypoint = 'flows.' || name || '.' || name, parameters = '{}'")
        source = json.dumps({"source": str(nightly)})
        database.execute("UPDATE deployment_schedule SET parameters = ? WHERE slug = 'nightly'", (source,))
        database.commit()

    with Serving(served.home, **served.variables) as again:
        assert again.ask("variables/name/repli_declared")["value"]
        assert again.deployment("enrich")["entrypoint"] == "repli.flows.enrich.enrich"
        assert again.deployment("enrich")["parameters"] == {"source": str(nightly)}
        assert f"nightly: from {nightly}, at" in again.page
        assert [one["active"] for one in again.deployment("enrich")["schedules"]] == [True]
        assert [one["active"] for one in again.deployment("reprocess")["schedules"]] == [False]
        run = again.flow_run(cut_off)
        assert run["state_type"] == "CRASHED"
        assert "start it again, it continues from here" in run["state"]["message"]
        midway(again, manifest)
        status, said, alive = again.end(signal.SIGINT)
    assert (status, alive) == (0, [])
    assert said == "stopped\n"
