"""What search reads of each stored item, kept up to date in the transaction that stores it, item by item.

The full-text index over it is the database's own (FTS5, or a generated `tsvector`), and so is the index of vectors on
PostgreSQL (pgvector). On SQLite the vectors are in `matrices`, which looks at `revision` to see what is new. So no
index is ever stale, and none is built anew for one batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import documents, items, step_results

MAX_INDEXED_DIMENSIONS = 2000
"""pgvector's HNSW takes no more; longer vectors are compared one by one."""
ROWS_PER_READ = 5000
_MAKE_ROOM_LOCK = 0x726F6F6D


def index(database: Database, connection: sa.Connection, item_ids: Sequence[str]) -> None:
    """Bring the documents of these items, which are stored, up to date. Idempotent."""
    text, label, vector = (step_results.alias() for _ in range(3))
    turn = sa.select(sa.func.coalesce(sa.func.max(documents.c.revision), 0) + 1).scalar_subquery()
    found = (
        sa.select(
            items.c.id,
            items.c.name,
            label.c.value["label"].as_string(),
            text.c.value["text"].as_string(),
            vector.c.value["space"].as_string(),
            turn,
        )
        .select_from(items)
        .outerjoin(text, _left_by(text, "extract_text"))
        .outerjoin(label, _left_by(label, "classify_image"))
        .outerjoin(vector, _left_by(vector, "embed_text"))
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


def _left_by(result: sa.FromClause, stage: str) -> sa.ColumnElement[bool]:
    return sa.and_(result.c.item_id == items.c.id, result.c.stage == stage)


def is_vector_of_document() -> sa.ColumnElement[bool]:
    """Whether a step result is the vector that a document was stored with.

    `embed_text` leaves a vector before `store` marks the item: in between it may be of another space than the document.
    """
    return sa.and_(
        step_results.c.item_id == documents.c.item_id,
        step_results.c.stage == "embed_text",
        step_results.c.vector.is_not(None),
        step_results.c.value["space"].as_string() == documents.c.space,
    )


def _index_vectors(connection: sa.Connection, item_ids: Sequence[str]) -> None:
    mine = documents.c.item_id.in_(item_ids)
    query = (
        sa.select(documents.c.number, documents.c.space, step_results.c.vector)
        .join(step_results, is_vector_of_document())
        .where(mine)
    )
    rows = [
        {"number": row.number, "space": row.space, "embedding": as_pgvector(np.frombuffer(row.vector, np.float32))}
        for row in connection.execute(query)
    ]
    have = [row["number"] for row in rows]
    gone = sa.select(documents.c.number).where(mine, documents.c.number.not_in(have))
    connection.execute(sa.delete(_document_vectors).where(_document_vectors.c.number.in_(gone)))
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
    """A vector as pgvector reads it."""
    return f"[{','.join(map(str, vector.tolist()))}]"


@lru_cache(maxsize=8)
def _is_there(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.scalar(sa.text("SELECT to_regclass('document_vectors') IS NOT NULL")))


def has_pgvector(database: Database) -> bool:
    """Whether the store keeps vectors for pgvector to search."""
    return not database.is_sqlite and _is_there(database.engine)


def qualities(
    connection: sa.Connection, numbers: Sequence[int], min_quality: float, space: str | None = None
) -> dict[int, float]:
    """Of these documents, those whose items are stored at `min_quality` or above, with it. If asked, of one space."""
    # No condition but the numbers: SQLite, which nobody lets count, would walk an index of one of the others instead.
    query = sa.select(documents.c.number, documents.c.space, items.c.state, items.c.quality).join(items)
    kept: dict[int, float] = {}
    for start in range(0, len(numbers), ROWS_PER_READ):
        some = documents.c.number.in_(numbers[start : start + ROWS_PER_READ])
        for number, of_space, state, quality in connection.execute(query.where(some)):
            if state == "stored" and quality >= min_quality and space in {None, of_space}:
                kept[number] = quality
    return kept


_indexed: set[tuple[sa.URL, str]] = set()
"""The spaces that this process knows to have their index."""


def make_room(database: Database, item_ids: Sequence[str]) -> None:
    """Have an index for each vector space that these items bring along.

    It has a transaction of its own, before the one that marks the items: to make an index, PostgreSQL waits for
    whoever writes vectors, and two that write would wait for each other.
    """
    if not has_pgvector(database):
        return
    mine = sa.select(step_results.c.value["space"].as_string(), step_results.c.value["dimensions"].as_integer())
    of_stage = step_results.c.stage == "embed_text", step_results.c.vector.is_not(None)
    with database.read() as connection:
        rows = connection.execute(mine.where(step_results.c.item_id.in_(item_ids), *of_stage).distinct()).all()
    new = [(str(space), int(dimensions)) for space, dimensions in rows if (database.url, space) not in _indexed]
    if not new:
        return
    with database.write() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKE_ROOM_LOCK)))
        for space, dimensions in new:
            if dimensions <= MAX_INDEXED_DIMENSIONS:
                connection.execute(_index_of(space, dimensions))
    _indexed.update((database.url, space) for space, _ in new)


def _index_of(space: str, dimensions: int) -> sa.TextClause:
    name = f"document_vectors_{hashlib.sha256(space.encode()).hexdigest()[:16]}"
    quoted = space.replace("'", "''").replace(":", "\\:")  # a statement that makes an index takes no parameters
    return sa.text(
        f"CREATE INDEX IF NOT EXISTS {name} ON document_vectors "
        f"USING hnsw ((embedding\\:\\:vector({dimensions})) vector_cosine_ops) WHERE space = '{quoted}'"
    )
