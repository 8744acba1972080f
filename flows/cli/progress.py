"""Show on stderr what a run is doing: a bar on a terminal, and without one a line every ten seconds.

First come the phases of the start, then the progress, which is read from the store while the run goes on.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import groupby, pairwise
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from repli.flows.server.phases import listening
from repli.tasks.fallback import RepliError
from repli.tasks.reporting.run_report import colour
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.runs import Progress

POLL_S = 0.5
"""Seconds between two reads of the store."""
LINE_EVERY_S = 10.0
"""Seconds between two lines without a terminal."""
RATE_WINDOW_S = 30.0
"""Seconds over which the rate is a mean."""
RATE_KNOWN_AFTER_S = 5.0
"""Seconds from the first results on, before which there is no rate: results come in batches."""
QUALITIES_SHOWN = 5
REFRESHES_PER_S = 4
SEPARATOR = " · "
WIDE = 100
"""Columns of a terminal from which on the bar is long."""

Poll = Callable[[], Progress | None]
"""Return the progress of a run that started after the poll was made, or None if there is none yet."""


def poll_run(database: Database, kind: str, source: str | None = None) -> Poll:
    """Return a poll of the latest run of this kind, over a source where it is given."""

    since = database.now()

    def poll() -> Progress | None:
        run = runs.latest(database, kind, source)
        if run is None or run.started_at < since or run.progress is None:
            return None
        return Progress.from_json(run.progress)

    return poll


@contextmanager
def progress_shown(label: str, poll: Poll = lambda: None, stream: TextIO | None = None) -> Iterator[None]:
    """Show the phases and the progress while the block runs.

    Args:
        label: What the run does, such as "enriching".
        poll: Returns the progress.
        stream: The stream to show them on; by default stderr.
    """
    stream = stream or sys.stderr
    console = Console(file=stream)
    activity = Activity(label)
    is_bar = stream.isatty() and not console.is_dumb_terminal
    shown: AbstractContextManager[object]
    if is_bar:
        shown = live = Live(
            get_renderable=lambda: activity.bar(console.width),
            console=console,
            refresh_per_second=REFRESHES_PER_S,
            transient=True,
        )

        def listener(phase: str) -> None:
            activity.begin(phase)
            live.refresh()  # a phase may be over before the next one is due

    else:
        lines = _Lines(activity, stream)
        shown, listener = lines, lines.begin
    with listening(listener), _polling(activity, poll), shown:
        yield


class Activity:
    """The phase or the progress of a run, as text.

    Args:
        label: What the run does, such as "enriching".
        timer: Returns a monotonic time in seconds.

    Example:
        >>> activity = Activity("enriching", timer=lambda: 0.0)
        >>> activity.begin("starting 2 workers")
        >>> activity.line()
        'starting 2 workers (0 s)'
        >>> activity.update(Progress(items=4, finished=1, stages={"fetch": 3, "embed": 3, "store": 1}))
        >>> activity.line()
        'enriching: 58% · 1/4 items · fetch–embed 3 · store 1'
    """

    def __init__(self, label: str, timer: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._timer = timer
        self._phase = "starting"
        self._began_at = timer()
        self._progress: Progress | None = None
        self._rate = Rate()

    def begin(self, phase: str) -> None:
        """Begin a phase of the start."""
        self._phase, self._began_at = phase, self._timer()

    def update(self, progress: Progress) -> None:
        """Note the progress, which takes the place of the phase once an item is through a stage."""
        results = sum(progress.stages.values())
        if progress.is_probing:
            self._rate.begin(results)
        else:
            self._rate.add(self._timer(), results, len(progress.stages))
        if any(progress.stages.values()):
            self._progress = progress

    def line(self) -> str:
        """Return all of it as one line of plain text."""
        if self._progress is None:
            return self._waiting()
        share, items = f"{self._progress.share:.0%}", _items(self._progress)
        stages = describe_stages(self._progress.stages)
        return f"{self._label}: " + " · ".join([share, items, stages, *self._speed(self._progress)])

    def bar(self, width: int) -> Text:
        """Return it as a bar, and as much of the text as fits into `width` columns."""
        if self._progress is None:
            return _one_line(Text(self._waiting()))
        length = 20 if width >= WIDE else 10
        done = round(length * self._progress.share)
        # Two characters, since colours alone do not tell them apart under NO_COLOR.
        bar = Text.assemble(f"{self._label} ", ("━" * done, "bar.complete"), ("╌" * (length - done), "bar.back"))
        bar.append(f" {self._progress.share:.0%}")
        speed = [Text(part) for part in self._speed(self._progress)]
        items, quality = Text(_items(self._progress)), _quality(self._progress)
        stages = Text(describe_stages(self._progress.stages))
        if _width([bar, items, stages, *speed]) > width:
            stages = Text(slowest_stage(self._progress.stages))
        shown = [bar]
        for part in (stages, *speed[:1], items, *speed[1:], *quality):  # the most important first
            if _width([*shown, part]) <= width:
                shown.append(part)
        in_order = [part for part in (bar, items, stages, *speed, *quality) if any(part is one for one in shown)]
        return _one_line(Text(SEPARATOR).join(in_order))

    def _waiting(self) -> str:
        return f"{self._phase} ({self._timer() - self._began_at:.0f} s)"

    def _speed(self, progress: Progress) -> list[str]:
        """Return the rate and the time left, where they are known."""
        if (rate := self._rate.per_s()) is None:
            return []
        return [f"{rate:.1f} items/s", f"{_clock((1 - progress.share) * progress.items / rate)} left"]


class Rate:
    """The items per second, by results of stages: an item counts in parts, one for each of its stages.

    It is measured from the first results on. The time before them is that of loading models, which is spent once.

    Example:
        >>> rate = Rate()
        >>> for now, results in ((0.0, 0), (60.0, 8), (70.0, 88)):
        ...     rate.add(now, results, stages=4)
        >>> rate.per_s()
        2.0
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._earlier = 0
        self._stages = 1

    def begin(self, results: int) -> None:
        """Begin to measure anew, with the next results after these."""
        self._samples.clear()
        self._earlier = results

    def add(self, now: float, results: int, stages: int) -> None:
        """Note how many results there are, for items with this many stages."""
        self._stages = max(1, stages)
        if not self._samples and results <= self._earlier:
            return
        self._samples.append((now, results))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_WINDOW_S:
            self._samples.popleft()

    def per_s(self) -> float | None:
        """Return the rate over the last `RATE_WINDOW_S`; None where it is not known, or nothing was done in them."""
        if not self._samples:
            return None
        (began, before), (now, results) = self._samples[0], self._samples[-1]
        if now - began < RATE_KNOWN_AFTER_S or results == before:
            return None
        return (results - before) / (now - began) / self._stages


def describe_stages(stages: Mapping[str, int]) -> str:
    """Return the items that are through each stage, neighbours with the same number together.

    Example:
        >>> describe_stages({"fetch": 120, "validate": 120, "extract_text": 96, "store": 0})
        'fetch–validate 120 · extract_text 96 · store 0'
    """
    groups = [(count, list(names)) for count, names in groupby(stages, key=lambda stage: stages[stage])]
    return " · ".join(f"{_span(names)} {count}" for count, names in groups)


def slowest_stage(stages: Mapping[str, int]) -> str:
    """Return the stage before which most items wait, as "at", and the number of items that are through it.

    Example:
        >>> slowest_stage({"fetch": 120, "validate": 120, "extract_text": 24, "store": 0})
        'at extract_text 24'
    """
    names = list(stages)
    waiting = {after: stages[before] - stages[after] for before, after in pairwise(names)}
    slowest = max(waiting, key=lambda name: waiting[name], default=names[0])
    return f"at {slowest} {stages[slowest]}"


class _Lines(AbstractContextManager[None]):
    """A line every `LINE_EVERY_S` from the first phase on: an error that comes before stands alone on stderr."""

    def __init__(self, activity: Activity, stream: TextIO) -> None:
        self._activity = activity
        self._stream = stream
        self._has_begun = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="progress-lines", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *problem: object) -> None:
        self._is_over.set()
        self._has_begun.set()
        self._thread.join()

    def begin(self, phase: str) -> None:
        """Begin a phase."""
        self._activity.begin(phase)
        self._has_begun.set()

    def _repeat(self) -> None:
        self._has_begun.wait()
        while not self._is_over.wait(LINE_EVERY_S):
            self._write(self._activity.line())

    def _write(self, line: str) -> None:
        with suppress(OSError, ValueError):  # nobody reads it any more
            self._stream.write(f"{line}\n")
            self._stream.flush()


@contextmanager
def _polling(activity: Activity, poll: Poll) -> Iterator[None]:
    """Update the activity with the progress while the block runs."""
    is_over = threading.Event()

    def follow() -> None:
        while not is_over.wait(POLL_S):
            with suppress(RepliError):  # the run itself reports a store that cannot be read
                if progress := poll():
                    activity.update(progress)

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _items(progress: Progress) -> str:
    return f"{progress.finished}/{progress.items} items"


def _quality(progress: Progress) -> list[Text]:
    """Return the best qualities and the number of items that are stored at each, if any is."""
    best = sorted(progress.quality.items(), reverse=True)[:QUALITIES_SHOWN]
    shown = [Text.assemble((f"{value:g}", colour(value)), f": {items}") for value, items in best]
    return [Text("  ").join(shown)] if shown else []


def _width(parts: Sequence[Text]) -> int:
    return Text(SEPARATOR).join(parts).cell_len


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}–{names[-1]}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
