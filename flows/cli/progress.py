"""A progress bar of a run, read from the store while the run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.text import Text

from repli.tasks.fallback import RepliError
from repli.tasks.reporting.run_report import colour
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.runs import Progress

POLL_S = 0.5
"""Seconds between two reads of the store."""
QUALITIES_SHOWN = 5

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
def progress_bar(console: Console, poll: Poll, label: str) -> Iterator[None]:
    """Show items done, items per second, time left and the quality so far while the block runs."""
    bar = ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[quality]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # else it ends with an empty line
    )
    is_over = threading.Event()

    def follow() -> None:
        task = bar.add_task("starting", total=None, quality="")
        while not is_over.wait(POLL_S):
            progress = None
            with suppress(RepliError):  # the run itself reports a store that cannot be read
                progress = poll()
            if progress and progress.items:
                best = sorted(progress.quality.items(), reverse=True)[:QUALITIES_SHOWN]
                quality = "  ".join(f"[{colour(value)}]{value:g}[/]: {items}" for value, items in best)
                bar.update(task, description=label, total=progress.items, completed=progress.finished, quality=quality)

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    with bar:
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


class _Rate(ProgressColumn):
    """The column of items per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} items/s" if task.speed else "– items/s")
