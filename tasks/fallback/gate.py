"""What stands between a chain and a rung's breaker: ask before a call, tell after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from repli.tasks.fallback.breaker import Breaker, Decision, Verdict
from repli.tasks.fallback.outcome import Failed, Outcome, Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """The answer to who asked. `token` names the call; `why` says why it is refused; `is_trusted`: the rung served
    this process's last call, and nobody has seen it fail lately."""

    token: str
    decision: Decision
    why: str = ""
    is_trusted: bool = False

    @property
    def is_probe(self) -> bool:
        """Whether the call is a probe, which carries one item and is cut off before its lease ends."""
        return self.decision is Decision.PROBE

    @property
    def is_refused(self) -> bool:
        """Whether there is to be no call."""
        return self.decision is Decision.REFUSE


class BreakerClient(Protocol):
    """One rung's breaker, as one process sees it."""

    def acquire(self) -> Permit:
        """Whether the rung may be called now."""

    def record(self, permit: Permit, verdict: Verdict, why: str = "") -> None:
        """The call that `permit` let through is over."""

    def forgive(self, permits: Iterable[Permit]) -> None:
        """Those calls failed over an item, not over the rung."""


BreakerOf = Callable[[str, Breaker], BreakerClient]


class NoBreaker:
    """The gate of a rung without a breaker: it lets everything through."""

    def acquire(self) -> Permit:
        return _FREE

    def record(self, permit: Permit, verdict: Verdict, why: str = "") -> None:
        pass

    def forgive(self, permits: Iterable[Permit]) -> None:
        pass


_FREE = Permit(token="", decision=Decision.CALL)


def without_breakers(name: str, breaker: Breaker) -> BreakerClient:
    """The `BreakerOf` that has no breakers."""
    return NoBreaker()


def verdict_on(outcomes: Sequence[Outcome[Any]]) -> tuple[Verdict, str]:
    """What an answered call says of its rung, and the first error that is the rung's.

    Whoever serves one item works. Answers that blame nothing but the items say nothing of the rung.
    """
    if any(isinstance(outcome, Served) for outcome in outcomes):
        return Verdict.SERVED, ""
    blamed = [outcome.error for outcome in outcomes if isinstance(outcome, Failed) and not outcome.is_item_error]
    return (Verdict.FAILED, blamed[0].line) if blamed else (Verdict.INCONCLUSIVE, "")
