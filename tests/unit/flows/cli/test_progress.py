"""What a run shows of itself: on a terminal, on a narrow one, without colours, and without a terminal."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from dataclasses import replace
from textwrap import dedent

import pytest

from repli.flows.cli import progress as module
from repli.flows.cli.progress import Activity, progress_shown
from repli.flows.server.phases import begin_phase
from repli.tasks.storage.runs import Progress
from tests.support.terminal import ESCAPE, OnTerminal

BUSY = Progress(
    items=45_000,
    finished=12_040,
    quality={1.0: 9000, 0.95: 40, 0.9: 3000},
    stages={
        "fetch": 12_345,
        "validate": 12_300,
        "extract_text": 12_200,
        "classify_image": 12_050,
        "embed_text": 12_048,
        "store": 12_040,
    },
)
COLOUR = re.compile(r"\x1b\[[\d;]*\b(3[0-7]|9[0-7]|38;[\d;]+)m")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_phase_is_shown_until_an_item_is_through_a_stage() -> None:
    """It says for how long; progress that only counts items takes no place of it."""
    activity = Activity("enriching", clock := Clock())
    activity.begin("loading the models")
    clock.now += 7
    activity.update(Progress(items=4, stages={"fetch": 0, "store": 0}))
    assert activity.line() == activity.bar(80).plain == "loading the models (7 s)"
    activity.update(Progress(items=4, stages={"fetch": 1, "store": 0}))
    assert activity.line().startswith("enriching: 12% · 0/4 items · fetch 1 · store 0")


def test_the_rate_counts_items_in_parts() -> None:
    """Before the first item is stored: twenty results of two stages in five seconds are two items a second."""
    activity = Activity("enriching", clock := Clock())
    activity.update(Progress(items=40, stages={"fetch": 8, "store": 0}))
    clock.now += 4.5
    activity.update(Progress(items=40, stages={"fetch": 26, "store": 0}))
    assert activity.line().endswith("fetch 26 · store 0")  # too early to tell
    clock.now += 0.5
    activity.update(Progress(items=40, stages={"fetch": 28, "store": 0}))
    assert activity.line().endswith("fetch 28 · store 0 · 2.0 items/s · 0:13 left")


def test_loading_the_models_is_no_part_of_the_rate() -> None:
    """A minute of it, before a thousand items at ten a second, is not a hundred minutes left."""
    activity = Activity("enriching", clock := Clock())
    activity.begin("loading the models")
    activity.update(Progress(items=1000, stages={"fetch": 0, "store": 0}))
    clock.now += 60
    activity.update(Progress(items=1000, stages={"fetch": 10, "store": 0}))
    clock.now += 5
    activity.update(Progress(items=1000, stages={"fetch": 60, "store": 50}))
    assert activity.line().endswith("10.0 items/s · 1:34 left")


def test_a_probe_is_no_part_of_the_rate() -> None:
    """A few items at a time, each stage for the first time: the rest is measured by itself."""
    activity = Activity("reprocessing", clock := Clock())
    for stages in ({"embed": 4, "store": 0}, {"embed": 4, "store": 4}, {"embed": 12, "store": 12}):
        clock.now += 20
        activity.update(Progress(items=1012, stages=stages, is_probing=True))
        assert "left" not in activity.line()
    clock.now += 20
    activity.update(Progress(items=1012, stages={"embed": 12, "store": 12}))
    clock.now += 1
    activity.update(Progress(items=1012, stages={"embed": 112, "store": 12}))
    clock.now += 10
    activity.update(Progress(items=1012, stages={"embed": 212, "store": 112}))
    assert activity.line().endswith("embed 212 · store 112 · 10.0 items/s · 1:25 left")


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    """After a pause of a minute nothing is left of it, and no rate and no time left are made up."""
    activity = Activity("enriching", clock := Clock())
    for second in range(200):
        clock.now += 1
        activity.update(Progress(items=1000, stages={"fetch": min(second, 100), "store": 0}))
        if second == 99:
            assert " 0.5 items/s " in activity.line()
    assert "items/s" not in activity.line() and "left" not in activity.line()


@pytest.mark.parametrize("columns", [40, 60, 80, 99, 100, 120, 160, 220])
def test_the_bar_fits_its_terminal(columns: int) -> None:
    """What does not fit is left out whole; a stage is named at 60 columns, and all of them where there is room."""
    activity = Activity("enriching", clock := Clock())
    activity.update(replace(BUSY, stages=dict.fromkeys(BUSY.stages, 1)))
    clock.now += 600
    activity.update(BUSY)
    shown = activity.bar(columns).plain
    assert len(shown) <= columns
    assert "27%" in shown
    assert ("classify_image 12050" in shown) == (columns >= 60)
    assert ("fetch 12345 · validate 12300" in shown) == (columns >= 220)
    assert "items/s" in shown or columns < 80


class Timed(io.StringIO):
    """A stream that knows when it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written_at: list[float] = []

    def write(self, text: str) -> int:
        self.written_at.append(time.monotonic())
        return super().write(text)


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain text, of a phase and then of the progress; nothing is written at once, nor after the end."""
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.2)
    monkeypatch.setattr(module, "POLL_S", 0.05)
    stream = Timed()
    begun: list[bool] = []
    with progress_shown("enriching", lambda: BUSY if begun else None, stream):
        began_at = time.monotonic()
        begin_phase("starting 2 workers")
        deadline = time.monotonic() + 60
        while not stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
        begun.append(True)
        deadline = time.monotonic() + 60
        while stream.getvalue().count("\n") < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert stream.written_at[0] >= began_at + 0.2
    first, *others = stream.getvalue().splitlines()
    assert re.fullmatch(r"starting 2 workers \(\d+ s\)", first)
    assert len(others) >= 3
    assert all(line.startswith("enriching: 27% · 12040/45000 items · fetch 12345 · ") for line in others[1:])
    assert ESCAPE not in stream.getvalue()
    begin_phase("starting again")
    assert "again" not in stream.getvalue()


SHOW = """
import time
from repli.flows.cli.progress import progress_shown
from repli.flows.server.phases import begin_phase
from repli.tasks.storage.runs import Progress

polls, begun = [], []
def poll():
    polls.append(1)
    return Progress(items=10, stages={"fetch": 5, "store": 0}, quality={1.0: 3}) if begun else None
def wait_for_polls(count):
    polls.clear()
    while len(polls) < count:
        time.sleep(0.1)
with progress_shown("enriching", poll):
    begin_phase("starting 2 workers")
    wait_for_polls(1)
    begun.append(1)
    wait_for_polls(3)  # what one finds is shown before the next but one
print("the summary")
"""


@pytest.mark.parametrize(
    ("variables", "is_bar", "is_coloured"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, False)],
    ids=["colours", "NO_COLOR", "dumb"],
)
def test_a_terminal_shows_a_bar(variables: dict[str, str], is_bar: bool, is_coloured: bool) -> None:
    """Under `NO_COLOR` too, where its done part and the rest are told apart by their characters; a dumb terminal gets
    no escape codes. At the end the bar is gone."""
    environ = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "TERM"}}
    with OnTerminal([sys.executable, "-c", dedent(SHOW)], {**environ, **variables}) as terminal:
        assert terminal.read_to_its_end() == 0
    frames = terminal.frames()
    bars = [frame for frame in frames if frame.startswith("enriching ━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ 25% · 0/10 items")]
    assert bool(bars) == is_bar
    assert any(frame.startswith("starting 2 workers") for frame in frames) == is_bar
    assert bool(COLOUR.search(terminal.raw)) == is_coloured
    assert (ESCAPE in terminal.raw) == is_bar
    assert terminal.lines() == ["the summary"]
