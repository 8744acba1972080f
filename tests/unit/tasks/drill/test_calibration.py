"""Confidences that are too low are found by the items on which two rungs agree."""

from __future__ import annotations

import numpy as np
import pytest

from repli.tasks.drill.calibration import MIN_AGREED, are_too_low, guesses, underconfident
from repli.tasks.fallback import Attempt, AttemptOutcome, Declined, Status, StepError, StepResult
from repli.tasks.items import Label

SURE = np.linspace(0.6, 0.95, 30).tolist()
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
