"""Stores as tests need them: with items that no run took there, and with none."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import sqlalchemy as sa

from repli.tasks.storage import results
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import metadata


def store_at(database: Database, run_id: str, qualities: Mapping[str, Decimal], *, retry_below: float = 0.8) -> None:
    """Mark items stored, each at its quality, whatever its results come to."""
    for item_id, quality in qualities.items():
        results.mark_stored(database, run_id, [item_id], merge=lambda steps, q=quality: q, retry_below=retry_below)


def emptied(database: Database) -> Database:
    """The store without anything in it: to make a new one takes longer than most tests."""
    with database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(sa.delete(table))
    return database
