"""Expected accuracy: the estimated probability that all results of an item are right.

The expected accuracy of a stage's result is `factor × confidence`. A rung's confidence is the probability, by its own
account, that its answer is right. A rung that cannot tell its answers apart has its measured rate as the confidence of
each. The factor corrects a rung's account by what was measured on the store's own items: the measured accuracy of its
answers, divided by the mean confidence of the same answers. Without a measurement it is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from repli.tasks.fallback.result import StepResult
from repli.tasks.fallback.status import Status

_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The measured share of a rung's answers that are right.

    Args:
        value: the share, in [0, 1].
        interval: its 95 % interval; None where it is not known.
        items: the number of items that it was measured on; None where it is not known.
        source: what it was measured on.
        mean_confidence: the mean confidence of the same answers; None where the rung's confidence is the rate itself.

    Example:
        >>> Rate(value=0.5, interval=(0.4, 0.6), items=100, source="a drill", mean_confidence=0.8).factor
        0.625
    """

    value: float
    interval: tuple[float, float] | None
    items: int | None
    source: str
    mean_confidence: float | None = None

    @property
    def factor(self) -> float:
        """Return the factor that corrects the rung's confidences."""
        return self.value / self.mean_confidence if self.mean_confidence else 1.0

    def as_json(self) -> dict[str, Any]:
        """Return the rate in its JSON form, with its factor."""
        return {
            "rate": self.value,
            "interval": self.interval and list(self.interval),
            "items": self.items,
            "source": self.source,
            "mean_confidence": self.mean_confidence,
            "factor": round(self.factor, 4),
        }


def expected_accuracy(results: Iterable[StepResult], factors: Mapping[str, float]) -> float | None:
    """Return the product of the expected accuracies of an item's `results`; None if a stage failed.

    A skipped stage has no value, so the item is not right as a whole: 0. A stage that is not applicable counts as 1.

    Args:
        factors: the factors of rungs, by `STAGE.RUNG`; 1 for those that are not there.

    Example:
        >>> expected_accuracy([], {})
        1.0
    """
    results = list(results)
    if any(result.status is Status.FAILED for result in results):
        return None
    return round(math.prod((_of_result(result, factors) for result in results), start=1.0), _DIGITS)


def _of_result(result: StepResult, factors: Mapping[str, float]) -> float:
    if result.status in {Status.NOT_APPLICABLE, Status.PENDING} or result.confidence is None:
        return 1.0
    return min(1.0, float(result.confidence) * factors.get(f"{result.stage}.{result.rung}", 1.0))
