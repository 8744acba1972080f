"""What a stage left for one item, and the trail of how it came to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from repli.tasks.fallback.errors import InvalidItem
from repli.tasks.fallback.status import Status, check_move

SKIP = "skip"
"""The last rung of a stage that may be given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepError:
    """Why a rung did not serve an item.

    `retryable` is false only where the item itself is wrong, so that no later try can help.
    """

    type: str
    message: str
    retryable: bool = True

    @classmethod
    def of(cls, error: BaseException) -> StepError:
        """The value of a raised `error`; an empty message is replaced by the type's name."""
        message = " ".join(str(error).split()) or type(error).__name__
        return cls(type=type(error).__name__, message=message[:2000], retryable=not isinstance(error, InvalidItem))

    @property
    def line(self) -> str:
        """The error on one line."""
        return f"{self.type}: {self.message}"

    def as_json(self) -> dict[str, str]:
        return {"type": self.type, "message": self.message}


class AttemptOutcome(StrEnum):
    """What became of one rung, for one item."""

    SERVED = "served"
    FAILED = "failed"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    INCOMPATIBLE = "incompatible"
    FORCED_PAST = "forced_past"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One rung considered for one item. `seconds` is the item's share of the calls that carried it.

    `is_item_error`: the failure is the item's own and says nothing of the rung. Only the process that called it knows.
    """

    rung: str
    outcome: AttemptOutcome
    error: StepError | None = None
    seconds: float = 0.0
    is_item_error: bool = field(default=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        error = self.error.as_json() if self.error else None
        return {"rung": self.rung, "outcome": self.outcome.value, "error": error, "seconds": round(self.seconds, 6)}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one stage left for one item.

    `penalty` is the exact factor that the serving rung puts on the item's quality; it is None where the stage
    left none (`pending`, `failed`). `value` is what the stage's rungs answer; None unless a rung served. `made_from`
    is a hash of the input that it answers to, where there is one.
    """

    item_id: str
    stage: str
    status: Status
    value: Any = None
    confidence: float | None = None
    rung: str | None = None
    penalty: Decimal | None = None
    error: StepError | None = None
    retryable: bool = False
    attempts: tuple[Attempt, ...] = ()
    run_id: str | None = None
    finished_at: datetime | None = None
    made_from: str | None = None

    @classmethod
    def pending(cls, item_id: str, stage: str) -> StepResult:
        """The result of a stage that has not run."""
        return cls(item_id=item_id, stage=stage, status=Status.PENDING)

    def become(self, new: StepResult) -> StepResult:
        """`new`, where the table of moves has the step from here to there.

        Raises:
            IllegalMove: it has not. Nothing changes.
        """
        check_move(self.status, new.status)
        return new

    @property
    def was_called(self) -> bool:
        """Whether a rung tried to serve the item, with success or without."""
        called = AttemptOutcome.FAILED, AttemptOutcome.SERVED
        return any(attempt.outcome in called and attempt.rung != SKIP for attempt in self.attempts)

    @property
    def is_failed_by_rung(self) -> bool:
        """Whether rungs did not serve the item and none of them for a reason of its own: they are broken, or gone."""
        gone = AttemptOutcome.FAILED, AttemptOutcome.REFUSED, AttemptOutcome.UNAVAILABLE
        unserved = [attempt for attempt in self.attempts if attempt.outcome in gone]
        return bool(unserved) and not any(attempt.is_item_error for attempt in unserved)

    @property
    def rank(self) -> float:
        """How good the result is: a stored result is only ever replaced by one of the same standing or a higher one.

        Statuses come first (failed 0, skipped 1, degraded 2, the rest 3), penalties decide between equals.
        """
        return _STANDINGS[self.status] + float(self.penalty or 0)

    def as_json(self) -> dict[str, Any]:
        """The outside form: section 3 of the design, in its order."""
        return {
            "item_id": self.item_id,
            "stage": self.stage,
            "status": self.status.value,
            "value": self.value,
            "confidence": self.confidence,
            "rung": self.rung,
            "penalty": None if self.penalty is None else float(self.penalty),
            "error": self.error.as_json() if self.error else None,
            "retryable": self.retryable,
            "attempts": [attempt.as_json() for attempt in self.attempts],
            "run_id": self.run_id,
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
        }


_STANDINGS: Mapping[Status, int] = {
    Status.PENDING: -1,
    Status.FAILED: 0,
    Status.SKIPPED: 1,
    Status.DEGRADED: 2,
    Status.SUCCEEDED: 3,
    Status.NOT_APPLICABLE: 3,
}
