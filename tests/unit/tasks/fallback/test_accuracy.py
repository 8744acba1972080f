"""Expected accuracy: rates, factors and their product."""

from __future__ import annotations

import pytest

from repli.tasks.fallback import Rate, Status, StepResult, expected_accuracy


def result(stage: str, rung: str | None, confidence: float | None, status: Status = Status.SUCCEEDED) -> StepResult:
    return StepResult(item_id="1", stage=stage, status=status, rung=rung, confidence=confidence)


TEXT = result("extract_text", "plain", 0.643, Status.DEGRADED)
LABEL = result("classify_image", "gpu", 0.8)


def test_without_a_measurement_it_is_the_product_of_the_confidences() -> None:
    """So a pipeline of one's own has one, too. Rounded to four digits."""
    assert expected_accuracy([TEXT, LABEL], {}) == 0.5144
    assert expected_accuracy(iter([TEXT, LABEL]), {"translate.service": 0.1}) == 0.5144


def test_a_factor_corrects_the_rung_that_it_is_of() -> None:
    """And no other of the stage."""
    assert expected_accuracy([TEXT, LABEL], {"classify_image.gpu": 0.5}) == 0.2572
    assert expected_accuracy([TEXT, LABEL], {"classify_image.cpu": 0.5}) == 0.5144


def test_no_stage_is_more_than_certain() -> None:
    """A factor above 1 raises confidences up to 1."""
    assert expected_accuracy([TEXT, LABEL], {"classify_image.gpu": 1.2}) == pytest.approx(0.643 * 0.96, abs=5e-5)
    assert expected_accuracy([TEXT, LABEL], {"classify_image.gpu": 2.0}) == 0.643


def test_a_stage_without_a_value_is_not_right() -> None:
    """A skipped stage makes the item 0; one that has nothing to do takes nothing away."""
    assert expected_accuracy([LABEL, result("extract_text", "skip", 0.0, Status.SKIPPED)], {}) == 0
    assert expected_accuracy([LABEL, result("extract_text", None, None, Status.NOT_APPLICABLE)], {}) == 0.8
    assert expected_accuracy([LABEL, StepResult.pending("1", "embed_text")], {}) == 0.8
    assert expected_accuracy([], {}) == 1


def test_an_item_that_failed_has_none() -> None:
    """As it has no quality."""
    assert expected_accuracy([LABEL, result("validate", None, 0.0, Status.FAILED)], {}) is None


@pytest.mark.parametrize(("mean_confidence", "factor"), [(0.8, 0.75), (0.6, 1.0), (None, 1.0), (0.0, 1.0)])
def test_a_rate_is_counted_once(mean_confidence: float | None, factor: float) -> None:
    """A rung whose confidence is its rate needs no correction, nor does one that was never sure of anything."""
    rate = Rate(value=0.6, interval=(0.5, 0.7), items=10, source="a drill", mean_confidence=mean_confidence)
    assert rate.factor == pytest.approx(factor)
