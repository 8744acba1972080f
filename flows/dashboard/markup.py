"""HTML of the dashboard. Values from a catalogue are escaped, so that they are shown as text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from urllib.parse import urlencode

from repli.tasks.reporting.run_report import colour
from repli.tasks.storage.search.query import BEGIN, END


@dataclass(frozen=True, slots=True)
class Html:
    """A text that is HTML already, and is not escaped."""

    text: str


Cell = Html | str | int | float | None

STYLE = """
<style>
.repli-table { overflow-x: auto; }
.repli-table table { border-collapse: collapse; width: 100%; font-size: 0.875rem; }
.repli-table th { text-align: left; font-weight: 600; opacity: 0.7; border: 0; }
.repli-table th, .repli-table td { padding: 0.3rem 0.5rem 0.3rem 0; border: 0; vertical-align: top; }
.repli-table tr { border: 0; border-bottom: 1px solid rgba(128, 128, 128, 0.2); }
.repli-table td.number, .repli-table th.number { text-align: right; font-variant-numeric: tabular-nums; }
.repli-table td:first-child { min-width: 7rem; }
.repli-table a, .repli-hit a, .repli-back { color: #1c7ed6; text-decoration: none; }
[data-stale="true"] { opacity: 1 !important; } /* no fading at each refresh */
.stMainBlockContainer { padding-top: 2.5rem; }
.repli-table td { overflow-wrap: break-word; max-width: 32rem; }
.repli-time { white-space: nowrap; }
.repli-table td:last-child:not(:first-child) { overflow-wrap: anywhere; min-width: 7rem; }
.repli-badge { border-radius: 0.75rem; padding: 0.05rem 0.55rem; color: #fff; font-size: 0.8rem; white-space: nowrap; }
.repli-chip { border: 1px solid rgba(128, 128, 128, 0.5); border-radius: 0.75rem; padding: 0 0.5rem;
  font-size: 0.8rem; white-space: nowrap; }
.repli-name { font-size: 1.75rem; font-weight: 600; line-height: 1.25; overflow-wrap: anywhere; }
.repli-quiet { opacity: 0.65; font-size: 0.875rem; overflow-wrap: anywhere; }
.repli-text { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 22rem; overflow-y: auto;
  font-size: 0.9rem; border-left: 3px solid rgba(128, 128, 128, 0.3); padding-left: 0.75rem; }
.repli-hit { padding: 0.5rem 0 0.75rem; border-bottom: 1px solid rgba(128, 128, 128, 0.2); }
.repli-hit a { font-size: 1.05rem; font-weight: 600; }
.repli-notice { border-left: 4px solid #d9480f; padding: 0.5rem 0.75rem; background: rgba(217, 72, 15, 0.08); }
</style>
"""


def plain(value: Cell, longest: int = 500) -> str:
    """Return a value as escaped text, cut to `longest` characters. `Html` is returned as it is."""
    if isinstance(value, Html):
        return value.text
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:g}" if isinstance(value, float) else value
    return escape(text if len(text) <= longest else text[:longest] + " …")


def table(name: str, headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table with the id `repli-NAME`. A column is right-aligned if its first cell is a number."""
    rows = list(rows)
    classes = [' class="number"' if isinstance(cell, int | float) else "" for cell in (rows[0] if rows else ())]
    classes += [""] * (len(headers) - len(classes))
    head = "".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(classes, headers, strict=True))
    lines = "".join(
        f"<tr>{''.join(f'<td{kind}>{plain(cell)}</td>' for kind, cell in zip(classes, row, strict=True))}</tr>"
        for row in rows
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="repli-table" id="repli-{name}">{whole}</div>'


def item_link(item_id: str, text: str | None = None) -> Html:
    """Return a link to the page of an item."""
    return Html(f'<a href="?{urlencode({"item": item_id})}">{plain(text or item_id, 120)}</a>')


def quality_badge(quality: float | None) -> Html:
    """Return the quality of an item as a badge in its colour."""
    if quality is None:
        return badge("no quality", "#868e96")
    return badge(f"{quality:.4g}", colour(quality))


def accuracy_chip(accuracy: float | None) -> str:
    """Return the expected accuracy of an item as a chip; nothing where there is none."""
    return "" if accuracy is None else chip(f"expected accuracy {accuracy:.2f}")


def badge(text: str, background: str) -> Html:
    """Return a word on a coloured background."""
    return Html(f'<span class="repli-badge" style="background:{background}">{plain(text)}</span>')


def chip(text: str) -> str:
    """Return a word with a border."""
    return f'<span class="repli-chip">{plain(text)}</span>'


def degraded_chips(degraded: Iterable[str], declined: Collection[str]) -> str:
    """Return a chip for each degraded stage, which says whether a rung declined the item there."""
    return " ".join(chip(f"{stage} {'declined' if stage in declined else 'degraded'}") for stage in degraded)


def time_cell(when: datetime | None) -> Html:
    """Return a time as the cell of a table, on one line."""
    return Html(f'<span class="repli-time">{format_time(when)}</span>')


def format_time(when: datetime | None) -> str:
    """Return a time as `YYYY-MM-DD HH:MM:SS`, or '' for None."""
    return f"{when:%Y-%m-%d %H:%M:%S}" if when else ""


def snippet(text: str) -> str:
    """Return a passage with the words of the query marked."""
    return plain(text, 2000).replace(BEGIN, "<mark>").replace(END, "</mark>")


def notice(text: str) -> str:
    """Return an error message as an alert."""
    return f'<div class="repli-notice" role="alert">{plain(text, 1000)}</div>'
