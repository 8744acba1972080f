"""Propose a penalty where two drills running say that the declared one is wrong. Nothing changes by itself.

A proposal rests on people's answers in both drills: agreement is no measure of a fallback, and confidences may be off
in the same way twice. The declared penalty must lie outside `REACH` times both intervals, because two drills may use
the same answers, and then err together. The number is the end of the intervals that is nearest to the declared penalty:
the least change that both drills ask for. So it leads away from the truth only if both intervals miss that by far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any

from repli.tasks.drill.relative_accuracy import Basis, Estimate

BLOCK = "Enrichment Policy"
"""The block whose form has a field for each penalty."""
REACH = 1.5
"""A 95 % interval, so many times as wide, is one of 99.7 %."""
HUNDREDTHS = 100


def propose(report: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the proposals of a drill's report, given that of the drill before it.

    Each says the `rung`, its `declared` penalty, the `proposed` one, what was measured, and where to `set` it.
    """
    earlier = {(rung["stage"], rung["rung"]): rung for rung in (before or {}).get("rungs", [])}
    proposals = []
    for rung in report["rungs"]:
        previous = earlier.get((rung["stage"], rung["rung"]))
        if previous is None or not (_is_measured(rung) and _is_measured(previous)):
            continue
        if rung["penalty"] != previous["penalty"]:
            continue
        proposed = proposal(rung["penalty"], [_estimate(rung), _estimate(previous)])
        if proposed is not None:
            proposals.append(
                {
                    "rung": f"{rung['stage']}.{rung['rung']}",
                    "declared": rung["penalty"],
                    "proposed": proposed,
                    "relative_accuracy": rung["relative_accuracy"],
                    "relative_interval": rung["relative_interval"],
                    "set": f"{BLOCK}: chains.{rung['stage']}.{rung['rung']} = {proposed:g}",
                }
            )
    return proposals


def proposal(declared: float, measured: Sequence[Estimate]) -> float | None:
    """Return the penalty to propose, in hundredths; None where the declared one may be right.

    A penalty is from 0.01 to 1: a rung that is right more often than the primary is as good as it.

    Args:
        measured: the relative accuracies of the drills, the last one first.
    """
    low, high = (min(1.0, end) for end in (min(one.low for one in measured), max(one.high for one in measured)))
    if all(declared > one.value + REACH * (one.high - one.value) for one in measured):
        proposed = max(1, ceil(round(high * HUNDREDTHS, 6))) / HUNDREDTHS
        return proposed if proposed < declared else None
    if all(declared < one.value - REACH * (one.value - one.low) for one in measured):
        proposed = floor(round(low * HUNDREDTHS, 6)) / HUNDREDTHS
        return proposed if proposed > declared else None
    return None


def describe(proposal: Mapping[str, Any]) -> str:
    """Return a proposal in one line."""
    low, high = proposal["relative_interval"]
    return (
        f"{proposal['rung']}: the penalty {proposal['declared']:g} lies outside the relative accuracy "
        f"{proposal['relative_accuracy']:.2f} ({low:.2f}–{high:.2f}) in two drills running; to follow it, set in the "
        f"block {proposal['set']}"
    )


def _is_measured(rung: Mapping[str, Any]) -> bool:
    return rung.get("basis") == Basis.ANSWERS and rung.get("relative_interval") is not None


def _estimate(rung: Mapping[str, Any]) -> Estimate:
    low, high = rung["relative_interval"]
    return Estimate(value=rung["relative_accuracy"], low=low, high=high)
