"""Forget items: take them out of the store, its search index, its blobs, and the cache of pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import StoreError
from repli.tasks.items import INLINE
from repli.tasks.storage import drills
from repli.tasks.storage.blobs import Blobs
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried
from repli.tasks.storage.retry.retry_queue import lock_items
from repli.tasks.storage.schema import (
    documents,
    good_copies,
    incoming,
    items,
    labels,
    retries,
    retry_queue,
    run_items,
    stages,
    step_results,
)
from repli.tasks.storage.search.matrices import Matrices

ITEMS_PER_TRANSACTION = 500
ASSETS = ("document", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What was removed: items, and blobs that no other item has."""

    items: int
    blobs: int


def forget(database: Database, blobs: Blobs, picture_cache: Path, item_ids: Sequence[str]) -> Forgotten:
    """Remove items with their results, their documents and their places in the lists of runs. Idempotent.

    Their blobs go first, except those that another item has; so whatever ends the process, the same call again
    completes the work. No run may be active: it could fetch the same bytes again between the look and the removal.

    Raises:
        StoreError: The store or the blob folder cannot be written.
    """
    removed = count = 0
    for start in range(0, len(item_ids), ITEMS_PER_TRANSACTION):
        ids = item_ids[start : start + ITEMS_PER_TRANSACTION]
        unshared = _unshared_assets(database, ids)
        _delete_copies(database, unshared)
        removed += sum(_delete_files(blobs, picture_cache, sha256) for sha256 in unshared)
        count += _delete_rows(database, ids)
    if count and database.is_sqlite:
        Matrices(database).discard()
    return Forgotten(items=count, blobs=removed)


@retried
def _unshared_assets(database: Database, ids: Sequence[str]) -> list[str]:
    """Return the SHA-256 of each asset that these items have, and no other item."""
    with database.read() as connection:
        own = set(_assets(connection, items.c.id.in_(ids), step_results.c.item_id.in_(ids)))
        if not own:
            return []
        others = items.c.id.not_in(ids), step_results.c.item_id.not_in(ids)
        return sorted(own - set(_assets(connection, *others, among=own)))


def _assets(
    connection: sa.Connection,
    of_items: sa.ColumnElement[bool],
    of_results: sa.ColumnElement[bool],
    among: Collection[str] | None = None,
) -> Iterator[str]:
    """Yield the SHA-256 of the assets of items: of those that were fetched, and those that came with the manifest."""
    fetches = sa.select(stages.c.name).where(stages.c.produces == "assets")
    for asset in ASSETS:
        fetched = step_results.c.value[(asset, "sha256")].as_string()
        query = sa.select(fetched).where(of_results, step_results.c.stage.in_(fetches), fetched.is_not(None))
        yield from connection.scalars(query if among is None else query.where(fetched.in_(among)))
        carried: Any = items.c.record[asset].as_string()
        query = sa.select(carried).where(of_items, items.c.record["inline"].as_string().is_not(None))
        names = carried.like(f"{INLINE}%") if among is None else carried.in_([INLINE + sha256 for sha256 in among])
        yield from (name.removeprefix(INLINE) for name in connection.scalars(query.where(names)))


@retried
def _delete_copies(database: Database, assets: Sequence[str]) -> None:
    """Delete the last good copies whose bytes are these."""
    with database.write() as connection:
        connection.execute(sa.delete(good_copies).where(good_copies.c.sha256.in_(assets)))


def _delete_files(blobs: Blobs, picture_cache: Path, sha256: str) -> bool:
    """Delete a blob and what was made of it, and return whether there was one."""
    path = blobs.path(sha256)
    try:
        for made in (picture_cache / sha256[:2]).glob(f"{sha256}-*"):
            made.unlink(missing_ok=True)
        is_there = path.exists()
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be deleted ({error.strerror}); see REPLI_HOME") from error
    return is_there


@retried
def _delete_rows(database: Database, ids: Sequence[str]) -> int:
    """Delete the items and all rows that name them, and return how many items there were."""
    with database.write() as connection:
        present = lock_items(connection, ids)
        for table in (labels, documents, step_results, retry_queue, retries, run_items, incoming):
            connection.execute(sa.delete(table).where(table.c.item_id.in_(ids)))
        drills.forget_items(connection, ids)
        connection.execute(sa.delete(items).where(items.c.id.in_(ids)))
    return len(present)
