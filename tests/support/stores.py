"""Stores as tests need them: with items that no run took there, and with none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

import pytest
import sqlalchemy as sa

from repli.tasks.fallback import Position, Status, StepError, StepResult
from repli.tasks.items import Stored
from repli.tasks.storage import pipelines, results
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.pipelines import StoredPipeline
from repli.tasks.storage.schema import breakers, metadata
from tests.support.default_pipeline import STORED


def mark_stored(
    database: Database, run_id: str, item_ids: Iterable[str], *, merge: results.Merge, retry_below: float = 0.8
) -> dict[str, Decimal | StepError]:
    """Store items, and return the quality of each, or why it was refused."""
    steps = [
        StepResult(
            item_id=item_id,
            stage="store",
            status=Status.SUCCEEDED,
            value=Stored(quality=1.0),
            confidence=1.0,
            rung="database",
            penalty=Decimal(1),
            run_id=run_id,
            finished_at=datetime.now(UTC),
        )
        for item_id in item_ids
    ]
    saved = results.store(database, steps, merge=merge, retry_below=retry_below)
    return {one.item_id: one.error or Decimal(repr(one.value.quality)) for one in saved}


def store_at(database: Database, run_id: str, qualities: Mapping[str, Decimal], *, retry_below: float = 0.8) -> None:
    """Mark items stored, each at its quality, whatever its results come to."""
    for item_id, quality in qualities.items():
        mark_stored(database, run_id, [item_id], merge=partial(_always, quality), retry_below=retry_below)


def _always(quality: Decimal, steps: object) -> Decimal:
    return quality


def emptied(database: Database) -> Database:
    """The store with nothing but the default pipeline in it: to make a new one takes longer than most tests."""
    delete_all(database)
    pipelines.declare(database, STORED)
    return database


def delete_all(database: Database) -> None:
    """Delete every row."""
    with database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(sa.delete(table))


def fill_with(database: Database, pipeline: StoredPipeline) -> None:
    """Make this the store's pipeline, unless it is already."""
    present = pipelines.read(database)
    if present is None or not present.has_stages_of(pipeline):
        pipelines.change(database, pipeline)


@contextmanager
def commits_fail(database: Database) -> Iterator[None]:
    """No transaction comes to its end, as where the process dies just before."""

    def die(connection: sa.Connection) -> None:
        raise KeyboardInterrupt

    sa.event.listen(database.engine, "commit", die)
    with pytest.raises(KeyboardInterrupt):
        yield
    sa.event.remove(database.engine, "commit", die)


def hold_open(database: Database) -> None:
    """As if no time passed for the breakers that are open: a slow machine takes longer than their first cool-down."""
    with database.write() as connection:
        later = database_time(connection) + timedelta(hours=1)
        connection.execute(sa.update(breakers).where(breakers.c.position == Position.OPEN).values(probe_at=later))
