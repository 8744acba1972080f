"""The default pipeline: the six stages in their order, and the rules between them."""

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
    """Return the breakers that the chains declare, by rung (`STAGE.RUNG`), in the order of the chains."""
    return {
        f"{chain.stage}.{rung.name}": rung.breaker
        for chain in CHAINS
        for rung in chain.rungs
        if rung.breaker is not None
    }
