"""Estimate how often a rung is right, relative to the primary, from the answers of both to the same items.

Where both rungs agree they are right or wrong together, so a few disagreements decide: people say which of the two is
right. With A the share of items on which both agree, r the share of those on which they are right, and b and c the
shares of all items on which the rung alone and the primary alone are right, the relative accuracy is
(A r + b) / (A r + c). Its interval is the Bayesian one of a multinomial sample with a Jeffreys-like prior: as good as
the score interval of Nam and Blackwelder (2002) where every disagreement is answered, and defined where only some are.
`tests/unit/tasks/drill/test_relative_accuracy.py` checks its coverage on simulated drills with known truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `status` prints drills without it
    import numpy as np
    import numpy.typing as npt

DRAWS = 10_000
"""Draws from the posterior: the ends of an interval are then true to a fraction of a hundredth."""
CELL_PRIOR = 0.5
"""Jeffreys' prior of a cell of a multinomial sample."""
AGREED_ITEMS = 20.0
"""The answers that a share of right answers is worth which calibrated confidences estimate: their error is some 0.1."""
CALIBRATION_ERROR = 0.05
"""The standard error of the mean of calibrated confidences on pictures that they were not fitted on, relative."""
CONFIDENCE = 0.95


class Basis(StrEnum):
    """What an estimate rests on: people's answers, calibrated confidences, or the agreement alone."""

    ANSWERS = "answers"
    CONFIDENCES = "confidences"
    AGREEMENT = "agreement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The answers of a rung and of the primary to one item.

    Args:
        is_same: they agree.
        confidence: the rung's, and
        primary_confidence: the primary's.
        is_right: whether the rung's answer is right, and
        is_primary_right: the primary's, as people say; None where nobody has.
        is_sampled: the item is one of the random sample, and not one that was added because people labelled it. Only
            sampled items tell how often the rungs agree.
    """

    is_same: bool
    confidence: float
    primary_confidence: float
    is_right: bool | None = None
    is_primary_right: bool | None = None
    is_sampled: bool = True

    @property
    def is_answered(self) -> bool:
        return self.is_right is not None and self.is_primary_right is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A share or ratio, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What pairs tell of a rung.

    Args:
        basis: what `relative` rests on.
        relative: the accuracy of the rung relative to the primary's.
        accuracy: the accuracy of the rung's answers to the items that the primary serves too, and
        primary_accuracy: the primary's; both None without answers.
        answered: the items of which people said whether these answers are right.
    """

    basis: Basis
    relative: Estimate
    accuracy: Estimate | None = None
    primary_accuracy: Estimate | None = None
    answered: int = 0


def measure(pairs: Sequence[Pair], agreement: Estimate | None = None) -> Measurement | None:
    """Return what the pairs tell; None where there are none of the sample.

    Args:
        agreement: the mean agreement, for rungs without answers and without confidences.
    """
    sampled = [pair for pair in pairs if pair.is_sampled]
    if not sampled:
        return None
    if any(pair.is_answered and not pair.is_same for pair in pairs):
        return _by_answers(pairs, sampled)
    if has_confidences([pair.confidence for pair in sampled]) and has_confidences(
        [pair.primary_confidence for pair in sampled]
    ):
        return Measurement(basis=Basis.CONFIDENCES, relative=_by_confidences(sampled))
    if agreement is None:
        return None
    return Measurement(basis=Basis.AGREEMENT, relative=agreement)


def has_confidences(confidences: Sequence[float]) -> bool:
    """Return whether these differ from item to item. A rung without a model gives all its answers the same."""
    return len(set(confidences)) > max(1, len(confidences) // 10)


def _by_answers(pairs: Sequence[Pair], sampled: Sequence[Pair]) -> Measurement:
    """Return the measurement by the answers to the disagreements."""
    import numpy as np

    agreed = sum(pair.is_same for pair in sampled)
    cells = np.zeros(4)
    right = wrong = 0
    for pair in pairs:
        if pair.is_answered and not pair.is_same:
            cells[2 * bool(pair.is_right) + bool(pair.is_primary_right)] += 1
        elif pair.is_answered and pair.is_sampled:
            right, wrong = right + bool(pair.is_right), wrong + (not pair.is_right)
    counts = Counts(
        agreed=agreed,
        disagreed=len(sampled) - agreed,
        neither=cells[0],
        primary_alone=cells[1],
        rung_alone=cells[2],
        both=cells[3],
        agreed_right=right,
        agreed_wrong=wrong,
        agreed_rate=_agreed_rate(pairs, cells),
    )
    relative, accuracy, primary = estimate(counts)
    answered = sum(pair.is_answered for pair in pairs)
    return Measurement(
        basis=Basis.ANSWERS, relative=relative, accuracy=accuracy, primary_accuracy=primary, answered=answered
    )


def _agreed_rate(pairs: Sequence[Pair], cells: npt.NDArray[np.float64]) -> float:
    """Return the share of right answers among the items on which both agree, by their confidences.

    A confidence is calibrated over all items, and agreement tells more than it: so what it says too much of the
    answered disagreements it says too little of the others. Never less than the share among the disagreements.
    """
    import numpy as np

    same = [pair for pair in pairs if pair.is_same and pair.is_sampled]
    if not same:
        return 0.5
    answered = [pair for pair in pairs if pair.is_answered and not pair.is_same]
    disagreed = sum(not pair.is_same for pair in pairs if pair.is_sampled)
    rung_rate, primary_rate = (cells[2] + cells[3]) / len(answered), (cells[1] + cells[3]) / len(answered)
    rates: list[float] = []
    for confidences, rate, own in (
        ([pair.primary_confidence for pair in same], primary_rate, [pair.primary_confidence for pair in answered]),
        ([pair.confidence for pair in same], rung_rate, [pair.confidence for pair in answered]),
    ):
        excess = (float(np.mean(own)) - rate) * disagreed / len(same)
        if has_confidences(confidences) or not rates:
            rates.append(float(np.mean(confidences)) + excess)
    return float(np.clip(np.mean(rates), max(rung_rate, primary_rate), 1.0))


def _by_confidences(sampled: Sequence[Pair]) -> Estimate:
    """Return the ratio of the mean confidences, which are the accuracies as far as they are calibrated."""
    import numpy as np

    rung = np.array([pair.confidence for pair in sampled])
    primary = np.array([pair.primary_confidence for pair in sampled])
    if not primary.sum():
        return Estimate(value=1.0, low=0.0, high=2.0)
    ratio = float(rung.sum() / primary.sum())
    sampling = float(np.sum((rung - ratio * primary) ** 2) ** 0.5 / primary.sum())
    reach = 1.96 * float(np.hypot(sampling, ratio * CALIBRATION_ERROR * 2**0.5))
    return Estimate(value=ratio, low=max(0.0, ratio - reach), high=ratio + reach)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The pairs of a sample, counted.

    Args:
        agreed, disagreed: the items of the sample by whether both rungs agree.
        both, rung_alone, primary_alone, neither: the answered disagreements, by whose answer is right.
        agreed_right, agreed_wrong: the agreed items that people labelled.
        agreed_rate: the share of right answers among the agreed items, by confidences.
    """

    agreed: float
    disagreed: float
    both: float = 0.0
    rung_alone: float
    primary_alone: float
    neither: float
    agreed_right: float = 0.0
    agreed_wrong: float = 0.0
    agreed_rate: float


def estimate(counts: Counts, draws: int | None = None) -> tuple[Estimate, Estimate, Estimate]:
    """Return the rung's accuracy relative to the primary's, the rung's own, and the primary's."""
    import numpy as np

    draws = draws or DRAWS
    random = np.random.default_rng(0)
    same, other = counts.agreed, counts.disagreed
    known = counts.agreed_right + counts.agreed_wrong
    believed = max(0.0, min(AGREED_ITEMS, same - known))
    right = counts.agreed_right + believed * counts.agreed_rate
    wrong = counts.agreed_wrong + believed * (1 - counts.agreed_rate)
    cells = np.array([counts.both, counts.rung_alone, counts.primary_alone, counts.neither])
    is_possible = np.array([counts.both > 0, True, True, True])
    share_same = random.beta(same + CELL_PRIOR, other + CELL_PRIOR, draws)
    rate = random.beta(right + CELL_PRIOR, wrong + CELL_PRIOR, draws)
    split = random.dirichlet((cells + CELL_PRIOR)[is_possible], draws)
    both = split[:, 0] if counts.both > 0 else np.zeros(draws)
    rung, primary = split[:, -3], split[:, -2]
    total = max(1.0, same + other)
    answered = max(1.0, float(cells.sum()))
    rate_now = right / (right + wrong) if right + wrong else counts.agreed_rate

    def accuracy(alone: npt.NDArray[np.float64], count: float) -> tuple[float, npt.NDArray[np.float64]]:
        now = (same * rate_now + other * (counts.both + count) / answered) / total
        return now, share_same * rate + (1 - share_same) * (both + alone)

    of_rung, rung_draws = accuracy(rung, counts.rung_alone)
    of_primary, primary_draws = accuracy(primary, counts.primary_alone)
    ratio = of_rung / of_primary if of_primary else float("inf") if of_rung else 1.0
    return (
        _estimate(ratio, rung_draws / primary_draws),
        _estimate(of_rung, rung_draws),
        _estimate(of_primary, primary_draws),
    )


def _estimate(value: float, draws: npt.NDArray[np.float64]) -> Estimate:
    import numpy as np

    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))
