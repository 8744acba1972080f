"""Stages in their order, and the rules over them: what a pipeline is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Generic, TypeVar

from repli.tasks.comparison.metrics import ANYTHING, Comparison
from repli.tasks.fallback import (
    AnyChain,
    Chain,
    Rule,
    Rules,
    UsageError,
    quality,
)
from repli.tasks.fallback.policy import NO_OVERRIDES, Policy
from repli.tasks.items import ItemState
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database

I = TypeVar("I")  # noqa: E741  as in fallback/chain.py
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What the rungs of a stage are handed beside their inputs."""

    settings: Settings
    database: Database
    run_id: str
    now: datetime
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class Stage(Generic[I, V]):
    """A chain, and how an item becomes its input. None as input: the stage is not applicable to the item.
    `comparison` is for the drill: how its answers are compared."""

    chain: Chain[I, V, StageContext]
    input: Callable[[ItemState], I | None]
    comparison: Comparison[V] = ANYTHING

    @property
    def name(self) -> str:
        return self.chain.stage


AnyStage = Stage[Any, Any]


class Pipeline:
    """Stages in their order, and the rules on what may stand beside what.

    Raises:
        ValueError: two stages share a name, or the rules cannot work over these chains; see `Rules`.
    """

    def __init__(self, stages: Sequence[AnyStage], rules: Iterable[Rule] = ()) -> None:
        self.stages = tuple(stages)
        self.names = tuple(stage.name for stage in self.stages)
        self.chains = tuple(stage.chain for stage in self.stages)
        self.rules = Rules(self.chains, *rules)
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"two stages share a name: {', '.join(self.names)}")

    def stage(self, name: str) -> AnyStage:
        """The stage of this name. Raises KeyError."""
        return dict(zip(self.names, self.stages, strict=True))[name]

    def before(self, name: str) -> tuple[str, ...]:
        """The names of the stages that come before the stage `name`."""
        return self.names[: self.names.index(name)]

    def with_policy(self, policy: Policy) -> Pipeline:
        """The same stages and rules with the chains that `policy` makes of theirs; the same one for equal policies.

        Raises:
            UsageError: the policy cannot work over these chains, or with these rules; the message says where.
        """
        return _with_policy(self, policy)


@lru_cache(maxsize=16)
def _with_policy(pipeline: Pipeline, policy: Policy) -> Pipeline:
    if policy == NO_OVERRIDES:
        return pipeline
    chains = policy.applied_to(pipeline.chains)
    stages = [replace(stage, chain=chain) for stage, chain in zip(pipeline.stages, chains, strict=True)]
    try:
        under = Pipeline(stages, _rules_left(pipeline.rules.table, chains))
    except ValueError as error:
        raise UsageError(f"policy: {error}; leave a rung in that these rules allow") from None
    under.rules = pipeline.rules  # all of them: an earlier run may have kept results by rungs that are left out now
    return under


def _rules_left(rules: Iterable[Rule], chains: Iterable[AnyChain]) -> Iterator[Rule]:
    """The rules in so far as they are about rungs of these chains."""
    rungs = {chain.stage: set(chain.rung_names) for chain in chains}
    for rule in rules:
        left = rungs[rule.stage].intersection(rule.rungs)
        if left and rule.forbidden_rung in rungs[rule.forbidden_stage]:
            yield replace(rule, rungs=left)


def quality_so_far(state: ItemState) -> Decimal | None:
    """The quality that an item's results come to, `store` itself left out: it takes nothing away."""
    return quality(result for stage, result in state.results.items() if stage != "store")
