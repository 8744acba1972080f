"""Tables and cells of Markdown reports, for the Prefect UI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from repli.tasks.storage.breakers import Move
from repli.tasks.storage.usage import ApiUsage

MAX_LISTED_MOVES = 50
"""The most breaker moves that a report lists: the last ones."""


def table(corner: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, int]]) -> str:
    """Return a table of counts by row and column, with `corner` as its first heading. Missing counts stay empty."""
    lines = [[corner, *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name, *(str(counts.get(column, "")) for column in columns)] for name, counts in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def moves_table(moves: Sequence[Move]) -> str:
    """Return a table of the last `MAX_LISTED_MOVES` breaker moves."""
    lines = ["| at (UTC) | breaker | from | to | cause | why |", "| --- | --- | --- | --- | --- | --- |"]
    if len(moves) > MAX_LISTED_MOVES:
        lines.append(f"| | {len(moves) - MAX_LISTED_MOVES} earlier moves are in the store | | | | |")
    for move in moves[-MAX_LISTED_MOVES:]:
        cells = (str(move.key), move.old, move.new, move.cause, move.why)
        lines.append(f"| {move.at:%H:%M:%S} | {' | '.join(cell(text) for text in cells)} |")
    return "\n".join(lines)


def usage_section(usage: Sequence[ApiUsage]) -> str:
    """Return the section on what the requests to models behind an API have used."""
    return "## Models behind an API\n\n" + "\n".join(f"- {cell(str(used))}" for used in usage)


def cell(text: str, longest: int = 240) -> str:
    """Return `text` for a table cell: on one line, at most `longest` characters, with Markdown and HTML escaped."""
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return _SPECIAL.sub(r"\\\g<0>", " ".join(short.split()))


_SPECIAL = re.compile(r"[&<>|`*_~\[\]\\]|:(?=//)|(?<=www)\.")
"""Characters with a meaning in Markdown or HTML, including those of links without brackets. They are escaped with a
backslash, because the Prefect UI does not decode entities (`&#95;`)."""
