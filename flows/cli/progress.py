"""A progress bar of a run, read from the store while the run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from repli.tasks.fallback import RepliError
from repli.tasks.reporting.run_report import colour
from repli.tasks.storage import counts, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retries, retry_queue

POLL_S = 0.5
"""Seconds between two reads of the store."""
PAUSE_FACTOR = 20
"""The pause after a read lasts at least this many times the read: counting a large run is slow."""
QUALITIES_SHOWN = 5

Poll = Callable[[datetime], counts.Progress | None]
"""Return the progress of the run that started after a time, or None if there is none yet."""


def poll_run(database: Database, source: str, *, refresh: bool) -> Poll:
    """Return a poll of the latest run of `enrich` over a source."""

    def poll(since: datetime) -> counts.Progress | None:
        run = runs.latest(database, runs.ENRICH, source)
        if run is None or run.started_at < since:
            return None
        return counts.progress(database, run.id, refresh=refresh)

    return poll


def poll_reprocess(database: Database) -> Poll:
    """Return a poll of the latest run of `reprocess`. Its items are those claimed and those still queued."""

    def poll(since: datetime) -> counts.Progress | None:
        run = runs.latest(database, runs.REPROCESS)
        if run is None or run.started_at < since:
            return None
        tally = retries.tally(database, run.id)
        waiting = retry_queue.tally(database).waiting
        return counts.Progress(items=tally.claimed + waiting, finished=tally.claimed, failed=0, quality=tally.after)

    return poll


@contextmanager
def progress_bar(console: Console, poll: Poll, label: str) -> Iterator[None]:
    """Show items done, items per second, time left and the quality so far while the block runs."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[quality]}"),
        console=console,
        transient=True,
    )
    is_over = threading.Event()
    since = datetime.now(UTC)

    def follow() -> None:
        task = bar.add_task("starting", total=None, quality="")
        pause = POLL_S
        while not is_over.wait(pause):
            polled_at = time.monotonic()
            progress = poll(since)
            if progress and progress.items:
                best = sorted(progress.quality.items(), reverse=True)[:QUALITIES_SHOWN]
                quality = "  ".join(f"[{colour(value)}]{value:g}[/]: {items}" for value, items in best)
                bar.update(task, description=label, total=progress.items, completed=progress.finished, quality=quality)
            pause = max(POLL_S, PAUSE_FACTOR * (time.monotonic() - polled_at))

    def follow_quietly() -> None:
        with suppress(RepliError):  # the run itself reports a store that cannot be read
            follow()

    thread = threading.Thread(target=follow_quietly, name="progress", daemon=True)
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
