"""Streamlit elements that show text as it is, never as Markdown."""

from __future__ import annotations

import re

import streamlit as st

from repli.flows.dashboard.markup import notice, plain


def show_caption(text: str) -> None:
    """Show a line of small grey text."""
    st.html(f'<div class="repli-quiet">{plain(text, 1000)}</div>')


def show_notice(error: Exception) -> None:
    """Show the message of an error."""
    st.html(notice(str(error)))


def button_text(text: str, longest: int = 120) -> str:
    """Return a text for a button, whose label is Markdown: every character that Markdown could read is escaped."""
    line = " ".join(text.split())
    return re.sub(r"([^\w\s])", r"\\\1", line if len(line) <= longest else line[: longest - 1] + "…")
