"""Items that are no longer in the manifest of their source: what a run knows of them, on both databases."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.items import Item
from repli.tasks.storage import catalogue, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items
from repli.tasks.storage.unlisted import count_unreadable, unlisted

Run = Callable[..., str]


@pytest.fixture
def run(database: Database) -> Run:
    """Registers items as a run of a source; its id."""

    def run(source: str, *ids: str, **options: Any) -> str:
        run_id = runs.start(database, str(uuid.uuid4()), source, options, datetime.now(UTC))
        catalogue.register(database, run_id, [Item(id=id_, name=id_) for id_ in ids])
        return run_id

    return run


def test_what_the_last_manifest_had_and_this_one_has_not(database: Database, run: Run) -> None:
    """The first run of a source misses nothing."""
    assert unlisted(database, run("a", "1", "2", "3")) == []
    assert unlisted(database, run("a", "2", "4")) == ["1", "3"]


def test_it_stays_known_when_the_lists_of_runs_are_pruned(database: Database, run: Run) -> None:
    """Long after the run that listed it."""
    run("a", "1", "2")
    for _ in range(3):
        last = run("a", "2")
    runs.prune(database, keep=1)
    assert unlisted(database, last) == ["1"]


def test_items_of_another_source_are_not_missed(database: Database, run: Run) -> None:
    """Nor those that both had, while the other still has them."""
    run("a", "1", "2", "both")
    run("b", "both", "of b")
    assert unlisted(database, run("a", "1")) == ["2"]
    assert unlisted(database, run("b", "of b")) == ["both"]


def test_an_item_that_moved_to_another_source_is_not_missed(database: Database, run: Run) -> None:
    """Whichever ran last."""
    run("a", "1", "2")
    run("b", "2")
    assert unlisted(database, run("a", "1")) == []


def test_a_part_of_another_manifest_says_nothing_about_its_rest(database: Database, run: Run) -> None:
    """A run with a limit does not make the other source lose what it has."""
    run("b", "1", "2")
    run("a", "1", "2")
    run("b", "1", limit=1)
    assert unlisted(database, run("a", "1")) == []


def test_unreadable_lines_are_counted(database: Database, run: Run) -> None:
    """They may be of any item."""
    run_id = runs.start(database, str(uuid.uuid4()), "a", {}, datetime.now(UTC))
    catalogue.register(database, run_id, [Item(id="1", name="1"), Item(id="a:2", problem="is not JSON")])
    assert count_unreadable(database, run_id) == 1
    assert count_unreadable(database, run("b", "1")) == 0


def test_an_unchanged_item_is_written_once(database: Database, run: Run) -> None:
    """Only an item of another source gets its key anew; its revision stays."""
    run("a", "1")
    run("b", "1")
    with database.read() as connection:
        row = connection.execute(sa.select(items.c.revision, items.c.source_key)).one()
    assert tuple(row) == (1, runs.source_key("b"))
