"""An item as the input of a stage sees it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest

from repli.tasks.fallback import Status, StepResult
from repli.tasks.items import Asset, Assets, Embedding, Guess, Item, ItemState, Label, Text
from repli.tasks.json_values import as_json
from repli.tasks.pipeline import EnrichedItem

ITEM = Item(id="42", name="Cat", document="It purrs.", image="cat.png", attributes={"price": 3})
PICTURE = Asset(uri="cat.png", sha256="0" * 64, size=1, media_type="image/png", source="origin")


def enriched(produces: dict[str, type | None], values: dict[str, Any] | None = None) -> EnrichedItem:
    """Return an item after stages that produce these, of which some have these values, as the store has them."""
    results = {
        stage: StepResult(
            item_id=ITEM.id,
            stage=stage,
            status=Status.SUCCEEDED if value is not None else Status.SKIPPED,
            value=as_json(value),
            finished_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for stage, value in (values or {}).items()
    }
    return EnrichedItem(ItemState(item=ITEM, results=results), produces)


def test_it_has_the_record() -> None:
    """As the manifest declares it."""
    item = enriched({})
    assert (item.id, item.name, item.document, item.image) == ("42", "Cat", "It purrs.", "cat.png")
    assert item.attributes == {"price": 3}


def test_a_value_by_the_name_of_its_stage() -> None:
    """As what the stage produces, else as JSON; None where the stage has none, and where it has not run."""
    item = enriched(
        {"price": None, "title": Text, "skipped": None, "missing": None},
        {"price": {"euros": 9.5}, "title": Text("Cat"), "skipped": None},
    )
    assert item.value("price") == {"euros": 9.5}
    assert item.value("title") == Text("Cat")
    assert item.value("skipped") is None
    assert item.value("missing") is None


@pytest.mark.parametrize(
    ("produces", "earlier"), [({}, "none"), ({"price": None, "title": Text}, "price, title")], ids=["first", "third"]
)
def test_a_stage_that_is_not_before_this_one(produces: dict[str, type | None], earlier: str) -> None:
    """A wrong name is an error that lists the right ones, not a missing value."""
    with pytest.raises(LookupError, match=f"^'store' is no stage before this one; the earlier ones are {earlier}$"):
        enriched(produces).value("store")


def test_a_value_by_its_role() -> None:
    """Of the last stage that produces it and has one."""
    stages: dict[str, type | None] = {"original": Text, "label": Label, "translation": Text}
    both = {"original": Text("Katze"), "label": Label("cat"), "translation": Text("cat")}
    assert enriched(stages, both).value(Text) == Text("cat")
    assert enriched(stages, {**both, "translation": None}).value(Text) == Text("Katze")
    assert enriched(stages, {"original": Text("Katze")}).value(Text) == Text("Katze")
    assert enriched(stages, {}).value(Text) is None
    assert enriched({"label": Label}, both).value(Text) is None


@pytest.mark.parametrize(
    "value",
    [
        Text("a red boat"),
        Label("boat", label_index=3, top=(Guess(label="boat", label_index=3, confidence=0.5),), vocabulary="v"),
        Assets(document=None, image=PICTURE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_role_comes_back_as_it_went(value: Any) -> None:
    """What a stage returned is what the input of a later one gets."""
    assert asdict(enriched({"s": type(value)}, {"s": value}).value(type(value))) == asdict(value)


def test_a_vector_does_not_come_back() -> None:
    """The store keeps it apart from the values: the error says so, and no stage works on half a value."""
    item = enriched({"s": Embedding}, {"s": Embedding("axes:1", [0.6, 0.8])})  # type: ignore[arg-type]
    for of in (Embedding, "s"):
        with pytest.raises(LookupError, match=r"^the vector of s is not loaded for other stages"):
            item.value(of)
