"""The six stages, in their order. The table of contents of what happens to an item."""

from __future__ import annotations

from tasks import classify_image, embed_text, extract_text, fetch, store, validate
from tasks.fallback import Breaker
from tasks.stage import AnyStage

STAGES: tuple[AnyStage, ...] = (
    fetch.STAGE,
    validate.STAGE,
    extract_text.STAGE,
    classify_image.STAGE,
    embed_text.STAGE,
    store.STAGE,
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)
CHAINS = tuple(stage.chain for stage in STAGES)


def stage_named(name: str) -> AnyStage:
    """The stage of this name. Raises KeyError."""
    return {stage.name: stage for stage in STAGES}[name]


def stages_before(name: str) -> tuple[str, ...]:
    """The names of the stages that come before `name`."""
    return STAGE_NAMES[: STAGE_NAMES.index(name)]


def declared_breakers() -> dict[str, Breaker]:
    """The breakers that the chains declare, by rung, as `stage.rung`, in the chains' order."""
    return {
        f"{chain.stage}.{rung.name}": rung.breaker
        for chain in CHAINS
        for rung in chain.rungs
        if rung.breaker is not None
    }
