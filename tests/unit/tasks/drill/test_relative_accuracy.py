"""The relative accuracy from answers is the true one, as often as its interval says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from repli.tasks.drill.relative_accuracy import Basis, Estimate, Measurement, Pair, measure
from tests.support.simulated_drills import Truth

DRILLS = 1000
AGREEMENT = Estimate(value=0.9, low=0.85, high=0.95)
SAME = Pair(is_same=True, confidence=0.9, primary_confidence=0.8)
OPEN = Pair(is_same=False, confidence=0.4, primary_confidence=0.5)
RUNG_RIGHT = replace(OPEN, is_right=True, is_primary_right=False)
PRIMARY_RIGHT = replace(OPEN, is_right=False, is_primary_right=True)
NEITHER_RIGHT = replace(OPEN, is_right=False, is_primary_right=False)


def measured(pairs: Iterable[Pair]) -> Measurement:
    """What the pairs tell, their confidences made to differ as a model's do."""
    told = measure(
        [
            replace(pair, confidence=pair.confidence + n / 1e4, primary_confidence=pair.primary_confidence + n / 1e4)
            for n, pair in enumerate(pairs)
        ],
        AGREEMENT,
    )
    assert told is not None
    return told


def coverage(truth: Truth, drills: int, seed: int, **options: float) -> float:
    """The share of simulated drills whose interval from answers has the truth in it."""
    random = np.random.default_rng(seed)
    found = [measured(pairs) for pairs in truth.drills(random, drills, **options)]  # type: ignore[arg-type]
    by_answers = [one.relative for one in found if one.basis is Basis.ANSWERS]
    assert len(by_answers) > 0.98 * drills
    return sum(one.low <= truth.relative <= one.high for one in by_answers) / len(by_answers)


def test_the_interval_from_answers_covers_the_truth_of_a_thousand_drills() -> None:
    """Of any accuracies in the range that is promised for, in 93 to 97 %."""
    random = np.random.default_rng(20261127)
    truths = [Truth.at_random(random) for _ in range(DRILLS)]
    found = [(truth, measured(next(truth.drills(random, 1)))) for truth in truths]
    assert {one.basis for _, one in found} == {Basis.ANSWERS}
    covered = sum(one.relative.low <= truth.relative <= one.relative.high for truth, one in found)
    assert 0.93 <= covered / DRILLS <= 0.97


@pytest.mark.campaign
@pytest.mark.parametrize(
    "truth",
    [
        Truth(accuracy=0.5, relative=0.6, correlation=0.1),
        Truth(accuracy=0.5, relative=1.05, correlation=0.9, same_mistake=0.8),
        Truth(accuracy=0.95, relative=0.6, correlation=0.9),
        Truth(accuracy=0.95, relative=1.05, correlation=0.1),
        Truth(accuracy=0.95, relative=1.0, correlation=0.9),
    ],
    ids=str,
)
def test_it_covers_the_truth_at_the_edges(truth: Truth) -> None:
    """At each corner of the range, in 93 to 97 %."""
    assert 0.93 <= coverage(truth, DRILLS, seed=1) <= 0.97


def test_a_part_of_the_answers_is_told_apart_from_all() -> None:
    """With a third of the disagreements answered the interval is wider, and covers the truth as often."""
    truth = Truth(accuracy=0.7, relative=0.85)
    assert 0.92 <= coverage(truth, 500, seed=2, answered=1 / 3) <= 0.98
    [pairs] = truth.drills(np.random.default_rng(3), 1)
    few = [pair if n % 3 else replace(pair, is_right=None, is_primary_right=None) for n, pair in enumerate(pairs)]
    assert width(measured(few).relative) > 1.1 * width(measured(pairs).relative)


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def test_the_figures_of_the_photos() -> None:
    """Of 133 pictures with 40 disagreements one alone was right 8 times, the other alone 7: relative accuracy is 1."""
    pairs = [SAME] * 93 + [RUNG_RIGHT] * 8 + [PRIMARY_RIGHT] * 7 + [NEITHER_RIGHT] * 25
    told = measured(pairs)
    assert (told.basis, told.answered) == (Basis.ANSWERS, 40)
    assert told.relative.value == pytest.approx(1.0, abs=0.02)
    assert told.relative.low < 1 < told.relative.high
    assert width(told.relative) < 0.2
    assert told.accuracy
    assert told.primary_accuracy
    assert told.accuracy.value / told.primary_accuracy.value == pytest.approx(told.relative.value)


def test_which_of_the_two_is_right_is_not_mixed_up() -> None:
    """A rung that is right where the primary is not is the better one."""
    assert measured([SAME] * 100 + [RUNG_RIGHT] * 20).relative.low > 1
    assert measured([SAME] * 100 + [PRIMARY_RIGHT] * 20).relative.high < 1


def test_labels_of_agreed_items_count() -> None:
    """People who say that both are wrong where they agree lower the accuracy of both, and move the ratio from 1."""
    wrong = replace(SAME, is_right=False, is_primary_right=False)
    pairs = [*[SAME] * 100, *[PRIMARY_RIGHT] * 10]
    with_wrong = measured([*[wrong] * 100, *[PRIMARY_RIGHT] * 10])
    assert with_wrong.accuracy
    assert with_wrong.accuracy.value < 0.5
    assert with_wrong.relative.value < measured(pairs).relative.value


def test_labelled_items_of_earlier_drills_decide_and_do_not_count_as_disagreements() -> None:
    """Twenty answers that were carried over say who is right, and not that the rungs disagree so often."""
    carried = [replace(PRIMARY_RIGHT, is_sampled=False)] * 20
    few = measured([*[SAME] * 190, *[OPEN] * 10, *carried])
    assert few.basis is Basis.ANSWERS
    assert few.relative.value == pytest.approx(1 - 10 / 200 / 0.85, abs=0.03)


def test_what_was_asked_about_more_often_does_not_count_for_more() -> None:
    """Of 10 items that another rung disputes too all are answered, of 30 others only 10: these count three times."""
    elsewhere = [replace(RUNG_RIGHT, is_disputed_elsewhere=True)] * 10
    told = measured([*[SAME] * 60, *elsewhere, *[PRIMARY_RIGHT] * 10, *[OPEN] * 20])
    assert told.accuracy
    assert told.primary_accuracy
    assert told.primary_accuracy.value - told.accuracy.value == pytest.approx((30 - 10) / 100, abs=0.03)
    everything = measured([*[SAME] * 60, *elsewhere, *[PRIMARY_RIGHT] * 30])
    assert width(everything.relative) < width(told.relative)


def test_the_confidence_of_a_rung_without_a_model_does_not_count() -> None:
    """Rules say 0.5 of everything. The primary's confidence of 0.8 is its own accuracy, not the mean of both."""
    pairs = [SAME] * 60 + [PRIMARY_RIGHT] * 32 + [NEITHER_RIGHT] * 8
    own = [replace(pair, confidence=0.5, primary_confidence=0.8 + n / 1e5) for n, pair in enumerate(pairs)]
    told = measure(own)
    assert told
    assert told.primary_accuracy
    assert told.primary_accuracy.value == pytest.approx(0.8, abs=0.01)
    assert told.relative.value == pytest.approx(0.6, abs=0.01)


def test_without_answers_it_rests_on_confidences() -> None:
    """The ratio of the mean confidences, and it says so; no accuracy is claimed."""
    told = measured([SAME] * 100)
    assert (told.basis, told.accuracy, told.answered) == (Basis.CONFIDENCES, None, 0)
    assert told.relative.value == pytest.approx(0.9 / 0.8, abs=0.01)
    assert told.relative.low < 1.05


def test_without_confidences_it_is_the_agreement() -> None:
    """A rung of text gives each answer the same confidence, which tells nothing of this sample."""
    assert measure([SAME] * 100, AGREEMENT) == Measurement(basis=Basis.AGREEMENT, relative=AGREEMENT)


def test_nothing_is_measured_of_nothing() -> None:
    """No pair, no number."""
    assert measure([], AGREEMENT) is None
    assert measure([SAME], None) is None
