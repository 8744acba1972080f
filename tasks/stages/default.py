"""The six stages, in their order. The table of contents of what happens to an item."""

from __future__ import annotations

from repli.tasks.fallback import Breaker
from repli.tasks.pipeline import AnyStage, Pipeline
from repli.tasks.stages import classify_image, embed_text, extract_text, fetch, store, validate
from repli.tasks.stages.rules import RULES

STAGES: tuple[AnyStage, ...] = (
    fetch.STAGE,
    validate.STAGE,
    extract_text.STAGE,
    classify_image.STAGE,
    embed_text.STAGE,
    store.STAGE,
)
PIPELINE = Pipeline(STAGES, RULES)
STAGE_NAMES = PIPELINE.names
CHAINS = PIPELINE.chains


def declared_breakers() -> dict[str, Breaker]:
    """The breakers that the chains declare, by rung, as `stage.rung`, in the chains' order."""
    return {
        f"{chain.stage}.{rung.name}": rung.breaker
        for chain in CHAINS
        for rung in chain.rungs
        if rung.breaker is not None
    }
