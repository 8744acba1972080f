"""What the terminal shows: progress while a run goes on, and summaries. Everything here goes to stderr or a console
that is handed in; JSON goes to stdout elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tasks.fallback import Position, RepliError, Status
from tasks.report import LISTED, Report, colour
from tasks.storage import runs
from tasks.storage.breakers import BreakerView, Move
from tasks.storage.database import Database
from tasks.storage.lookup import Finding, ItemView
from tasks.storage.runs import Run, Tally

POLL_S = 0.5
PATIENCE = 20
BAR_CELLS = 32
_STATUS_COLOURS = {
    Status.SUCCEEDED: "green",
    Status.NOT_APPLICABLE: "dim",
    Status.DEGRADED: "yellow",
    Status.SKIPPED: "dark_orange",
    Status.FAILED: "red",
    Status.PENDING: "blue",
}
_POSITION_COLOURS = {
    Position.CLOSED: "green",
    Position.OPEN: "red",
    Position.HALF_OPEN: "yellow",
    Position.FORCED_OPEN: "bold red",
    Position.FORCED_CLOSED: "bold green",
}


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} items/s" if task.speed else "– items/s")


@contextmanager
def progress_shown(console: Console, database: Database, source: str, *, refresh: bool) -> Iterator[None]:
    """While the block runs: items done, items per second, time left and the quality so far, read from the store."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[mix]}"),
        console=console,
        transient=True,
    )
    over = threading.Event()
    began = datetime.now(UTC)

    def follow() -> None:
        task = bar.add_task("starting", total=None, mix="")
        pause = POLL_S
        while not over.wait(pause):
            asked = time.monotonic()
            run = runs.latest(database, source)
            if run is None or run.started_at < began:
                continue
            progress = runs.progress(database, run.id, refresh=refresh)
            if progress.items:
                mix = "  ".join(
                    f"[{colour(q)}]{q:g}[/]: {n}" for q, n in sorted(progress.quality.items(), reverse=True)[:5]
                )
                bar.update(task, description="enriching", total=progress.items, completed=progress.finished, mix=mix)
            pause = max(POLL_S, PATIENCE * (time.monotonic() - asked))  # counting a large run takes a while

    def follow_quietly() -> None:
        with suppress(RepliError):  # the run itself says what is wrong with the store
            follow()

    thread = threading.Thread(target=follow_quietly, name="progress", daemon=True)
    with bar:
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def run_summary(report: Report) -> RenderableType:
    """A run, for people."""
    parts: list[RenderableType] = [
        Text(f"{report} in {report.seconds:.1f} s", style="bold"),
        "",
        tally_table(report.tally),
    ]
    if report.tally.quality:
        parts += ["", quality_bars(report.tally.quality)]
    for note in report.run.notes or ():
        parts += ["", Text(_short(note, 400))]
    if report.moves:
        parts += ["", moves_table(report.moves)]
    if report.failed:
        parts += ["", findings("Failed", report.failed)]
    if report.lowest:
        parts += ["", findings("Lowest quality", report.lowest[:5])]
    return Group(*parts)


def tally_table(tally: Tally) -> RenderableType:
    """Stages by status, and by the rung that served."""
    present = [status for status in Status if any(counts.get(status) for counts in tally.stages.values())]
    table = Table("stage", box=None)
    for status in present:
        table.add_column(Text(status.value.replace("_", "\n"), style=_STATUS_COLOURS[status]), justify="right")
    served = Table("stage", "served by", box=None)
    for stage, counts in tally.stages.items():
        rungs = sorted(tally.rungs.get(stage, {}).items(), key=lambda pair: -pair[1])
        table.add_row(stage, *(str(counts.get(status, "")) for status in present))
        served.add_row(stage, " · ".join(f"{rung} {count}" for rung, count in rungs))
    return Group(table, "", served)


def overview_page(database: Database, tally: Tally, last: Run | None) -> RenderableType:
    """The store, for people."""
    mean = "" if tally.mean_quality is None else f", mean quality {tally.mean_quality:.3f}"
    head = f"{tally.items} items: {tally.stored} stored, {tally.failed} failed, {tally.pending} pending{mean}"
    parts: list[RenderableType] = [Text(head, style="bold"), Text(f"in {database}"), "", tally_table(tally)]
    if tally.quality:
        parts += ["", quality_bars(tally.quality)]
    if last:
        ended = f"ended {last.finished_at:%Y-%m-%d %H:%M:%S}" if last.finished_at else "has not ended"
        emulated = ", accelerator emulated" if last.options.get("emulated") else ""
        began = f"began {last.started_at:%Y-%m-%d %H:%M:%S}"
        parts += ["", Text(f"last run: {_short(last.source, 200)}, {began}, {ended} (UTC){emulated}")]
    return Group(*parts)


def quality_bars(quality: Mapping[float, int]) -> Table:
    """Items by quality, as bars."""
    table = Table("quality", "items", "", box=None)
    most = max(quality.values())
    for value, count in quality.items():
        table.add_row(
            f"{value:g}", str(count), Text("█" * max(1, round(BAR_CELLS * count / most)), style=colour(value))
        )
    return table


def findings(title: str, items: Iterable[Finding]) -> Table:
    """Items worth a look, each with its reasons."""
    table = Table("item", "quality", "why", title=title, title_justify="left", box=None)
    for item in items:
        quality = "" if item.quality is None else f"{item.quality:g}"
        table.add_row(Text(_short(item.id, 40)), quality, Text("\n".join(_short(why, 120) for why in item.reasons)))
    return table


def moves_table(moves: Sequence[Move]) -> Table:
    """What breakers did, the last ones."""
    table = Table("at (UTC)", "breaker", "moved", "why", title="Breakers that moved", title_justify="left", box=None)
    for move in moves[-LISTED:]:
        why = f"{move.cause}: {move.why}" if move.why else str(move.cause)
        table.add_row(f"{move.at:%H:%M:%S}", str(move.key), f"{move.old} → {move.new}", Text(_short(why, 120)))
    return table


def breakers_page(views: Sequence[BreakerView]) -> RenderableType:
    """Every declared breaker, and where it stands."""
    table = Table(box=None)
    for header in ("breaker", "scope", "state", "failures"):
        table.add_column(header, no_wrap=True)
    table.add_column("more")
    for view in views:
        state = view.state
        times = {
            "opened": state.opened_at,
            "next probe": state.probe_at,
            "probing until": state.lease and state.lease.until,
        }
        more = [f"{what} {at:%H:%M:%S}" for what, at in times.items() if at]
        table.add_row(
            view.key.name + (f"\n  at {_short(view.key.place, 60)}" if view.key.place else ""),
            view.breaker.scope,
            Text(state.position.value, style=_POSITION_COLOURS[state.position]),
            f"{len(state.failures)} of {view.breaker.failures}",
            Text("\n".join([*more, *([_short(state.why, 100)] if state.why else [])])),
        )
    orders = "Times are UTC. `repli breakers open|close NAME` forces one, `reset NAME` lets it go."
    return Group(table, "", Text(orders))


def item_page(view: ItemView) -> RenderableType:
    """One item: every stage's result, and the trail of how it came to it."""
    item = view.state.item
    quality = "none" if view.quality is None else f"{view.quality:g}"
    table = Table("stage", "status", "rung", "confidence", "penalty", "trail", box=None)
    reasons: list[RenderableType] = []
    for name, result in view.stages.items():
        trail = " → ".join(f"{attempt.rung} {attempt.outcome}" for attempt in result.attempts)
        if result.error:
            reason = f"{name} is {result.status}: {_short(result.error.message, 300)}"
            reasons.append(Text(reason, style=_STATUS_COLOURS[result.status]))
        table.add_row(
            name,
            Text(result.status.value, style=_STATUS_COLOURS[result.status]),
            result.rung or "",
            "" if result.confidence is None else f"{result.confidence:.2f}",
            "" if result.penalty is None else str(result.penalty),
            trail,
        )
    head = Text(f"{_short(item.id, 80)} · {_short(str(item.name), 80)} · quality {quality}", style="bold")
    return Group(head, "", table, *([""] if reasons else []), *reasons)


def _short(text: str, longest: int) -> str:
    """`text`, cut, with nothing in it that a terminal would act on."""
    safe = "".join(character if character.isprintable() else " " for character in text[:longest])
    return safe if len(text) <= longest else safe[:-1] + "…"
