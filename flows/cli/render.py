"""Pages of the terminal: reports of runs, and views of the store, as Rich renderables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from repli.flows.cli.gist import gist
from repli.tasks.drill.proposals import describe
from repli.tasks.drill.report import HEADERS, explain_penalties, questions_line, rows
from repli.tasks.drill.verdict import FAILED, headline
from repli.tasks.fallback import Attempt, AttemptOutcome, Position, Status
from repli.tasks.fallback.breaker import clock_time
from repli.tasks.fallback.chain import FIRST_VERSION
from repli.tasks.fallback.devices import DEFAULT_DEVICE
from repli.tasks.reporting.retry_report import RetryReport
from repli.tasks.reporting.run_report import MAX_LISTED_ITEMS, Report, colour, means
from repli.tasks.search import SearchResult
from repli.tasks.storage.breakers import BreakerView, Move
from repli.tasks.storage.counts import NOT_REACHED, Tally
from repli.tasks.storage.database import Database
from repli.tasks.storage.drills import Drill
from repli.tasks.storage.outdated import OutdatedTally
from repli.tasks.storage.retry.retry_queue import CLAIMED, PARKED, Entry, QueueTally
from repli.tasks.storage.runs import Run
from repli.tasks.storage.search.query import BEGIN, END
from repli.tasks.storage.views.lookup import FlaggedItem, ItemView

if TYPE_CHECKING:  # it knows the stages, which `status` need not load
    from repli.tasks.drill.labelling import OpenQuestions

BAR_CELLS = 32
_STATUS_COLOURS = {
    Status.SUCCEEDED: "green",
    Status.NOT_APPLICABLE: "dim",
    Status.DEGRADED: "yellow",
    Status.SKIPPED: "dark_orange",
    Status.FAILED: "red",
    Status.PENDING: "blue",
}
_STATUS_COLUMNS = {**{status.value: _STATUS_COLOURS[status] for status in Status}, NOT_REACHED: "dim"}
_POSITION_COLOURS = {
    Position.CLOSED: "green",
    Position.OPEN: "red",
    Position.HALF_OPEN: "yellow",
    Position.FORCED_OPEN: "bold red",
    Position.FORCED_CLOSED: "bold green",
}


def run_summary(report: Report) -> RenderableType:
    """Return the report of a run of `enrich`."""
    parts: list[RenderableType] = [
        Text(f"{report} ({report.seconds:.1f} s)", style="bold"),
        "",
        tally_table(report.tally),
    ]
    if report.tally.quality:
        parts += ["", quality_bars(report.tally.quality)]
    for note in report.run.notes or ():
        parts += ["", Text(_short(note, 400))]
    if report.outages.listed:
        parts += ["", "Out of reach (times are UTC)", *(Text(_short(f"  {one}", 400)) for one in report.outages.lines)]
    if report.moves:
        parts += ["", moves_table(report.moves)]
    if report.failed:
        parts += ["", findings("Failed", report.failed)]
    if report.lowest:
        parts += ["", findings("Lowest quality", report.lowest[:5])]
    return Group(*parts)


def retry_summary(report: RetryReport) -> RenderableType:
    """Return the report of a run of `reprocess`."""
    parts: list[RenderableType] = [Text(_short(str(report), 600), style="bold")]
    if report.tally.claimed:
        calls = Table("stage", "items", box=None, title="Processed again", title_justify="left")
        for stage, count in report.calls.items():
            calls.add_row(stage, str(count) if count else Text("not called", style="dim"))
        parts += ["", calls]
    if report.tally.after:
        parts += ["", quality_bars(dict(sorted(report.tally.after.items(), reverse=True)))]
    for note in report.run.notes or ():
        parts += ["", Text(_short(note, 400))]
    if report.moves:
        parts += ["", moves_table(report.moves)]
    if report.parked:
        parked = ", ".join(_short(id_, 40) for id_ in report.parked[:MAX_LISTED_ITEMS])
        parts += ["", Text(f"Parked until `repli queue retry ID`: {parked}")]
    return Group(*parts)


def queue_page(tally: QueueTally, entries: Sequence[Entry]) -> RenderableType:
    """Return the retry queue: its counts, and the next items."""
    priorities = ", ".join(f"{count} {priority.name}" for priority, count in tally.priorities.items())
    states = ", ".join(f"{count} {state}" for state, count in tally.states.items())
    if not entries:
        return Text("The retry queue is empty.")
    table = Table(_item_column(), "priority", "quality", "state", "tries", "not before (UTC)", box=None)
    for entry in entries:
        quality = "" if entry.quality is None else f"{entry.quality:g}"
        state = entry.state + (f" until {entry.claimed_until:%H:%M:%S}" if entry.state == CLAIMED else "")
        if entry.waits_for:
            state += f"\nfor {_short(', '.join(entry.waits_for), 60)}"
        if entry.outdated:
            state += f"\nolder {_short(', '.join(entry.outdated), 60)}"
        not_before = f"{entry.not_before:%Y-%m-%d %H:%M:%S}"
        cells = (entry.priority.name, quality, state, str(entry.tries), not_before)
        table.add_row(Text(_short(entry.item_id, 40)), *cells)
    more = tally.waiting + tally.states.get(PARKED, 0) - len(entries)
    head = Text(f"{states}" + (f"; {priorities}" if priorities else ""), style="bold")
    return Group(head, "", table, *([Text(f"and {more} more")] if more > 0 else []))


def drill_page(drills: Sequence[Drill]) -> RenderableType:
    """Return the last drill, compared with the one before it."""
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
    parts += [Text(line) for line in explain_penalties(last)]
    for rule in last["rules"]:
        parts.append(Text(f"{rule['verdict']}: {_short(rule['rule'], 160)} {_short(rule['reason'], 160)}"))
    parts += [Text(f"proposed: {describe(proposal)}", style="yellow") for proposal in last["proposals"]]
    if last["questions"]:
        parts.append(Text(questions_line(last)))
    return Group(*parts, *(Text(_short(problem, 300), style="red") for problem in last["problems"]))


def questions_page(found: OpenQuestions) -> RenderableType:
    """Return the questions of a drill: the open ones in full, and the number of the answered ones."""
    waiting = [question for question, given in found.questions if given is None]
    at = f"the drill of {found.drill.finished_at:%Y-%m-%d %H:%M} (UTC)"
    parts: list[RenderableType] = [
        Text(f"{len(waiting)} open questions of {at}, {found.answered} answered", style="bold")
    ]
    for question in waiting:
        shown = question.image if question.kind == "label" else question.document
        parts += ["", Text(f"{_short(question.item_id, 80)}: {question.stage}", style="bold")]
        parts += [Text(f"  {_short(text, 300)}") for text in (question.name, shown or question.text) if text]
        table = Table(box=None, show_header=False, padding=(0, 2))
        for said in question.said:
            table.add_row(Text(said.rung), Text(f"{said.confidence:.2f}"), Text(_short(said.answer, 240)))
        answer = "LABEL, or none" if question.kind == "label" else "RUNG, none or both"
        parts += [table, Text(f"  repli label {shlex.quote(question.item_id)} {answer} [--stage {question.stage}]")]
    if waiting:
        parts += ["", Text("Each answer tells which rung is right; the next `repli drill` uses them.")]
    return Group(*parts)


def retry_answer(queued: Sequence[str], nothing_to_do: Sequence[str]) -> RenderableType:
    """Return the result of `repli queue retry`.

    Args:
        queued: The ids of the items that are queued now.
        nothing_to_do: The ids of the items that succeeded, or are still pending.
    """
    lines = [f"{len(queued)} items queued with priority HIGH; `repli reprocess` processes them."] if queued else []
    if nothing_to_do:
        ids = ", ".join(_short(id_, 40) for id_ in nothing_to_do[:MAX_LISTED_ITEMS])
        lines.append(f"Nothing to retry for {ids}: succeeded, or still pending. `repli run --refresh` processes all.")
    return Text("\n".join(lines))


def tally_table(tally: Tally) -> RenderableType:
    """Return items by stage and status, those that a rung declined, and by stage and the rung that served."""
    shown = tally.shown_stages
    present = [status for status in _STATUS_COLUMNS if any(counts.get(status) for counts in shown.values())]
    table = Table(box=None, collapse_padding=True, pad_edge=False)  # all columns fit in a terminal of 80
    table.add_column("stage", no_wrap=True)
    for status in present:
        table.add_column(Text(_header(status), style=_STATUS_COLUMNS[status]), justify="right")
    if tally.declined:
        table.add_column(Text("declined\nby a\nrung"), justify="right")
    served = Table("stage", "served by", box=None)
    for stage, counts in shown.items():
        rungs = sorted(tally.rungs.get(stage, {}).items(), key=lambda pair: -pair[1])
        declined = [str(tally.declined.get(stage, ""))] if tally.declined else []
        table.add_row(stage, *(str(counts.get(status, "")) for status in present), *declined)
        served.add_row(stage, " · ".join(f"{rung} {count}" for rung, count in rungs))
    return Group(table, "", served)


def _header(status: str) -> str:
    return "not\nappli-\ncable" if status == Status.NOT_APPLICABLE else status.replace("_", "\n")


def overview_page(
    database: Database, tally: Tally, last: Run | None, now: datetime, outdated: OutdatedTally
) -> RenderableType:
    """Return the counts of the store and its last run."""
    mean = "" if tally.mean_quality is None else f", {means(tally)}"
    head = f"{tally.items} items: {tally.stored} stored, {tally.failed} failed, {tally.pending} pending{mean}"
    parts: list[RenderableType] = [Text(head, style="bold"), Text(f"in {database}"), "", tally_table(tally)]
    if tally.quality:
        parts += ["", quality_bars(tally.quality)]
    for note in outdated.notes:
        parts += ["", Text(_short(note, 600), style="yellow")]
    if last:
        ended = f"ended {last.finished_at:%Y-%m-%d %H:%M:%S}" if last.finished_at else _unfinished(last, now)
        emulated = ", accelerator emulated" if last.options.get("emulated") else ""
        started = f"started {last.started_at:%Y-%m-%d %H:%M:%S}"
        parts += ["", Text(f"last run: {_short(last.source, 200)}, {started}, {ended} (UTC){emulated}")]
    return Group(*parts)


def _unfinished(run: Run, now: datetime) -> str:
    """Return whether a run without an end is running or was interrupted."""
    if run.state(now) == "running" or run.alive_at is None:
        return "is running"
    return f"interrupted after {run.alive_at:%Y-%m-%d %H:%M:%S}; `repli run` continues it"


def quality_bars(quality: Mapping[float, int]) -> Table:
    """Return a bar chart of items by quality."""
    table = Table("quality", "items", "", box=None)
    most = max(quality.values())
    for value, count in quality.items():
        table.add_row(
            f"{value:g}", str(count), Text("█" * max(1, round(BAR_CELLS * count / most)), style=colour(value))
        )
    return table


def findings(title: str, items: Iterable[FlaggedItem]) -> Table:
    """Return items with the reasons for their quality."""
    table = Table(_item_column(), "quality", "why", title=title, title_justify="left", box=None)
    for item in items:
        quality = "" if item.quality is None else f"{item.quality:g}"
        table.add_row(Text(_short(item.id, 40)), quality, Text("\n".join(_short(why, 120) for why in item.reasons)))
    return table


def moves_table(moves: Sequence[Move]) -> Table:
    """Return the last moves of breakers."""
    table = Table("at (UTC)", "breaker", "moved", "why", title="Breakers that moved", title_justify="left", box=None)
    for move in moves[-MAX_LISTED_ITEMS:]:
        why = f"{move.cause}: {move.why}" if move.why else str(move.cause)
        table.add_row(f"{move.at:%H:%M:%S}", str(move.key), f"{move.old} → {move.new}", Text(_short(why, 120)))
    return table


def breakers_page(views: Sequence[BreakerView], *, show_all: bool = False) -> RenderableType:
    """Return every declared breaker with its state; the closed ones of single keys on request."""
    hidden, now = 0 if show_all else sum(view.is_of_closed_key for view in views), datetime.now(UTC)
    views = [view for view in views if show_all or not view.is_of_closed_key]
    table = Table(box=None)
    for header in ("breaker", "scope", "state", "failures"):
        table.add_column(header, no_wrap=True)
    table.add_column("details")
    for view in views:
        state = view.state
        times = {
            "opened": state.opened_at,
            "next probe": state.probe_at,
            "probing until": state.lease and state.lease.until,
        }
        details = [f"{name} {clock_time(at, now)}" for name, at in times.items() if at]
        table.add_row(
            view.key.name + (f"\n  at {_short(view.key.place, 60)}" if view.key.place else ""),
            view.breaker.scope,
            Text(state.position.value, style=_POSITION_COLOURS[state.position]),
            f"{len(state.failures)} of {view.breaker.failures}",
            Text("\n".join([*details, *([_short(state.why, 100)] if state.why else [])])),
        )
    if not views and hidden:
        return Text(f"All breakers are closed. Not shown: {hidden} closed keys that failed lately (--all).")
    if not views:
        return Text("The pipeline declares no breaker.")
    hint = "Times are UTC. `repli breakers open|close NAME` forces a state, `reset NAME` removes it."
    if hidden:
        hint += f" Not shown: {hidden} closed keys that failed lately (--all)."
    return Group(table, "", Text(hint))


def hits_page(found: SearchResult) -> RenderableType:
    """Return the hits of a search with the words of the query in bold."""
    parts: list[RenderableType] = [Text(_short(note, 300), style="yellow") for note in found.notes]
    for hit in found.hits:
        degraded = f" · degraded: {', '.join(hit.degraded)}" if hit.degraded else ""
        degraded += f" · declined: {', '.join(hit.declined)}" if hit.declined else ""
        accuracy = "" if hit.expected_accuracy is None else f" · expected accuracy {hit.expected_accuracy:.2f}"
        head = Text.assemble(
            (_short(hit.name or hit.id, 80), "bold"),
            f"  {_short(hit.id, 60)}  score {hit.score:.3f}  ",
            (f"quality {hit.quality:g}{accuracy}{degraded}", colour(hit.quality)),
        )
        parts += [head, _highlighted(hit.snippet), ""]
    return Group(*(parts or [Text("No items found; try other words, or a lower --min-quality.")]))


def _highlighted(snippet: str) -> Text:
    """Return a snippet with its marked words in bold."""
    text = Text("  ")
    for number, part in enumerate(re.split(f"[{BEGIN}{END}]", snippet)):
        text.append(_short(part, 400), style="bold yellow" if number % 2 else "")
    return text


def item_page(view: ItemView) -> RenderableType:
    """Return one item: what it is and where it is from, then the result of each stage and its attempts."""
    item = view.state.item
    table = Table("stage", "status", "rung", "confidence", "penalty", "trail", box=None)
    reasons: list[RenderableType] = []
    for name, result in view.stages.items():
        trail = _trail(result.attempts)
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
    head = Text(f"{_short(item.id, 80)} · {_short(str(item.name), 80)}", style="bold")
    versions = _versions(view)
    return Group(head, gist(view), "", table, *([""] if reasons or versions else []), *reasons, *versions)


def _versions(view: ItemView) -> list[Text]:
    """Return a line on the versions of the rungs that served, without those that were never changed."""
    results = [(name, one.rung_version) for name, one in view.stages.items()]
    changed = [f"{name} {version}" for name, version in results if version not in {None, FIRST_VERSION}]
    return [Text(_short(f"versions: {' · '.join(changed)}", 400), style="dim")] if changed else []


def _trail(attempts: Sequence[Attempt]) -> str:
    """Return the attempts in one line, with the places of those on another device than a processor."""
    return " → ".join(f"{one.rung} {one.outcome}{_limit(one)}{_place(one)}" for one in attempts)


def _limit(attempt: Attempt) -> str:
    is_limited = attempt.outcome is AttemptOutcome.SERVED and attempt.error
    return f" {_short(attempt.error.message, 100)}" if is_limited and attempt.error else ""


def _place(attempt: Attempt) -> str:
    return f" ({attempt.where})" if _is_accelerated(attempt) else ""


def _is_accelerated(attempt: Attempt) -> bool:
    return (attempt.where or "").partition("/")[2] not in {"", DEFAULT_DEVICE}


def _item_column() -> Column:
    """Return a column of item ids. A long id is folded, not cut, so that it can be copied."""
    return Column("item", overflow="fold")


def _short(text: str, longest: int) -> str:
    """Return a text cut to `longest` characters, without control characters: a terminal would act on them."""
    safe = "".join(character if character.isprintable() else " " for character in text[:longest])
    return safe if len(text) <= longest else safe[:-1] + "…"
