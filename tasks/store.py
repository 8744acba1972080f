"""Store: the item becomes findable, with its quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from tasks.fallback import Chain, Outcome, Rung, Served
from tasks.items import ItemState, Stored
from tasks.stage import Stage, StageContext, quality_so_far
from tasks.storage import results


@dataclass(frozen=True, slots=True, kw_only=True)
class Enriched:
    """An item whose stages are done, and what they come to."""

    item_id: str
    quality: Decimal


def in_database(enriched: Sequence[Enriched], context: StageContext) -> Sequence[Outcome[Stored]]:
    """Mark the items stored, in one statement."""
    results.mark_stored(context.database, context.run_id, {item.item_id: item.quality for item in enriched})
    return [Served(Stored(quality=float(item.quality))) for item in enriched]


def check(stored: Stored) -> None:
    """Raise ValueError for what is no quality."""
    if not (isinstance(stored, Stored) and 0 < stored.quality <= 1):
        raise ValueError("the quality is not in (0, 1]")


CHAIN = Chain("store", Rung("database", in_database, time_limit_s=180), check=check)


def _input(state: ItemState) -> Enriched:
    quality = quality_so_far(state)
    if quality is None:  # `is_due` lets no item here whose stages are not done
        raise AssertionError(f"item {state.item.id} came to store with a failed stage")
    return Enriched(item_id=state.item.id, quality=quality)


STAGE = Stage(CHAIN, _input)
