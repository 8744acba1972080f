"""A queue for many tests: making a store takes longer than most of them."""

from __future__ import annotations

import pytest

from repli.tasks.storage.database import Database
from tests.support.queue import Queue


@pytest.fixture
def queue(database: Database) -> Queue:
    """An empty queue, and seven items that nothing was done to."""
    queue = Queue(database)
    queue.register("a", "b", "c", "d", "e", "f", "g")
    return queue
