"""The result of one stage for one item, and the trail of rungs that led to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from repli.tasks.fallback.errors import Declined, InvalidItem, breaker_of, keys_of, message_of
from repli.tasks.fallback.status import Status, check_move

SKIP = "skip"
"""Name of the last rung of a stage that is not required."""
INJECTED = "injected: "
"""How the message of an injected fault begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepError:
    """The reason a rung did not serve an item: a raised error as a value.

    `retryable` is false only if no retry can help: the item is invalid, or the rung declined it. `keys` are those of
    the calls that failed or were refused, and `breaker` is the name of their breaker, where it is not that of the rung;
    neither is stored, since `StepResult.waits_for` is.

    Example:
        >>> StepError.of(MemoryError()).line
        'MemoryError: MemoryError'
    """

    type: str
    message: str
    retryable: bool = True
    keys: tuple[str, ...] = field(default=(), compare=False)
    breaker: str = field(default="", compare=False)

    @classmethod
    def of(cls, error: BaseException) -> StepError:
        """Return `error` as a value.

        The message is put on one line and cut at 2,000 characters; an empty one is replaced by the type's name.
        """
        is_final = isinstance(error, Declined | InvalidItem)
        return cls(
            type=type(error).__name__,
            message=message_of(error)[:2000],
            retryable=not is_final,
            keys=keys_of(error),
            breaker=breaker_of(error),
        )

    @property
    def line(self) -> str:
        """Return the error on one line: type and message."""
        return f"{self.type}: {self.message}"

    @property
    def is_injected(self) -> bool:
        """Return whether a fault was injected on purpose."""
        return self.message.startswith(INJECTED)

    def as_json(self) -> dict[str, str]:
        """Return the error in its JSON form."""
        return {"type": self.type, "message": self.message}


class AttemptOutcome(StrEnum):
    """Outcome of one rung for one item."""

    SERVED = "served"
    FAILED = "failed"
    DECLINED = "declined"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    INCOMPATIBLE = "incompatible"
    FORCED_PAST = "forced_past"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One rung that was considered for one item.

    Args:
        error: Why the rung did not serve the item; of one that served only a part of the answer, which part.
        seconds: The item's share of the time of the calls that carried it.
        where: Where the last call that carried it ran, as `host/device`: the host alone where the rung was unavailable
            or refused, or its device is not known. None where the rung was not to be called.
        is_item_error: The item caused the failure, not the rung. Not stored: only the process that made the call knows.

    Example:
        >>> Attempt(rung="skip", outcome=AttemptOutcome.SERVED).as_json()
        {'rung': 'skip', 'outcome': 'served', 'error': None, 'seconds': 0.0, 'where': None}
    """

    rung: str
    outcome: AttemptOutcome
    error: StepError | None = None
    seconds: float = 0.0
    where: str | None = None
    is_item_error: bool = field(default=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """Return the attempt in its JSON form, `seconds` rounded to microseconds."""
        return {
            "rung": self.rung,
            "outcome": self.outcome.value,
            "error": self.error.as_json() if self.error else None,
            "seconds": round(self.seconds, 6),
            "where": self.where,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Result of one stage for one item.

    Args:
        value: The serving rung's value; None unless a rung served.
        confidence: The serving rung's confidence, in [0, 1]; times its `after_decline` where a better one was not sure.
        penalty: The exact factor, in (0, 1], that the serving rung puts on the item's quality. None for `pending` and
            `failed`.
        attempts: The trail: one attempt per rung considered, in order.
        input_hash: Hash of the input that the value was computed from, if there is one.
        revision: Revision of the item's record that the value was computed from, if it is known.
        is_stale: The input has changed since, and no result as good was computed from the new one.
        rung_version: Version of the serving rung; None where no rung served, or where it is not known.
        is_outdated: An operator has asked for a result by the present version of the rung.

    Example:
        >>> StepResult.pending("42", "fetch").status.value
        'pending'
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
    input_hash: str | None = None
    revision: int | None = None
    is_stale: bool = False
    rung_version: str | None = None
    is_outdated: bool = False

    @classmethod
    def pending(cls, item_id: str, stage: str) -> StepResult:
        """Return the result of a stage that has not run."""
        return cls(item_id=item_id, stage=stage, status=Status.PENDING)

    @classmethod
    def not_applicable(cls, item_id: str, stage: str, *, run_id: str, finished_at: datetime) -> StepResult:
        """Return the result of a stage that has nothing to do for the item."""
        return cls(
            item_id=item_id,
            stage=stage,
            status=Status.NOT_APPLICABLE,
            penalty=Decimal(1),
            run_id=run_id,
            finished_at=finished_at,
        )

    def become(self, new: StepResult) -> StepResult:
        """Return `new` if the table of moves allows it after this result.

        Raises:
            IllegalMove: The table has no such move. Nothing changes.
        """
        check_move(self.status, new.status)
        return new

    def failed(self, error: StepError) -> StepResult:
        """Return this result as a failure of the rung that served, for an error that was found afterwards."""
        trail = self.attempts
        if trail:
            trail = (*trail[:-1], replace(trail[-1], outcome=AttemptOutcome.FAILED, error=error))
        return replace(
            self,
            status=Status.FAILED,
            value=None,
            confidence=0.0,
            rung=None,
            rung_version=None,
            penalty=None,
            error=error,
            retryable=error.retryable,
            attempts=trail,
        )

    @property
    def was_called(self) -> bool:
        """Return whether any rung was called for the item, `skip` not counted."""
        called = AttemptOutcome.FAILED, AttemptOutcome.DECLINED, AttemptOutcome.SERVED
        return any(attempt.outcome in called and attempt.rung != SKIP for attempt in self.attempts)

    @property
    def is_failed_by_rung(self) -> bool:
        """Return whether rungs failed, refused or were unavailable, and none because of the item, or of its key."""
        not_served = AttemptOutcome.FAILED, AttemptOutcome.REFUSED, AttemptOutcome.UNAVAILABLE
        missed = [attempt for attempt in self.attempts if attempt.outcome in not_served]
        return bool(missed) and not any(attempt.is_item_error for attempt in missed) and not self.waits_for

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Return the breakers, as `STAGE.RUNG@KEY`, of the calls that failed or were refused for their keys."""
        missed = [(one.error.breaker or f"{self.stage}.{one.rung}", one.error) for one in self.attempts if one.error]
        return tuple(dict.fromkeys(f"{breaker}@{key}" for breaker, error in missed for key in error.keys))

    @property
    def is_refused_by_key(self) -> bool:
        """Return whether a rung was not called for the item because the breaker of its key is open."""
        return any(one.outcome is AttemptOutcome.REFUSED and one.error and one.error.keys for one in self.attempts)

    @property
    def rank(self) -> float:
        """Return how good the result is: a stored result is replaced only by one of the same or a higher rank.

        The status counts first (pending -1, failed 0, skipped 1, degraded 2, others 3); the penalty, in (0, 1], decides
        between equals.
        """
        return _RANKS[self.status] + float(self.penalty or 0)

    def as_json(self) -> dict[str, Any]:
        """Return the result in its JSON form, as commands and exports show it."""
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
            "is_stale": self.is_stale,
            "attempts": [attempt.as_json() for attempt in self.attempts],
            "run_id": self.run_id,
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
            "rung_version": self.rung_version,
        }


_RANKS: Mapping[Status, int] = {
    Status.PENDING: -1,
    Status.FAILED: 0,
    Status.SKIPPED: 1,
    Status.DEGRADED: 2,
    Status.SUCCEEDED: 3,
    Status.NOT_APPLICABLE: 3,
}
