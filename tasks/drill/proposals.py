"""Propose a penalty where two drills running say that the declared one is wrong. Nothing changes by itself.

A proposal rests on people's answers in both drills: agreement is no measure of a fallback, and confidences may be off
in the same way twice. The number is the measured relative accuracy, or the one nearest to it that is an improvement
wherever in the two intervals the truth lies: no further from the declared penalty than twice its distance to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any

from repli.tasks.drill.relative_accuracy import Basis

BLOCK = "Enrichment Policy"
"""The block whose form has a field for each penalty."""
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
        intervals = [rung["relative_interval"], previous["relative_interval"]]
        proposed = proposal(rung["penalty"], rung["relative_accuracy"], intervals)
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


def proposal(declared: float, measured: float, intervals: Sequence[Sequence[float]]) -> float | None:
    """Return the penalty to propose, in hundredths; None where the declared one is in one of the intervals.

    A penalty is from 0.01 to 1: a rung that is right more often than the primary is as good as it.
    """
    lows, highs = [min(1.0, low) for low, _ in intervals], [min(1.0, high) for _, high in intervals]
    if declared > max(highs):
        wanted = max(measured, 2 * max(highs) - declared)
        proposed = ceil(round(wanted * HUNDREDTHS, 6)) / HUNDREDTHS
        return max(proposed, 1 / HUNDREDTHS) if proposed < declared else None
    if declared < min(lows):
        wanted = min(measured, 1.0, 2 * min(lows) - declared)
        proposed = floor(round(wanted * HUNDREDTHS, 6)) / HUNDREDTHS
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
