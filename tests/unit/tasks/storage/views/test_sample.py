"""The sample of a drill: some of every kind that is stored, and of each kind about its share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items, step_results
from repli.tasks.storage.views.sample import stratified

KINDS = {
    "photo": (1.0, "text/html", "image/jpeg", 59),
    "drawing": (1.0, "text/html", "image/png", 31),
    "fallen": (0.9, "text/html", "image/jpeg", 8),
    "paper": (1.0, "application/pdf", "", 1),
    "bare": (0.72, "", "", 1),
}
"""By the beginning of their ids: quality, media types of document and image, and how many there are."""


@pytest.fixture
def shop(database: Database, registered: Callable[..., str]) -> Database:
    """A hundred stored items, and some that are not stored."""
    ids = {kind: [f"{kind}-{number}" for number in range(count)] for kind, (*_, count) in KINDS.items()}
    run_id = registered(*(id_ for of_kind in ids.values() for id_ in of_kind), "new-0", "new-1")
    with database.write() as connection:
        for kind, (quality, document, image, _) in KINDS.items():
            is_kind = items.c.id.in_(ids[kind])
            connection.execute(sa.update(items).where(is_kind).values(state="stored", quality=quality))
            types = {"document": document, "image": image}
            value = {column: {"media_type": type_} for column, type_ in types.items() if type_}
            fetched = {"stage": "fetch", "status": "succeeded", "rank": 1, "value": value, "retryable": False}
            fetched |= {"attempts": [], "run_id": run_id, "finished_at": datetime(2026, 1, 1, tzinfo=UTC)}
            if value:
                connection.execute(sa.insert(step_results), [{**fetched, "item_id": id_} for id_ in ids[kind]])
    return database


def kinds(ids: list[str]) -> Counter[str]:
    assert len(set(ids)) == len(ids)
    return Counter(id_.partition("-")[0] for id_ in ids)


def test_every_kind_is_in_it_and_the_others_in_proportion(shop: Database) -> None:
    """One of each quality and media type, however rare; the places left go by how many there are."""
    found = kinds(stratified(shop, 20))
    assert found.keys() == KINDS.keys()
    assert found.total() == 20
    assert (found["paper"], found["bare"]) == (1, 1)
    assert (found["photo"], found["drawing"], found["fallen"]) == (11, 6, 1)


def test_a_sample_too_small_for_every_kind_has_no_kind_twice(shop: Database) -> None:
    """Where there is no room for all, each place goes to another kind."""
    found = kinds(stratified(shop, 3))
    assert (found.total(), set(found.values())) == (3, {1})


def test_a_large_sample_is_all_that_is_stored(shop: Database) -> None:
    """Nobody twice, and nobody who is not stored."""
    assert kinds(stratified(shop, 500)) == {kind: count for kind, (*_, count) in KINDS.items()}


def test_it_is_drawn_at_random(shop: Database) -> None:
    """Week by week it is other items."""
    assert len({tuple(sorted(stratified(shop, 10))) for _ in range(5)}) > 1


def test_of_nothing_there_is_no_sample(database: Database) -> None:
    """A store without items gives none."""
    assert stratified(database, 10) == []
