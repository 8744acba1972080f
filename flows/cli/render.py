"""What the terminal shows: progress while a run goes on, and summaries. Everything here goes to stderr or a console
that is handed in; JSON goes to stdout elsewhere."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from repli.tasks.drill.report import HEADERS, rows
from repli.tasks.drill.verdict import FAILED, headline
from repli.tasks.fallback import AttemptOutcome, Position, RepliError, Status
from repli.tasks.reporting.retry_report import RetryReport
from repli.tasks.reporting.run_report import LISTED, Report, colour
from repli.tasks.search import Found
from repli.tasks.storage import runs
from repli.tasks.storage.breakers import BreakerView, Move
from repli.tasks.storage.database import Database
from repli.tasks.storage.drills import Drill
from repli.tasks.storage.retry import retries, retry_queue
from repli.tasks.storage.retry.retry_queue import CLAIMED, PARKED, Entry, QueueTally
from repli.tasks.storage.runs import Run, Tally
from repli.tasks.storage.search.query import BEGIN, END
from repli.tasks.storage.views.lookup import Finding, ItemView

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


Poll = Callable[[datetime], runs.Progress | None]
"""How far a run is that began after a time; None where there is none yet."""


def run_progress(database: Database, source: str, *, refresh: bool) -> Poll:
    """Follows the run of a source."""

    def poll(began: datetime) -> runs.Progress | None:
        run = runs.latest(database, runs.ENRICH, source)
        if run is None or run.started_at < began:
            return None
        return runs.progress(database, run.id, refresh=refresh)

    return poll


def retry_progress(database: Database) -> Poll:
    """Follows the run over the retry queue."""

    def poll(began: datetime) -> runs.Progress | None:
        run = runs.latest(database, runs.REPROCESS)
        if run is None or run.started_at < began:
            return None
        tally = retries.tally(database, run.id)
        waiting = retry_queue.tally(database).waiting
        return runs.Progress(items=tally.claimed + waiting, finished=tally.claimed, failed=0, quality=tally.after)

    return poll


@contextmanager
def progress_shown(console: Console, poll: Poll, doing: str) -> Iterator[None]:
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
            progress = poll(began)
            if progress and progress.items:
                mix = "  ".join(
                    f"[{colour(q)}]{q:g}[/]: {n}" for q, n in sorted(progress.quality.items(), reverse=True)[:5]
                )
                bar.update(task, description=doing, total=progress.items, completed=progress.finished, mix=mix)
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


def retry_summary(report: RetryReport) -> RenderableType:
    """A run over the retry queue, for people."""
    parts: list[RenderableType] = [Text(_short(str(report), 600), style="bold")]
    if report.tally.claimed:
        done = Table("stage", "items", box=None, title="Done again", title_justify="left")
        for stage, count in report.calls.items():
            done.add_row(stage, str(count) if count else Text("not redone", style="dim"))
        parts += ["", done]
    if report.tally.after:
        parts += ["", quality_bars(dict(sorted(report.tally.after.items(), reverse=True)))]
    for note in report.run.notes or ():
        parts += ["", Text(_short(note, 400))]
    if report.moves:
        parts += ["", moves_table(report.moves)]
    if report.parked:
        named = ", ".join(_short(id_, 40) for id_ in report.parked[:LISTED])
        parts += ["", Text(f"Parked, until `repli queue retry ID`: {named}")]
    return Group(*parts)


def queue_page(tally: QueueTally, entries: Sequence[Entry]) -> RenderableType:
    """The retry queue: how many, and who is next."""
    priorities = ", ".join(f"{count} {priority.name}" for priority, count in tally.priorities.items())
    states = ", ".join(f"{count} {state}" for state, count in tally.states.items())
    if not entries:
        return Text("The retry queue is empty.")
    table = Table("item", "priority", "quality", "state", "tries", "not before (UTC)", box=None)
    for entry in entries:
        quality = "" if entry.quality is None else f"{entry.quality:g}"
        state = entry.state + (f" until {entry.claimed_until:%H:%M:%S}" if entry.state == CLAIMED else "")
        when = f"{entry.not_before:%Y-%m-%d %H:%M:%S}"
        table.add_row(Text(_short(entry.item_id, 40)), entry.priority.name, quality, state, str(entry.tries), when)
    more = tally.waiting + tally.states.get(PARKED, 0) - len(entries)
    head = Text(f"{states}" + (f"; {priorities}" if priorities else ""), style="bold")
    return Group(head, "", table, *([Text(f"and {more} more")] if more > 0 else []))


def drill_page(drills: Sequence[Drill]) -> RenderableType:
    """The last drill, beside the one before it."""
    last, before = drills[0].report, drills[1].report if len(drills) > 1 else None
    table = Table(box=None)
    table.add_column(HEADERS[0], no_wrap=True)
    for header in HEADERS[1:-1]:
        table.add_column(header)
    stage, reasons = "", []
    for name, *cells, why in rows(last, before):
        if name.partition(".")[0] != stage:
            stage = name.partition(".")[0]
            table.add_row(Text(stage, style="bold"))
        style = "red" if cells[0].startswith(FAILED) else ""
        table.add_row(*(Text(_short(text, 200), style=style) for text in ("  " + name.partition(".")[2], *cells)))
        reasons += [Text(f"{name}: {cells[0]}: {_short(why, 200)}", style=style)] if why else []
    parts: list[RenderableType] = [Text(headline(last), style="bold"), "", table, "", *reasons]
    for rule in last["rules"]:
        parts.append(Text(f"{rule['verdict']}: {_short(rule['rule'], 160)} {_short(rule['reason'], 160)}"))
    return Group(*parts, *(Text(_short(problem, 300), style="red") for problem in last["problems"]))


def retry_answer(queued: Sequence[str], whole: Sequence[str]) -> RenderableType:
    """What `repli queue retry` came to."""
    lines = [f"{len(queued)} items are first in line; `repli reprocess` takes them up."] if queued else []
    if whole:
        named = ", ".join(_short(id_, 40) for id_ in whole[:LISTED])
        lines.append(
            f"Nothing to do again about {named}: whole, or never been through. `repli run --refresh` does all."
        )
    return Text("\n".join(lines))


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


def overview_page(database: Database, tally: Tally, last: Run | None, now: datetime) -> RenderableType:
    """The store, for people."""
    mean = "" if tally.mean_quality is None else f", mean quality {tally.mean_quality:.3f}"
    head = f"{tally.items} items: {tally.stored} stored, {tally.failed} failed, {tally.pending} pending{mean}"
    parts: list[RenderableType] = [Text(head, style="bold"), Text(f"in {database}"), "", tally_table(tally)]
    if tally.quality:
        parts += ["", quality_bars(tally.quality)]
    if last:
        ended = f"ended {last.finished_at:%Y-%m-%d %H:%M:%S}" if last.finished_at else _unfinished(last, now)
        emulated = ", accelerator emulated" if last.options.get("emulated") else ""
        began = f"began {last.started_at:%Y-%m-%d %H:%M:%S}"
        parts += ["", Text(f"last run: {_short(last.source, 200)}, {began}, {ended} (UTC){emulated}")]
    return Group(*parts)


def _unfinished(run: Run, now: datetime) -> str:
    if run.state(now) == "running" or run.alive_at is None:
        return "is running"
    return f"was cut off after {run.alive_at:%Y-%m-%d %H:%M:%S}; `repli run` goes on from there"


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


def hits_page(found: Found) -> RenderableType:
    """What a search found, the words that were looked for in bold."""
    parts: list[RenderableType] = [Text(_short(note, 300), style="yellow") for note in found.notes]
    for hit in found.hits:
        degraded = f" · degraded: {', '.join(hit.degraded)}" if hit.degraded else ""
        head = Text.assemble(
            (_short(hit.name or hit.id, 80), "bold"),
            f"  {_short(hit.id, 60)}  score {hit.score:.3f}  ",
            (f"quality {hit.quality:g}{degraded}", colour(hit.quality)),
        )
        parts += [head, _highlighted(hit.snippet), ""]
    return Group(*(parts or [Text("Nothing was found.")]))


def _highlighted(snippet: str) -> Text:
    text = Text("  ")
    for number, part in enumerate(re.split(f"[{BEGIN}{END}]", snippet)):
        text.append(_short(part, 400), style="bold yellow" if number % 2 else "")
    return text


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
        for attempt in result.attempts:
            if attempt.outcome is AttemptOutcome.INCOMPATIBLE and attempt.error and attempt.error != result.error:
                reasons.append(Text(f"{name}.{attempt.rung} is incompatible: {_short(attempt.error.message, 300)}"))
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
