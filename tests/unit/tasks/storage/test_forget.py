"""Items that are forgotten leave nothing behind that was theirs alone, on SQLite and on PostgreSQL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from repli.tasks.items import Item
from repli.tasks.search import Mode, Query, search
from repli.tasks.settings import Settings
from repli.tasks.sources.manifest.records import content_name
from repli.tasks.storage import catalogue, drills, labels, results, runs
from repli.tasks.storage.blobs import Blobs, keep_contents
from repli.tasks.storage.database import Database
from repli.tasks.storage.forget import Forgotten, forget
from repli.tasks.storage.labels import GivenLabel
from repli.tasks.storage.schema import metadata
from tests.support import files
from tests.support.in_process import enrich

PICTURE = files.png()
NOW = datetime(2026, 11, 27, tzinfo=UTC)
OWN, SHARED = "A lighthouse on the northern cape.", "A harbour with three boats."


@pytest.fixture
def here(settings: Settings, database: Database) -> Settings:
    """Settings with a store of each kind."""
    return replace(settings, database_url=database.url.render_as_string(hide_password=False))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two items that share a text and a picture, and a third; the second has a text of its own."""
    folder = tmp_path / "catalogue"
    folder.mkdir()
    (folder / "shared.png").write_bytes(PICTURE)
    (folder / "own.txt").write_text(OWN)
    lines = [
        {"id": "stays", "name": "Harbour", "document": SHARED, "image": "shared.png"},
        {"id": "goes", "name": "Lighthouse", "document": "own.txt", "image": "shared.png"},
        {"id": "third", "name": "Boat", "document": SHARED},
    ]
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def forgotten(settings: Settings, *ids: str) -> Forgotten:
    return forget(Database(settings.database_url), Blobs(settings.blobs), settings.picture_cache, ids)


def rows_that_name(database: Database, *texts: str) -> list[str]:
    """The tables in which one of these texts stands anywhere."""
    with database.read() as connection:
        return [
            table.name
            for table in metadata.sorted_tables
            for row in connection.execute(sa.select(table))
            if any(text in repr(tuple(row)) for text in texts)
        ]


def test_nothing_of_it_is_left(here: Settings, database: Database, source: Path) -> None:
    """No row, no blob, no reduced picture; what another item has too stays."""
    enrich(here, source)
    own, shared = (hashlib.sha256(content).hexdigest() for content in (OWN.encode(), PICTURE))
    cache = here.picture_cache
    for sha256 in (own, shared):
        (cache / sha256[:2]).mkdir(parents=True, exist_ok=True)
        (cache / sha256[:2] / f"{sha256}-320").write_bytes(b"reduced")
    asked = [{"item_id": id_, "text": text} for id_, text in (("goes", "A lighthouse"), ("stays", "A harbour"))]
    report = {"verdict": "passed", "rungs": [], "questions": asked}
    drills.keep(database, None, NOW, NOW, report)
    labels.give(database, GivenLabel(item_id="goes", stage="look", input_hash="a", value={"label": "tower"}, at=NOW))
    assert {"step_results", "labels", "drills"} <= set(rows_that_name(database, "goes"))
    assert forgotten(here, "goes") == Forgotten(items=1, blobs=1)
    assert rows_that_name(database, "goes", own, "lighthouse", "own.txt") == []
    assert drills.latest(database, 1)[0].report["questions"] == asked[1:]
    assert not Blobs(here.blobs).path(own).exists()
    assert Blobs(here.blobs).read(shared) == PICTURE
    assert [path.name for path in cache.rglob("*-*")] == [f"{shared}-320"]
    assert {state.item.id for state in results.load(database, ["stays", "goes", "third"])} == {"stays", "third"}


def test_what_is_shared_goes_with_its_last_item(here: Settings, source: Path) -> None:
    """In one call or in several."""
    enrich(here, source)
    shared = Blobs(here.blobs).path(hashlib.sha256(SHARED.encode()).hexdigest())
    assert forgotten(here, "goes", "stays") == Forgotten(items=2, blobs=2)
    assert shared.exists()
    assert forgotten(here, "third") == Forgotten(items=1, blobs=1)
    assert not [path for path in here.blobs.rglob("*") if path.is_file()]


def test_it_is_idempotent(here: Settings, source: Path) -> None:
    """A call that was cut off is completed by the next one."""
    enrich(here, source)
    forgotten(here, "goes")
    assert forgotten(here, "goes", "never was") == Forgotten(items=0, blobs=0)


def test_search_does_not_find_it(here: Settings, database: Database, source: Path) -> None:
    """By words and by vectors; and its number in the index, taken by a new item, is that item's."""
    enrich(here, source)
    for mode in Mode:
        found = search(here, database, Query(text="lighthouse cape", mode=mode))
        assert found.hits[0].id == "goes"
    forgotten(here, "goes", "third")
    for mode in Mode:
        found = search(here, database, Query(text="lighthouse cape northern", mode=mode))
        assert "goes" not in {hit.id for hit in found.hits}
    new = source.with_name("new.jsonl")
    new.write_text('{"id": "new", "name": "Windmill", "document": "A windmill that grinds corn."}\n')
    enrich(here, new)
    for mode in Mode:
        found = search(here, database, Query(text="windmill grinds corn", mode=mode))
        assert found.hits[0].id == "new"


def test_the_place_of_a_forgotten_item_is_taken_by_a_new_one(here: Settings, database: Database, source: Path) -> None:
    """Number and revision in the index may be the same: the cache of vectors must not take the one for the other."""
    text = Query(text="a harp with many strings", mode=Mode.VECTOR)
    for item_id, words in (("old", "A harp with many strings."), ("new", "A windmill that grinds corn.")):
        path = source.with_name(f"{item_id}.jsonl")
        path.write_text(json.dumps({"id": item_id, "name": item_id, "document": words}) + "\n")
    enrich(here, source)
    enrich(here, source.with_name("old.jsonl"))
    assert search(here, database, text).hits[0].id == "old"
    forgotten(here, "old")
    enrich(here, source.with_name("new.jsonl"))
    assert [hit.id for hit in search(here, database, text).hits][:1] != ["new"]


def test_contents_of_a_manifest_go_with_their_items(here: Settings, registered: Callable[..., str]) -> None:
    """Those of items that no stage has seen yet count as theirs."""
    image = content_name(PICTURE)
    carrying = [
        Item(id=id_, name=id_, image=image, inline=("image",), contents={"image": PICTURE}) for id_ in ("a", "b")
    ]
    registered(*keep_contents(carrying, Blobs(here.blobs)))
    blob = Blobs(here.blobs).path(hashlib.sha256(PICTURE).hexdigest())
    assert forgotten(here, "a") == Forgotten(items=1, blobs=0)
    assert blob.exists()
    assert forgotten(here, "b") == Forgotten(items=1, blobs=1)
    assert not blob.exists()


def test_a_late_result_of_it_is_dropped(
    here: Settings, database: Database, registered: Callable[..., str], source: Path
) -> None:
    """A worker that still had it writes nothing."""
    enrich(here, source)
    [state] = results.load(database, ["goes"])
    late = state.results["validate"]
    forgotten(here, "goes")
    assert results.save(database, [late]) == []
    assert rows_that_name(database, "goes") == []
    run_id = registered("goes")
    assert list(catalogue.batches(database, run_id, 10, refresh=False)) == [("goes",)]
    assert runs.find(database, run_id).lines == 1
