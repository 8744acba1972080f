"""Repli: a pipeline that always moves. Each stage succeeds, falls back, or skips, at a known quality.

Everything that a pipeline of one's own needs is here; the names are imported when they are first used::

    import repli

    translate = repli.Stage("translate", input=lambda item: item.name)


    @translate.rung(time_limit_s=30, breaker=repli.Breaker(scope="fleet"))
    def service(names: list[str]) -> list[str]:
        raise repli.Unavailable("the translation service is not configured")


    @translate.rung(penalty="0.8", time_limit_s=5, per_item=True)
    def dictionary(name: str) -> str:
        if name not in WORDS:
            raise repli.Declined(f"no translation of {name!r}")
        return WORDS[name]


    WORDS = {"cat": "chat", "dog": "chien"}
    translate.skip(penalty="0.7")

    pipeline = repli.default_pipeline.insert(translate, after="extract_text")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repli.flows.cli.run_from_python import run
    from repli.tasks.execution.prefect_fallback import fallback
    from repli.tasks.fallback import (
        Breaker,
        Declined,
        InvalidItem,
        ItemError,
        NotHere,
        OutOfMemory,
        RepliError,
        Rule,
        Served,
        StepResult,
        StoreError,
        TimedOut,
        Unavailable,
        UsageError,
    )
    from repli.tasks.items import Embedding, Label, Text
    from repli.tasks.pipeline import DeclarationError, EnrichedItem, Pipeline, Stage, StageContext
    from repli.tasks.stages.default import default_pipeline

_HOMES = {
    "Breaker": "repli.tasks.fallback",
    "DeclarationError": "repli.tasks.pipeline",
    "Declined": "repli.tasks.fallback",
    "Embedding": "repli.tasks.items",
    "EnrichedItem": "repli.tasks.pipeline",
    "InvalidItem": "repli.tasks.fallback",
    "ItemError": "repli.tasks.fallback",
    "Label": "repli.tasks.items",
    "NotHere": "repli.tasks.fallback",
    "OutOfMemory": "repli.tasks.fallback",
    "Pipeline": "repli.tasks.pipeline",
    "RepliError": "repli.tasks.fallback",
    "Rule": "repli.tasks.fallback",
    "Served": "repli.tasks.fallback",
    "Stage": "repli.tasks.pipeline",
    "StageContext": "repli.tasks.pipeline",
    "StepResult": "repli.tasks.fallback",
    "StoreError": "repli.tasks.fallback",
    "Text": "repli.tasks.items",
    "TimedOut": "repli.tasks.fallback",
    "Unavailable": "repli.tasks.fallback",
    "UsageError": "repli.tasks.fallback",
    "default_pipeline": "repli.tasks.stages.default",
    "fallback": "repli.tasks.execution.prefect_fallback",
    "run": "repli.flows.cli.run_from_python",
}
"""The module of each name, so that `import repli` loads none of them: a pipeline's libraries take seconds."""

__all__ = [
    "Breaker",
    "DeclarationError",
    "Declined",
    "Embedding",
    "EnrichedItem",
    "InvalidItem",
    "ItemError",
    "Label",
    "NotHere",
    "OutOfMemory",
    "Pipeline",
    "RepliError",
    "Rule",
    "Served",
    "Stage",
    "StageContext",
    "StepResult",
    "StoreError",
    "Text",
    "TimedOut",
    "Unavailable",
    "UsageError",
    "default_pipeline",
    "fallback",
    "run",
]


if not TYPE_CHECKING:  # a type checker would take any name for one that there is

    def __getattr__(name: str) -> Any:
        """Return a public name, imported at its first use."""
        if name not in _HOMES:
            raise AttributeError(f"repli has no {name!r}; it has {', '.join(__all__)}")
        found = getattr(import_module(_HOMES[name]), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
