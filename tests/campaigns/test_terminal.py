"""What a person sees of a run, and what Ctrl-C leaves of it: real commands on real terminals."""

from __future__ import annotations

import json
import re
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.runs import Progress, latest
from tests.support.prefect_api import Deployments
from tests.support.serving import until
from tests.support.slow_batches import Slow
from tests.support.stopwatch import Stopwatch
from tests.support.terminal import ESCAPE, OnTerminal, alive_after, processes_of

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(600)]

CONTINUES = "repli: interrupted; what is finished is stored, the same command continues from there"
BEGINS_AGAIN = "repli: interrupted; the same command begins again"
ENDS_WITHIN_S = 2.0
REGULAR = re.compile(r"\(\d+ s\)$|^enriching: ")
PHASES = [
    "starting the Prefect server",
    r"starting \d+ workers?",
    "waiting for the Prefect server",
    "starting the run",
    "loading the models, before the first stage",
]


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(tmp_path / "items")


def interrupt(terminal: OnTerminal, slow: Slow, presses: int = 1) -> int:
    """Press Ctrl-C; the exit status. It ends in time, and so does all that it started."""
    until(lambda: len(processes_of(slow.home)) > 1, otherwise="there is nothing to end")
    family = processes_of(slow.home)
    with Stopwatch() as stopwatch:
        terminal.type_ctrl_c(presses)
        status = terminal.read_to_its_end()
    assert stopwatch.seconds < ENDS_WITHIN_S
    assert alive_after([*family, *processes_of(slow.home)], seconds=ENDS_WITHIN_S) == []
    return status


def said_by(terminal: OnTerminal) -> list[str]:
    """The lines on the terminal, but for the echo of what is typed."""
    return [line for line in terminal.lines() if line.replace("^C", "")]


def test_a_catalogue_of_one_batch_has_a_bar_that_moves(slow: Slow) -> None:
    """The start says what it does, one phase after the other; then each stage moves the bar, and there is a rate long
    before an item is stored. Under `NO_COLOR`."""
    slow.set_held(True)
    with OnTerminal(slow.command("run"), {**slow.environment, "NO_COLOR": "1"}) as terminal:
        terminal.read_until("33%")
        slow.set_held(False)
        assert terminal.read_to_its_end() == 0
    frames = "\n".join(terminal.frames())
    places = [found.start() for phase in PHASES if (found := re.search(phase, frames))]
    assert len(places) == len(PHASES) and places == sorted(places)
    bars = [frame for frame in terminal.frames() if frame.startswith("enriching ")]
    assert any("33% · 0/4 items · first 4 · second–store 0 · " in bar for bar in bars)
    assert all("items/s" in bar for bar in bars)
    assert bars[0].startswith("enriching ━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌ 33%")
    assert "enriching" not in "\n".join(terminal.lines()), "the bar is gone at the end"
    run = latest(Database(f"sqlite:///{slow.home / 'repli.db'}"))
    assert run and run.progress
    assert list(Progress.from_json(run.progress).stages) == ["first", "second", "store"]


def test_without_a_terminal_there_is_a_line_every_ten_seconds(slow: Slow) -> None:
    """On stderr, without escape codes; stdout has the document alone."""
    slow.set_held(True)
    lines: list[str] = []
    seen_at: list[float] = []
    begun = time.monotonic()
    with subprocess.Popen(
        slow.command("run", "--json"), env=slow.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        with Stopwatch() as stopwatch:
            while len(seen_at) < 3 or not lines[-1].startswith("enriching: 33% · 0/4 items · first 4 · second–store 0"):
                lines.append(process.stderr.readline())
                assert lines[-1], f"it ended: {lines}"
                if REGULAR.search(lines[-1]):
                    seen_at.append(stopwatch.seconds)
        slow.set_held(False)
        out, err = process.communicate(timeout=200)
    took = time.monotonic() - begun
    assert (process.returncode, json.loads(out)["stored"]) == (0, 4)
    lines += err.splitlines()
    assert ESCAPE not in "".join(lines)
    assert max(later - earlier for earlier, later in pairwise(seen_at)) < 12
    assert sum(bool(REGULAR.search(line)) for line in lines) <= took / 10 + 1


@pytest.mark.parametrize("presses", [1, 3])
@pytest.mark.parametrize("moment", ["starting the Prefect", "1 worker", "waiting for", "starting the run", "first 4"])
def test_ctrl_c_is_one_line_at_every_phase(slow: Slow, moment: str, presses: int) -> None:
    """One line, status 130, and within two seconds nothing is left of it; pressed again and again too."""
    slow.set_held(True)
    with OnTerminal(slow.command("run"), slow.environment) as terminal:
        terminal.read_until(moment)
        assert interrupt(terminal, slow, presses) == 130
    assert said_by(terminal) == [CONTINUES]


def test_ctrl_c_at_the_end_adds_nothing_to_the_report(slow: Slow) -> None:
    """The report is there, and at most the line after it."""
    with OnTerminal(slow.command("run"), slow.environment) as terminal:
        terminal.read_until("served by")
        terminal.type_ctrl_c()
        assert terminal.read_to_its_end() in {0, 130}
    assert "Traceback" not in terminal.raw and "Exception ignored" not in terminal.raw
    assert alive_after(processes_of(slow.home), ENDS_WITHIN_S) == []


def test_a_run_that_was_interrupted_continues(slow: Slow) -> None:
    """The first stage is not done again; what an earlier run did counts as done on the bar."""
    slow.set_held(True)
    with OnTerminal(slow.command("run"), slow.environment) as terminal:
        terminal.read_until("first 4")
        assert interrupt(terminal, slow) == 130
    slow.set_held(False)
    done = subprocess.run(
        slow.command("run", "--json"), env=slow.environment, capture_output=True, text=True, check=True
    )
    shown = subprocess.run(
        slow.command("show", "item-0", "--json"), env=slow.environment, capture_output=True, text=True, check=True
    )
    stages = json.loads(shown.stdout)["stages"]
    assert stages["second"]["run_id"] == json.loads(done.stdout)["run_id"] != stages["first"]["run_id"]


def test_reprocess_gives_its_claims_back(slow: Slow) -> None:
    """An interrupted `reprocess` holds no item, so that the next one takes all of them."""
    slow.set_down(True)
    subprocess.run(slow.command("run"), env=slow.environment, check=True, capture_output=True)
    slow.set_down(False)
    slow.set_held(True)
    store = Database(f"sqlite:///{slow.home / 'repli.db'}")
    with OnTerminal(slow.command("reprocess"), slow.environment) as terminal:
        terminal.read_until("loading the models")
        until(lambda: retry_queue.tally(store).as_json()["claimed"] == 4, otherwise="it claims nothing")
        assert interrupt(terminal, slow) == 130
    assert said_by(terminal) == [CONTINUES]
    assert retry_queue.tally(store).as_json()["claimed"] == 0
    slow.set_held(False)
    again = subprocess.run(
        slow.command("reprocess", "--json"), env=slow.environment, capture_output=True, text=True, check=True
    )
    assert json.loads(again.stdout)["upgraded"] == 4


def test_a_drill_says_what_it_does_and_ends_as_quickly(slow: Slow) -> None:
    """It has no items to count; its stages are counted."""
    subprocess.run(slow.command("run"), env=slow.environment, check=True, capture_output=True)
    slow.set_held(True)
    with OnTerminal(slow.command("drill"), slow.environment) as terminal:
        terminal.read_until("drilling 3 stages")
        assert interrupt(terminal, slow) == 130
    assert said_by(terminal) == [BEGINS_AGAIN]
    frames = "\n".join(terminal.frames())
    assert all(re.search(phase, frames) for phase in PHASES[:4])


def test_a_standing_server_is_told(slow: Slow, standing_server: dict[str, str]) -> None:
    """Its flow run is *Crashed* at once, and not after minutes without a heartbeat."""
    slow.set_held(True)
    server = Deployments(standing_server["PREFECT_API_URL"])
    before = {run["id"] for run in server.flow_runs("enrich")}
    environ = {**slow.environment, **standing_server, "DO_NOT_TRACK": "1"}  # else Prefect tells once that it does
    with OnTerminal(slow.command("run"), environ) as terminal:
        terminal.read_until("first 4")
        assert interrupt(terminal, slow) == 130
    assert said_by(terminal) == [CONTINUES]
    [run] = [run for run in server.flow_runs("enrich") if run["id"] not in before]
    assert run["state_type"] == "CRASHED"
