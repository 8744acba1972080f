"""Snippets: the passage of a found document that has the most of the words searched for.

They are computed here, one text at a time, in time linear in its length: FTS5's `snippet()` and `highlight()` take time
quadratic in the matches (15 s and more for long texts), and PostgreSQL's `ts_headline` does not find `node` in
`node.js`. With either database, FTS5 in memory decides which words match.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing

import sqlalchemy as sa

from repli.tasks.storage.schema import documents

BEGIN, END = "\x02", "\x03"
"""The marks around the matching words of a snippet."""
SNIPPET_WORDS = 24
MAX_CHARACTERS = 250_000
"""The length of a text that PostgreSQL indexes. A snippet shows nothing beyond it."""
TEXTS_PER_READ = 20
TOKENIZER = "porter unicode61 remove_diacritics 2"
"""The tokenizer of `documents_words`, see migration 0005."""
_BEGINNING_CHARACTERS = 400
_WORD = re.compile(rf"[^\s{BEGIN}{END}]{{1,40}}")
"""A word of the text. A longer one counts as several."""
_MARKED = re.compile(f"{BEGIN}(.*?){END}")


def snippets(connection: sa.Connection, numbers: Sequence[int], words: Sequence[str]) -> dict[int, str]:
    """Return one line of each document, of about `SNIPPET_WORDS` words: its best passage, or the start of its text.

    Args:
        numbers: of the documents; one without a text has no snippet.
        words: the words searched for; none for the starts of the texts.
    """
    found = _passages(connection, numbers, words) if words else {}
    return _beginnings(connection, [number for number in numbers if number not in found]) | found


def any_of(words: Sequence[str]) -> str:
    """Return an FTS5 query for any of the words, which must not contain a quotation mark."""
    return " OR ".join(f'"{word}"' for word in words)


def one_line(text: str) -> str:
    """Return `text` without marks, with one blank between words."""
    return " ".join(text.translate(_NO_MARKS).split())


_NO_MARKS = str.maketrans(BEGIN + END, "  ")


def _passages(connection: sa.Connection, numbers: Sequence[int], query_words: Sequence[str]) -> dict[int, str]:
    """Return the best passage of each document that has a matching word."""
    query = sa.select(documents.c.number, sa.func.substr(documents.c.text, 1, MAX_CHARACTERS).label("text"))
    found: dict[int, str] = {}
    with closing(sqlite3.connect(":memory:")) as fts5:
        fts5.execute(f"CREATE VIRTUAL TABLE words USING fts5(word, tokenize='{TOKENIZER}')")
        for start in range(0, len(numbers), TEXTS_PER_READ):
            some = documents.c.number.in_(numbers[start : start + TEXTS_PER_READ])
            for number, text in connection.execute(query.where(some, documents.c.text.is_not(None))).all():
                words = list(_WORD.finditer(text))
                if chosen := passage(text, words, _marked(fts5, {word.group() for word in words}, query_words)):
                    found[number] = chosen
    return found


def _marked(fts5: sqlite3.Connection, words: Collection[str], query_words: Sequence[str]) -> dict[str, str]:
    """Return the matching words, each with its marked form."""
    fts5.execute("DELETE FROM words")
    fts5.executemany("INSERT INTO words VALUES (?)", ((word,) for word in words))
    query = "SELECT word, highlight(words, 0, ?, ?) FROM words WHERE words MATCH ?"
    return dict(fts5.execute(query, (BEGIN, END, any_of(query_words))))


def passage(text: str, words: Sequence[re.Match[str]], marked: Mapping[str, str]) -> str:
    """Return the passage of `SNIPPET_WORDS` words that has the most different marked words, with their marks.

    Of equal passages the earliest is chosen. The marked words are in its middle, and '…' stands where the text is cut.

    Args:
        text: the text.
        words: the matches of its words, in their order.
        marked: the marked form of each matching word.

    Returns:
        The passage; '' where no word is marked.
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
    """Return the first and the last place of the passage that has the most different names."""
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
    """Return the first words of each document's text; absent where it has none."""
    shortened = sa.func.substr(documents.c.text, 1, _BEGINNING_CHARACTERS).label("text")
    found: dict[int, str] = {}
    for row in connection.execute(sa.select(documents.c.number, shortened).where(documents.c.number.in_(numbers))):
        words = one_line(row.text or "").split(" ")
        found[row.number] = " ".join(words[:SNIPPET_WORDS]) + (" …" if len(words) > SNIPPET_WORDS else "")
    return {number: beginning for number, beginning in found.items() if beginning}
