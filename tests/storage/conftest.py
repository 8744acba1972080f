"""A queue for many tests: making a store takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tasks.storage.database import Database
from tasks.storage.schema import metadata
from tests.conftest import fresh_store
from tests.queued import Queue


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kept_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A store of each kind that stays from test to test."""
    with fresh_store(request, tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def queue(kept_database: Database) -> Queue:
    """An empty queue, and seven items that nothing was done to."""
    with kept_database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(sa.delete(table))
    queue = Queue(kept_database)
    queue.register("a", "b", "c", "d", "e", "f", "g")
    return queue
