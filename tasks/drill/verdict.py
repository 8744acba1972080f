"""The verdicts of a drill: passed, failed or not covered, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from repli.tasks.drill.questions import Question
from repli.tasks.drill.relative_accuracy import Estimate, Measurement

PASSED, FAILED, NOT_COVERED = "passed", "failed", "not_covered"


@dataclass(frozen=True, slots=True, kw_only=True)
class RungVerdict:
    """The verdict on one rung.

    `reason` says why it failed. `not_covered` says why it cannot run here (no device, no model, no item of the sample
    for its stage); that alone is not a failure. `note` is a remark on a rung that passed. `agreement` with the primary,
    from 0 to 1, and its 95 % `interval`, are None if there was nothing to compare. `is_reached`: the rung answered both
    when it was forced and when every better rung failed. `penalty` is the declared one, `penalty_justified` the one
    that the relative accuracy justifies.

    `measured` is the accuracy relative to the primary's, on the items that both serve; None where nothing was
    compared. `accuracy`, the share of right answers on those items, needs people's answers: of the primary it is the
    one beside the best fallback that has any. `mean_confidence` is of the same items; `answered` counts those of them
    that people labelled.
    """

    stage: str
    rung: str
    reason: str = ""
    not_covered: str = ""
    note: str = ""
    is_reached: bool = True
    items: int = 0
    agreement: float | None = None
    interval: tuple[float, float] | None = None
    seconds_per_item: float | None = None
    penalty: float = 1.0
    penalty_justified: float | None = None
    measured: Measurement | None = None
    accuracy: Estimate | None = None
    mean_confidence: float | None = None
    answered: int = 0

    @property
    def name(self) -> str:
        """Return the rung as `stage.rung`."""
        return f"{self.stage}.{self.rung}"

    @property
    def verdict(self) -> str:
        if self.reason:
            return FAILED
        return NOT_COVERED if self.not_covered else PASSED

    @property
    def why(self) -> str:
        """Return the reason of a verdict other than `passed`, else ''."""
        return self.reason or self.not_covered

    def as_json(self) -> dict[str, Any]:
        """Return one of the rungs of `drill --json`."""
        return {
            "stage": self.stage,
            "rung": self.rung,
            "verdict": self.verdict,
            "reason": self.why,
            "note": self.note,
            "agreement": _rounded(self.agreement),
            "interval": [_rounded(end) for end in self.interval] if self.interval else None,
            "relative_accuracy": _rounded(self.measured.relative.value) if self.measured else None,
            "relative_interval": _ends(self.measured.relative) if self.measured else None,
            "basis": str(self.measured.basis) if self.measured else None,
            "seconds_per_item": _rounded(self.seconds_per_item),
            "penalty": self.penalty,
            "penalty_justified": self.penalty_justified,
            "accuracy": _rounded(self.accuracy.value) if self.accuracy else None,
            "accuracy_interval": _ends(self.accuracy) if self.accuracy else None,
            "mean_confidence": _rounded(self.mean_confidence),
            "answered": self.answered,
            "items": self.items,
            "reached": self.is_reached,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleVerdict:
    """The verdict on one compatibility rule. It passes if the pair that it forbids was tried and refused."""

    rule: str
    reason: str = ""

    @property
    def verdict(self) -> str:
        return FAILED if self.reason else PASSED

    def as_json(self) -> dict[str, Any]:
        return {"rule": self.rule, "verdict": self.verdict, "reason": self.reason}


class StageVerdict(NamedTuple):
    """The verdicts on the rungs and rules of a stage, and its questions."""

    rungs: Sequence[RungVerdict]
    rules: Sequence[RuleVerdict]
    questions: Sequence[Question] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillVerdict:
    """The verdict on a whole drill. It passes if no rung and no rule failed, and every stage has a verdict.

    A rung that is not covered fails the drill only if the policy expects that rung. `problems` name the stages without
    a verdict.
    """

    sample: int
    rungs: Sequence[RungVerdict]
    rules: Sequence[RuleVerdict]
    problems: Sequence[str] = ()
    questions: Sequence[Question] = ()
    proposals: Sequence[Mapping[str, Any]] = ()

    @property
    def verdict(self) -> str:
        return FAILED if self.failures else PASSED

    @property
    def reached(self) -> int:
        return sum(rung.is_reached for rung in self.rungs)

    @property
    def not_covered(self) -> list[str]:
        """Return the rungs that cannot run here, as `stage.rung`, including those that the policy expects."""
        return [rung.name for rung in self.rungs if rung.not_covered]

    @property
    def failures(self) -> list[str]:
        """Return the failures, each with its reason."""
        rungs = [f"{rung.name}: {rung.reason}" for rung in self.rungs if rung.reason]
        return [*rungs, *(f"{rule.rule}: {rule.reason}" for rule in self.rules if rule.reason), *self.problems]

    def __str__(self) -> str:
        """Return the drill in one line."""
        failed = f", {len(self.failures)} failures" if self.failures else ""
        return f"{headline(self.as_json())}{failed}"

    def as_json(self) -> dict[str, Any]:
        """Return the document of `drill --json`."""
        return {
            "verdict": self.verdict,
            "rungs_declared": len(self.rungs),
            "rungs_reached": self.reached,
            "not_covered": self.not_covered,
            "rungs": [rung.as_json() for rung in self.rungs],
            "rules": [rule.as_json() for rule in self.rules],
            "problems": list(self.problems),
            "questions": [question.as_json() for question in self.questions],
            "proposals": [dict(proposal) for proposal in self.proposals],
            "sample": self.sample,
        }


def headline(report: Mapping[str, Any]) -> str:
    """Return the first line of a drill's report: its verdict, its coverage, and the rungs that are not covered."""
    missing = f", not covered: {', '.join(report['not_covered'])}" if report["not_covered"] else ""
    reached = f"{report['rungs_reached']} of {report['rungs_declared']} rungs reached"
    return f"{report['verdict']}: {reached} on {report['sample']} items{missing}"


def readable(verdict: str) -> str:
    """Return a verdict for display, such as "not covered"."""
    return verdict.replace("_", " ")


def first_reason(reasons: Iterable[str | None]) -> str:
    """Return the first reason that is neither None nor empty, or ''."""
    return next((reason for reason in reasons if reason), "")


def _ends(estimate: Estimate) -> list[float | None]:
    return [_rounded(estimate.low), _rounded(estimate.high)]


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
