"""Validate: a broken required expectation fails the item; a broken soft one is recorded and degrades nothing.

What had to be repaired for the record to be stored is no soft matter: `expectations` declines, and `basic` serves.
"""

from __future__ import annotations

from collections.abc import Sequence

from repli.tasks.comparison.metrics import VALIDATIONS
from repli.tasks.fallback import Breaker, Declined, Failed, InvalidItem, Outcome, Served
from repli.tasks.items import Item, Validation, Violation, is_placeholder
from repli.tasks.pipeline import EnrichedItem, Stage, StageHooks
from repli.tasks.settings import Settings

MAX_NAME_CHARACTERS = 500


def _input(item: EnrichedItem) -> Item:
    return item.state.item


def _warm_up(settings: Settings) -> None:
    from repli.tasks.stages.suite import load_suite

    load_suite()


STAGE = Stage(
    "validate",
    input=_input,
    comparison=VALIDATIONS,
    hooks=StageHooks(takes_unreadable=True, imports=lambda settings: ("repli.tasks.stages.suite",), warm_up=_warm_up),
)


@STAGE.rung(time_limit_s=120, breaker=Breaker(scope="host"))
def expectations(items: Sequence[Item]) -> Sequence[Outcome[Validation]]:
    """Validate the batch as one DataFrame with the Great Expectations suite, and map unexpected rows back to items."""
    from repli.tasks.stages.suite import find_violations

    return [_outcome(item, violations) for item, violations in zip(items, find_violations(items), strict=True)]


@STAGE.rung(penalty="0.95", time_limit_s=30)
def basic(items: Sequence[Item]) -> Sequence[Outcome[Validation]]:
    """Validate only the required fields, without a library."""
    return [
        Failed.because(InvalidItem(problem)) if (problem := _required_problem(item)) else Served(Validation())
        for item in items
    ]


def _outcome(item: Item, violations: Sequence[tuple[bool, Violation]]) -> Outcome[Validation]:
    if any(is_required for is_required, _ in violations):
        problem = _required_problem(item)
        if problem is None and (repairs := _repairs(item)):
            return Failed.because(Declined(repairs))
        return Failed.because(InvalidItem(problem or f"item {item.id} breaks {violations}"))
    return Served(Validation(violations=(*(violation for _, violation in violations), *_placeholders(item))))


def _placeholders(item: Item) -> list[Violation]:
    """Return a soft violation for each declared value that only says that there is none, such as `N/A`.

    No expectation of Great Expectations, each of which costs a batch 15 ms.
    """
    declared = {"name": item.name, "document": item.document, "text": item.text, "image": item.image}
    return [
        Violation(expectation="expect_value_to_be_no_placeholder", column=column, value=value)
        for column, value in declared.items()
        if is_placeholder(value)
    ]


def _required_problem(item: Item) -> str | None:
    """Return the problem that makes the item invalid, with its remedy; None for a valid item."""
    if item.problem:
        return item.problem
    if item.name is None:
        return f"item {item.id} has no name; give it one in the manifest"
    if not isinstance(item.name, str):
        kind = type(item.name).__name__
        return f"the name of item {item.id} is of type {kind}, not text; put it in quotes in the manifest"
    if not item.name.strip():
        return f"the name of item {item.id} is blank; give it one in the manifest"
    return None


def _repairs(item: Item) -> str | None:
    """Return what was changed in the record, None where nothing was."""
    return f"item {item.id}: {'; '.join(item.repaired)}; correct the manifest" if item.repaired else None
