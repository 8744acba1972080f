"""The page of one item: its image, its text, its label, and the attempts of each stage."""

from __future__ import annotations

from io import BytesIO

import streamlit as st

from repli.flows.dashboard import charts
from repli.flows.dashboard.elements import show_caption, show_notice
from repli.flows.dashboard.markup import (
    Cell,
    accuracy_chip,
    badge,
    degraded_chips,
    format_time,
    notice,
    plain,
    quality_badge,
    table,
)
from repli.flows.dashboard.overview import REFRESH_S
from repli.tasks.execution.run_pipeline import store_pipeline
from repli.tasks.fallback import ItemError, RepliError, Status
from repli.tasks.models.pictures import open_image
from repli.tasks.settings import Settings
from repli.tasks.storage.blobs import Blobs
from repli.tasks.storage.views import lookup
from repli.tasks.storage.views.dashboard_stats import open_read_only
from repli.tasks.storage.views.lookup import ItemView

IMAGE_PIXELS = 480
TEXT_CHARACTERS = 5000


@st.fragment(run_every=REFRESH_S)
def item_page(settings: Settings, item_id: str) -> None:
    """Show one item, and keep the page up to date."""
    try:
        database = open_read_only(settings.database_url)
        view = lookup.view(database, item_id, store_pipeline(settings, database))
    except RepliError as error:
        show_notice(error)
        return
    if view is None:
        st.html(notice(f"There is no item {item_id[:200]!r} in this store."))
        return
    item = view.state.item
    st.html(
        f'<div class="repli-name">{plain(str(item.name or item.id))}</div>'
        f'<div class="repli-quiet" id="repli-item">{plain(item.id)} · {_state(view)}</div>'
    )
    chips = degraded_chips(view.degraded, view.declined)
    st.html(f"{quality_badge(view.quality).text} {accuracy_chip(view.expected_accuracy)} {chips}")
    left, right = st.columns([1, 2])
    with left:
        show_image(settings, view)
        show_label(view)
    with right:
        text = view.produced("text").get("text")
        st.html(f'<div class="repli-text" id="repli-text">{plain(text or "No text.", TEXT_CHARACTERS)}</div>')
        declared = [(name, str(value)) for name, value in (("document", item.document), ("image", item.image)) if value]
        declared += [(str(name), str(value)) for name, value in item.attributes.items()]
        st.html(table("declared", ("declared", ""), declared))
    show_attempts(view)


def _state(view: ItemView) -> str:
    """Return whether the item is stored, failed, or pending."""
    if view.quality is not None:
        return "stored"
    return "failed" if any(step.status is Status.FAILED for step in view.stages.values()) else "pending"


def show_image(settings: Settings, view: ItemView) -> None:
    """Show the fetched image as a thumbnail, or why there is none."""
    asset = view.produced("assets").get("image")
    if not asset:
        show_caption("No image.")
        return
    try:
        st.image(_thumbnail(Blobs(settings.blobs).read(asset["sha256"])), width="stretch")
    except (OSError, ItemError) as error:
        show_caption(f"The image cannot be shown: {error}")


@st.cache_data(max_entries=64, show_spinner=False)
def _thumbnail(content: bytes) -> bytes:
    """Return an image as a PNG of at most `IMAGE_PIXELS` a side."""
    image = open_image(content, at_least=IMAGE_PIXELS)
    image.thumbnail((IMAGE_PIXELS, IMAGE_PIXELS))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def show_label(view: ItemView) -> None:
    """Show the label of the image, and the best guesses with their confidences."""
    value = view.produced("label")
    if value:
        label = value["label"] or "unknown"  # None in stores of versions that withheld it
        st.html(f'<div id="repli-label"><b>{plain(label)}</b></div>')
        guesses = [(guess["label"], f"{float(guess['confidence']):.1%}") for guess in value.get("top") or ()]
        if guesses:
            st.html(table("guesses", ("label", "confidence"), guesses))


def show_attempts(view: ItemView) -> None:
    """Show the result of each stage, and every rung that was considered for it."""
    st.subheader("Stages", anchor=False)
    ended = [step.finished_at for step in view.stages.values() if step.finished_at]
    show_caption(f"ended {format_time(max(ended))} UTC" if ended else "no stage has run yet")
    steps: list[tuple[Cell, ...]] = []
    attempts: list[tuple[Cell, ...]] = []
    for stage, step in view.stages.items():
        status = badge(str(step.status).replace("_", " "), charts.STATUS_COLOURS[step.status])
        penalty = "" if step.penalty is None else f"{step.penalty:g}"
        confidence = "" if step.confidence is None else f"{step.confidence:.3f}"
        error = step.error.line if step.error else ""
        retryable = "yes" if step.retryable else ""
        steps.append((stage, status, step.rung, penalty, confidence, retryable, error))
        for attempt in step.attempts:
            why = attempt.error.line if attempt.error else ""
            attempts.append(
                (stage, attempt.rung, str(attempt.outcome), f"{attempt.seconds:.3f}", attempt.where or "", why)
            )
    headers = ("stage", "status", "rung", "penalty", "confidence", "retryable", "error")
    st.html(table("steps", headers, steps))
    st.subheader("Attempts", anchor=False)
    st.html(table("attempts", ("stage", "rung", "outcome", "seconds", "where", "error"), attempts))
