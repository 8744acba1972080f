"""Statistics of claimed probabilities: how far they are from what happens, and how well they rank."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import fmean

Pair = tuple[float, float]
"""A claimed probability, and what happened: 1 or 0, or a share in between."""


@dataclass(frozen=True, slots=True)
class Band:
    """The claims in [low, high): their number, their mean, and the mean of what happened."""

    low: float
    high: float
    count: int
    claimed: float
    happened: float


def bands(pairs: Sequence[Pair], count: int = 10) -> list[Band]:
    """Return the bands of equal width that have claims, the lowest first. A claim of 1 is in the highest."""
    found = []
    placed = sorted((min(int(claim * count), count - 1), claim, event) for claim, event in pairs)
    for place, members in groupby(placed, key=lambda one: one[0]):
        claims, events = zip(*((claim, event) for _, claim, event in members), strict=True)
        found.append(Band(place / count, (place + 1) / count, len(claims), fmean(claims), fmean(events)))
    return found


def calibration_error(pairs: Sequence[Pair], count: int = 10) -> float:
    """Return the expected calibration error: the mean distance of claim and event by band, weighted by size."""
    return sum(band.count * abs(band.claimed - band.happened) for band in bands(pairs, count)) / len(pairs)


def calibration_interval(pairs: Sequence[Pair], sources: Sequence[int], draws: int = 300) -> tuple[float, float]:
    """Return the 95 % interval of the calibration error, by drawing the sources again and again (bootstrap).

    Args:
        sources: what each pair is a variant of. Those of one source are drawn together.
    """
    by_source: dict[int, list[Pair]] = {}
    for pair, source in zip(pairs, sources, strict=True):
        by_source.setdefault(source, []).append(pair)
    draw, members = random.Random(0), list(by_source.values())
    errors = sorted(
        calibration_error([pair for drawn in draw.choices(members, k=len(members)) for pair in drawn])
        for _ in range(draws)
    )
    return errors[round(0.025 * (draws - 1))], errors[round(0.975 * (draws - 1))]


def auroc(pairs: Sequence[Pair]) -> float:
    """Return the probability that an item that is right has a higher claim than one that is not. Ties count half.

    Events are 0 or 1, and there are both.
    """
    right = [claim for claim, event in pairs if event]
    wrong = [claim for claim, event in pairs if not event]
    wins = sum((one > other) + (one == other) / 2 for one in right for other in wrong)
    return wins / (len(right) * len(wrong))


def is_monotone(found: Sequence[Band], least: int = 10) -> bool:
    """Return whether what happens rises from band to band, of those of at least `least` claims."""
    events = [band.happened for band in found if band.count >= least]
    return all(low <= high for low, high in pairwise(events))


def precision_and_coverage(pairs: Sequence[Pair], threshold: float) -> tuple[float, float]:
    """Return the share of the claims from `threshold` on that are right, and their share of all claims."""
    kept = [event for claim, event in pairs if claim >= threshold]
    return (fmean(kept) if kept else 0.0), len(kept) / len(pairs)
