"""The confidence interval of a mean."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

CONFIDENCE = 0.95


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of one or more values from 0 to 1.

    Wilson's score interval (1927) if every value is 0 or 1, else Student's t.
    """
    from scipy import stats

    count, mean = len(shares), fmean(shares)
    if set(shares) <= {0.0, 1.0}:
        found = stats.binomtest(round(sum(shares)), count).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)
    if count < 2 or stdev(shares) == 0:
        return mean, mean
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * stdev(shares) / count**0.5
    return max(0.0, mean - reach), min(1.0, mean + reach)
