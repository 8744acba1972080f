"""List the rungs of a pipeline in the forms of Prefect's UI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from repli.tasks.fallback import SKIP, AnyChain

CHOICES = "choices"
"""The key of a schema that says which rungs a field takes: `RUNGS`, or `CALLED`, those that call something."""
RUNGS, CALLED = "rungs", "called rungs"


def with_choices(schema: Any, chains: Sequence[AnyChain]) -> Any:
    """Return the schema of a form with the rungs of these chains to choose from, wherever a field takes a rung."""
    rungs = [f"{chain.stage}.{rung}" for chain in chains for rung in chain.rung_names]
    choices = {RUNGS: rungs, CALLED: [rung for rung in rungs if not rung.endswith(f".{SKIP}")]}

    def listed(part: Any) -> Any:
        if isinstance(part, list):
            return [listed(one) for one in part]
        if not isinstance(part, dict):
            return part
        enum = {"enum": choices[part[CHOICES]]} if part.get(CHOICES) in choices else {}
        return {**{key: listed(value) for key, value in part.items()}, **enum}

    return listed(schema)
