"""The page of a drill's questions: one at a time, with the picture and a button for each candidate.

It is the only page that writes: one label, by the click of a button. The address of a page never answers, so a link
from another site cannot; and Streamlit accepts the connection that carries a click from pages of this machine only, see
`repli.flows.dashboard.launch`.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from repli.flows.dashboard.elements import button_text, show_caption, show_notice
from repli.flows.dashboard.item_page import show_image
from repli.flows.dashboard.markup import item_link, notice, plain
from repli.tasks.drill.labelling import BOTH, NONE, OpenQuestions, give_label, questions_of_latest
from repli.tasks.drill.questions import Question
from repli.tasks.execution.run_pipeline import choose, store_pipeline
from repli.tasks.fallback import RepliError
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database
from repli.tasks.storage.views import lookup
from repli.tasks.storage.views.dashboard_stats import open_read_only

LATER, TOLD = "repli-later", "repli-told"
"""What this visitor puts off, and what the last click came to."""
Key = tuple[str, str]


def questions_page(settings: Settings) -> None:
    """Show the first open question of the latest drill that this visitor has not put off."""
    database = open_read_only(settings.database_url)
    found = questions_of_latest(database)
    if found is None or not found.questions:
        show_caption("The last drill has no questions. `repli drill` finds the items on which rungs disagree.")
        return
    show_result()
    later: set[Key] = st.session_state.setdefault(LATER, set())
    waiting = [question for question, given in found.questions if given is None]
    show_progress(found, len(waiting))
    shown = [question for question in waiting if (question.item_id, question.stage) not in later]
    if shown:
        show_question(settings, database, shown[0])
    elif waiting:
        show_caption("You have put off the others.")
        if st.button("Show them again"):
            later.clear()
            st.rerun()


def show_result() -> None:
    """Show what the last click came to, once."""
    told: Exception | str | None = st.session_state.pop(TOLD, None)
    if isinstance(told, Exception):
        show_notice(told)
    elif told:
        show_caption(told)


def show_progress(found: OpenQuestions, waiting: int) -> None:
    """Show how many questions are open."""
    st.html('<div class="repli-name">Which answer is right?</div>')
    if waiting:
        show_caption(f"{waiting} open, {found.answered} answered. The next drill measures by your answers.")
    else:
        show_caption(f"All {found.answered} questions are answered. The next drill measures by them.")
    st.progress(found.answered / len(found.questions))


def show_question(settings: Settings, database: Database, question: Question) -> None:
    """Show a question: the picture or the text, and the candidates as buttons."""
    view = lookup.view(database, question.item_id, store_pipeline(settings, database))
    if view is None:
        st.html(notice(f"The item {question.item_id[:200]!r} is not in the store any more."))
    left, right = st.columns([1, 1])
    with left:
        st.html(
            f'<div class="repli-hit">{item_link(question.item_id, question.name).text}'
            f'<div class="repli-quiet" id="repli-question">{plain(question.item_id)} · {plain(question.stage)}</div>'
            "</div>"
        )
        if question.kind == "label" and view:
            show_image(settings, view)
        if question.document:
            show_caption(question.document)
        if question.text and question.kind == "label":
            st.html(f'<div class="repli-text">{plain(question.text)}</div>')
    with right:
        show_candidates(settings, question)
        if question.kind == "label":
            show_other_label(settings, question)
        if st.button("Later", key="later"):
            st.session_state[LATER].add((question.item_id, question.stage))
            st.rerun()


def show_candidates(settings: Settings, question: Question) -> None:
    """Show a button for each candidate, and for none of them."""
    for answer, (text, rungs) in candidates(question).items():
        if question.kind == "rung":
            st.html(f'<div class="repli-text">{plain(text, 1000)}</div>')
        on_click, args = keep_answer, (settings, question, answer)
        key = f"{question.stage} {question.item_id} {answer}"
        shown = answer if question.kind == "label" else rungs
        st.button(button_text(shown), key=key, on_click=on_click, args=args, width="stretch")
        if question.kind == "label":
            show_caption(f"said by {rungs}")
    others = {NONE: "None of these"} if question.kind == "label" else {BOTH: "All of these", NONE: "None of these"}
    for answer, text in others.items():
        key = f"{question.stage} {question.item_id} {answer} of all"
        st.button(text, key=key, on_click=keep_answer, args=(settings, question, answer), width="stretch")


def candidates(question: Question) -> Mapping[str, tuple[str, str]]:
    """Return the text and the rungs of each different answer to a question, by the value that it is answered by."""
    by_key: dict[str, list[str]] = {}
    for said in question.said:
        by_key.setdefault(said.key, []).append(said.rung)
    texts = {said.key: said.answer for said in question.said}
    return {
        (texts[key] if question.kind == "label" else ",".join(rungs)): (texts[key], ", ".join(rungs))
        for key, rungs in by_key.items()
    }


def show_other_label(settings: Settings, question: Question) -> None:
    """Show a field for a label that no rung said."""
    with st.form("other", border=False, clear_on_submit=True):
        label = st.text_input("Another label", placeholder="a name of the vocabulary", max_chars=200)
        if st.form_submit_button("Keep it") and label.strip():
            keep_answer(settings, question, label)
            st.rerun()


def keep_answer(settings: Settings, question: Question, answer: str) -> None:
    """Keep the answer of a click. An error is shown when the page is drawn again."""
    try:
        database = Database(settings.database_url)
        try:
            declared = choose(settings, database).declared
            give_label(database, declared, question.item_id, answer, question.stage)
        finally:
            database.engine.dispose()
    except RepliError as error:
        st.session_state[TOLD] = error
    else:
        st.session_state[TOLD] = f"Kept: {question.name}: {answer}"
