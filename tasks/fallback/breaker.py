"""Circuit breakers: the memory that a rung keeps failing.

A pure machine, ``step(breaker, state, event, now) -> (state, decision)``: the clock and the keeping of the state are
the caller's. `MOVES` is every move there is, and why; the README's diagram is made from it.

While **closed**, calls go through, and N failures within a window open it. While **open**, calls are refused until
the cool-down is over. Then it is **half-open**: one caller at a time holds the lease of a probe, everybody else is
refused. A served probe closes it; a failed one opens it for twice as long, up to a limit; one that says nothing
of the rung (a bad item, a cancelled call) gives its permit back; one whose holder never comes back opens it for as
long again. **Forced** positions are a person's, and only a person ends them.

After Polly (outcomes as values, a failure threshold in a window), resilience4j (permits that are given back, forced
positions) and interlock-cb (one leased probe for a whole fleet).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from repli.tasks.fallback.errors import IllegalMove

PROBE_SHARE_OF_LEASE = 0.8
"""A probe is cut off after so much of its lease: it is over before anybody else may begin one."""
_MOST_DOUBLINGS = 30
_YEAR_S = 365 * 24 * 3600.0


class Position(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    FORCED_CLOSED = "forced_closed"

    @property
    def is_forced(self) -> bool:
        """Whether a person put it there."""
        return self in (Position.FORCED_OPEN, Position.FORCED_CLOSED)


class Cause(StrEnum):
    """Why a breaker moves."""

    TOO_MANY_FAILURES = "too many failures"
    PROBE_DUE = "probe due"
    PROBE_SERVED = "probe served"
    PROBE_FAILED = "probe failed"
    PROBE_LOST = "probe lost"
    FORCED_OPEN = "forced open"
    FORCED_CLOSED = "forced closed"
    RESET = "reset"


MOVES: Mapping[tuple[Position, Cause], Position] = {
    (Position.CLOSED, Cause.TOO_MANY_FAILURES): Position.OPEN,
    (Position.OPEN, Cause.PROBE_DUE): Position.HALF_OPEN,
    (Position.HALF_OPEN, Cause.PROBE_SERVED): Position.CLOSED,
    (Position.HALF_OPEN, Cause.PROBE_FAILED): Position.OPEN,
    (Position.HALF_OPEN, Cause.PROBE_LOST): Position.OPEN,
    # A person's word, from wherever it stands.
    **{(position, Cause.FORCED_OPEN): Position.FORCED_OPEN for position in Position},
    **{(position, Cause.FORCED_CLOSED): Position.FORCED_CLOSED for position in Position},
    **{(position, Cause.RESET): Position.CLOSED for position in Position},
}


def destination(position: Position, cause: Cause) -> Position:
    """Where `cause` takes a breaker from `position`. Raises `IllegalMove` where the table has no such move."""
    try:
        return MOVES[position, cause]
    except KeyError:
        raise IllegalMove(f"a breaker that is {position} does not move for: {cause}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """How a rung's breaker is declared: ``Rung("gpu", on_gpu, breaker=Breaker(scope="host"), ...)``.

    Args:
        scope: `fleet` for a service that all workers share, `host` for a device: each has a breaker of its own.
        failures: so many failures...
        within_s: ...in so many seconds open it.
        open_for_s: the first cool-down, in seconds; it doubles with each failed probe...
        open_for_at_most_s: ...up to this.
        lease_s: after so many seconds a probe that was not heard of again is lost.
    """

    scope: Literal["host", "fleet"]
    failures: int = 5
    within_s: float = 600.0
    open_for_s: float = 60.0
    open_for_at_most_s: float = 900.0
    lease_s: float = 60.0

    def __post_init__(self) -> None:
        if self.scope not in ("host", "fleet"):
            raise ValueError(f"a breaker's scope is 'host' or 'fleet', not {self.scope!r}")
        if self.failures < 1:
            raise ValueError("a breaker opens after at least 1 failure")
        durations = (self.within_s, self.open_for_s, self.open_for_at_most_s, self.lease_s)
        if not all(0 < seconds <= _YEAR_S for seconds in durations):  # so that no date overflows, nor is NaN
            raise ValueError("a breaker's window, cool-downs and lease must be above 0 s and at most a year")
        if self.open_for_at_most_s < self.open_for_s:
            raise ValueError("a breaker's longest cool-down cannot be shorter than its first")

    def cool_down(self, failed_probes: int) -> timedelta:
        """How long it stays open after so many failed probes."""
        seconds = self.open_for_s * 2 ** min(failed_probes, _MOST_DOUBLINGS)
        return timedelta(seconds=min(seconds, self.open_for_at_most_s))

    @property
    def probe_limit_s(self) -> float:
        """The time limit of a probe."""
        return PROBE_SHARE_OF_LEASE * self.lease_s


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call, by the token of its permit."""

    token: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """Who probes, and until when that is believed."""

    token: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerState:
    """What is known of one breaker.

    Args:
        failures: those of the window, oldest first.
        opened_at: when it last went from closed to open, or was forced open.
        probe_at: when the cool-down is over; set while open.
        failed_probes: since it opened.
        lease: the probe under way; set only while half-open.
        cause: of the last move.
        why: the error that opened it or failed its last probe.
    """

    position: Position = Position.CLOSED
    failures: tuple[Failure, ...] = ()
    opened_at: datetime | None = None
    probe_at: datetime | None = None
    failed_probes: int = 0
    lease: Lease | None = None
    cause: Cause = Cause.RESET
    why: str = ""

    def owes_probe(self, now: datetime) -> bool:
        """Whether the next to ask would be let through as a probe."""
        if self.position is Position.OPEN:
            return self.probe_at is None or now >= self.probe_at
        return self.position is Position.HALF_OPEN and self.lease is None

    def is_shut(self, now: datetime) -> bool:
        """Whether it is open, and nobody is to try yet."""
        is_cooling = self.position is Position.OPEN and not self.owes_probe(now)
        return is_cooling or self.position is Position.FORCED_OPEN

    def refuses(self, now: datetime) -> bool:
        """Whether who asks is refused, and cannot but be. Where a probe is owed, or was lost, somebody has to ask."""
        return self.is_shut(now) or (self.lease is not None and now < self.lease.until)


class Decision(StrEnum):
    """What becomes of who asked. The answer to every other event is NOTED."""

    CALL = "call"
    PROBE = "probe"
    REFUSE = "refuse"
    NOTED = "noted"


class Verdict(StrEnum):
    """What a call says of the rung. A bad item says nothing."""

    SERVED = "served"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody wants to call, and will be known by `token`."""

    token: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that was let through is over."""

    token: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, slots=True)
class Excused:
    """Failures that turned out to be their items': the same batch was served without them."""

    tokens: frozenset[str]


Order = Literal[Cause.FORCED_OPEN, Cause.FORCED_CLOSED, Cause.RESET]


@dataclass(frozen=True, slots=True)
class Ordered:
    """A person's word: `FORCED_OPEN`, `FORCED_CLOSED`, or `RESET` to let the breaker think for itself again."""

    cause: Order


Event = Asked | Ended | Excused | Ordered


def step(breaker: Breaker, state: BreakerState, event: Event, now: datetime) -> tuple[BreakerState, Decision]:
    """The state after `event`, and what is to be done. At most one move a step."""
    state = replace(state, failures=_recent(breaker, state, now))
    match event:
        case Asked(token):
            return _asked(breaker, state, token, now)
        case Ended(token, verdict, why):
            if state.lease and state.lease.token == token:
                return _probe_ended(breaker, state, verdict, why, now), Decision.NOTED
            return _call_ended(breaker, state, event, now), Decision.NOTED
        case Excused(tokens):
            kept = tuple(failure for failure in state.failures if failure.token not in tokens)
            return replace(state, failures=kept), Decision.NOTED
        case Ordered(cause):
            return _ordered(state, cause, now), Decision.NOTED


def _recent(breaker: Breaker, state: BreakerState, now: datetime) -> tuple[Failure, ...]:
    start = now - timedelta(seconds=breaker.within_s)
    return tuple(failure for failure in state.failures if failure.at > start)


def _asked(breaker: Breaker, state: BreakerState, token: str, now: datetime) -> tuple[BreakerState, Decision]:
    if state.position in (Position.CLOSED, Position.FORCED_CLOSED):
        return state, Decision.CALL
    if state.owes_probe(now):
        lease = Lease(token, now + timedelta(seconds=breaker.lease_s))
        if state.position is Position.OPEN:
            state = _moved(state, Cause.PROBE_DUE, probe_at=None)
        return replace(state, lease=lease), Decision.PROBE
    if state.lease and now >= state.lease.until:
        again_at = state.lease.until + breaker.cool_down(state.failed_probes)
        return _moved(state, Cause.PROBE_LOST, lease=None, probe_at=again_at), Decision.REFUSE
    return state, Decision.REFUSE


def _probe_ended(breaker: Breaker, state: BreakerState, verdict: Verdict, why: str, now: datetime) -> BreakerState:
    if verdict is Verdict.INCONCLUSIVE:
        return replace(state, lease=None)
    if verdict is Verdict.SERVED:
        return replace(
            BreakerState(), position=destination(state.position, Cause.PROBE_SERVED), cause=Cause.PROBE_SERVED
        )
    failed = state.failed_probes + 1
    probe_at = now + breaker.cool_down(failed)
    return _moved(state, Cause.PROBE_FAILED, lease=None, failed_probes=failed, probe_at=probe_at, why=why)


def _call_ended(breaker: Breaker, state: BreakerState, event: Ended, now: datetime) -> BreakerState:
    is_known = any(failure.token == event.token for failure in state.failures)
    if event.verdict is not Verdict.FAILED or is_known or state.position.is_forced:
        return state
    state = replace(state, failures=(*state.failures, Failure(event.token, now)))
    if state.position is Position.CLOSED and len(state.failures) >= breaker.failures:
        probe_at = now + breaker.cool_down(0)
        return _moved(state, Cause.TOO_MANY_FAILURES, opened_at=now, probe_at=probe_at, failed_probes=0, why=event.why)
    return state


def _ordered(state: BreakerState, cause: Cause, now: datetime) -> BreakerState:
    position = destination(state.position, cause)
    if position is state.position and position.is_forced:
        return state
    opened_at = now if position is Position.FORCED_OPEN else None
    return BreakerState(position=position, cause=cause, opened_at=opened_at)


def _moved(state: BreakerState, cause: Cause, **changes: object) -> BreakerState:
    return replace(state, position=destination(state.position, cause), cause=cause, **changes)  # type: ignore[arg-type]
