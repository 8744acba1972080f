"""The passage of each found document that shows best why it was found.

PostgreSQL has `ts_headline`. FTS5's `snippet()` and `highlight()` take time that grows with the square of the matches
(15 s and more for long texts), so on SQLite the passage is chosen here, in time that grows with the text.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from tasks.storage.database import Database
from tasks.storage.schema import documents

BEGIN, END = "\x02", "\x03"
"""Around the words of a snippet that were looked for."""
SNIPPET_WORDS = 24
MAX_CHARACTERS = 250_000
"""Of a text, as many as the index of PostgreSQL takes; what comes after is in no snippet."""
TOKENIZER = "porter unicode61 remove_diacritics 2"
"""Of `documents_words`, see migration 0005."""
_BEGINNING_CHARACTERS = 400
_WORD = re.compile(rf"[^\s{BEGIN}{END}]{{1,40}}")
"""What is longer is taken for several."""
_MARKED = re.compile(f"{BEGIN}(.*?){END}")


def snippets(database: Database, connection: sa.Connection, numbers: Sequence[int], look_for: str) -> dict[int, str]:
    """One line of each document, of about `SNIPPET_WORDS` words: where what is looked for stands, or how it begins.

    Args:
        numbers: of the documents; one without a text has no snippet.
        look_for: words, as the database's full-text search takes them; '' for the beginnings.
    """
    found: dict[int, str] = {}
    if look_for and numbers:
        found = (_chosen if database.is_sqlite else _headlines)(connection, numbers, look_for)
    return _beginnings(connection, [number for number in numbers if number not in found]) | found


def one_line(text: str) -> str:
    """`text` without marks, and with a blank for all that parts two words."""
    return " ".join(text.translate(_NO_MARKS).split())


_NO_MARKS = str.maketrans(BEGIN + END, "  ")


def _headlines(connection: sa.Connection, numbers: Sequence[int], look_for: str) -> dict[int, str]:
    text = "translate(left(text, :most), :marks, '  ')"
    query = (
        f"SELECT number, ts_headline('english', {text}, wanted, :options) AS passage "  # noqa: S608
        "FROM documents, to_tsquery('english', :look_for) AS wanted "
        f"WHERE number IN :numbers AND to_tsvector('english', {text}) @@ wanted"
    )
    bound = {
        "most": MAX_CHARACTERS,
        "marks": BEGIN + END,
        "options": f"StartSel={BEGIN}, StopSel={END}, MaxWords={SNIPPET_WORDS}, MinWords={SNIPPET_WORDS // 2}",
        "look_for": look_for,
        "numbers": list(numbers),
    }
    rows = connection.execute(sa.text(query).bindparams(sa.bindparam("numbers", expanding=True)), bound)
    return {row.number: " ".join(row.passage.split()) for row in rows}


def _chosen(connection: sa.Connection, numbers: Sequence[int], look_for: str) -> dict[int, str]:
    query = sa.select(documents.c.number, sa.func.substr(documents.c.text, 1, MAX_CHARACTERS).label("text"))
    rows = connection.execute(query.where(documents.c.number.in_(numbers))).all()
    texts = {row.number: row.text for row in rows if row.text}
    words = {number: list(_WORD.finditer(text)) for number, text in texts.items()}
    marked = _marked({word.group() for of_text in words.values() for word in of_text}, look_for)
    passages = {number: passage(texts[number], words[number], marked) for number in texts}
    return {number: found for number, found in passages.items() if found}


def _marked(words: Collection[str], look_for: str) -> dict[str, str]:
    """Those of the words that FTS5 finds, each with its marks."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(f"CREATE VIRTUAL TABLE words USING fts5(word, tokenize='{TOKENIZER}')")
        connection.executemany("INSERT INTO words VALUES (?)", ((word,) for word in words))
        query = "SELECT word, highlight(words, 0, ?, ?) FROM words WHERE words MATCH ?"
        return dict(connection.execute(query, (BEGIN, END, look_for)))
    finally:
        connection.close()


def passage(text: str, words: Sequence[re.Match[str]], marked: Mapping[str, str]) -> str:
    """The `SNIPPET_WORDS` words of a text among which most of the marked ones stand, with their marks.

    The same word twice counts once; of equal passages it is the earliest. What is marked stands in its middle, and '…'
    where it is cut. '' where no word is marked.
    """
    places = [place for place, word in enumerate(words) if word.group() in marked]
    if not places:
        return ""
    first, last = _densest(
        places, [" ".join(_MARKED.findall(marked[words[place].group()].lower())) for place in places]
    )
    begin = max(0, min(first - (SNIPPET_WORDS - (last + 1 - first)) // 2, len(words) - SNIPPET_WORDS))
    shown = words[begin : begin + SNIPPET_WORDS]
    parts = ["…" if begin else ""]
    for before, word in zip([None, *shown], shown, strict=False):
        is_apart = before is not None and before.end() < word.start()
        parts += [" " if is_apart else "", marked.get(word.group(), word.group())]
    return "".join([*parts, "…" if begin + SNIPPET_WORDS < len(words) else ""])


def _densest(places: Sequence[int], names: Sequence[str]) -> tuple[int, int]:
    """The first and the last place of the passage in which most different names are."""
    counts: dict[str, int] = {}
    most, best, left = 0, (places[0], places[0]), 0
    for place, name in zip(places, names, strict=True):
        counts[name] = counts.get(name, 0) + 1
        while place - places[left] >= SNIPPET_WORDS:
            counts[names[left]] -= 1
            if not counts[names[left]]:
                del counts[names[left]]
            left += 1
        if len(counts) > most:
            most, best = len(counts), (places[left], place)
    return best


def _beginnings(connection: sa.Connection, numbers: Sequence[int]) -> dict[int, str]:
    shortened = sa.func.substr(documents.c.text, 1, _BEGINNING_CHARACTERS).label("text")
    found: dict[int, str] = {}
    for row in connection.execute(sa.select(documents.c.number, shortened).where(documents.c.number.in_(numbers))):
        words = one_line(row.text or "").split(" ")
        found[row.number] = " ".join(words[:SNIPPET_WORDS]) + (" …" if len(words) > SNIPPET_WORDS else "")
    return {number: beginning for number, beginning in found.items() if beginning}
