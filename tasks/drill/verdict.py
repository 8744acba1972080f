"""What a drill makes of a rung: passed or failed, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

PASSED, FAILED = "passed", "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RungVerdict:
    """One rung, exercised.

    `agreement` with the primary, and its 95 % `interval`, are None where there was nothing to compare. `is_reached`:
    the rung was called both when it was forced and when all before it failed, and answered. `penalty_justified` is
    what the agreement alone would justify, beside the `penalty` that is declared.
    """

    stage: str
    rung: str
    reason: str = ""
    is_reached: bool = True
    items: int = 0
    agreement: float | None = None
    interval: tuple[float, float] | None = None
    seconds_per_item: float | None = None
    penalty: float = 1.0
    penalty_justified: float | None = None

    @property
    def verdict(self) -> str:
        return FAILED if self.reason else PASSED

    def as_json(self) -> dict[str, Any]:
        """The outside form: one of the rungs of `drill --json`, section 11 of the design."""
        return {
            "stage": self.stage,
            "rung": self.rung,
            "verdict": self.verdict,
            "reason": self.reason,
            "agreement": _rounded(self.agreement),
            "interval": [_rounded(end) for end in self.interval] if self.interval else None,
            "seconds_per_item": _rounded(self.seconds_per_item),
            "penalty": self.penalty,
            "penalty_justified": self.penalty_justified,
            "items": self.items,
            "reached": self.is_reached,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleVerdict:
    """One rule of compatibility: the pair that it forbids was tried, and refused."""

    rule: str
    reason: str = ""

    @property
    def verdict(self) -> str:
        return FAILED if self.reason else PASSED

    def as_json(self) -> dict[str, Any]:
        return {"rule": self.rule, "verdict": self.verdict, "reason": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillVerdict:
    """A whole drill. It passes where every rung was reached and passed, and every rule held."""

    sample: int
    rungs: Sequence[RungVerdict]
    rules: Sequence[RuleVerdict]
    problems: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        return FAILED if self.failures else PASSED

    @property
    def reached(self) -> int:
        return sum(rung.is_reached for rung in self.rungs)

    @property
    def failures(self) -> list[str]:
        """What failed, each with its reason."""
        rungs = [f"{rung.stage}.{rung.rung}: {rung.reason}" for rung in self.rungs if rung.reason]
        return [*rungs, *(f"{rule.rule}: {rule.reason}" for rule in self.rules if rule.reason), *self.problems]

    def __str__(self) -> str:
        """One line."""
        failed = f", {len(self.failures)} failures" if self.failures else ""
        return f"{self.verdict}: {self.reached} of {len(self.rungs)} rungs reached on {self.sample} items{failed}"

    def as_json(self) -> dict[str, Any]:
        """The outside form: `drill --json` of section 11 of the design."""
        return {
            "verdict": self.verdict,
            "rungs_declared": len(self.rungs),
            "rungs_reached": self.reached,
            "rungs": [rung.as_json() for rung in self.rungs],
            "rules": [rule.as_json() for rule in self.rules],
            "problems": list(self.problems),
            "sample": self.sample,
        }


def first_reason(reasons: Iterable[str | None]) -> str:
    """The first of the reasons that there is; '' where there is none."""
    return next((reason for reason in reasons if reason), "")


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
