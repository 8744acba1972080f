"""What a run does about items that its manifest does not have any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from repli.flows.config.run_request import RunRequest
from repli.flows.config.unlisted_items import treat_unlisted
from repli.tasks.fallback import UsageError
from repli.tasks.settings import Settings
from repli.tasks.storage import catalogue, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items
from tests.support.default_pipeline import PIPELINE
from tests.support.in_process import enrich

Write = Callable[..., RunRequest]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the manifest anew; the request of its next run."""
    path = tmp_path / "items.jsonl"

    def write(*ids: str, more: str = "", prune: bool = True) -> RunRequest:
        path.write_text("".join(f'{{"id": "{id_}", "name": "{id_}", "text": "{id_}"}}\n' for id_ in ids) + more)
        return RunRequest(pipeline=PIPELINE, source=path, batch_size=2, prune=prune)

    return write


def run(settings: Settings, request: RunRequest) -> list[str]:
    """Take the manifest through the stages, end the run, and return what is said."""
    enrich(settings, request.source)
    database = Database(settings.database_url)
    latest = runs.latest(database)
    assert latest is not None
    said = treat_unlisted(database, latest.id, request, settings)
    runs.finish(database, latest.id, database.now())
    return said


def stored(settings: Settings) -> list[str]:
    with Database(settings.database_url).read() as connection:
        return sorted(connection.scalars(sa.select(items.c.id)))


def test_they_are_counted_and_stay(settings: Settings, write: Write) -> None:
    """Without being asked to a run removes nothing, and says each time what there is."""
    assert run(settings, write("a", "b", "c", prune=False)) == []
    for _ in range(2):
        [said] = run(settings, write("a", prune=False))
        assert said == (
            "2 items of this source are in the store and no longer in the manifest; `repli run --prune` or "
            "`repli forget ID` removes them"
        )
    assert stored(settings) == ["a", "b", "c"]


def test_they_are_removed_with_their_files(settings: Settings, write: Write) -> None:
    """Where the run is asked to."""
    run(settings, write("a", "b", "c"))
    assert run(settings, write("a")) == ["2 items that are no longer in the manifest were removed, and 2 files"]
    assert stored(settings) == ["a"]
    assert run(settings, write("a")) == []


def test_a_line_that_cannot_be_read_may_be_theirs(settings: Settings, write: Write) -> None:
    """One slip of the pen must not delete an item."""
    run(settings, write("a", "b"))
    [said] = run(settings, write("a", more='{"id": "b", "name\n'))
    assert said.endswith("--prune removed none, since 1 lines cannot be read: correct these first")
    assert "b" in stored(settings)
    assert run(settings, write("a")) == ["2 items that are no longer in the manifest were removed, and 1 files"]


def test_another_run_may_use_their_files(settings: Settings, write: Write) -> None:
    """They go when it is over."""
    run(settings, write("a", "b"))
    database = Database(settings.database_url)
    other = runs.start(database, "flow", "other.jsonl", {}, database.now(), kind=runs.REPROCESS)
    [said] = run(settings, write("a"))
    assert said.endswith("--prune removed none, since another run is active: run it again")
    assert stored(settings) == ["a", "b"]
    runs.finish(database, other, database.now())
    assert run(settings, write("a")) == ["1 items that are no longer in the manifest were removed, and 1 files"]


def test_a_part_of_a_manifest_misses_nothing(settings: Settings, write: Write) -> None:
    """A limit says nothing about the rest; asked for together they are refused."""
    run(settings, write("a", "b"))
    request = write("a", "b", prune=False)
    assert run(settings, replace(request, limit=1)) == []
    with pytest.raises(UsageError, match=r"--prune needs the whole manifest.*omit --limit"):
        replace(request, limit=1, prune=True)


def test_no_item_is_lost_to_a_list_that_is_being_made(settings: Settings, write: Write) -> None:
    """A manifest that was registered again with its items has all of them."""
    request = write("a", "b")
    run(settings, request)
    database = Database(settings.database_url)
    run_id = runs.start(database, "again", str(request.source), {}, database.now())
    catalogue.register(database, run_id, request.records())
    assert treat_unlisted(database, run_id, request, settings) == []
