"""Store: make the item searchable, with its quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from repli.tasks.fallback import Incompatible, InvalidItem, ItemError, Rules, StepResult, quality
from repli.tasks.items import STORE, ItemState, Stored
from repli.tasks.pipeline.context import StageContext
from repli.tasks.pipeline.enriched_item import EnrichedItem
from repli.tasks.pipeline.stage import Stage, StageHooks
from repli.tasks.storage import results as step_results
from repli.tasks.storage.results import Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class Enriched:
    """An item whose earlier stages are done, and the quality of their results when they were read."""

    item_id: str
    quality: Decimal


def save(
    context: StageContext, results: Sequence[StepResult], discard: Sequence[StepResult], basis: Basis
) -> Sequence[StepResult]:
    """Save the results and mark the items stored, in one transaction.

    The merge reads the other results in that transaction, whatever the basis was: another run may have improved them.
    """
    return step_results.store(
        context.database,
        results,
        discard=discard,
        merge=partial(merge, context.rules),
        retry_below=context.settings.retry.below,
    )


def quality_so_far(state: ItemState) -> Decimal | None:
    """Return the quality of an item's results, without `store`, whose penalty is 1; None where a stage failed."""
    return quality(result for stage, result in state.results.items() if stage != STORE)


def merge(rules: Rules, steps: Mapping[str, StepResult]) -> Decimal:
    """Return the quality of an item's results: the product of their penalties, in (0, 1].

    Raises:
        Incompatible: two results are incompatible by a rule.
        ItemError: an earlier stage is not done, or has failed.
    """
    if missing := [stage for stage in rules.stages if stage not in steps and stage != STORE]:
        raise ItemError(f"{missing[0]} has no result any more: the item's record has changed; run the item again")
    served = {stage: step.rung for stage, step in steps.items() if step.rung}
    if violated := rules.violated(served):
        raise Incompatible(f"{violated[0]}; {violated[0].forbidden_stage} runs again at the next retry")
    merged = quality(steps.values())
    if merged is None:
        raise ItemError("an earlier stage has failed since; `repli reprocess` retries it")
    return merged


def _check(stored: Stored) -> None:
    if not (isinstance(stored, Stored) and 0 < stored.quality <= 1):
        raise ValueError("the quality is not in (0, 1]")


def _input(item: EnrichedItem) -> Enriched:
    if item.state.item.problem:
        raise InvalidItem(item.state.item.problem)
    current = quality_so_far(item.state)
    if current is None:  # the stage runner calls this only for items whose earlier stages are done
        raise AssertionError(f"item {item.id} reached store with a failed stage")
    return Enriched(item_id=item.id, quality=current)


STAGE = Stage(
    STORE,
    input=_input,
    check=_check,
    hooks=StageHooks(
        save=save,
        must_be="last",
        because="it merges the results of all others and makes the item searchable; insert before it",
        takes_unreadable=True,
    ),
)


@STAGE.rung(time_limit_s=180)
def database(enriched: Sequence[Enriched]) -> Sequence[Stored]:
    """Return the quality of each item. The stage saves it: the result and the stored item are one transaction."""
    return [Stored(quality=float(item.quality)) for item in enriched]
