"""Items that are stored, without a run that took them there."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from tasks.storage import results
from tasks.storage.database import Database


def store_at(database: Database, run_id: str, qualities: Mapping[str, Decimal], *, retry_below: float = 0.8) -> None:
    """Mark items stored, each at its quality, whatever its results come to."""
    for item_id, quality in qualities.items():
        results.mark_stored(database, run_id, [item_id], merge=lambda steps, q=quality: q, retry_below=retry_below)
