"""The interface between a chain and a rung's breaker: acquire a permit before a call, record the verdict after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from repli.tasks.fallback.breaker import Breaker, Decision, Verdict
from repli.tasks.fallback.outcome import Failed, Outcome, Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """A breaker's answer to a request for a call.

    Args:
        token: Identifies the call.
        decision: Whether the rung may be called, and whether the call is a probe.
        why: The reason for a refusal.
        is_trusted: This process's last call of the rung was served, and no failure is in the breaker's window.
    """

    token: str
    decision: Decision
    why: str = ""
    is_trusted: bool = False

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

    def record(self, permit: Permit, verdict: Verdict, why: str = "") -> None:
        """Record the end of the call that `permit` allowed."""

    def forgive(self, permits: Iterable[Permit]) -> None:
        """Remove recorded failures that an item caused, not the rung."""

    def refusal_elsewhere(self) -> str | None:
        """Return why the rung is refused on other workers, where it is; None where it may be called on one."""


BreakerOf = Callable[[str, Breaker], BreakerClient]


class NoBreaker:
    """The client of a rung without a breaker: it allows every call."""

    def acquire(self) -> Permit:
        """Return a permit for a call."""
        return _ALLOWED

    def record(self, permit: Permit, verdict: Verdict, why: str = "") -> None:
        """Record nothing."""

    def forgive(self, permits: Iterable[Permit]) -> None:
        """Remove nothing."""

    def refusal_elsewhere(self) -> str | None:
        """Return None: the rung is refused nowhere."""
        return None


_ALLOWED = Permit(token="", decision=Decision.CALL)


def without_breakers(name: str, breaker: Breaker) -> BreakerClient:
    """Return a client that allows every call, whatever the rung."""
    return NoBreaker()


def verdict_of(outcomes: Sequence[Outcome[Any]]) -> tuple[Verdict, str]:
    """Return the verdict of a call on its rung, and the first error that the rung caused.

    One served item proves that the rung works. Failures that items caused prove nothing about the rung.
    """
    if any(isinstance(outcome, Served) for outcome in outcomes):
        return Verdict.SERVED, ""
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failed) and not outcome.is_item_error]
    return (Verdict.FAILED, errors[0].line) if errors else (Verdict.INCONCLUSIVE, "")
