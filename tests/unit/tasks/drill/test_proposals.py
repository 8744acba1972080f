"""A proposal brings the penalty nearer to the truth, or there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repli.tasks.drill.proposals import describe, proposal, propose
from repli.tasks.drill.relative_accuracy import Estimate, measure
from tests.support.simulated_drills import Truth


def report(relative: float, low: float, high: float, *, penalty: float = 0.9, basis: str = "answers") -> dict[str, Any]:
    """The report of a drill of one fallback."""
    rung = {"stage": "look", "rung": "small", "penalty": penalty, "basis": basis}
    return {"rungs": [{**rung, "relative_accuracy": relative, "relative_interval": [low, high]}]}


ABOVE = report(0.7, 0.65, 0.75)
"""The declared 0.9 lies above the interval."""


def test_two_drills_running_propose_a_number() -> None:
    """With the field of the block that sets it."""
    [found] = propose(ABOVE, report(0.72, 0.66, 0.78))
    assert (found["rung"], found["declared"], found["proposed"]) == ("look.small", 0.9, 0.78)
    assert found["set"] == "Enrichment Policy: chains.look.small = 0.78"
    assert describe(found).endswith("set in the block Enrichment Policy: chains.look.small = 0.78")


@pytest.mark.parametrize(
    "before",
    [
        None,
        report(0.85, 0.8, 0.91),
        report(0.7, 0.65, 0.75, penalty=0.95),
        report(0.7, 0.65, 0.75, basis="agreement"),
        report(0.7, 0.65, 0.75, basis="confidences"),
        report(0.98, 0.95, 1.0),
    ],
)
def test_one_drill_is_not_enough(before: dict[str, Any] | None) -> None:
    """Nor two with another penalty between them, of which one has no answers, or which contradict each other."""
    assert propose(ABOVE, before) == []


@pytest.mark.parametrize("basis", ["agreement", "confidences"])
def test_what_rests_on_no_answers_proposes_nothing(basis: str) -> None:
    """Agreement is no measure of a fallback, and a wrong temperature is wrong twice."""
    assert propose(report(0.7, 0.65, 0.75, basis=basis), ABOVE) == []


@pytest.mark.parametrize(
    ("declared", "last", "before", "proposed"),
    [
        (0.95, (0.67, 0.6, 0.75), (0.66, 0.6, 0.74), 0.75),
        (0.9, (0.8, 0.7, 0.86), (0.78, 0.7, 0.8), 0.86),
        (0.9, (1.01, 0.98, 1.04), (1.0, 0.97, 1.03), 0.97),
        (0.9, (1.1, 1.05, 1.2), (1.1, 1.02, 1.2), 1.0),
        (0.9, (0.89, 0.885, 0.8951), (0.89, 0.885, 0.8951), None),  # less than a hundredth
        (0.9, (0.88, 0.84, 0.89), (0.88, 0.84, 0.895), None),  # outside both, and hardly
        (0.9, (0.89, 0.85, 0.93), (0.75, 0.7, 0.8), None),
        (1.0, (1.02, 1.01, 1.03), (1.02, 1.01, 1.03), None),
        (0.85, (0.0, 0.0, 0.003), (0.0, 0.0, 0.004), 0.01),
    ],
)
def test_the_number_is_an_improvement_wherever_the_truth_lies(
    declared: float, last: tuple[float, ...], before: tuple[float, ...], proposed: float | None
) -> None:
    """It is nearer than the declared penalty to each number of both intervals, as far as that is a penalty."""
    found = proposal(declared, [Estimate(value=value, low=low, high=high) for value, low, high in (last, before)])
    assert found == proposed
    if found is not None:
        for truth in np.linspace(min(last[1], before[1]), max(last[2], before[2]), 50):
            wanted = min(1.0, max(0.01, truth))
            assert abs(found - wanted) <= abs(declared - wanted) + 1e-9


@pytest.mark.parametrize(
    "drills", [pytest.param(1, id="same answers"), pytest.param(2, id="other answers", marks=pytest.mark.campaign)]
)
def test_a_proposal_never_moves_away_from_the_truth(drills: int) -> None:
    """Of a thousand simulated pairs of drills with any declared penalty; and a penalty that is far off is found. The
    second drill may have answers of its own, or use those of the first again."""
    random = np.random.default_rng(7)
    made = far = found_far = 0
    for _ in range(1000):
        truth, declared = Truth.at_random(random), round(random.uniform(0.5, 1.0), 2)
        told = [measure(pairs) for pairs in truth.drills(random, drills)]
        found = proposal(declared, [one.relative for one in told if one])
        wanted = min(1.0, truth.relative)
        is_far = abs(declared - wanted) > 0.25
        far, found_far = far + is_far, found_far + (is_far and found is not None)
        if found is not None:
            made += 1
            assert abs(found - wanted) < abs(declared - wanted), (truth, declared, found)
    assert made > 200
    assert found_far > 0.9 * far
