"""The overview page: counts, charts and tables of the whole store."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from repli.flows.dashboard import charts
from repli.flows.dashboard.elements import show_caption, show_notice
from repli.flows.dashboard.markup import Cell, badge, format_time, item_link, notice, quality_badge, table, time_cell
from repli.tasks.drill.labelling import questions_of_latest
from repli.tasks.drill.proposals import describe
from repli.tasks.drill.report import relative_accuracy
from repli.tasks.drill.verdict import FAILED, readable
from repli.tasks.execution.run_pipeline import store_pipeline
from repli.tasks.fallback import Position, RepliError, Status
from repli.tasks.settings import Settings
from repli.tasks.storage.counts import NOT_REACHED
from repli.tasks.storage.runs import ENRICH
from repli.tasks.storage.views.dashboard_stats import DashboardStats, collect_stats, open_read_only

QUESTIONS = "questions"
"""The part of an address that names the page of the questions."""
REFRESH_S = 4
"""Seconds after which an open page reads the store again."""
CACHE_TTL_S = 2
"""Visitors share stats that are at most this many seconds old."""
TILES_IN_A_ROW = 5
"""A number of three decimals is cut off in a narrower tile."""
MAX_BREAKERS = 100
"""The most breakers that the page lists."""
POSITION_COLOURS = {
    Position.CLOSED: "#2f9e44",
    Position.OPEN: "#c92a2a",
    Position.HALF_OPEN: "#f0b429",
    Position.FORCED_OPEN: "#862e2e",
    Position.FORCED_CLOSED: "#2b8a3e",
}


@st.fragment(run_every=REFRESH_S)
def overview_page(settings: Settings) -> None:
    """Show the whole store, and keep the page up to date."""
    try:
        stats, waiting = _cached_stats(settings), _waiting_questions(settings)
    except RepliError as error:
        show_notice(error)
        return
    show_counts(stats)
    left, right = st.columns(2)
    with left:
        st.subheader("Quality now", anchor=False)
        if stats.tally.items:
            st.altair_chart(charts.quality_now(stats.tally))
    with right:
        st.subheader("Expected accuracy now", anchor=False)
        if stats.tally.expected_accuracy:
            st.altair_chart(charts.accuracy_now(stats.tally))
    st.subheader("Quality at the end of each run", anchor=False)
    if stats.quality_over_time:
        st.altair_chart(charts.quality_over_time(stats.quality_over_time))
    else:
        show_caption("No run has ended yet.")
    show_stages(stats)
    show_breakers(stats)
    show_queue(stats)
    show_drills(stats, waiting)
    show_lowest(stats)


@st.cache_data(ttl=CACHE_TTL_S, show_spinner=False, max_entries=4)
def _cached_stats(settings: Settings) -> DashboardStats:
    """Return the stats of the store of these settings."""
    database = open_read_only(settings.database_url)
    return collect_stats(database, store_pipeline(settings, database))


@st.cache_data(ttl=CACHE_TTL_S, show_spinner=False, max_entries=4)
def _waiting_questions(settings: Settings) -> int:
    """Return the number of open questions of the last drill."""
    found = questions_of_latest(open_read_only(settings.database_url))
    return len(found.questions) - found.answered if found else 0


def show_counts(stats: DashboardStats) -> None:
    """Show the counts of items, and the latest run."""
    tally = stats.tally
    mean, accuracy = tally.mean_quality, tally.mean_expected_accuracy
    tiles = {
        "items": f"{tally.items:,}",
        "stored": f"{tally.stored:,}",
        "degraded": f"{tally.degraded:,}",
        "declined": f"{sum(tally.declined.values()):,}",
        "failed": f"{tally.failed:,}",
        "pending": f"{tally.pending:,}",
        "in the queue": f"{stats.queue.waiting:,}",
        "mean quality": "–" if mean is None else f"{mean:.3f}",
        "expected accuracy": "–" if accuracy is None else f"{accuracy:.3f}",
    }
    names = list(tiles)
    for first in range(0, len(names), TILES_IN_A_ROW):
        for column, name in zip(st.columns(TILES_IN_A_ROW), names[first:], strict=False):
            column.metric(name, tiles[name])
    if stats.is_running:
        st.progress((tally.stored + tally.failed) / max(1, tally.items))
    show_caption(f"{_last_run(stats)} · as of {format_time(stats.at)} UTC")


def _last_run(stats: DashboardStats) -> str:
    """Return one line about the latest run."""
    last = stats.last_run
    if last is None:
        return "No run yet; start one with `repli run SOURCE`"
    name = f"{last.kind} of {Path(last.source).name}" if last.kind == ENRICH else last.kind
    if stats.is_running:
        return f"running: {name}, since {format_time(last.started_at)}"
    if last.finished_at:
        return f"last run: {name}, ended {format_time(last.finished_at)}"
    return f"last run: {name}, started {format_time(last.started_at)}, interrupted: no heartbeat"


def show_stages(stats: DashboardStats) -> None:
    """Show the statuses and rungs of each stage."""
    st.subheader("Stages", anchor=False)
    if not stats.tally.items:
        return
    left, right = st.columns(2)
    with left:
        show_caption("Statuses")
        st.altair_chart(charts.status_by_stage(stats.tally.shown_stages))
    with right:
        show_caption("Rungs; the red ones cost the most quality")
        if any(stats.tally.rungs.values()):
            st.altair_chart(charts.rung_by_stage(stats.tally.rungs, stats.pipeline.chains))
    statuses = [*(status.value for status in Status), NOT_REACHED]
    rows: list[tuple[Cell, ...]] = [
        (
            stage,
            *(counts.get(status, 0) for status in statuses),
            stats.tally.declined.get(stage, 0),
            _rungs(stats, stage),
        )
        for stage, counts in stats.tally.shown_stages.items()
    ]
    st.html(table("stages", ("stage", *(name.replace("_", " ") for name in statuses), "declined", "rungs"), rows))


def _rungs(stats: DashboardStats, stage: str) -> str:
    """Return the rungs that served a stage, the most frequent first."""
    rungs = stats.tally.rungs.get(stage, {})
    return " · ".join(f"{rung} {count:,}" for rung, count in sorted(rungs.items(), key=lambda pair: -pair[1]))


def show_breakers(stats: DashboardStats) -> None:
    """Show the state of each breaker, those that are not closed first, and the latest moves."""
    st.subheader("Breakers", anchor=False)
    views = [view for view in stats.breakers if not view.is_of_closed_key]
    rows: list[tuple[Cell, ...]] = [
        (
            str(view.key),
            badge(view.state.position.replace("_", " "), POSITION_COLOURS[view.state.position]),
            view.breaker.scope,
            len(view.state.failures),
            time_cell(view.state.opened_at),
            time_cell(view.state.probe_at),
            view.state.why,
        )
        for view in views[:MAX_BREAKERS]
    ]
    st.html(table("breakers", ("breaker", "state", "scope", "failures", "opened", "next probe", "why"), rows))
    if len(views) > MAX_BREAKERS:
        show_caption(f"And {len(views) - MAX_BREAKERS:,} more: see `repli breakers`.")
    if stats.moves:
        moves = [
            (time_cell(move.at), str(move.key), f"{move.old} → {move.new}".replace("_", " "), str(move.cause), move.why)
            for move in stats.moves
        ]
        with st.expander(f"The last {len(moves)} moves", expanded=len(moves) <= 10):
            st.html(table("moves", ("at", "breaker", "move", "cause", "why"), moves))
    else:
        show_caption("No breaker has moved yet.")


def show_queue(stats: DashboardStats) -> None:
    """Show the retry queue."""
    st.subheader("Retry queue", anchor=False)
    if not stats.waiting:
        show_caption("The retry queue is empty.")
        return
    left, right = st.columns(2)
    with left:
        st.altair_chart(charts.queue(stats.waiting))
    with right:
        counted = [(one.priority.name if one.priority else "parked", one.age, one.items) for one in stats.waiting]
        st.html(table("waiting", ("priority", "in the queue for", "items"), counted))
    rows = [
        (
            item_link(entry.item_id),
            entry.priority.name,
            quality_badge(entry.quality),
            entry.state,
            entry.tries,
            time_cell(entry.not_before),
        )
        for entry in stats.first_in_queue
    ]
    st.html(table("queue", ("next items", "priority", "quality", "state", "tries", "not before"), rows))


def show_drills(stats: DashboardStats, waiting: int) -> None:
    """Show the rungs of the last drill, its `waiting` questions and its proposals, and the verdicts of earlier ones."""
    st.subheader("Drills", anchor=False)
    if not stats.drills:
        show_caption("No drill yet; run one with `repli drill`.")
        return
    last = stats.drills[0]
    show_caption(
        "A rung whose relative accuracy is left of its penalty is worse than declared. Grey is the mere agreement, "
        "which is no measure of it."
    )
    st.altair_chart(charts.drill(last))
    rows = [
        (
            time_cell(one.finished_at),
            badge(one.verdict, "#2f9e44" if one.verdict == "passed" else "#c92a2a"),
            f"{one.report['rungs_reached']} of {one.report['rungs_declared']}",
            "; ".join(
                f"{rung['stage']}.{rung['rung']}: {rung['reason']}"
                for rung in one.report["rungs"]
                if rung["verdict"] == FAILED
            ),
            ", ".join(one.report["not_covered"]),
        )
        for one in stats.drills
    ]
    st.html(table("drills", ("finished", "verdict", "rungs reached", "failures", "not covered"), rows))
    for proposal in last.report["proposals"]:
        st.html(notice(describe(proposal)))
    if last.report["questions"]:
        text = f"Decide {waiting} disagreements →" if waiting else "All disagreements are decided →"
        st.html(f'<a class="repli-back" id="repli-questions" href="?{QUESTIONS}=1">{text}</a>')
    rungs = [
        (
            f"{one['stage']}.{one['rung']}",
            readable(one["verdict"]),
            one["agreement"],
            "–".join(f"{end:.2f}" for end in one["interval"]) if one["interval"] else "",
            relative_accuracy(one),
            one["penalty"],
            one["penalty_justified"],
            one["seconds_per_item"],
            one["reason"] or one["note"],
        )
        for one in last.report["rungs"]
    ]
    with st.expander("Every rung of the last drill"):
        headers = (
            *("rung", "verdict", "agreement", "95 %", "relative accuracy"),
            *("penalty", "justified", "s per item", "why"),
        )
        st.html(table("drill", headers, rungs))


def show_lowest(stats: DashboardStats) -> None:
    """Show the items of the lowest quality."""
    if stats.lowest:
        st.subheader("Lowest quality", anchor=False)
        rows = [
            (item_link(one.id, one.name), quality_badge(one.quality), "; ".join(one.reasons)) for one in stats.lowest
        ]
        st.html(table("lowest", ("item", "quality", "why"), rows))
