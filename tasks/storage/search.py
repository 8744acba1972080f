"""Search over the stored items: by words, by vectors of one space at a time, fused by reciprocal ranks.

Each way of looking gives a list of items in their order. An item's score is the sum over the lists of the reciprocal of
its rank plus `RANK_CONSTANT` (reciprocal rank fusion, Cormack, Clarke and Büttcher 2009), times its quality. Vectors
of different spaces are never compared: each space is a list of its own, in which ranks are divided by its share of the
vectors, so that the best of a few is not taken for the best of all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from tasks.fallback import Status
from tasks.storage.database import Database
from tasks.storage.documents import as_pgvector, has_pgvector
from tasks.storage.matrices import FREE, Matrices, Matrix
from tasks.storage.schema import documents, items, step_results
from tasks.storage.snippets import BEGIN as BEGIN
from tasks.storage.snippets import END as END
from tasks.storage.snippets import one_line, snippets

RANK_CONSTANT = 60
"""The constant of the paper that brought the method."""
CANDIDATES = 100
"""Of each list, at least so many are looked at."""
MAX_WORDS = 64
"""Of a query; what comes after is left out."""
WEIGHTS = {"name": 4.0, "label": 1.0, "text": 1.0}
"""Of a word's place, for bm25."""
_VECTORS_PER_READ = 5000

Vector = npt.NDArray[np.float32]
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


@dataclass(frozen=True, slots=True)
class Ranking:
    """The numbers of documents, best first, and the share of the store that they were chosen from."""

    numbers: Sequence[int]
    share: float = 1.0


def words_of(query: str) -> list[str]:
    """The words of a query, each once."""
    return list(dict.fromkeys(re.findall(r"\w+", query.lower())))[:MAX_WORDS]


def spaces(database: Database) -> list[str]:
    """The spaces of the store's vectors. It looks once for each, however many vectors there are."""
    after = sa.select(sa.func.min(documents.c.space).label("space")).cte("after", recursive=True)
    following = sa.select(sa.func.min(documents.c.space)).where(documents.c.space > after.c.space).scalar_subquery()
    after = after.union_all(sa.select(following).where(after.c.space.is_not(None)))
    with database.read() as connection:
        return list(connection.scalars(sa.select(after.c.space).where(after.c.space.is_not(None))))


def _sizes(database: Database) -> dict[str, int]:
    """How many vectors each space has, those of items that failed since they were stored among them."""
    query = sa.select(documents.c.space, sa.func.count()).where(documents.c.space.is_not(None))
    with database.read() as connection:
        return {str(space): count for space, count in connection.execute(query.group_by(documents.c.space))}


def search(database: Database, words: Sequence[str], vectors: Vectors, *, limit: int, min_quality: float) -> list[Hit]:
    """The items that go best with some words, or with a query's vectors, or with both.

    Args:
        words: to look for; none for a search by vectors alone.
        vectors: of the query, unit length, one for each space that is searched.
        min_quality: items below it are left out.
    """
    pool = max(CANDIDATES, 2 * limit)
    ways: list[list[Ranking]] = []
    with database.read() as connection:
        if words:
            ways.append([by_words(database, connection, words, pool, min_quality)])
    if vectors:
        ways.append(list(by_vectors(database, vectors, pool, min_quality)))
    with database.read() as connection:
        hits = _fused(connection, ways, limit)
        return _described(database, connection, hits, words)


def by_words(
    database: Database, connection: sa.Connection, words: Sequence[str], limit: int, min_quality: float
) -> Ranking:
    """The documents in which the rarest of the words stand most often; any of them is enough."""
    if database.is_sqlite:
        weights = ", ".join(map(str, WEIGHTS.values()))
        query = (
            f"SELECT number FROM documents_words JOIN documents ON number = documents_words.rowid "  # noqa: S608
            "JOIN items ON items.id = item_id WHERE documents_words MATCH :words "
            "AND items.state = 'stored' AND items.quality >= :min_quality "
            f"ORDER BY bm25(documents_words, {weights}), items.quality DESC, number LIMIT :limit"
        )
    else:
        query = (
            "SELECT number FROM documents JOIN items ON items.id = item_id, "
            "to_tsquery('english', :words) AS wanted WHERE words @@ wanted "
            "AND items.state = 'stored' AND items.quality >= :min_quality "
            "ORDER BY ts_rank(words, wanted, 1) DESC, items.quality DESC, number LIMIT :limit"
        )
    bound = {"words": _query_of(database, words), "min_quality": min_quality, "limit": limit}
    return Ranking(list(connection.scalars(sa.text(query), bound)))


def _query_of(database: Database, words: Iterable[str]) -> str:
    """Any of the words, in the language of the database's full-text search."""
    if database.is_sqlite:
        return " OR ".join(f'"{word}"' for word in words)
    return " | ".join(f"'{word}'" for word in words)


def by_vectors(database: Database, vectors: Vectors, limit: int, min_quality: float) -> Iterator[Ranking]:
    """The nearest documents of each space, by cosine."""
    with ExitStack() as opened:
        nearest_of = _nearest_of(database, opened)
        together = sum(nearest_of.sizes.values())
        for space, vector in vectors.items():
            if size := nearest_of.sizes.get(space):
                yield Ranking(nearest_of(space, vector, limit, min_quality), size / together)


class _NearestOf(Protocol):
    """Finds the documents nearest to a vector of unit length. `sizes` has how many vectors each space has."""

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def __call__(self, space: str, vector: Vector, limit: int, min_quality: float) -> list[int]: ...


def _nearest_of(database: Database, opened: ExitStack) -> _NearestOf:
    if has_pgvector(database):
        return _PgVector(database)
    if (matrices := _matrices(database, opened)) is not None:
        return _InMatrices(database, matrices)
    return _InResults(database)


def _matrices(database: Database, opened: ExitStack) -> Mapping[str, Matrix] | None:
    """The matrices beside a SQLite store, None where they cannot be written or the store is another."""
    if not database.is_sqlite:
        return None
    try:
        return opened.enter_context(Matrices(database).open())
    except OSError:
        return None


class _PgVector:
    """pgvector, by the HNSW index of the space."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sizes = _sizes(database)

    def __call__(self, space: str, vector: Vector, limit: int, min_quality: float) -> list[int]:
        cast = f"vector({len(vector)})"
        query = sa.text(
            f"SELECT number FROM document_vectors JOIN documents USING (number) JOIN items ON items.id = item_id "  # noqa: S608
            "WHERE document_vectors.space = :space AND items.state = 'stored' AND items.quality >= :min_quality "
            f"ORDER BY CAST(embedding AS {cast}) <=> CAST(:vector AS {cast}) LIMIT :limit"
        ).bindparams(sa.bindparam("space", space, literal_execute=True))  # the planner looks for it in the index
        bound = {"vector": as_pgvector(vector), "min_quality": min_quality, "limit": limit}
        with self._database.read() as connection:
            connection.execute(sa.text("SET LOCAL hnsw.iterative_scan = strict_order"))
            connection.execute(sa.text(f"SET LOCAL hnsw.ef_search = {max(40, min(limit, 1000))}"))
            return list(connection.scalars(query, bound))


class _InMatrices:
    """Every vector of the space, in a memory-mapped matrix."""

    def __init__(self, database: Database, matrices: Mapping[str, Matrix]) -> None:
        self._database = database
        self._matrices = matrices
        self.sizes = {space: int(np.sum(matrix.numbers != FREE)) for space, matrix in matrices.items()}

    def __call__(self, space: str, vector: Vector, limit: int, min_quality: float) -> list[int]:
        matrix = self._matrices[space]
        taken = np.flatnonzero(matrix.numbers != FREE)
        are_stored = partial(_stored, self._database, space, min_quality)
        return nearest((matrix.vectors @ vector)[taken], matrix.numbers[taken], limit, are_stored)


class _InResults:
    """Every vector of the space, from the step results: slow, and everywhere."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sizes = _sizes(database)

    def __call__(self, space: str, vector: Vector, limit: int, min_quality: float) -> list[int]:
        query = (
            sa.select(documents.c.number, step_results.c.vector)
            .join(step_results, step_results.c.item_id == documents.c.item_id)
            .where(documents.c.space == space, step_results.c.stage == "embed_text", step_results.c.vector.is_not(None))
            .execution_options(yield_per=_VECTORS_PER_READ)
        )
        numbers, cosines = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        with self._database.read() as connection:
            for rows in connection.execute(query).partitions():
                matrix = np.frombuffer(b"".join(row.vector for row in rows), np.float32).reshape(len(rows), -1)
                numbers.append(np.fromiter((row.number for row in rows), np.int64, len(rows)))
                cosines.append(matrix @ vector)
        are_stored = partial(_stored, self._database, space, min_quality)
        return nearest(np.concatenate(cosines), np.concatenate(numbers), limit, are_stored)


def nearest(
    cosines: Vector, numbers: npt.NDArray[Any], limit: int, are_stored: Callable[[Sequence[int]], Collection[int]]
) -> list[int]:
    """The numbers of the highest cosines, of those that `are_stored`. More are looked at until there are enough."""
    found: list[int] = []
    for places in _downwards(cosines, 2 * limit):
        in_order = numbers[places].tolist()
        kept = are_stored(in_order)
        found += [number for number in in_order if number in kept]
        if len(found) >= limit:
            break
    return found[:limit]


def _downwards(cosines: Vector, count: int) -> Iterator[npt.NDArray[np.intp]]:
    """The places of the cosines, the highest first: so many, for which not all are sorted, and then ever more."""
    if count >= len(cosines):
        yield np.argsort(-cosines, kind="stable")
        return
    parted = np.argpartition(-cosines, count - 1)
    first, others = np.sort(parted[:count]), np.sort(parted[count:])
    yield first[np.argsort(-cosines[first], kind="stable")]
    others = others[np.argsort(-cosines[others], kind="stable")]
    begin = 0
    while begin < len(others):
        count *= 4
        yield others[begin : begin + count]
        begin += count


def _stored(database: Database, space: str, min_quality: float, numbers: Sequence[int]) -> set[int]:
    # No condition but the numbers: SQLite, which nobody lets count, would walk an index of one of the others instead.
    query = sa.select(documents.c.number, documents.c.space, items.c.state, items.c.quality).join(items)
    kept: set[int] = set()
    with database.read() as connection:
        for start in range(0, len(numbers), _VECTORS_PER_READ):
            some = documents.c.number.in_(numbers[start : start + _VECTORS_PER_READ])
            for number, of_space, state, quality in connection.execute(query.where(some)):
                if of_space == space and state == "stored" and quality >= min_quality:
                    kept.add(number)
    return kept


def _fused(connection: sa.Connection, ways: Sequence[Sequence[Ranking]], limit: int) -> list[tuple[int, Hit]]:
    """The best of all lists, with their documents' numbers."""
    scores: dict[int, float] = {}
    for way in ways:
        for ranking in way:
            for rank, number in enumerate(ranking.numbers, 1):
                reciprocal = (1 + RANK_CONSTANT) / (rank / ranking.share + RANK_CONSTANT)
                scores[number] = scores.get(number, 0.0) + reciprocal / len(ways)
    hits: list[tuple[int, Hit]] = []
    columns = documents.c.number, items.c.id, items.c.name, items.c.quality
    numbers = list(scores)
    for start in range(0, len(numbers), _VECTORS_PER_READ):
        some = documents.c.number.in_(numbers[start : start + _VECTORS_PER_READ])
        for row in connection.execute(sa.select(*columns).join(items).where(some, items.c.quality.is_not(None))):
            score = scores[row.number] * row.quality
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
