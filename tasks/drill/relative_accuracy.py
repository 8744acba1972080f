"""Estimate how often a rung is right, relative to the primary, from the answers of both to the same items.

Where both rungs agree they are right or wrong together, so a few disagreements decide: people say which of the two is
right. With A the share of items on which both agree, r the share of those on which they are right, and b and c the
shares of all items on which the rung alone and the primary alone are right, the relative accuracy is
(A r + b) / (A r + c). Its interval is the Bayesian one of a multinomial sample with a Jeffreys-like prior: as good as
the score interval of Nam and Blackwelder (2002) where every disagreement is answered, and defined where only some are.
`tests/unit/tasks/drill/test_relative_accuracy.py` checks its coverage on simulated drills with known truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING

from repli.tasks.drill.calibration import are_too_low, has_confidences

if TYPE_CHECKING:  # `status` prints drills without it
    import numpy as np
    import numpy.typing as npt

DRAWS = 10_000
"""Draws from the posterior: the ends of an interval are then true to a fraction of a hundredth."""
CELL_PRIOR = 0.5
"""Jeffreys' prior of a cell of a multinomial sample."""
CALIBRATION_ERROR = 0.05
"""The standard error of a mean of calibrated confidences: measured 0.03 to 0.10 on photos of other sources."""
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
        is_disputed_elsewhere: another rung disagrees with the primary too. People are asked about more of such items.
    """

    is_same: bool
    confidence: float
    primary_confidence: float
    is_right: bool | None = None
    is_primary_right: bool | None = None
    is_sampled: bool = True
    is_disputed_elsewhere: bool = False

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


def _by_answers(pairs: Sequence[Pair], sampled: Sequence[Pair]) -> Measurement:
    """Return the measurement by the answers to the disagreements."""
    cells = dict.fromkeys(product((True, False), repeat=2), 0.0)
    weights = _weights(pairs)
    right = wrong = 0
    for pair in pairs:
        if pair.is_answered and not pair.is_same:
            cells[bool(pair.is_right), bool(pair.is_primary_right)] += weights[pair.is_disputed_elsewhere]
        elif pair.is_answered and pair.is_sampled:
            right, wrong = right + bool(pair.is_right), wrong + (not pair.is_right)
    agreed = sum(pair.is_same for pair in sampled)
    mean_confidence, rung_weight = _mean_confidences(sampled)
    counts = Counts(
        agreed=agreed,
        disagreed=len(sampled) - agreed,
        both=cells[True, True],
        rung_alone=cells[True, False],
        primary_alone=cells[False, True],
        neither=cells[False, False],
        agreed_right=right,
        agreed_wrong=wrong,
        mean_confidence=mean_confidence,
        rung_weight=rung_weight,
    )
    relative, accuracy, primary = estimate(counts)
    answered = sum(pair.is_answered for pair in pairs)
    return Measurement(
        basis=Basis.ANSWERS, relative=relative, accuracy=accuracy, primary_accuracy=primary, answered=answered
    )


def _weights(pairs: Sequence[Pair]) -> dict[bool, float]:
    """Return the weight of an answered disagreement, by whether it is disputed elsewhere; 1 where all are answered.

    So each kind counts as it is among the disagreements of the sample, and not as it is among those that were asked
    about. All weights together are what the answers are worth: Kish's effective size of a weighted sample.
    """
    sampled = Counter(pair.is_disputed_elsewhere for pair in pairs if not pair.is_same and pair.is_sampled)
    answered = Counter(pair.is_disputed_elsewhere for pair in pairs if not pair.is_same and pair.is_answered)
    if sum(sampled[kind] for kind in answered) == 0:
        return dict.fromkeys((True, False), 1.0)
    weights = {kind: sampled[kind] / count for kind, count in answered.items()}
    total = sum(weights[kind] * count for kind, count in answered.items())
    squares = sum(weights[kind] ** 2 * count for kind, count in answered.items())
    return {kind: weight * total / squares for kind, weight in weights.items()}


def _mean_confidences(sampled: Sequence[Pair]) -> tuple[float, float]:
    """Return the mean confidence of the rungs whose confidences are a model's, and the rung's weight in it.

    Those of a rung with a wrong temperature are left out. Where neither has a model, the primary's counts.
    """
    primary, rung = [pair.primary_confidence for pair in sampled], [pair.confidence for pair in sampled]
    agreed = [pair.primary_confidence for pair in sampled if pair.is_same]
    agreed_by_rung = [pair.confidence for pair in sampled if pair.is_same]
    has_primary = has_confidences(primary) and not are_too_low(agreed, agreed_by_rung)
    has_rung = has_confidences(rung) and not are_too_low(agreed_by_rung, agreed)
    weight = 0.5 if has_primary and has_rung else float(has_rung)
    return weight * fmean(rung) + (1 - weight) * fmean(primary), weight


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
        both, rung_alone, primary_alone, neither: the answered disagreements, weighed, by whose answer is right.
        agreed_right, agreed_wrong: the agreed items that people labelled.
        mean_confidence: the mean of the two rungs' accuracies on the sample, by their confidences, in which the rung's
            has the weight `rung_weight`.
    """

    agreed: int
    disagreed: int
    both: float = 0.0
    rung_alone: float
    primary_alone: float
    neither: float
    agreed_right: int = 0
    agreed_wrong: int = 0
    mean_confidence: float
    rung_weight: float = 0.5


def estimate(counts: Counts, draws: int = DRAWS) -> tuple[Estimate, Estimate, Estimate]:
    """Return the rung's accuracy relative to the primary's, the rung's own, and the primary's.

    Each is computed from the counts, and from draws of their posterior, whose quantiles are the interval.
    """
    import numpy as np

    random = np.random.default_rng(0)
    answered = counts.both + counts.rung_alone + counts.primary_alone + counts.neither
    prior = CELL_PRIOR if answered < counts.disagreed else 0.0  # few answers are no certainty
    cells = np.array([counts.both, counts.rung_alone, counts.primary_alone, counts.neither], float)
    is_possible = np.array([counts.both > 0, True, True, True])
    now = (cells + prior) * is_possible
    drawn = np.zeros((4, draws))
    drawn[is_possible] = random.dirichlet((cells + CELL_PRIOR)[is_possible], draws).T
    share = random.beta(counts.agreed + CELL_PRIOR, counts.disagreed + CELL_PRIOR * is_possible.sum(), draws)
    confidence = random.normal(counts.mean_confidence, CALIBRATION_ERROR, draws)
    by_labels = random.beta(counts.agreed_right + CELL_PRIOR, counts.agreed_wrong + CELL_PRIOR, draws)
    labelled = counts.agreed_right + counts.agreed_wrong
    rung, primary = _accuracies(drawn, share, confidence, by_labels, labelled, counts.rung_weight)
    [of_rung], [of_primary] = _accuracies(
        (now / max(1.0, now.sum()))[:, None],
        np.array([counts.agreed / (counts.agreed + counts.disagreed)]),
        np.array([counts.mean_confidence]),
        np.array([counts.agreed_right / max(1, labelled)]),
        labelled,
        counts.rung_weight,
    )
    ratio = of_rung / of_primary if of_primary else 1.0
    return (
        _estimate(float(ratio), rung / np.maximum(primary, 1e-9)),
        _estimate(float(of_rung), rung),
        _estimate(float(of_primary), primary),
    )


def _accuracies(
    cells: npt.NDArray[np.float64],
    agreed: npt.NDArray[np.float64],
    confidence: npt.NDArray[np.float64],
    by_labels: npt.NDArray[np.float64],
    labelled: int,
    rung_weight: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the accuracies of the rung and of the primary.

    The mean confidence is that over all items, right at the disagreements or not. So what it leaves for the agreed
    items is their share of right answers; where people labelled agreed items too, both are weighed by their variance.

    Args:
        cells: the shares of the disagreements on which both, the rung, the primary, or neither is right.
        agreed: the share of items on which both agree.
        confidence: the mean of both accuracies, in which the rung's has the weight `rung_weight`.
        by_labels: the share of right answers among the `labelled` agreed items.
    """
    import numpy as np

    both, alone, primary_alone, _ = cells
    other = 1 - agreed
    rung_rate, primary_rate = both + alone, both + primary_alone
    of_disagreed = rung_weight * rung_rate + (1 - rung_weight) * primary_rate
    rate = (confidence - other * of_disagreed) / np.maximum(agreed, 1e-9)
    of_confidences = (CALIBRATION_ERROR / np.maximum(agreed, 0.05)) ** 2
    of_labels = 0.2 / max(1, labelled)
    weight = of_confidences / (of_confidences + of_labels) if labelled else 0.0
    rate = np.clip((1 - weight) * rate + weight * by_labels, 0.0, 1.0)
    return agreed * rate + other * rung_rate, agreed * rate + other * primary_rate


def _estimate(value: float, draws: npt.NDArray[np.float64]) -> Estimate:
    import numpy as np

    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))
