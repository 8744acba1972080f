"""Simulated drills of two rungs whose accuracies are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from repli.tasks.drill.relative_accuracy import Pair

MIN_ACCURACY, MAX_ACCURACY = 0.5, 0.95
MIN_RELATIVE, MAX_RELATIVE = 0.6, 1.05
CALIBRATION_BIAS = 0.06
"""The standard deviation of a model's mean confidence from its accuracy, on pictures that it was not fitted on."""
TELLS = 0.7
"""The correlation of a confidence with what makes an answer right or wrong."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Two rungs: the primary's accuracy, the other's relative to it, and the correlation of their mistakes.

    `same_mistake` is the share of the items that both get wrong on which they give the same wrong answer.
    """

    accuracy: float
    relative: float
    correlation: float = 0.6
    same_mistake: float = 0.3

    @classmethod
    def at_random(cls, random: np.random.Generator) -> Truth:
        """Draw one of the range that is promised for."""
        return cls(
            accuracy=random.uniform(MIN_ACCURACY, MAX_ACCURACY),
            relative=random.uniform(MIN_RELATIVE, MAX_RELATIVE),
            correlation=random.uniform(0.1, 0.9),
            same_mistake=random.uniform(0.05, 0.8),
        )

    def drills(
        self, random: np.random.Generator, count: int, items: int = 200, answered: float = 1.0
    ) -> Iterator[list[Pair]]:
        """Yield the pairs of each of `count` drills, of which people answered this share of the disagreements.

        Whether a rung is right is decided by a normal variable, which its confidence knows in part. The confidences are
        calibrated up to a bias of the whole drill.
        """
        shape = count, items
        accuracies = self.accuracy, self.accuracy * self.relative
        primary = random.standard_normal(shape)
        mixed = self.correlation * primary + (1 - self.correlation**2) ** 0.5 * random.standard_normal(shape)
        cuts = [stats.norm.ppf(accuracy) for accuracy in accuracies]
        first, second = primary < cuts[0], mixed < cuts[1]
        is_same = (first & second) | (~first & ~second & (random.random(shape) < self.same_mistake))
        confidences = []
        for deciding, cut in zip((primary, mixed), cuts, strict=True):
            seen = TELLS * deciding + (1 - TELLS**2) ** 0.5 * random.standard_normal(shape)
            known = stats.norm.cdf((cut - TELLS * seen) / (1 - TELLS**2) ** 0.5)
            confidences.append(np.clip(known + random.normal(0, CALIBRATION_BIAS, (count, 1)), 0.001, 0.999))
        is_told = ~is_same & (random.random(shape) < answered)
        for drill in range(count):
            yield [
                Pair(
                    is_same=bool(same),
                    confidence=own,
                    primary_confidence=other,
                    is_right=bool(right) if told else None,
                    is_primary_right=bool(primary_right) if told else None,
                )
                for same, own, other, right, primary_right, told in zip(
                    is_same[drill].tolist(),
                    confidences[1][drill].tolist(),
                    confidences[0][drill].tolist(),
                    second[drill].tolist(),
                    first[drill].tolist(),
                    is_told[drill].tolist(),
                    strict=True,
                )
            ]
