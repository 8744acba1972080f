"""What people said is right, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from repli.tasks.fallback import Status, StepResult
from repli.tasks.items import Label
from repli.tasks.storage import labels, results
from repli.tasks.storage.database import Database
from repli.tasks.storage.labels import GivenLabel
from tests.support.stores import store_at

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def given(
    item_id: str, value: Mapping[str, Any], *, hours: int = 0, stage: str = "look", of: str = "now"
) -> GivenLabel:
    at = NOON + timedelta(hours=hours)
    return GivenLabel(item_id=item_id, stage=stage, input_hash=of, value=value, at=at)


def test_a_later_label_takes_the_place_of_an_earlier(database: Database, registered: Callable[..., str]) -> None:
    """Of the same item, stage and input; one of another input stands beside it."""
    registered("cat", "dog")
    tabby = given("cat", {"label": "tabby"}, hours=1)
    for one in (given("cat", {"label": "tiger cat"}), tabby, given("cat", {"label": "hen"}, of="before")):
        labels.give(database, one)
    found = labels.of_items(database, ["cat", "dog"])
    assert found[("cat", "look", "now")] == tabby
    assert {key: label.said for key, label in found.items()} == {
        ("cat", "look", "now"): "tabby",
        ("cat", "look", "before"): "hen",
    }
    assert labels.of_items(database, ["cat"], "read") == {}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"label": "tabby"}, "tabby"),
        ({"label": None, "wrong": ["hen"]}, "none"),
        ({"rungs": ["full", "plain"], "right": ["a"], "wrong": []}, "full,plain"),
        ({"rungs": [], "right": [], "wrong": ["a"]}, "none"),
    ],
)
def test_a_label_says_what_was_answered(value: Mapping[str, Any], said: str) -> None:
    """In the words that answer it again."""
    assert given("cat", value).said == said


def test_the_items_that_were_labelled_last_come_first(database: Database, registered: Callable[..., str]) -> None:
    """Only stored items, and only of the stages asked for."""
    run_id = registered("cat", "dog", "hen", "new")
    store_at(database, run_id, {name: Decimal(1) for name in ("cat", "dog", "hen")})
    for hours, name in enumerate(("cat", "dog", "new")):
        labels.give(database, given(name, {"label": "x"}, hours=hours))
    labels.give(database, given("hen", {"label": "x"}, stage="read"))
    assert labels.latest_items(database, ["look"], 10) == ["dog", "cat"]
    assert labels.latest_items(database, ["look", "read"], 2) == ["dog", "cat"]
    assert labels.latest_items(database, ["read"], 10) == ["hen"]


def test_the_labels_that_a_stage_has_served(database: Database, registered: Callable[..., str]) -> None:
    """Each once; of another stage none."""
    run_id = registered("a", "b", "c")
    steps = [
        StepResult(
            item_id=item_id,
            stage=stage,
            status=Status.SUCCEEDED,
            rung="model",
            penalty=Decimal(1),
            value=Label(label, vocabulary="queues"),
            run_id=run_id,
            finished_at=NOON,
        )
        for item_id, stage, label in (("a", "look", "billing"), ("b", "look", "billing"), ("c", "sort", "delivery"))
    ]
    results.save(database, steps)
    assert labels.served(database, "look") == ["billing"]
