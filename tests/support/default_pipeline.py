"""The default pipeline in the forms that tests compare with."""

from collections.abc import Callable, Sequence
from typing import Any

from repli.tasks.fallback import Breaker, Outcome
from repli.tasks.pipeline.registry import DEFAULT
from repli.tasks.stages.default import default_pipeline

PIPELINE = default_pipeline
STAGES = PIPELINE.stages
STAGE_NAMES = PIPELINE.names
CHAINS = PIPELINE.chains
STORED = PIPELINE.described(DEFAULT)
"""What the store keeps of it."""


def declared_breakers() -> dict[str, Breaker]:
    """Its breakers by rung."""
    return PIPELINE.breakers


def rung_of(name: str) -> Callable[[Sequence[Any], Any], Sequence[Outcome[Any]]]:
    """The rung of this name, STAGE.RUNG, as its chain calls it: with a batch and the context."""
    stage, _, rung = name.partition(".")
    return next(one.call for one in PIPELINE.stage(stage).chain.rungs if one.name == rung)
