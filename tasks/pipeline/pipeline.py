"""Declare a pipeline: stages in their order, and the rules between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

from repli.tasks.comparison.metrics import ANYTHING, Comparison
from repli.tasks.fallback import (
    AnyChain,
    Chain,
    Rule,
    Rules,
    StepResult,
    UsageError,
    quality,
)
from repli.tasks.fallback.policy import NO_OVERRIDES, Policy
from repli.tasks.items import ItemState
from repli.tasks.settings import Settings
from repli.tasks.storage import results as step_results
from repli.tasks.storage.database import Database
from repli.tasks.storage.results import Basis

I = TypeVar("I")  # noqa: E741  as in fallback/chain.py
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """The second argument of each rung of a stage.

    Args:
        settings: the run's settings.
        database: the store.
        run_id: the run that results are saved under.
        now: the time at which the stage began on this batch, with its time zone.
        rules: the pipeline's rules.
    """

    settings: Settings
    database: Database
    run_id: str
    now: datetime
    rules: Rules = field(default_factory=Rules)


class Save(Protocol):
    """Save the results of a stage on one batch, in one transaction."""

    def __call__(
        self, context: StageContext, results: Sequence[StepResult], discard: Sequence[StepResult], basis: Basis
    ) -> Sequence[StepResult]:
        """Return the results as they were saved, without dropped ones.

        Args:
            discard: saved results to delete first, so that even a worse result can take their place.
            basis: what the results were computed from.
        """
        ...


def save_results(
    context: StageContext, results: Sequence[StepResult], discard: Sequence[StepResult], basis: Basis
) -> Sequence[StepResult]:
    """Save the results of a stage as they are."""
    return step_results.save(context.database, results, discard=discard, basis=basis)


@dataclass(frozen=True, slots=True)
class Stage(Generic[I, V]):
    """One step of a pipeline: a chain, and the function that makes its input from an item.

    Args:
        chain: the rungs, best first.
        input: returns the chain's input for an item; None where the stage is not applicable to the item.
        comparison: how the drill compares the answers of the rungs.
        save: saves the results.

    Example:
        >>> price = Stage(Chain("price", Rung("service", from_service, time_limit_s=10)), lambda state: state.item.name)
    """

    chain: Chain[I, V, StageContext]
    input: Callable[[ItemState], I | None]
    comparison: Comparison[V] = ANYTHING
    save: Save = save_results

    @property
    def name(self) -> str:
        """Return the stage's name, which is its chain's."""
        return self.chain.stage


AnyStage = Stage[Any, Any]


class Pipeline:
    """Stages in their order, and the rules on which rungs are incompatible.

    Raises:
        ValueError: two stages have one name, or a rule does not fit these chains; see `Rules`.

    Example:
        >>> Pipeline([fetch.STAGE, price, store.STAGE]).before("store")
        ('fetch', 'price')
    """

    def __init__(self, stages: Sequence[AnyStage], rules: Iterable[Rule] = ()) -> None:
        self.stages = tuple(stages)
        self.names = tuple(stage.name for stage in self.stages)
        self.chains = tuple(stage.chain for stage in self.stages)
        self.rules = Rules(self.chains, *rules)
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"two stages have one name: {', '.join(self.names)}; rename one")

    def stage(self, name: str) -> AnyStage:
        """Return the stage of this name, or raise KeyError."""
        return dict(zip(self.names, self.stages, strict=True))[name]

    def before(self, name: str) -> tuple[str, ...]:
        """Return the names of the stages before the stage `name`."""
        return self.names[: self.names.index(name)]

    def with_policy(self, policy: Policy) -> Pipeline:
        """Return this pipeline with its chains changed by `policy`; the same object for equal policies.

        Raises:
            UsageError: the policy does not fit these chains or rules; the message says where.
        """
        return _with_policy(self, policy)


@lru_cache(maxsize=16)
def _with_policy(pipeline: Pipeline, policy: Policy) -> Pipeline:
    if policy == NO_OVERRIDES:
        return pipeline
    chains = policy.applied_to(pipeline.chains)
    stages = [replace(stage, chain=chain) for stage, chain in zip(pipeline.stages, chains, strict=True)]
    try:
        changed = Pipeline(stages, _remaining_rules(pipeline.rules.table, chains))
    except ValueError as error:
        raise UsageError(f"policy: {error}; keep a rung that these rules allow") from None
    changed.rules = pipeline.rules  # all of them: results of earlier runs may be by rungs that the policy removes
    return changed


def _remaining_rules(rules: Iterable[Rule], chains: Iterable[AnyChain]) -> Iterator[Rule]:
    """Yield the rules, reduced to the rungs that these chains have."""
    rungs = {chain.stage: set(chain.rung_names) for chain in chains}
    for rule in rules:
        remaining = rungs[rule.stage].intersection(rule.rungs)
        if remaining and rule.forbidden_rung in rungs[rule.forbidden_stage]:
            yield replace(rule, rungs=remaining)


def quality_so_far(state: ItemState) -> Decimal | None:
    """Return the quality of an item's results, without `store`, whose penalty is 1; None where a stage failed."""
    return quality(result for stage, result in state.results.items() if stage != "store")
