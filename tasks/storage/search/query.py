"""Search over the stored items: by words, by vectors of one space at a time, fused by reciprocal ranks.

Each way of looking gives a list of items in their order, and an item has from each list the reciprocal of its rank
plus `RANK_CONSTANT` (reciprocal rank fusion, Cormack, Clarke and Büttcher 2009). Its score is the root of the weighted
mean square of what it has by words and by meaning, times its quality: what it lacks counts as nothing, so that none
gains by the loss of its vector, and what is high in one list still comes before what is middling in both. Vectors of
different spaces are never compared: each space is a list of its own, in which ranks are divided by its share of the
vectors, so that the best of a few is not taken for the best of all.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import Status
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import documents, items, step_results
from repli.tasks.storage.search import neighbours
from repli.tasks.storage.search.documents import ROWS_PER_READ, qualities
from repli.tasks.storage.search.neighbours import Vector
from repli.tasks.storage.search.snippets import BEGIN as BEGIN
from repli.tasks.storage.search.snippets import END as END
from repli.tasks.storage.search.snippets import any_of, one_line, snippets

RANK_CONSTANT = 3
"""The paper has 60, with which a quality of 0.8 weighs as much as 15 ranks; with 3 it weighs as much as one. This,
`WORDS_WEIGHT` and the squares were chosen on the tuning half of `tests/benchmarks/search_quality.py`."""
WORDS_WEIGHT = 0.45
"""Of the list by words; those by meaning have the rest of 1."""
CANDIDATES = 100
"""Of each list, at least so many are looked at."""
MAX_WORDS = 64
"""Of a query; what comes after is left out."""
WEIGHTS = {"name": 4.0, "label": 1.0, "text": 1.0}
"""Of a word's place, for bm25."""

Vectors = Mapping[str, Vector]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One item that was found. `score` is 1 for an item of full quality that is the first of every list.

    `snippet` marks the words that were looked for by `BEGIN` and `END`.
    """

    id: str
    name: str | None
    score: float
    quality: float
    degraded: tuple[str, ...] = ()
    snippet: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "score": round(self.score, 6),
            "quality": self.quality,
            "degraded": list(self.degraded),
            "snippet": re.sub(f"[{BEGIN}{END}]", "**", self.snippet),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The numbers of documents, best first, and the share of those that could be among them."""

    numbers: Sequence[int]
    share: float = 1.0

    def reciprocals(self) -> dict[int, float]:
        """By number: 1 for the first of all, and less for those that follow."""
        return {
            number: (1 + RANK_CONSTANT) / (rank / self.share + RANK_CONSTANT)
            for rank, number in enumerate(self.numbers, 1)
        }


def words_of(query: str) -> list[str]:
    """The words of a query, each once: letters and digits, with the marks that stand on them."""
    kept = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in query)
    return list({word.casefold(): word for word in kept.split()}.values())[:MAX_WORDS]


def search(database: Database, words: Sequence[str], vectors: Vectors, *, limit: int, min_quality: float) -> list[Hit]:
    """The items that go best with some words, or with a query's vectors, or with both.

    Args:
        words: to look for; none for a search by vectors alone.
        vectors: of the query, unit length, one for each space that is searched.
        min_quality: items below it are left out.
    """
    pool = max(CANDIDATES, 2 * limit)
    of_words = of_meaning = None
    if words:
        with database.read() as connection:
            of_words = by_words(database, connection, words, pool, min_quality)
    if vectors:
        of_meaning = list(by_vectors(database, vectors, pool, min_quality))
    with database.read() as connection:
        hits = best(connection, fused(of_words, of_meaning), limit)
        return _described(connection, hits, words)


def by_words(
    database: Database, connection: sa.Connection, words: Sequence[str], limit: int, min_quality: float
) -> Ranking:
    """The documents in which the words stand most often, their names first; any of them is enough.

    A rare word weighs more than a common one on SQLite (bm25) and not on PostgreSQL (`ts_rank`), which instead leaves
    words such as "the" out of a query that has others.
    """
    ranked = _by_fts5 if database.is_sqlite else _by_tsvector
    return Ranking(numbers=ranked(connection, words, limit, min_quality))


def _by_fts5(connection: sa.Connection, words: Sequence[str], limit: int, min_quality: float) -> list[int]:
    """FTS5 ranks many times faster by itself than in a join, so which of them are stored is asked for afterwards."""
    query = sa.text(
        "SELECT rowid, rank FROM documents_words WHERE documents_words MATCH :words AND rank MATCH :weighted "
        "ORDER BY rank LIMIT :count"
    )
    bound = {"words": any_of(words), "weighted": f"bm25({', '.join(map(str, WEIGHTS.values()))})"}
    count = 2 * limit
    while True:
        ranks = {row.rowid: row.rank for row in connection.execute(query, {**bound, "count": count})}
        kept = qualities(connection, list(ranks), min_quality)
        if len(kept) >= limit or len(ranks) < count:
            return sorted(kept, key=lambda number: (ranks[number], -kept[number], number))[:limit]
        count *= 4


def _by_tsvector(connection: sa.Connection, words: Sequence[str], limit: int, min_quality: float) -> list[int]:
    """The words are cut and shortened by what cut and shortened those of the index, see migration 0008."""
    query = sa.text(
        "WITH asked AS (SELECT repli_searchable(:words) AS words), wanted AS ("
        "SELECT CAST(string_agg(quote_literal(lexeme), ' | ') AS tsquery) AS any_of FROM asked, unnest(coalesce("
        "nullif(to_tsvector('english', asked.words), ''), to_tsvector('repli_english', asked.words)))) "
        "SELECT number FROM documents JOIN items ON items.id = item_id, wanted WHERE words @@ any_of "
        "AND items.state = 'stored' AND items.quality >= :min_quality "
        "ORDER BY ts_rank(words, any_of, 1) DESC, items.quality DESC, number LIMIT :limit"
    )
    return list(connection.scalars(query, {"words": " ".join(words), "min_quality": min_quality, "limit": limit}))


def by_vectors(database: Database, vectors: Vectors, limit: int, min_quality: float) -> Iterator[Ranking]:
    """The nearest documents of each space, by cosine."""
    with ExitStack() as opened:
        nearest_of = neighbours.of(database, opened)
        together = sum(nearest_of.sizes.values())
        for space, vector in vectors.items():
            if size := nearest_of.sizes.get(space):
                numbers = nearest_of(space, vector, limit, min_quality)
                yield Ranking(numbers=numbers, share=size / together)


def fused(of_words: Ranking | None, of_meaning: Sequence[Ranking] | None) -> dict[int, float]:
    """By number, what each document has of the lists, of which it is in one of meaning at most.

    1 for what is the first by words and by meaning, or by the one that was looked at; None for what was not.
    """
    by_words = of_words.reciprocals() if of_words else {}
    by_meaning = {number: part for ranking in of_meaning or () for number, part in ranking.reciprocals().items()}
    if of_words is None or of_meaning is None:
        return by_words or by_meaning
    return {
        number: math.sqrt(
            WORDS_WEIGHT * by_words.get(number, 0.0) ** 2 + (1 - WORDS_WEIGHT) * by_meaning.get(number, 0.0) ** 2
        )
        for number in by_words | by_meaning
    }


def best(connection: sa.Connection, parts: Mapping[int, float], limit: int) -> list[tuple[int, Hit]]:
    """The documents that come first once each part is weighed by its item's quality, with their numbers."""
    hits: list[tuple[int, Hit]] = []
    numbers = list(parts)
    columns = documents.c.number, items.c.id, items.c.name, items.c.quality
    for start in range(0, len(numbers), ROWS_PER_READ):
        some = documents.c.number.in_(numbers[start : start + ROWS_PER_READ])
        for row in connection.execute(sa.select(*columns).join(items).where(some, items.c.quality.is_not(None))):
            score = parts[row.number] * row.quality
            hits.append((row.number, Hit(id=row.id, name=row.name, score=score, quality=row.quality)))
    hits.sort(key=lambda hit: (-hit[1].score, hit[1].id))
    return hits[:limit]


def _described(connection: sa.Connection, found: Sequence[tuple[int, Hit]], words: Sequence[str]) -> list[Hit]:
    """The hits with their snippets, and with what is degraded of them."""
    passages = snippets(connection, [number for number, _ in found], words)
    degraded = _degraded(connection, [hit.id for _, hit in found])
    return [
        replace(
            hit,
            degraded=tuple(degraded.get(hit.id, ())),
            snippet=passages.get(number) or one_line(hit.name or ""),
        )
        for number, hit in found
    ]


def _degraded(connection: sa.Connection, item_ids: Sequence[str]) -> dict[str, list[str]]:
    """The stages of items that a fallback served, or that were given up, in the order in which they ended."""
    less = step_results.c.status.in_([Status.DEGRADED.value, Status.SKIPPED.value])
    query = sa.select(step_results.c.item_id, step_results.c.stage).where(step_results.c.item_id.in_(item_ids), less)
    found: dict[str, list[str]] = {}
    for row in connection.execute(query.order_by(step_results.c.finished_at, step_results.c.stage)):
        found.setdefault(row.item_id, []).append(row.stage)
    return found
