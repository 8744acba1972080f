"""Quality: the exact product of the penalties of an item's stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal

from repli.tasks.fallback.result import StepResult
from repli.tasks.fallback.status import Status


def quality(results: Iterable[StepResult]) -> Decimal | None:
    """Return the product of the penalties of an item's `results`, 1 if there are none.

    Decimal, so that 1.0 × 0.9 × 0.8 is 0.72 and not 0.7200000000000001. Pending stages are left out. None if a
    stage failed: a failed item has no quality.
    """
    results = list(results)
    if any(result.status is Status.FAILED for result in results):
        return None
    return math.prod((result.penalty for result in results if result.penalty is not None), start=Decimal(1)).normalize()


def mean_quality(histogram: Mapping[float, int]) -> float | None:
    """Return the mean of a `histogram` of quality → number of items, None if it is empty.

    Computed in Decimal, so that the mean of equal qualities is exactly that quality.
    """
    items = sum(histogram.values())
    if not items:
        return None
    return float(sum(Decimal(repr(quality)) * count for quality, count in histogram.items()) / items)
