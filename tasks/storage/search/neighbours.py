"""Nearest-neighbour search: the documents nearest to a vector of their own space, by cosine.

It uses pgvector where PostgreSQL has it, memory-mapped matrices beside a SQLite store, and otherwise the step results.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import documents, step_results
from repli.tasks.storage.search.documents import (
    ROWS_PER_READ,
    as_pgvector,
    has_pgvector,
    is_vector_of_document,
    qualities,
)
from repli.tasks.storage.search.matrices import FREE, Matrices, Matrix

Vector = npt.NDArray[np.float32]
ANY_COSINE = -2.0
"""Below every cosine, those that rounding has taken below -1 too."""


def spaces(database: Database) -> list[str]:
    """Return the vector spaces of the store.

    One index look-up per space, whatever the number of vectors: a recursive query steps from each to the next.
    """
    after = sa.select(sa.func.min(documents.c.space).label("space")).cte("after", recursive=True)
    following = sa.select(sa.func.min(documents.c.space)).where(documents.c.space > after.c.space).scalar_subquery()
    after = after.union_all(sa.select(following).where(after.c.space.is_not(None)))
    with database.read() as connection:
        return list(connection.scalars(sa.select(after.c.space).where(after.c.space.is_not(None))))


def sizes(database: Database) -> dict[str, int]:
    """Count the vectors of each space, those of items that have failed since they were stored included."""
    query = sa.select(documents.c.space, sa.func.count()).where(documents.c.space.is_not(None))
    with database.read() as connection:
        return {str(space): count for space, count in connection.execute(query.group_by(documents.c.space))}


class NearestSearch(Protocol):
    """Finds the stored documents nearest to a vector of unit length, and returns up to `limit` numbers, nearest first.

    A document whose cosine with the vector is below `min_cosine` is none of them. `sizes` is the number of vectors of
    each space.
    """

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def __call__(
        self, space: str, vector: Vector, limit: int, min_quality: float, min_cosine: float = ANY_COSINE
    ) -> list[int]: ...


def open_nearest_search(database: Database, resources: ExitStack) -> NearestSearch:
    """Return the fastest search that this store has. The files that it opens close with `resources`."""
    if has_pgvector(database):
        return _PgVector(database)
    if (matrices := _matrices(database, resources)) is not None:
        return _InMatrices(database, matrices)
    return _InResults(database)


def _matrices(database: Database, resources: ExitStack) -> Mapping[str, Matrix] | None:
    """Return the matrices beside a SQLite store; None for another store, or where the folder cannot be written."""
    if not database.is_sqlite:
        return None
    try:
        return resources.enter_context(Matrices(database).open())
    except OSError:
        return None


class _PgVector:
    """Search by pgvector's HNSW index of the space; by all of its vectors where the index finds too few.

    The scan of an index ends after some 20,000 vectors, even if none of them is of a stored item.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sizes = sizes(database)

    def __call__(
        self, space: str, vector: Vector, limit: int, min_quality: float, min_cosine: float = ANY_COSINE
    ) -> list[int]:
        bound = {"vector": as_pgvector(vector), "min_quality": min_quality, "limit": limit}
        with self._database.read() as connection:
            connection.execute(sa.text("SET LOCAL hnsw.iterative_scan = strict_order"))
            connection.execute(sa.text(f"SET LOCAL hnsw.ef_search = {max(40, min(limit, 1000))}"))
            found = connection.execute(_by_distance(space, f"vector({len(vector)})"), bound).all()
            if len(found) < limit:
                found = connection.execute(_by_distance(space, "vector"), bound).all()
        return [row.number for row in found if 1 - row.distance >= min_cosine]


def _by_distance(space: str, kind: str) -> sa.TextClause:
    """Return a query for the stored documents of a space, nearest first.

    The index is used only where `kind` is the vector type with its length, such as ``vector(384)``.
    """
    distance = f"CAST(embedding AS {kind}) <=> CAST(:vector AS {kind})"
    return sa.text(
        f"SELECT number, {distance} AS distance "  # noqa: S608
        "FROM document_vectors JOIN documents USING (number) JOIN items ON items.id = item_id "
        "WHERE document_vectors.space = :space AND items.state = 'stored' AND items.quality >= :min_quality "
        f"ORDER BY {distance} LIMIT :limit"
    ).bindparams(
        sa.bindparam("space", space, literal_execute=True)
    )  # as a literal: the planner matches it to the index


class _InMatrices:
    """Search by all vectors of the space, in a memory-mapped matrix."""

    def __init__(self, database: Database, matrices: Mapping[str, Matrix]) -> None:
        self._database = database
        self._matrices = matrices
        self.sizes = {space: int(np.sum(matrix.numbers != FREE)) for space, matrix in matrices.items()}

    def __call__(
        self, space: str, vector: Vector, limit: int, min_quality: float, min_cosine: float = ANY_COSINE
    ) -> list[int]:
        matrix = self._matrices[space]
        taken = np.flatnonzero(matrix.numbers != FREE)
        cosines = (matrix.vectors @ vector)[taken]
        with self._database.read() as connection:
            are_stored = partial(qualities, connection, min_quality=min_quality, space=space)
            return nearest(cosines, matrix.numbers[taken], limit, are_stored, min_cosine)


class _InResults:
    """Search by all vectors of the space, from the step results: slow, but it works with every store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sizes = sizes(database)

    def __call__(
        self, space: str, vector: Vector, limit: int, min_quality: float, min_cosine: float = ANY_COSINE
    ) -> list[int]:
        query = (
            sa.select(documents.c.number, step_results.c.vector)
            .select_from(documents)
            .join(step_results, is_vector_of_document())
            .where(documents.c.space == space)
            .execution_options(yield_per=ROWS_PER_READ)
        )
        numbers, cosines = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        with self._database.read() as connection:
            for rows in connection.execute(query).partitions():
                matrix = np.frombuffer(b"".join(row.vector for row in rows), np.float32).reshape(len(rows), -1)
                numbers.append(np.fromiter((row.number for row in rows), np.int64, len(rows)))
                cosines.append(matrix @ vector)
            are_stored = partial(qualities, connection, min_quality=min_quality, space=space)
            return nearest(np.concatenate(cosines), np.concatenate(numbers), limit, are_stored, min_cosine)


def nearest(
    cosines: Vector,
    numbers: npt.NDArray[Any],
    limit: int,
    are_stored: Callable[[Sequence[int]], Collection[int]],
    min_cosine: float = ANY_COSINE,
) -> list[int]:
    """Return the numbers of the highest cosines, without those that `are_stored` leaves out.

    It checks ever more candidates until there are enough.

    Args:
        cosines: of shape (n,).
        numbers: of the documents, of shape (n,).
        are_stored: returns those of the given numbers whose items are stored.
    """
    found: list[int] = []
    for places in _descending(cosines, 2 * limit):
        near = places[cosines[places] >= min_cosine]
        in_order = numbers[near].tolist()
        kept = are_stored(in_order)
        found += [number for number in in_order if number in kept]
        if len(found) >= limit or len(near) < len(places):
            break
    return found[:limit]


def _descending(cosines: Vector, count: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the indices of the cosines in descending order: the first `count`, then growing chunks of the others.

    The first chunk is found without sorting the others, which are seldom needed.
    """
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
