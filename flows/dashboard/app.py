"""The dashboard: how a store stands, an item, and a search. It reads only; `repli dashboard` starts it.

Streamlit runs this file from its top for each visitor and each click. Names, texts and errors of a catalogue are shown
through `dashboard_html`, as text; Streamlit's own elements would read them as Markdown.
"""

from __future__ import annotations

from datetime import datetime
from io import BytesIO
from pathlib import Path

import streamlit as st

from repli.flows.dashboard import charts as charts
from repli.flows.dashboard.markup import (
    STYLE,
    Cell,
    Html,
    badge,
    chip,
    item_link,
    notice,
    plain,
    quality_badge,
    snippet,
    table,
)
from repli.tasks.drill.verdict import FAILED, spoken
from repli.tasks.fallback import ItemError, Position, RepliError, Status
from repli.tasks.models.image_classifier import open_image
from repli.tasks.search import Found, Mode, Query, search
from repli.tasks.settings import Settings
from repli.tasks.stages.default import CHAINS, STAGE_NAMES, declared_breakers
from repli.tasks.storage.blobs import Blobs
from repli.tasks.storage.runs import ENRICH
from repli.tasks.storage.views import lookup
from repli.tasks.storage.views.dashboard_stats import Figures, figures, opened
from repli.tasks.storage.views.lookup import ItemView

REFRESH_S = 4
"""A page that is open shows the store anew so often."""
SHARED_S = 2
"""Visitors share figures that are no older."""
PICTURE_PIXELS = 480
TEXT_CHARACTERS = 5000
POSITION_COLOURS = {
    Position.CLOSED: "#2f9e44",
    Position.OPEN: "#c92a2a",
    Position.HALF_OPEN: "#f0b429",
    Position.FORCED_OPEN: "#862e2e",
    Position.FORCED_CLOSED: "#2b8a3e",
}


def page() -> None:
    """The whole page, by the query of its address: `item`, or `q` for a search, or neither."""
    st.set_page_config(page_title="Repli", layout="wide")
    st.html(STYLE)
    settings = Settings.from_environment()
    asked = st.query_params
    sidebar(settings)
    try:
        if item_id := asked.get("item"):
            st.html('<a class="repli-back" href="?">← the whole store</a>')
            item_page(settings, item_id)
        elif asked.get("q"):
            st.html('<a class="repli-back" href="?">← the whole store</a>')
            search_page(settings)
        else:
            overview(settings)
    except RepliError as error:
        st.html(notice(str(error)))


def sidebar(settings: Settings) -> None:
    """The search box."""
    asked = st.query_params
    modes = [str(mode) for mode in Mode]
    with st.sidebar:
        st.title("Repli", anchor=False)
        with st.form("search", border=False):
            text = st.text_input("Search", value=asked.get("q", ""), placeholder="words, or a sentence", max_chars=1000)
            mode = st.selectbox("By", modes, index=modes.index(m) if (m := asked.get("mode", "")) in modes else 0)
            least = st.slider("Quality at least", 0.0, 1.0, _least(), 0.05)
            if st.form_submit_button("Search", width="stretch") and text.strip():
                st.query_params.from_dict({"q": text, "mode": mode, "min_quality": f"{least:g}"})
                st.rerun()
        st.html('<div class="repli-quiet">This page reads the store and changes nothing.</div>')


def _least() -> float:
    try:
        return min(1.0, max(0.0, float(st.query_params.get("min_quality", "0"))))
    except ValueError:
        return 0.0


@st.cache_data(ttl=SHARED_S, show_spinner=False, max_entries=4)
def _figures(url: str) -> Figures:
    return figures(opened(url), STAGE_NAMES, declared_breakers())


@st.fragment(run_every=REFRESH_S)
def overview(settings: Settings) -> None:
    """How the store stands."""
    try:
        shown = _figures(settings.database_url)
    except RepliError as error:
        st.html(notice(str(error)))
        return
    headline(shown)
    left, right = st.columns(2)
    with left:
        st.subheader("Quality now", anchor=False)
        if shown.tally.items:
            st.altair_chart(charts.quality_now(shown.tally))
    with right:
        st.subheader("Quality at the end of each run", anchor=False)
        if shown.quality_over_time:
            st.altair_chart(charts.quality_over_time(shown.quality_over_time))
        else:
            quiet("No run has ended yet.")
    stages(shown)
    breakers(shown)
    queue(shown)
    drills(shown)
    lowest(shown)


def headline(shown: Figures) -> None:
    """The counts, and the run that began last."""
    tally = shown.tally
    mean = tally.mean_quality
    tiles = {
        "items": f"{tally.items:,}",
        "stored": f"{tally.stored:,}",
        "degraded": f"{tally.degraded:,}",
        "failed": f"{tally.failed:,}",
        "pending": f"{tally.pending:,}",
        "in the queue": f"{shown.queue.waiting:,}",
        "mean quality": "–" if mean is None else f"{mean:.3f}",
    }
    for column, (name, value) in zip(st.columns(len(tiles)), tiles.items(), strict=True):
        column.metric(name, value)
    if shown.is_running:
        st.progress((tally.stored + tally.failed) / max(1, tally.items))
    quiet(f"{_last_run(shown)} · as of {_time(shown.at)} UTC")


def _last_run(shown: Figures) -> str:
    last = shown.last_run
    if last is None:
        return "No run has begun yet: `repli run SOURCE` begins one"
    what = f"{last.kind} of {Path(last.source).name}" if last.kind == ENRICH else last.kind
    if shown.is_running:
        return f"at work: {what}, since {_time(last.started_at)}"
    if last.finished_at:
        return f"last run: {what}, ended {_time(last.finished_at)}"
    return f"last run: {what}, begun {_time(last.started_at)}, and not heard of any more"


def stages(shown: Figures) -> None:
    """Status and rung of each stage."""
    st.subheader("Stages", anchor=False)
    if not shown.tally.items:
        return
    left, right = st.columns(2)
    with left:
        quiet("Statuses")
        st.altair_chart(charts.status_by_stage(shown.tally.stages))
    with right:
        quiet("Rungs, the redder the higher their penalty")
        if any(shown.tally.rungs.values()):
            st.altair_chart(charts.rung_by_stage(shown.tally.rungs, CHAINS))
    rows: list[tuple[Cell, ...]] = [
        (stage, *(counts.get(status, 0) for status in Status), _rungs(shown, stage))
        for stage, counts in shown.tally.stages.items()
    ]
    st.html(table("stages", ("stage", *(str(status).replace("_", " ") for status in Status), "rungs"), rows))


def _rungs(shown: Figures, stage: str) -> str:
    rungs = shown.tally.rungs.get(stage, {})
    return " · ".join(f"{rung} {count:,}" for rung, count in sorted(rungs.items(), key=lambda one: -one[1]))


def breakers(shown: Figures) -> None:
    """Where each breaker stands, and the moves of all."""
    st.subheader("Breakers", anchor=False)
    rows: list[tuple[Cell, ...]] = [
        (
            str(view.key),
            badge(view.state.position.replace("_", " "), POSITION_COLOURS[view.state.position]),
            view.breaker.scope,
            len(view.state.failures),
            _when(view.state.opened_at),
            _when(view.state.probe_at),
            view.state.why,
        )
        for view in shown.breakers
    ]
    st.html(table("breakers", ("breaker", "state", "scope", "failures", "opened", "next probe", "why"), rows))
    if shown.moves:
        moves = [
            (_when(move.at), str(move.key), f"{move.old} → {move.new}".replace("_", " "), str(move.cause), move.why)
            for move in shown.moves
        ]
        with st.expander(f"The last {len(moves)} moves", expanded=len(moves) <= 10):
            st.html(table("moves", ("at", "breaker", "move", "cause", "why"), moves))
    else:
        quiet("No breaker has ever moved.")


def queue(shown: Figures) -> None:
    """Who waits to be done again."""
    st.subheader("Retry queue", anchor=False)
    if not shown.waiting:
        quiet("The retry queue is empty.")
        return
    left, right = st.columns(2)
    with left:
        st.altair_chart(charts.queue(shown.waiting))
    with right:
        counted = [(one.priority.name if one.priority else "parked", one.age, one.items) for one in shown.waiting]
        st.html(table("waiting", ("priority", "in the queue for", "items"), counted))
    rows = [
        (
            item_link(entry.item_id),
            entry.priority.name,
            quality_badge(entry.quality),
            entry.state,
            entry.tries,
            _when(entry.not_before),
        )
        for entry in shown.first_in_queue
    ]
    st.html(table("queue", ("next in turn", "priority", "quality", "state", "tries", "not before"), rows))


def drills(shown: Figures) -> None:
    """The last drill beside what is declared, and the verdicts of those before it."""
    st.subheader("Drills", anchor=False)
    if not shown.drills:
        quiet("No drill has been held: `repli drill` holds one.")
        return
    last = shown.drills[0]
    quiet("A rung whose agreement lies left of its declared penalty is worse than it says.")
    st.altair_chart(charts.drill(last))
    rows = [
        (
            _when(one.finished_at),
            badge(one.verdict, "#2f9e44" if one.verdict == "passed" else "#c92a2a"),
            f"{one.report['rungs_reached']} of {one.report['rungs_declared']}",
            "; ".join(
                f"{rung['stage']}.{rung['rung']}: {rung['reason']}"
                for rung in one.report["rungs"]
                if rung["verdict"] == FAILED
            ),
            ", ".join(one.report["not_covered"]),
        )
        for one in shown.drills
    ]
    st.html(table("drills", ("held", "verdict", "rungs reached", "what failed", "not covered"), rows))
    judged = [
        (
            f"{one['stage']}.{one['rung']}",
            spoken(one["verdict"]),
            one["agreement"],
            "–".join(f"{end:.2f}" for end in one["interval"]) if one["interval"] else "",
            one["penalty"],
            one["penalty_justified"],
            one["seconds_per_item"],
            one["reason"] or one["note"],
        )
        for one in last.report["rungs"]
    ]
    with st.expander("Every rung of the last drill"):
        headers = ("rung", "verdict", "agreement", "95 %", "penalty", "justified", "s per item", "why")
        st.html(table("drill", headers, judged))


def lowest(shown: Figures) -> None:
    """The items of the lowest quality."""
    if shown.lowest:
        st.subheader("Lowest quality", anchor=False)
        rows = [
            (item_link(one.id, one.name), quality_badge(one.quality), "; ".join(one.reasons)) for one in shown.lowest
        ]
        st.html(table("lowest", ("item", "quality", "why"), rows))


@st.fragment(run_every=REFRESH_S)
def item_page(settings: Settings, item_id: str) -> None:
    """One item: what it is, and how it came to it."""
    try:
        database = opened(settings.database_url)
        view = lookup.view(database, item_id, STAGE_NAMES)
    except RepliError as error:
        st.html(notice(str(error)))
        return
    if view is None:
        st.html(notice(f"There is no item {item_id[:200]!r} in this store."))
        return
    item = view.state.item
    st.html(
        f'<div class="repli-name">{plain(str(item.name or item.id))}</div>'
        f'<div class="repli-quiet" id="repli-item">{plain(item.id)} · {_state(view)}</div>'
    )
    st.html(" ".join([quality_badge(view.quality).text, *(chip(f"{stage} degraded") for stage in view.degraded)]))
    left, right = st.columns([1, 2])
    with left:
        picture(settings, view)
        label(view)
    with right:
        text = (view.state.value("extract_text") or {}).get("text")
        st.html(f'<div class="repli-text" id="repli-text">{plain(text or "No text.", TEXT_CHARACTERS)}</div>')
        declared = [(name, str(value)) for name, value in (("document", item.document), ("image", item.image)) if value]
        declared += [(str(name), str(value)) for name, value in item.attributes.items()]
        st.html(table("declared", ("declared", ""), declared))
    trail(view)


def _state(view: ItemView) -> str:
    if view.quality is not None:
        return "stored"
    return "failed" if any(step.status is Status.FAILED for step in view.stages.values()) else "pending"


def picture(settings: Settings, view: ItemView) -> None:
    """The item's picture as it was fetched, made small; or why there is none."""
    asset = (view.state.value("fetch") or {}).get("image")
    if not asset:
        quiet("No picture.")
        return
    try:
        st.image(_thumbnail(Blobs(settings.blobs).read(asset["sha256"])), width="stretch")
    except (OSError, ItemError) as error:
        quiet(f"The picture cannot be shown: {error}")


@st.cache_data(max_entries=64, show_spinner=False)
def _thumbnail(content: bytes) -> bytes:
    image = open_image(content)
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def label(view: ItemView) -> None:
    """What was seen on the picture."""
    seen = view.state.value("classify_image") or {}
    if seen:
        named = seen.get("label") or "unknown"
        st.html(f'<div id="repli-label"><b>{plain(named)}</b></div>')
        guesses = [(guess["label"], float(guess["confidence"])) for guess in seen.get("top") or ()]
        if guesses:
            st.html(table("guesses", ("label", "confidence"), [(name, f"{sure:.1%}") for name, sure in guesses]))


def trail(view: ItemView) -> None:
    """What each stage left, and every rung that was considered for it."""
    st.subheader("Stages", anchor=False)
    ended = [step.finished_at for step in view.stages.values() if step.finished_at]
    quiet(f"ended {_time(max(ended))} UTC" if ended else "nothing has been done yet")
    steps: list[tuple[Cell, ...]] = []
    attempts: list[tuple[Cell, ...]] = []
    for stage, step in view.stages.items():
        status = badge(str(step.status).replace("_", " "), charts.STATUS_COLOURS[step.status])
        penalty = "" if step.penalty is None else f"{step.penalty:g}"
        confidence = "" if step.confidence is None else f"{step.confidence:.3f}"
        error = step.error.line if step.error else ""
        again = "yes" if step.retryable else ""
        steps.append((stage, status, step.rung, penalty, confidence, again, error))
        for attempt in step.attempts:
            why = attempt.error.line if attempt.error else ""
            attempts.append((stage, attempt.rung, str(attempt.outcome), f"{attempt.seconds:.3f}", why))
    headers = ("stage", "status", "rung", "penalty", "confidence", "retryable", "error")
    st.html(table("steps", headers, steps))
    st.subheader("Attempts", anchor=False)
    st.html(table("attempts", ("stage", "rung", "outcome", "seconds", "error"), attempts))


def search_page(settings: Settings) -> None:
    """What goes best with the words of the address."""
    asked = st.query_params
    query = Query(text=asked["q"], mode=Mode.parse(asked.get("mode", "hybrid")), limit=20, min_quality=_least())
    with st.spinner("Searching. The first search loads the text model."):
        found = search(settings, opened(settings.database_url), query)
    hits(found)


def hits(found: Found) -> None:
    """The hits of a search, and what was not looked at."""
    for note in found.notes:
        st.html(notice(note))
    if not found.hits:
        quiet("Nothing was found. Try other words, or a lower quality.")
    for hit in found.hits:
        chips = " ".join(chip(f"{stage} degraded") for stage in hit.degraded)
        st.html(
            f'<div class="repli-hit">{item_link(hit.id, hit.name).text} {quality_badge(hit.quality).text} {chips}'
            f"<div>{snippet(hit.snippet)}</div>"
            f'<div class="repli-quiet">{plain(hit.id)} · score {hit.score:.3f}</div></div>'
        )


def quiet(text: str) -> None:
    """A line in a small voice, as plain text."""
    st.html(f'<div class="repli-quiet">{plain(text, 1000)}</div>')


def _when(time: datetime | None) -> Html:
    """A time in a table, on one line."""
    return Html(f'<span class="repli-time">{_time(time)}</span>')


def _time(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}" if when else ""


if __name__ == "__main__":
    page()
