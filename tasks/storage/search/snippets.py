"""The passage of each found document that shows best why it was found.

It is chosen here, one text at a time, in time that grows with the text: FTS5's `snippet()` and `highlight()` take time
that grows with the square of the matches (15 s and more for long texts), and PostgreSQL's `ts_headline` does not see
the `node` in `node.js`. FTS5 in memory says which words are marked, whatever the store's database is.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing

import sqlalchemy as sa

from repli.tasks.storage.schema import documents

BEGIN, END = "\x02", "\x03"
"""Around the words of a snippet that were looked for."""
SNIPPET_WORDS = 24
MAX_CHARACTERS = 250_000
"""Of a text, as many as the index of PostgreSQL takes; what comes after is in no snippet."""
TEXTS_PER_READ = 20
TOKENIZER = "porter unicode61 remove_diacritics 2"
"""Of `documents_words`, see migration 0005."""
_BEGINNING_CHARACTERS = 400
_WORD = re.compile(rf"[^\s{BEGIN}{END}]{{1,40}}")
"""What is longer is taken for several."""
_MARKED = re.compile(f"{BEGIN}(.*?){END}")


def snippets(connection: sa.Connection, numbers: Sequence[int], words: Sequence[str]) -> dict[int, str]:
    """One line of each document, of about `SNIPPET_WORDS` words: where what is looked for stands, or how it begins.

    Args:
        numbers: of the documents; one without a text has no snippet.
        words: what is looked for; none for the beginnings.
    """
    found = _chosen(connection, numbers, words) if words else {}
    return _beginnings(connection, [number for number in numbers if number not in found]) | found


def any_of(words: Sequence[str]) -> str:
    """Any of the words, which have no quotation mark in them, in the language of FTS5."""
    return " OR ".join(f'"{word}"' for word in words)


def one_line(text: str) -> str:
    """`text` without marks, and with a blank for all that parts two words."""
    return " ".join(text.translate(_NO_MARKS).split())


_NO_MARKS = str.maketrans(BEGIN + END, "  ")


def _chosen(connection: sa.Connection, numbers: Sequence[int], look_for: Sequence[str]) -> dict[int, str]:
    query = sa.select(documents.c.number, sa.func.substr(documents.c.text, 1, MAX_CHARACTERS).label("text"))
    found: dict[int, str] = {}
    with closing(sqlite3.connect(":memory:")) as fts5:
        fts5.execute(f"CREATE VIRTUAL TABLE words USING fts5(word, tokenize='{TOKENIZER}')")
        for start in range(0, len(numbers), TEXTS_PER_READ):
            some = documents.c.number.in_(numbers[start : start + TEXTS_PER_READ])
            for number, text in connection.execute(query.where(some, documents.c.text.is_not(None))).all():
                words = list(_WORD.finditer(text))
                if chosen := passage(text, words, _marked(fts5, {word.group() for word in words}, look_for)):
                    found[number] = chosen
    return found


def _marked(fts5: sqlite3.Connection, words: Collection[str], look_for: Sequence[str]) -> dict[str, str]:
    """Those of the words that FTS5 finds, each with its marks."""
    fts5.execute("DELETE FROM words")
    fts5.executemany("INSERT INTO words VALUES (?)", ((word,) for word in words))
    query = "SELECT word, highlight(words, 0, ?, ?) FROM words WHERE words MATCH ?"
    return dict(fts5.execute(query, (BEGIN, END, any_of(look_for))))


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
