"""Confidences that are too low are found where two rungs agree, those that are too high where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from repli.tasks.drill.calibration import (
    MIN_AGREED,
    MIN_APART,
    are_too_high,
    are_too_low,
    guesses,
    overconfident,
    underconfident,
)
from repli.tasks.fallback import Attempt, AttemptOutcome, Declined, Status, StepError, StepResult
from repli.tasks.items import Label

SURE = np.linspace(0.6, 0.95, 30).tolist()
SURE_AT_HALF = np.linspace(0.3, 0.475, 30).tolist()
UNSURE = np.linspace(0.01, 0.1, 30).tolist()


def named(confidences: list[float], answer: str = "tench") -> dict[str, tuple[str, float]]:
    """The guesses of a rung that answers the same to every item."""
    return {str(number): (answer, confidence) for number, confidence in enumerate(confidences)}


def test_the_lower_of_two_is_named() -> None:
    """With the items and the means; the higher is not."""
    assert underconfident(named(UNSURE), {"cpu": named(SURE)}) == (
        "its confidences are too low: on 30 items it gives the answer of cpu, at 0.06 on average, and cpu at 0.78; "
        "correct its temperature"
    )
    assert underconfident(named(SURE), {"cpu": named(UNSURE)}) == ""


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ([0.5] * 30, SURE),  # rules, which say the same of all
        (UNSURE, [0.9] * 30),
        (UNSURE[: MIN_AGREED - 1], SURE[: MIN_AGREED - 1]),
        ([confidence - 0.2 for confidence in SURE], SURE),  # another model
        (([*UNSURE[:9], *SURE[9:]]), SURE),
    ],
)
def test_what_is_no_sign_of_a_wrong_temperature(own: list[float], other: list[float]) -> None:
    """Nor are items to which they answer differently."""
    assert not are_too_low(own, other)
    assert underconfident(named(UNSURE, "hen"), {"cpu": named(SURE)}) == ""


def together(confidences: list[float], answer: str) -> dict[str, tuple[str, float]]:
    """The guesses of a rung that gives this answer to some items, and another, as every such rung, to twice as many."""
    agreed = {f"agreed {number}": ("hen", 0.9) for number in range(2 * len(confidences))}
    return named(confidences, answer) | agreed


def test_the_higher_of_two_that_cannot_both_be_right_is_named() -> None:
    """With the items and the means; the lower is not."""
    high, usual = together(SURE, "cock"), together(SURE_AT_HALF, "tench")
    assert overconfident(high, {"cpu": usual}) == (
        "its confidences are too high: on 30 items it gives another answer than cpu, at 0.78 on average, and cpu at "
        "0.39, and at most one of the two is right; correct its temperature"
    )
    assert overconfident(usual, {"cpu": high}) == ""


def test_rungs_of_two_vocabularies_may_both_be_right() -> None:
    """They mostly give different answers, and are not compared."""
    assert overconfident(named(SURE, "cat"), {"cpu": named(SURE_AT_HALF, "tabby")}) == ""


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ([0.9] * 30, SURE),  # rules, which say the same of all
        (SURE, [0.9] * 30),
        (SURE[: MIN_APART - 1], SURE_AT_HALF[: MIN_APART - 1]),
        (SURE_AT_HALF, [confidence + 0.01 for confidence in SURE_AT_HALF]),  # at most 1 together
        ([0.99, 0.98, 0.97, *UNSURE[:17]], [0.9, 0.8, 0.7, *UNSURE[:17]]),
    ],
)
def test_what_is_no_sign_of_confidences_that_are_too_high(own: list[float], other: list[float]) -> None:
    """Nor are a few items that happen to be so."""
    assert not are_too_high(own, other)


def test_true_confidences_are_hardly_ever_suspected() -> None:
    """In at most one of a hundred drills with 20 different answers, of which 0.95 have a right one."""
    draw = np.random.default_rng(0)
    pairs = [(draw.uniform(0.3, 0.9, 20).tolist(), draw.uniform(0.05, 0.65, 20).tolist()) for _ in range(1000)]
    assert sum(are_too_high(own, other) for own, other in pairs) <= 10
    assert sum(are_too_high(own, [0.2 + claim for claim in other]) for own, other in pairs) > 500


def test_a_best_guess_counts_as_an_answer() -> None:
    """A rung with a temperature of 3 hardly reaches its threshold: what it declines is in the trail."""
    error = StepError.of(Declined("best guess tiger cat at 0.03, below the threshold of 0.25"))
    declined = Attempt(rung="gpu", outcome=AttemptOutcome.DECLINED, error=error)
    failed = Attempt(rung="gpu", outcome=AttemptOutcome.FAILED, error=error)
    results = [
        StepResult(item_id="a", stage="look", status=Status.SKIPPED, rung="skip", attempts=(declined,)),
        StepResult(item_id="b", stage="look", status=Status.SUCCEEDED, rung="gpu", value=Label("hen"), confidence=0.7),
        StepResult(item_id="c", stage="look", status=Status.SKIPPED, rung="skip", attempts=(failed,)),
    ]
    assert guesses(results, "gpu") == {"a": ("tiger cat", 0.03), "b": ("hen", 0.7)}
