"""The statistics of `tests.benchmarks.earned`, against cases that can be computed by hand, and against truth."""

from __future__ import annotations

import random

import pytest

from tests.benchmarks.calibration import (
    auroc,
    bands,
    calibration_error,
    calibration_interval,
    is_monotone,
    precision_and_coverage,
)

THREE = [(0.95, 1.0), (0.95, 0.0), (0.05, 0.0), (1.0, 1.0)]


def test_bands_hold_every_claim_once() -> None:
    """Also 0 and 1; a band without claims is left out."""
    low, high = bands([(0.0, 0.0), *THREE])
    assert (low.low, low.high, low.count, low.claimed, low.happened) == (0.0, 0.1, 2, 0.025, 0.0)
    assert (high.low, high.count, high.claimed) == (0.9, 3, pytest.approx(2.9 / 3))
    assert high.happened == pytest.approx(2 / 3)


def test_the_calibration_error_is_the_weighted_distance() -> None:
    """By hand: three of four claims are 0.3 too high, one is 0.05 too high."""
    assert calibration_error(THREE) == pytest.approx((3 * (2.9 / 3 - 2 / 3) + 0.05) / 4)


def test_claims_that_are_true_have_no_error() -> None:
    """And claims of twice as much have one; of 20,000 draws."""
    draw = random.Random(1)
    claims = [draw.random() / 2 for _ in range(20_000)]
    events = [float(draw.random() < claim) for claim in claims]
    assert calibration_error(list(zip(claims, events, strict=True))) < 0.01
    doubled = [(2 * claim, event) for claim, event in zip(claims, events, strict=True)]
    assert calibration_error(doubled) == pytest.approx(0.25, abs=0.01)


def test_variants_of_one_source_are_drawn_together() -> None:
    """200 true claims of 10 sources tell less than 200 of as many; those of one source are all the same draw."""
    draw = random.Random(2)
    truths = [float(draw.random() < 0.5) for _ in range(10)]
    pairs = [(0.5, truth) for truth in truths for _ in range(20)]
    apart, together = (
        calibration_interval(pairs, sources) for sources in (range(200), [number // 20 for number in range(200)])
    )
    assert together[1] > apart[1] > calibration_error(pairs)
    assert calibration_interval(pairs, [0] * 200) == pytest.approx((calibration_error(pairs),) * 2)


def test_auroc_counts_pairs() -> None:
    """1 where all that is right is above all that is not, 0 the other way, a half for ties."""
    assert auroc([(0.9, 1), (0.8, 1), (0.1, 0)]) == 1
    assert auroc([(0.1, 1), (0.9, 0)]) == 0
    assert auroc([(0.5, 1), (0.5, 0)]) == 0.5
    assert auroc([(0.9, 1), (0.3, 1), (0.5, 0)]) == 0.5


def test_small_bands_do_not_break_the_order() -> None:
    """Of nine claims nothing can be said; of ten it can."""
    rising = [(0.15, 0.0)] * 10 + [(0.55, 0.5)] * 10 + [(0.95, 1.0)] * 10
    assert is_monotone(bands(rising))
    assert is_monotone(bands([*rising, *[(0.75, 0.0)] * 9]))
    assert not is_monotone(bands([*rising, *[(0.75, 0.0)] * 10]))


def test_precision_and_coverage_are_of_the_claims_that_pass() -> None:
    """A claim at the threshold passes; where none does, nothing is right."""
    assert precision_and_coverage(THREE, 0.95) == (pytest.approx(2 / 3), 0.75)
    assert precision_and_coverage(THREE, 1.1) == (0.0, 0.0)
