"""Pieces of Markdown reports, as the Prefect UI shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from repli.tasks.storage.breakers import Move

LISTED_MOVES = 50
"""Moves of breakers that a report names: the last ones."""


def table(corner: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, int]]) -> str:
    """Rows by name over columns by name; what is missing stays empty."""
    lines = [[corner, *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name, *(str(counts.get(column, "")) for column in columns)] for name, counts in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def moves_table(moves: Sequence[Move]) -> str:
    """What breakers did, the last moves."""
    lines = ["| at (UTC) | breaker | from | to | cause | why |", "| --- | --- | --- | --- | --- | --- |"]
    if len(moves) > LISTED_MOVES:
        lines.append(f"| | the first {len(moves) - LISTED_MOVES} are in the store | | | | |")
    for move in moves[-LISTED_MOVES:]:
        cells = (str(move.key), move.old, move.new, move.cause, move.why)
        lines.append(f"| {move.at:%H:%M:%S} | {' | '.join(cell(text) for text in cells)} |")
    return "\n".join(lines)


def cell(text: str, longest: int = 240) -> str:
    """`text` as it may stand in a table: on one line, with nothing that Markdown or HTML would act on."""
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return _ACTED_ON.sub(r"\\\g<0>", " ".join(short.split()))


_ACTED_ON = re.compile(r"[&<>|`*_~\[\]\\]|:(?=//)|(?<=www)\.")
"""What Markdown or HTML would act on, links without brackets included. It is escaped by a backslash, since the Prefect
UI shows an entity (`&#95;`) as it is written."""
