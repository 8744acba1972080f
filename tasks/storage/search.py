"""Search over the stored items: by words, by vectors of one space at a time, fused by reciprocal ranks.

Each way of looking gives a list of items in their order, and an item has from each list the reciprocal of its rank
plus `RANK_CONSTANT` (reciprocal rank fusion, Cormack, Clarke and Büttcher 2009). Its score is the weighted mean of
these over the lists that it could be in, times its quality. Vectors of different spaces are never compared: each space
is a list of its own, in which ranks are divided by its share of the vectors, so that the best of a few is not taken for
the best of all, and which counts by that share. So an item without a vector, or with one of a small space, is judged by
its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from tasks.fallback import Status
from tasks.storage import neighbours
from tasks.storage.database import Database
from tasks.storage.documents import ROWS_PER_READ, qualities
from tasks.storage.neighbours import Vector
from tasks.storage.schema import documents, items, step_results
from tasks.storage.snippets import BEGIN as BEGIN
from tasks.storage.snippets import END as END
from tasks.storage.snippets import one_line, snippets

RANK_CONSTANT = 3
"""The paper has 60, with which a quality of 0.8 weighs as much as 15 ranks; with 3 it weighs as much as one. This and
`WORDS_WEIGHT` were chosen on the tuning half of `tests/benchmarks/search_quality.py`."""
WORDS_WEIGHT = 0.7
"""Of the list by words, beside one by vectors that are all of one space."""
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
    """The numbers of documents, best first.

    `space` is that of the vectors that were compared, None where every document could have been in the list; `share` is
    that of the documents which could, among those that have a vector.
    """

    numbers: Sequence[int]
    weight: float
    space: str | None = None
    share: float = 1.0

    def reciprocals(self) -> dict[int, float]:
        """By number: 1 for the first of all, and less for those that follow."""
        return {
            number: (1 + RANK_CONSTANT) / (rank / self.share + RANK_CONSTANT)
            for rank, number in enumerate(self.numbers, 1)
        }


def words_of(query: str) -> list[str]:
    """The words of a query, each once."""
    return list(dict.fromkeys(re.findall(r"\w+", query.lower())))[:MAX_WORDS]


def search(database: Database, words: Sequence[str], vectors: Vectors, *, limit: int, min_quality: float) -> list[Hit]:
    """The items that go best with some words, or with a query's vectors, or with both.

    Args:
        words: to look for; none for a search by vectors alone.
        vectors: of the query, unit length, one for each space that is searched.
        min_quality: items below it are left out.
    """
    pool = max(CANDIDATES, 2 * limit)
    rankings: list[Ranking] = []
    with database.read() as connection:
        if words:
            rankings.append(by_words(database, connection, words, pool, min_quality))
    if vectors:
        rankings += by_vectors(database, vectors, pool, min_quality)
    with database.read() as connection:
        hits = fused(connection, rankings, limit)
        return _described(database, connection, hits, words)


def by_words(
    database: Database, connection: sa.Connection, words: Sequence[str], limit: int, min_quality: float
) -> Ranking:
    """The documents in which the rarest of the words stand most often; any of them is enough."""
    ranked = _by_fts5 if database.is_sqlite else _by_tsvector
    numbers = ranked(connection, _query_of(database, words), limit, min_quality)
    return Ranking(numbers=numbers, weight=WORDS_WEIGHT)


def _by_fts5(connection: sa.Connection, look_for: str, limit: int, min_quality: float) -> list[int]:
    """FTS5 ranks many times faster by itself than in a join, so which of them are stored is asked for afterwards."""
    query = sa.text(
        "SELECT rowid, rank FROM documents_words WHERE documents_words MATCH :words AND rank MATCH :weighted "
        "ORDER BY rank LIMIT :count"
    )
    bound = {"words": look_for, "weighted": f"bm25({', '.join(map(str, WEIGHTS.values()))})"}
    count = 2 * limit
    while True:
        ranks = {row.rowid: row.rank for row in connection.execute(query, {**bound, "count": count})}
        kept = qualities(connection, list(ranks), min_quality)
        if len(kept) >= limit or len(ranks) < count:
            return sorted(kept, key=lambda number: (ranks[number], -kept[number], number))[:limit]
        count *= 4


def _by_tsvector(connection: sa.Connection, look_for: str, limit: int, min_quality: float) -> list[int]:
    query = sa.text(
        "SELECT number FROM documents JOIN items ON items.id = item_id, "
        "to_tsquery('english', :words) AS wanted WHERE words @@ wanted "
        "AND items.state = 'stored' AND items.quality >= :min_quality "
        "ORDER BY ts_rank(words, wanted, 1) DESC, items.quality DESC, number LIMIT :limit"
    )
    return list(connection.scalars(query, {"words": look_for, "min_quality": min_quality, "limit": limit}))


def _query_of(database: Database, words: Iterable[str]) -> str:
    """Any of the words, in the language of the database's full-text search."""
    if database.is_sqlite:
        return " OR ".join(f'"{word}"' for word in words)
    return " | ".join(f"'{word}'" for word in words)


def by_vectors(database: Database, vectors: Vectors, limit: int, min_quality: float) -> Iterator[Ranking]:
    """The nearest documents of each space, by cosine."""
    with ExitStack() as opened:
        nearest_of = neighbours.of(database, opened)
        together = sum(nearest_of.sizes.values())
        for space, vector in vectors.items():
            if size := nearest_of.sizes.get(space):
                numbers = nearest_of(space, vector, limit, min_quality)
                yield Ranking(numbers=numbers, space=space, share=size / together, weight=size / together)


def fused(connection: sa.Connection, rankings: Sequence[Ranking], limit: int) -> list[tuple[int, Hit]]:
    """The best of all lists, with their documents' numbers."""
    reciprocals = [ranking.reciprocals() for ranking in rankings]
    numbers = list(dict.fromkeys(number for of_ranking in reciprocals for number in of_ranking))
    hits: list[tuple[int, Hit]] = []
    columns = documents.c.number, documents.c.space, items.c.id, items.c.name, items.c.quality
    for start in range(0, len(numbers), ROWS_PER_READ):
        some = documents.c.number.in_(numbers[start : start + ROWS_PER_READ])
        for row in connection.execute(sa.select(*columns).join(items).where(some, items.c.quality.is_not(None))):
            weight = total = 0.0
            for ranking, of_ranking in zip(rankings, reciprocals, strict=True):
                if ranking.space in {None, row.space}:
                    weight += ranking.weight
                    total += ranking.weight * of_ranking.get(row.number, 0.0)
            if total:
                score = total / weight * row.quality
                hits.append((row.number, Hit(id=row.id, name=row.name, score=score, quality=row.quality)))
    hits.sort(key=lambda hit: (-hit[1].score, hit[1].id))
    return hits[:limit]


def _described(
    database: Database, connection: sa.Connection, found: Sequence[tuple[int, Hit]], words: Sequence[str]
) -> list[Hit]:
    """The hits with their snippets, and with what is degraded of them."""
    passages = snippets(database, connection, [number for number, _ in found], _query_of(database, words))
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
