"""Store: the item becomes findable, with its quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from repli.tasks.fallback import (
    Chain,
    Failed,
    Incompatible,
    ItemError,
    Outcome,
    Rules,
    Rung,
    RungError,
    Served,
    StepResult,
    quality,
)
from repli.tasks.items import ItemState, Stored
from repli.tasks.pipeline import Stage, StageContext, quality_so_far
from repli.tasks.storage import results


@dataclass(frozen=True, slots=True, kw_only=True)
class Enriched:
    """An item whose stages are done, and what they came to when it was looked at."""

    item_id: str
    quality: Decimal


def in_database(enriched: Sequence[Enriched], context: StageContext) -> Sequence[Outcome[Stored]]:
    """Merge the items' results and mark the items stored, in one transaction.

    The merge looks at what is kept then, not at what it was given: somebody may have done better meanwhile.
    """
    merged = results.mark_stored(
        context.database,
        context.run_id,
        [item.item_id for item in enriched],
        merge=partial(merge, context.rules),
        retry_below=context.settings.retry.below,
    )
    return [_outcome(merged[item.item_id]) for item in enriched]


def merge(rules: Rules, steps: Mapping[str, StepResult]) -> Decimal:
    """The quality that an item's results come to.

    Raises:
        Incompatible: two of them do not go together.
        ItemError: a stage is not done.
    """
    if gone := [stage for stage in rules.stages if stage not in steps and stage != "store"]:
        raise ItemError(f"{gone[0]} is not done any more: the item's record changed meanwhile")
    served = {stage: step.rung for stage, step in steps.items() if step.rung}
    if broken := rules.broken(served):
        raise Incompatible(f"{broken[0]}; {broken[0].forbidden_stage} is done again when the item is tried again")
    merged = quality(steps.values())
    if merged is None:
        raise ItemError("a stage failed meanwhile")
    return merged


def _outcome(merged: Decimal | RungError) -> Outcome[Stored]:
    return Failed.because(merged) if isinstance(merged, RungError) else Served(Stored(quality=float(merged)))


def check(stored: Stored) -> None:
    """Raise ValueError for what is no quality."""
    if not (isinstance(stored, Stored) and 0 < stored.quality <= 1):
        raise ValueError("the quality is not in (0, 1]")


CHAIN = Chain("store", Rung("database", in_database, time_limit_s=180), check=check)


def _input(state: ItemState) -> Enriched:
    so_far = quality_so_far(state)
    if so_far is None:  # only items whose stages are done come here
        raise AssertionError(f"item {state.item.id} came to store with a failed stage")
    return Enriched(item_id=state.item.id, quality=so_far)


STAGE = Stage(CHAIN, _input)
