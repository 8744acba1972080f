"""Search over the stored items: by words, by vectors of one space at a time, fused by reciprocal ranks.

Each search ranks items, and each ranking gives an item the reciprocal of its rank plus `RANK_CONSTANT` (reciprocal
rank fusion, Cormack, Clarke and Büttcher 2009). The score of an item is the weighted root mean square of its
reciprocals by words and by vectors, times its quality or, if asked for, its expected accuracy. A missing reciprocal
counts as 0, so that no item gains by the loss of its vector; the square puts an item that is high in one ranking before
one that is middling in both. Vectors of different spaces are never compared: each space has its own ranking, in which
ranks are divided by the space's share of the vectors, so that the best of a few is not taken for the best of all.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

import sqlalchemy as sa

from repli.tasks.fallback import Status, UsageError
from repli.tasks.storage.counts import was_declined
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
"""The weight of the ranking by words. Those by vectors have the rest of 1."""
CANDIDATES = 100
"""The least number of documents to read from each ranking."""
MAX_WORDS = 64
"""The number of words of a query that count; the others are ignored."""
WEIGHTS = {"name": 4.0, "label": 1.0, "text": 1.0}
"""The weights of the columns, for bm25."""

Vectors = Mapping[str, Vector]


E = TypeVar("E", bound=StrEnum)


def parse_choice(choices: type[E], name: str, option: str) -> E:
    """Return the choice of this name, or raise a UsageError that names the option and lists the choices."""
    if name not in set(choices):
        raise UsageError(f"{option} {name[:40]!r}: choose from {', '.join(choices)}")
    return choices(name)


class RankBy(StrEnum):
    """The score of an item that weighs its relevance."""

    QUALITY = "quality"
    EXPECTED_ACCURACY = "expected_accuracy"

    @classmethod
    def parse(cls, name: str) -> RankBy:
        """Return the score of this name.

        Raises:
            UsageError: There is no such score; the message lists the scores.
        """
        return parse_choice(cls, name, "--rank-by")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One found item. `score` is 1 for an item of full quality that is the first of every ranking.

    `declined` names those of the degraded stages in which a rung was not sure. `snippet` has `BEGIN` and `END` around
    the words of the query.
    """

    id: str
    name: str | None
    score: float
    quality: float
    expected_accuracy: float | None = None
    degraded: tuple[str, ...] = ()
    declined: tuple[str, ...] = ()
    snippet: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "score": round(self.score, 6),
            "quality": self.quality,
            "expected_accuracy": self.expected_accuracy,
            "degraded": list(self.degraded),
            "declined": list(self.declined),
            "snippet": re.sub(f"[{BEGIN}{END}]", "**", self.snippet),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The numbers of documents, best first. `share` is the part of all vectors that this ranking covers."""

    numbers: Sequence[int]
    share: float = 1.0

    def reciprocals(self) -> dict[int, float]:
        """Return the reciprocals by number: 1 for rank 1 of a full share, less for later ranks and smaller shares."""
        return {
            number: (1 + RANK_CONSTANT) / (rank / self.share + RANK_CONSTANT)
            for rank, number in enumerate(self.numbers, 1)
        }


def words_of(query: str) -> list[str]:
    """Return the different words of a query: letters, digits and their combining marks."""
    kept = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in query)
    return list({word.casefold(): word for word in kept.split()}.values())[:MAX_WORDS]


def search(
    database: Database,
    words: Sequence[str],
    vectors: Vectors,
    *,
    limit: int,
    min_quality: float,
    min_cosine: float = neighbours.ANY_COSINE,
    rank_by: RankBy = RankBy.QUALITY,
) -> list[Hit]:
    """Search for the items that match some words best, or a query's vectors, or both.

    Args:
        words: the words of the query; none for a search by vectors alone.
        vectors: the vectors of the query, of unit length, one for each space to search.
        limit: the number of hits, at most.
        min_quality: the lowest quality of a hit.
        min_cosine: the lowest cosine of a hit by a vector.
        rank_by: the score of an item that weighs its relevance.

    Returns:
        The hits, best first.
    """
    pool = max(CANDIDATES, 2 * limit)
    word_ranking = vector_rankings = None
    if words:
        with database.read() as connection:
            word_ranking = by_words(database, connection, words, pool, min_quality)
    if vectors:
        vector_rankings = list(by_vectors(database, vectors, pool, min_quality, min_cosine))
    with database.read() as connection:
        hits = best_hits(connection, fuse(word_ranking, vector_rankings), limit, rank_by)
        return _describe(connection, hits, words)


def has_any_word(database: Database, words: Sequence[str]) -> bool:
    """Return whether any of the words is in a stored document."""
    if not words:
        return False
    with database.read() as connection:
        return bool(by_words(database, connection, words, 1, 0.0).numbers)


def by_words(
    database: Database, connection: sa.Connection, words: Sequence[str], limit: int, min_quality: float
) -> Ranking:
    """Rank the documents that contain any of the words. A word in the name weighs most, see `WEIGHTS`.

    A rare word weighs more than a common one on SQLite (bm25) but not on PostgreSQL (`ts_rank`), which instead ignores
    words such as "the" in a query that has others.
    """
    ranked = _by_fts5 if database.is_sqlite else _by_tsvector
    return Ranking(numbers=ranked(connection, words, limit, min_quality))


def _by_fts5(connection: sa.Connection, words: Sequence[str], limit: int, min_quality: float) -> list[int]:
    """Rank by FTS5. Filter by quality afterwards: FTS5 ranks many times faster alone than in a join."""
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
    """Rank by `tsvector`. The words are split and stemmed as in the index, see migration 0008."""
    query = sa.text(
        "WITH asked AS (SELECT repli_searchable(:words) AS words), wanted AS ("
        "SELECT CAST(string_agg(quote_literal(lexeme), ' | ') AS tsquery) AS any_of FROM asked, unnest(coalesce("
        "nullif(to_tsvector('english', asked.words), ''), to_tsvector('repli_english', asked.words)))) "
        "SELECT number FROM documents JOIN items ON items.id = item_id, wanted WHERE words @@ any_of "
        "AND items.state = 'stored' AND items.quality >= :min_quality "
        "ORDER BY ts_rank(words, any_of, 1) DESC, items.quality DESC, number LIMIT :limit"
    )
    return list(connection.scalars(query, {"words": " ".join(words), "min_quality": min_quality, "limit": limit}))


def by_vectors(
    database: Database, vectors: Vectors, limit: int, min_quality: float, min_cosine: float = neighbours.ANY_COSINE
) -> Iterator[Ranking]:
    """Yield the ranking of each space: its nearest documents, by cosine."""
    with ExitStack() as resources:
        nearest = neighbours.open_nearest_search(database, resources)
        total = sum(nearest.sizes.values())
        for space, vector in vectors.items():
            if size := nearest.sizes.get(space):
                numbers = nearest(space, vector, limit, min_quality, min_cosine)
                yield Ranking(numbers=numbers, share=size / total)


def fuse(word_ranking: Ranking | None, vector_rankings: Sequence[Ranking] | None) -> dict[int, float]:
    """Fuse the rankings by words and by vectors into one score by document number, without the quality.

    Args:
        word_ranking: None for a search by vectors alone.
        vector_rankings: of each space; a document is in at most one of them. None for a search by words alone.

    Returns:
        The scores: 1 for a document that is the first by words and by vectors, or by the only one of the two.
    """
    by_words = word_ranking.reciprocals() if word_ranking else {}
    by_vectors = {
        number: reciprocal for ranking in vector_rankings or () for number, reciprocal in ranking.reciprocals().items()
    }
    if word_ranking is None or vector_rankings is None:
        return by_words or by_vectors
    return {
        number: math.sqrt(
            WORDS_WEIGHT * by_words.get(number, 0.0) ** 2 + (1 - WORDS_WEIGHT) * by_vectors.get(number, 0.0) ** 2
        )
        for number in by_words | by_vectors
    }


def best_hits(
    connection: sa.Connection, scores: Mapping[int, float], limit: int, rank_by: RankBy = RankBy.QUALITY
) -> list[tuple[int, Hit]]:
    """Return the `limit` hits of the highest score times weight, each with its document's number.

    An item that an older Repli has stored has no expected accuracy yet, and is weighed by its quality.
    """
    hits: list[tuple[int, Hit]] = []
    numbers = list(scores)
    columns = documents.c.number, items.c.id, items.c.name, items.c.quality, items.c.expected_accuracy
    for start in range(0, len(numbers), ROWS_PER_READ):
        is_in_chunk = documents.c.number.in_(numbers[start : start + ROWS_PER_READ])
        for row in connection.execute(sa.select(*columns).join(items).where(is_in_chunk, items.c.quality.is_not(None))):
            weight = row.quality
            if rank_by is RankBy.EXPECTED_ACCURACY and row.expected_accuracy is not None:
                weight = row.expected_accuracy
            hit = Hit(
                id=row.id,
                name=row.name,
                score=scores[row.number] * weight,
                quality=row.quality,
                expected_accuracy=row.expected_accuracy,
            )
            hits.append((row.number, hit))
    hits.sort(key=lambda hit: (-hit[1].score, -scores[hit[0]], hit[1].id))  # those of no weight by their relevance
    return hits[:limit]


def _describe(connection: sa.Connection, found: Sequence[tuple[int, Hit]], words: Sequence[str]) -> list[Hit]:
    """Return the hits with their snippets and degraded stages."""
    passages = snippets(connection, [number for number, _ in found], words)
    degraded = _degraded(connection, [hit.id for _, hit in found])
    stages = {hit.id: degraded.get(hit.id, {}) for _, hit in found}
    return [
        replace(
            hit,
            degraded=tuple(stages[hit.id]),
            declined=tuple(stage for stage, was_declined in stages[hit.id].items() if was_declined),
            snippet=passages.get(number) or one_line(hit.name or ""),
        )
        for number, hit in found
    ]


def _degraded(connection: sa.Connection, item_ids: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Return the degraded and skipped stages of items, in the order in which they ended, each with whether a rung
    declined it.
    """
    is_below_best = step_results.c.status.in_([Status.DEGRADED.value, Status.SKIPPED.value])
    columns = step_results.c.item_id, step_results.c.stage, was_declined().label("was_declined")
    query = sa.select(*columns).where(step_results.c.item_id.in_(item_ids), is_below_best)
    found: dict[str, dict[str, bool]] = {}
    for row in connection.execute(query.order_by(step_results.c.finished_at, step_results.c.stage)):
        found.setdefault(row.item_id, {})[row.stage] = bool(row.was_declined)
    return found
