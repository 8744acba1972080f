"""Validate: a broken required expectation fails the item; a broken soft one is recorded and degrades nothing.

What had to be repaired for the record to be stored is no soft matter: `expectations` declines, and `basic` serves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from repli.tasks.comparison.metrics import VALIDATIONS
from repli.tasks.fallback import Breaker, Declined, Failed, InvalidItem, Outcome, Served
from repli.tasks.items import Item, Validation, Violation, is_placeholder
from repli.tasks.pipeline import EnrichedItem, Stage, StageHooks
from repli.tasks.settings import Settings

if TYPE_CHECKING:
    import great_expectations as gx

MAX_NAME_CHARACTERS = 500


def _input(item: EnrichedItem) -> Item:
    return item.state.item


def _warm_up(settings: Settings) -> None:
    load_suite()


STAGE = Stage(
    "validate",
    input=_input,
    comparison=VALIDATIONS,
    hooks=StageHooks(takes_unreadable=True, imports=lambda settings: ("great_expectations",), warm_up=_warm_up),
)


@STAGE.rung(time_limit_s=120, breaker=Breaker(scope="host"))
def expectations(items: Sequence[Item]) -> Sequence[Outcome[Validation]]:
    """Validate the batch as one DataFrame with the Great Expectations suite, and map unexpected rows back to items."""
    import pandas as pd

    suite = load_suite()
    frame = pd.DataFrame([_row(position, item) for position, item in enumerate(items)], dtype=object)
    batch = suite.batch_definition.get_batch(batch_parameters={"dataframe": frame})
    outcome = batch.validate(
        suite.suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
    )
    broken: list[list[tuple[bool, Violation]]] = [[] for _ in items]
    for result in outcome.results:
        if result.exception_info and result.exception_info.get("raised_exception"):
            raise RuntimeError(f"the expectation {result.expectation_config.type} raised: {result.exception_info}")
        config = result.expectation_config
        for entry in result.result.get("unexpected_index_list") or []:
            column = config.kwargs["column"]
            violation = Violation(
                expectation=config.type,
                column=column.removesuffix(_TYPE).removesuffix(_TEXT),
                value=_short(entry[column]),
            )
            broken[entry["row"]].append((config.meta["required"], violation))
    return [_outcome(item, violations) for item, violations in zip(items, broken, strict=True)]


@STAGE.rung(penalty="0.95", time_limit_s=30)
def basic(items: Sequence[Item]) -> Sequence[Outcome[Validation]]:
    """Validate only the required fields, without a library."""
    return [
        Failed.because(InvalidItem(problem)) if (problem := _required_problem(item)) else Served(Validation())
        for item in items
    ]


_TYPE, _TEXT = "_type", "_text"


@dataclass(frozen=True, slots=True)
class _Suite:
    """The expectation suite, and the batch definition to run it on a DataFrame."""

    suite: gx.ExpectationSuite
    batch_definition: Any


@lru_cache(maxsize=1)
def load_suite() -> _Suite:
    """Return the suite, ready to run, loaded once per process: Great Expectations takes seconds to import."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    required, soft = {"required": True}, {"required": False}
    declared = [
        gxe.ExpectColumnValuesToBeNull(column="problem", meta=required),
        gxe.ExpectColumnValuesToNotBeNull(column="name", meta=required),
        gxe.ExpectColumnValuesToBeInSet(column=f"name{_TYPE}", value_set=["str", "NoneType"], meta=required),
        gxe.ExpectColumnValuesToMatchRegex(column=f"name{_TEXT}", regex=r"\S", meta=required),
        gxe.ExpectColumnValueLengthsToBeBetween(column=f"name{_TEXT}", max_value=MAX_NAME_CHARACTERS, meta=soft),
        gxe.ExpectColumnValuesToBeInSet(column=f"document{_TYPE}", value_set=["str", "NoneType"], meta=soft),
        gxe.ExpectColumnValuesToBeInSet(column=f"text{_TYPE}", value_set=["str", "NoneType"], meta=soft),
        gxe.ExpectColumnValuesToBeInSet(column=f"image{_TYPE}", value_set=["str", "NoneType"], meta=soft),
        gxe.ExpectColumnValuesToBeNull(column="repaired", meta=required),
    ]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)  # stderr is for the run's own progress
    asset = context.data_sources.add_pandas("items").add_dataframe_asset("batch")
    return _Suite(
        suite=context.suites.add(gx.ExpectationSuite("items", expectations=declared)),
        batch_definition=asset.add_batch_definition_whole_dataframe("whole"),
    )


def _row(position: int, item: Item) -> dict[str, Any]:
    is_text = isinstance(item.name, str)
    return {
        "row": position,
        "problem": item.problem,
        "name": None if item.name is None else str(item.name),
        f"name{_TEXT}": item.name if is_text else None,
        f"name{_TYPE}": type(item.name).__name__,
        f"document{_TYPE}": type(item.document).__name__,
        f"text{_TYPE}": type(item.text).__name__,
        f"image{_TYPE}": type(item.image).__name__,
        "repaired": _repairs(item),
    }


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
    declared = {"document": item.document, "text": item.text, "image": item.image}
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


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= 200 else value[:200] + "…"
