"""The default pipeline in the forms that tests compare with."""

from repli.tasks.fallback import Breaker
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
