"""Quality: exact products, and means that do not drift."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import permutations
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repli.tasks.fallback import Status, StepResult, mean_quality, quality


def result(status: Status, penalty: str | None) -> StepResult:
    return StepResult(item_id="1", stage="s", status=status, penalty=None if penalty is None else Decimal(penalty))


def degraded(*penalties: str) -> list[StepResult]:
    return [result(Status.DEGRADED, penalty) for penalty in penalties]


@pytest.mark.parametrize("penalties", list(permutations(["1.0", "0.9", "0.8"])))
def test_quality_is_exact(penalties: tuple[str, ...]) -> None:
    """1.0 × 0.9 × 0.8 is 0.72 in every order, where floats come to 0.7200000000000001."""
    product = quality(degraded(*penalties))
    assert product == Decimal("0.72")
    assert str(product) == "0.72"
    assert product is not None
    assert repr(float(product)) == "0.72"


def test_item_of_primaries_alone_has_quality_1() -> None:
    """Nothing lost is 1, written without decimals that mean nothing."""
    assert str(quality([result(Status.SUCCEEDED, "1"), result(Status.NOT_APPLICABLE, "1.00")])) == "1"


def test_item_without_results_has_quality_1() -> None:
    """An item that no stage has touched has lost nothing."""
    assert quality([]) == 1


def test_failed_item_has_no_quality() -> None:
    """One failed stage leaves no quality, whatever the others left."""
    assert quality([*degraded("0.9"), result(Status.FAILED, None)]) is None


def test_pending_stage_takes_no_part() -> None:
    """A stage that has not run takes nothing away."""
    assert quality([*degraded("0.9"), result(Status.PENDING, None)]) == Decimal("0.9")


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 100).map(lambda percent: f"{percent / 100}"), max_size=6))
def test_quality_is_the_product_of_the_penalties(penalties: list[str]) -> None:
    """Six penalties of two decimals multiply exactly, as fractions do."""
    product = quality(degraded(*penalties))
    assert product is not None
    assert Fraction(product) == prod(Fraction(penalty) for penalty in penalties)


def test_results_may_be_read_once() -> None:
    """Quality takes an iterator as well as a list."""
    assert quality(iter(degraded("0.9", "0.8"))) == Decimal("0.72")


def test_mean_of_equal_qualities_is_that_quality() -> None:
    """10,000 items of 0.72 have a mean of 0.72, not of its neighbour."""
    assert mean_quality({0.72: 10_000}) == 0.72


def test_mean_is_weighted_by_items() -> None:
    """Each item counts once, and the sum is exact: floats would come to 0.8500000000000001."""
    assert mean_quality({1.0: 3, 0.6: 1}) == 0.9
    assert mean_quality({0.9: 2, 0.8: 2}) == 0.85


@pytest.mark.parametrize("histogram", [{}, {0.9: 0}])
def test_no_items_have_no_mean(histogram: dict[float, int]) -> None:
    """Where there are no items, there is no mean, and nothing divides by zero."""
    assert mean_quality(histogram) is None
