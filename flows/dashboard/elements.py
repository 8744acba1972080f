"""Streamlit elements that show text as it is, never as Markdown."""

from __future__ import annotations

import streamlit as st

from repli.flows.dashboard.markup import notice, plain


def show_caption(text: str) -> None:
    """Show a line of small grey text."""
    st.html(f'<div class="repli-quiet">{plain(text, 1000)}</div>')


def show_notice(error: Exception) -> None:
    """Show the message of an error."""
    st.html(notice(str(error)))
