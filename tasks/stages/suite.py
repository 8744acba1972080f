"""The Great Expectations suite of `validate`, in a module that is imported where it is needed: it takes seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from repli.tasks.items import Item, Violation
from repli.tasks.runtime.imports import load_on_use
from repli.tasks.stages.validate import MAX_NAME_CHARACTERS

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
load_on_use("scipy.stats")  # a third of the import; for expectations about distributions, of which the suite has none

import great_expectations as gx  # noqa: E402
import great_expectations.expectations as gxe  # noqa: E402
import pandas as pd  # noqa: E402
from great_expectations.data_context.types.base import ProgressBarsConfig  # noqa: E402

_TYPE, _TEXT = "_type", "_text"


@dataclass(frozen=True, slots=True)
class _Suite:
    """The expectation suite, and the batch definition to run it on a DataFrame."""

    suite: gx.ExpectationSuite
    batch_definition: Any


@lru_cache(maxsize=1)
def load_suite() -> _Suite:
    """Return the suite, ready to run, made once per process."""
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


def find_violations(items: Sequence[Item]) -> list[list[tuple[bool, Violation]]]:
    """Validate the items as one DataFrame, and return the violations of each with whether they are required ones.

    Raises:
        RuntimeError: An expectation raised.
    """
    suite = load_suite()
    frame = pd.DataFrame([_row(position, item) for position, item in enumerate(items)], dtype=object)
    batch = suite.batch_definition.get_batch(batch_parameters={"dataframe": frame})
    outcome = batch.validate(
        suite.suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
    )
    found: list[list[tuple[bool, Violation]]] = [[] for _ in items]
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
            found[entry["row"]].append((config.meta["required"], violation))
    return found


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
        "repaired": "; ".join(item.repaired) or None,
    }


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= 200 else value[:200] + "…"
