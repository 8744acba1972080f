"""The interface between a chain and a rung's breaker: acquire a permit before a call, record the verdict after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from repli.tasks.fallback.breaker import Breaker, Decision, Verdict
from repli.tasks.fallback.errors import ItemError, NotHere, OutOfMemory, RungError
from repli.tasks.fallback.outcome import Failed, Outcome, Served
from repli.tasks.fallback.result import StepError


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """A breaker's answer to a request for a call.

    Args:
        token: Identifies the call.
        decision: Whether the rung may be called, and whether the call is a probe.
        why: The reason for a refusal.
    """

    token: str
    decision: Decision
    why: str = ""

    @property
    def is_probe(self) -> bool:
        """Return whether the call is a probe, which carries one item and is cut off before its lease ends."""
        return self.decision is Decision.PROBE

    @property
    def is_refused(self) -> bool:
        """Return whether the rung must not be called."""
        return self.decision is Decision.REFUSE


class BreakerClient(Protocol):
    """One rung's breaker, as one process sees it."""

    def acquire(self) -> Permit:
        """Request a call of the rung. The permit says whether it may be made."""

    def refusal(self) -> str | None:
        """Return why a call would be refused, where it would be for sure; else None. It asks for no permit."""

    def record(self, permit: Permit, verdict: Verdict, why: str = "", *, retry_after_s: float | None = None) -> None:
        """Record the end of the call that `permit` allowed."""

    def take_back(self, permit: Permit) -> None:
        """Take back the recorded failure of the call that `permit` allowed: a later call was served."""

    def refusal_elsewhere(self) -> str | None:
        """Return why the rung is refused on other workers, where it is; None where it may be called on one."""


class BreakerOf(Protocol):
    """Returns the client of a rung's breaker, by the rung's name and, with scope `key`, the key."""

    def __call__(self, name: str, breaker: Breaker, key: str = "") -> BreakerClient: ...


class NoBreaker:
    """The client of a rung without a breaker: it allows every call."""

    def acquire(self) -> Permit:
        """Return a permit for a call."""
        return _ALLOWED

    def refusal(self) -> str | None:
        """Return None: the rung is refused nowhere."""
        return None

    def record(self, permit: Permit, verdict: Verdict, why: str = "", *, retry_after_s: float | None = None) -> None:
        """Record nothing."""

    def take_back(self, permit: Permit) -> None:
        """Take nothing back."""

    def refusal_elsewhere(self) -> str | None:
        """Return None: the rung is refused nowhere."""
        return None


_ALLOWED = Permit(token="", decision=Decision.CALL)


def without_breakers(name: str, breaker: Breaker, key: str = "") -> BreakerClient:
    """Return a client that allows every call, whatever the rung."""
    return NoBreaker()


def verdict_of(outcomes: Sequence[Outcome[Any]]) -> tuple[Verdict, str]:
    """Return the verdict of a call on its rung, and the first error that no item caused.

    One served item proves that the rung works. Failures that items caused prove nothing about the rung.
    """
    if any(isinstance(outcome, Served) for outcome in outcomes):
        return Verdict.SERVED, ""
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failed) and not outcome.is_item_error]
    return (Verdict.FAILED, errors[0].line) if errors else (Verdict.INCONCLUSIVE, "")


class BatchPermit:
    """The permit of one rung's calls over one batch, and their one verdict; a probe has its own.

    The batch is judged as a whole. Something served: no failure, since its items caused what failed. Nothing served,
    and at least one error that no item caused: one failure. Else it is inconclusive.
    """

    def __init__(self, breaker: BreakerClient) -> None:
        self._breaker = breaker
        self._permit: Permit | None = None
        self._verdict, self._why = Verdict.INCONCLUSIVE, ""
        self._retry_after_s: float | None = None

    def acquire(self) -> Permit:
        """Request the next call. The first that is allowed is the permit of the batch; a probe is a permit of its own.

        The breaker is asked before each call, so that what has opened meanwhile is not called on.
        """
        permit = self._breaker.acquire()
        if permit.is_probe or permit.is_refused:
            return permit
        self._permit = self._permit or permit
        return self._permit

    def record(self, permit: Permit, verdict: Verdict, why: str = "", *, retry_after_s: float | None = None) -> None:
        """Record how a call ended: a probe's with the breaker at once, another's as part of the batch."""
        if permit.is_probe:
            self._breaker.record(permit, verdict, why, retry_after_s=retry_after_s)
        self._retry_after_s = retry_after_s or self._retry_after_s
        if verdict is Verdict.SERVED or self._verdict is Verdict.INCONCLUSIVE:
            self._verdict, self._why = verdict, why

    def record_error(self, permit: Permit, error: Exception, *, items: int) -> None:
        """Record that a call with `items` items raised `error`. Out of memory with several is no failure yet."""
        is_out_of_memory = isinstance(error, OutOfMemory | MemoryError) and items > 1
        if is_out_of_memory or isinstance(error, ItemError | NotHere):
            self.record(permit, Verdict.INCONCLUSIVE)
        else:
            asked_s = error.retry_after_s if isinstance(error, RungError) else None
            self.record(permit, Verdict.FAILED, StepError.of(error).line, retry_after_s=asked_s)

    def cancel(self, permit: Permit) -> None:
        """Give a permit back: the batch ends here, and proves nothing about the rung."""
        self._breaker.record(permit, Verdict.INCONCLUSIVE)

    def finish(self) -> None:
        """Record the verdict of the batch, unless it consisted of probes or was refused."""
        if self._permit:
            self._breaker.record(self._permit, self._verdict, self._why, retry_after_s=self._retry_after_s)
