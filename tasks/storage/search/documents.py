"""The searchable document of each stored item, updated in the transaction that stores the item.

The full-text index is the database's own (FTS5, or a generated `tsvector`), and so is the vector index on PostgreSQL
(pgvector). On SQLite the vectors are in `matrices`, which finds new documents by their `revision`. So no index is ever
out of date, and none is rebuilt for one batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.schema import documents, items, stages, step_results

MAX_INDEXED_DIMENSIONS = 2000
"""The limit of pgvector's HNSW index; longer vectors are compared one by one."""
ROWS_PER_READ = 5000
_VECTOR_INDEX_LOCK = 0x726F6F6D


def index(database: Database, connection: sa.Connection, item_ids: Sequence[str]) -> None:
    """Update the documents of these stored items. Idempotent."""
    next_revision = sa.select(sa.func.coalesce(sa.func.max(documents.c.revision), 0) + 1).scalar_subquery()
    found = (
        sa.select(
            items.c.id,
            items.c.name,
            _produced("label", "label"),
            _produced("text", "text"),
            _produced("embedding", "space"),
            next_revision,
        )
        .where(items.c.id.in_(item_ids))
        .order_by(items.c.id)
    )
    columns = ["item_id", "name", "label", "text", "space", "revision"]
    insert = database.insert(documents).from_select(columns, found)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[documents.c.item_id], set_={name: insert.excluded[name] for name in columns[1:]}
        )
    )
    if has_pgvector(database):
        _index_vectors(connection, item_ids)


def _produced(role: str, field: str) -> sa.ScalarSelect[str]:
    """Return a query for a field of the item's value of this role: that of the last stage that has one."""
    value = step_results.c.value[field].as_string()
    query = sa.select(value).select_from(step_results.join(stages, stages.c.name == step_results.c.stage))
    is_produced = step_results.c.item_id == items.c.id, stages.c.produces == role, value.is_not(None)
    return query.where(*is_produced).order_by(stages.c.position.desc()).limit(1).correlate(items).scalar_subquery()


def is_embedding() -> sa.ColumnElement[bool]:
    """Return the condition on `step_results` that a result is a vector of the stage that produces embeddings."""
    embedding = sa.select(stages.c.name).where(stages.c.produces == "embedding")
    return sa.and_(step_results.c.stage.in_(embedding), step_results.c.vector.is_not(None))


def is_vector_of_document() -> sa.ColumnElement[bool]:
    """Return the condition on `step_results` that a result is the vector with which a document was stored.

    A vector is saved before `store` updates the document: in between the two may be of different spaces.
    """
    return sa.and_(
        step_results.c.item_id == documents.c.item_id,
        is_embedding(),
        step_results.c.value["space"].as_string() == documents.c.space,
    )


def _index_vectors(connection: sa.Connection, item_ids: Sequence[str]) -> None:
    is_listed = documents.c.item_id.in_(item_ids)
    query = (
        sa.select(documents.c.number, documents.c.space, step_results.c.vector)
        .select_from(documents)
        .join(step_results, is_vector_of_document())
        .where(is_listed)
    )
    rows = [
        {"number": row.number, "space": row.space, "embedding": as_pgvector(np.frombuffer(row.vector, np.float32))}
        for row in connection.execute(query)
    ]
    with_vector = [row["number"] for row in rows]
    without_vector = sa.select(documents.c.number).where(is_listed, documents.c.number.not_in(with_vector))
    connection.execute(sa.delete(_document_vectors).where(_document_vectors.c.number.in_(without_vector)))
    if rows:
        connection.execute(
            sa.text(
                "INSERT INTO document_vectors VALUES (:number, :space, CAST(:embedding AS vector)) "
                "ON CONFLICT (number) DO UPDATE SET space = excluded.space, embedding = excluded.embedding"
            ),
            rows,
        )


_document_vectors = sa.table("document_vectors", sa.column("number"), sa.column("space"))


def as_pgvector(vector: npt.NDArray[np.float32]) -> str:
    """Return a vector in pgvector's text format."""
    return f"[{','.join(map(str, vector.tolist()))}]"


@lru_cache(maxsize=8)
def _has_vector_table(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.scalar(sa.text("SELECT to_regclass('document_vectors') IS NOT NULL")))


def has_pgvector(database: Database) -> bool:
    """Return whether the store has vectors that pgvector searches."""
    if database.is_sqlite:
        return False
    with database.translated_errors():
        return _has_vector_table(database.engine)


def qualities(
    connection: sa.Connection, numbers: Sequence[int], min_quality: float, space: str | None = None
) -> dict[int, float]:
    """Return the qualities, by number, of the documents whose items are stored at `min_quality` or above.

    Args:
        space: only documents of this vector space; None for any.
    """
    # Filter in Python: without statistics (ANALYZE), SQLite would scan an index of another condition instead.
    query = sa.select(documents.c.number, documents.c.space, items.c.state, items.c.quality).join(items)
    kept: dict[int, float] = {}
    for start in range(0, len(numbers), ROWS_PER_READ):
        is_in_chunk = documents.c.number.in_(numbers[start : start + ROWS_PER_READ])
        for number, document_space, state, quality in connection.execute(query.where(is_in_chunk)):
            if state == "stored" and quality >= min_quality and space in {None, document_space}:
                kept[number] = quality
    return kept


_indexed: set[tuple[sa.URL, str]] = set()
"""The spaces that have their index, as far as this process knows, by database URL."""


@retried
def create_vector_indexes(database: Database, item_ids: Sequence[str]) -> None:
    """Create the missing index of each vector space that these items use; with pgvector only. Idempotent.

    It needs a transaction of its own, before the one that marks the items stored: CREATE INDEX waits for the
    transactions that write vectors, so two writers that create an index would deadlock.
    """
    if not has_pgvector(database):
        return
    query = sa.select(step_results.c.value["space"].as_string(), step_results.c.value["dimensions"].as_integer())
    with database.read() as connection:
        rows = connection.execute(query.where(step_results.c.item_id.in_(item_ids), is_embedding()).distinct()).all()
    new = [(str(space), int(dimensions)) for space, dimensions in rows if (database.url, space) not in _indexed]
    if not new:
        return
    with database.write() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_VECTOR_INDEX_LOCK)))
        for space, dimensions in new:
            if dimensions <= MAX_INDEXED_DIMENSIONS:
                connection.execute(_create_index(space, dimensions))
    _indexed.update((database.url, space) for space, _ in new)


def _create_index(space: str, dimensions: int) -> sa.TextClause:
    name = f"document_vectors_{hashlib.sha256(space.encode()).hexdigest()[:16]}"
    quoted = space.replace("'", "''").replace(":", "\\:")  # CREATE INDEX takes no parameters
    return sa.text(
        f"CREATE INDEX IF NOT EXISTS {name} ON document_vectors "
        f"USING hnsw ((embedding\\:\\:vector({dimensions})) vector_cosine_ops) WHERE space = '{quoted}'"
    )
