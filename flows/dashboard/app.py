"""The dashboard: the whole store, one item, a search, or the questions of a drill, by the address of the page.

It reads the store only, but for the answers to questions; see `repli.flows.dashboard.questions_page`.

`repli dashboard` starts it. Streamlit runs this file from the top for each visitor and each click. Names, texts and
errors of a catalogue go through `markup`, which escapes them: Streamlit's own elements would read them as Markdown.
"""

from __future__ import annotations

import streamlit as st

from repli.flows.dashboard.elements import show_caption, show_notice
from repli.flows.dashboard.item_page import item_page
from repli.flows.dashboard.markup import (
    STYLE,
    accuracy_chip,
    degraded_chips,
    item_link,
    notice,
    plain,
    quality_badge,
    snippet,
)
from repli.flows.dashboard.overview import QUESTIONS, overview_page
from repli.flows.dashboard.questions_page import questions_page
from repli.tasks.fallback import RepliError
from repli.tasks.search import Mode, Query, SearchResult, search
from repli.tasks.settings import Settings
from repli.tasks.storage.views.dashboard_stats import open_read_only

HITS = 20
BACK_LINK = '<a class="repli-back" href="?">← overview</a>'


def page() -> None:
    """Show the page that the address names: `item`, `q` for a search, `questions`, or none for the overview."""
    st.set_page_config(page_title="Repli", layout="wide")
    st.html(STYLE)
    settings = Settings.from_environment()
    address = st.query_params
    show_sidebar()
    try:
        if item_id := address.get("item"):
            st.html(BACK_LINK)
            item_page(settings, item_id)
        elif address.get("q"):
            st.html(BACK_LINK)
            search_page(settings)
        elif QUESTIONS in address:
            st.html(BACK_LINK)
            questions_page(settings)
        else:
            overview_page(settings)
    except RepliError as error:
        show_notice(error)


def show_sidebar() -> None:
    """Show the search form. Its fields are kept in the address, so that a search can be shared as a link."""
    address = st.query_params
    modes = [str(mode) for mode in Mode]
    chosen = address.get("mode", "")
    with st.sidebar:
        st.title("Repli", anchor=False)
        with st.form("search", border=False):
            text = st.text_input(
                "Search", value=address.get("q", ""), placeholder="words, or a sentence", max_chars=1000
            )
            mode = st.selectbox("Mode", modes, index=modes.index(chosen) if chosen in modes else 0)
            min_quality = st.slider("Minimum quality", 0.0, 1.0, _min_quality(), 0.05)
            if st.form_submit_button("Search", width="stretch") and text.strip():
                st.query_params.from_dict({"q": text, "mode": mode, "min_quality": f"{min_quality:g}"})
                st.rerun()
        st.html('<div class="repli-quiet">These pages only read the store, but for answers to questions.</div>')


def _min_quality() -> float:
    """Return the minimum quality in the address, clipped to 0 to 1; 0 if it is no number."""
    try:
        return min(1.0, max(0.0, float(st.query_params.get("min_quality", "0"))))
    except ValueError:
        return 0.0


def search_page(settings: Settings) -> None:
    """Show the items that match the query in the address best."""
    address = st.query_params
    mode = Mode.parse(address.get("mode", "hybrid"))
    query = Query(text=address["q"], mode=mode, limit=HITS, min_quality=_min_quality())
    with st.spinner("Searching. The first search loads the text model."):
        found = search(settings, open_read_only(settings.database_url), query)
    show_hits(found)


def show_hits(found: SearchResult) -> None:
    """Show the hits of a search, and its notes: kinds of search that were not possible."""
    for note in found.notes:
        st.html(notice(note))
    if not found.hits:
        show_caption("No items found. Try other words, or a lower quality.")
    for hit in found.hits:
        chips = f"{accuracy_chip(hit.expected_accuracy)} {degraded_chips(hit.degraded, hit.declined)}"
        st.html(
            f'<div class="repli-hit">{item_link(hit.id, hit.name).text} {quality_badge(hit.quality).text} {chips}'
            f"<div>{snippet(hit.snippet)}</div>"
            f'<div class="repli-quiet">{plain(hit.id)} · score {hit.score:.3f}</div></div>'
        )


if __name__ == "__main__":
    page()
