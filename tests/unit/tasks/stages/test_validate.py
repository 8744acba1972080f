"""The validate stage: Great Expectations over a batch, mapped back to items, and the required fields alone."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from repli.tasks.fallback import AttemptOutcome, Directives, Status, parse_faults
from repli.tasks.items import Item, Validation
from repli.tasks.pipeline import StageContext
from repli.tasks.settings import Settings
from repli.tasks.stages.validate import MAX_NAME_CHARACTERS, STAGE
from tests.support.in_process import open_context, run_rungs

CHAIN = STAGE.chain

GOOD = Item(id="good", name="A brass lamp", document="lamp.html", image="lamp.png")
REQUIRED = [
    (Item(id="i"), "item i has no name; give it one in the manifest"),
    (Item(id="i", name=""), "the name of item i is blank; give it one in the manifest"),
    (Item(id="i", name=" \n\t\u2003"), "the name of item i is blank"),
    (Item(id="i", name="\x1c\x85"), "the name of item i is blank"),
    (Item(id="i", name=7), "the name of item i is of type int, not text; put it in quotes in the manifest"),
    (Item(id="i", name=True), "the name of item i is of type bool"),
    (Item(id="i", name=["A", "lamp"]), "the name of item i is of type list"),
    (Item(id="i", name={"en": "lamp"}), "the name of item i is of type dict"),
    (Item(id="i", name="n", problem="line 3 of items.csv is not CSV"), "line 3 of items.csv is not CSV"),
    (Item(id="i", name=7, problem="line 3 of items.csv is not CSV"), "line 3 of items.csv is not CSV"),
]
SOFT: list[tuple[Item, str, str, Any]] = [
    (Item(id="i", name="n", document=7), "in_set", "document", "int"),
    (Item(id="i", name="n", image=["a.png"]), "in_set", "image", "list"),
    (Item(id="i", name="n", text=7), "in_set", "text", "int"),
    (Item(id="i", name="nan"), "placeholder", "name", "nan"),
    (Item(id="i", name="n", document="N/A"), "placeholder", "document", "N/A"),
    (Item(id="i", name="n", image=" None "), "placeholder", "image", " None "),
    (Item(id="i", name="n", text="-"), "placeholder", "text", "-"),
    (Item(id="i", name="n" * 501), "lengths_to_be_between", "name", "n" * 200 + "…"),
]


@pytest.fixture
def context(settings: Settings) -> Iterator[StageContext]:
    with open_context(settings) as context:
        yield context


@pytest.mark.parametrize("rung", ["expectations", "basic"])
@pytest.mark.parametrize(("item", "message"), REQUIRED)
def test_what_is_required(context: StageContext, rung: str, item: Item, message: str) -> None:
    """Either rung fails such an item for good with the same message, and passes its neighbours."""
    first, bad, last = run_rungs(CHAIN, [GOOD, item, GOOD], context, Directives(forced={"validate": rung}))
    assert (bad.status, bad.retryable, bad.penalty, bad.value) == (Status.FAILED, False, None, None)
    assert bad.error is not None
    assert (bad.error.type, bad.error.message.startswith(message)) == ("InvalidItem", rung == "expectations") or (
        rung == "basic" and bad.attempts[-1].error is not None and bad.attempts[-1].error.message.startswith(message)
    )
    assert [result.rung for result in (first, last)] == [rung, rung]


@pytest.mark.parametrize(("item", "expectation", "column", "value"), SOFT)
def test_what_is_only_recorded(context: StageContext, item: Item, expectation: str, column: str, value: Any) -> None:
    """A soft violation stands on its own item with what broke it, and degrades nothing."""
    first, soft, last = run_rungs(CHAIN, [GOOD, item, GOOD], context)
    assert (soft.status, soft.penalty) == (Status.SUCCEEDED, Decimal(1))
    [violation] = soft.value.violations
    assert expectation in violation.expectation
    assert (violation.column, violation.value) == (column, value)
    assert first.value == last.value == Validation()


def test_a_name_of_just_the_longest_is_fine(context: StageContext) -> None:
    """The limit itself is within it."""
    [result] = run_rungs(CHAIN, [Item(id="i", name="n" * MAX_NAME_CHARACTERS)], context)
    assert result.value == Validation()


def test_every_item_of_a_mixed_batch_has_its_own_outcome(context: StageContext) -> None:
    """However good, soft and bad ones lie among each other, each answer is its item's."""
    bad, soft = [item for item, _ in REQUIRED], [item for item, *_ in SOFT]
    items = [item for three in zip(bad, soft * 3, [GOOD] * len(bad), strict=False) for item in three]
    results = run_rungs(CHAIN, items, context)
    statuses = [Status.FAILED, Status.SUCCEEDED, Status.SUCCEEDED]
    assert [result.status for result in results] == statuses * len(bad)
    assert [len(result.value.violations) for result in results if result.value] == [1, 0] * len(bad)


@pytest.mark.parametrize("items", [[item for item, _ in REQUIRED], [Item(id="i")], [Item(id="i", problem="p")] * 3])
def test_a_batch_without_one_good_item(context: StageContext, items: list[Item]) -> None:
    """Columns that are empty throughout do not break the suite: the primary itself finds every item wrong."""
    for result in run_rungs(CHAIN, items, context):
        assert result.attempts[0].error is not None
        assert result.attempts[0].error.type == "InvalidItem"


def test_an_item_may_break_several_soft_expectations(context: StageContext) -> None:
    """All of them are recorded."""
    item = Item(id="i", name="n", document=1, image=2, text=3)
    [result] = run_rungs(CHAIN, [item], context)
    assert {violation.column for violation in result.value.violations} == {"document", "image", "text"}


def test_what_was_repaired_costs_its_item_quality(context: StageContext) -> None:
    """`basic` serves it, for good, and the reason names what was changed; no neighbour is touched."""
    item = Item(id="i", name="n", repaired=("colour: invalid", "name: invalid"))
    first, repaired, last = run_rungs(CHAIN, [GOOD, item, GOOD], context)
    assert (repaired.status, repaired.rung, repaired.penalty) == (Status.DEGRADED, "basic", Decimal("0.95"))
    assert repaired.error is not None
    assert repaired.error.message == "item i: colour: invalid; name: invalid; correct the manifest"
    assert not repaired.retryable
    assert {first.status, last.status} == {Status.SUCCEEDED}


def test_without_the_library_the_required_fields_are_still_checked(context: StageContext) -> None:
    """Where Great Expectations fails, good items are degraded, and bad ones still fail for good."""
    faults = parse_faults(["validate.expectations=unavailable"], [CHAIN])
    good, bad = run_rungs(CHAIN, [GOOD, Item(id="i")], context, Directives(faults=faults))
    assert (good.status, good.rung, good.penalty) == (Status.DEGRADED, "basic", Decimal("0.95"))
    assert [attempt.outcome for attempt in good.attempts] == [AttemptOutcome.UNAVAILABLE, AttemptOutcome.SERVED]
    assert bad.status is Status.FAILED
    assert bad.attempts[-1].error is not None
    assert bad.attempts[-1].error.message == "item i has no name; give it one in the manifest"


def test_the_stage_is_required() -> None:
    """There is no skip: an item without a name is nothing to go on with."""
    assert CHAIN.is_required
    assert CHAIN.rung_names == ("expectations", "basic")
