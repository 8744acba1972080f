"""Stages of chains that are made by hand, for tests of what runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from repli.tasks.comparison.metrics import Comparison
from repli.tasks.fallback import AnyChain
from repli.tasks.items import ItemState
from repli.tasks.pipeline import Stage, StageHooks


def stage_of(
    chain: AnyChain,
    input_of: Callable[[ItemState], Any],
    comparison: Comparison[Any] | None = None,
    hooks: StageHooks = StageHooks(),
    produces: type | None = None,
) -> Stage:
    """A stage of this chain, whose input is made from the item's state."""
    stage = Stage(
        chain.stage, input=lambda item: input_of(item.state), comparison=comparison, hooks=hooks, produces=produces
    )
    return stage.with_chain(chain)
