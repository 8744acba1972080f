"""Circuit breaker state machine: pure, no clock and no I/O.

``step(breaker, state, event, now) -> (state, decision)``: the caller supplies the time and stores the state. `MOVES`
lists every move and its cause; the diagram in docs/concepts/breakers.md is generated from it.

While **closed**, calls go through, and N failures within a window open the breaker; a batch of which nothing is served
is one failure. The failure of a single call of a key is **taken back** when a call that began later is served: a server
that fails now and then stays in use. While **open**, calls are refused until the cool-down ends. Then the breaker is
**half-open**: one caller at a time holds the lease of a probe, and all other calls are refused. A served probe closes
the breaker. A failed probe opens it for twice as long, up to a limit. An inconclusive probe (a bad item, a cancelled
call) gives its lease back. A dependency that asked to be left alone (``Retry-After``) opens its breaker at once, for as
long as it asked. If a probe is not reported by the end of its lease, the next request reopens the breaker for the same
cool-down, counted from that end. An operator **forces** a breaker open or closed; only an operator resets it.

The design borrows from Polly (outcomes as values, a failure threshold in a window), resilience4j (permits that are
given back, forced states) and interlock-cb (one leased probe for all workers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from math import inf
from typing import Any, Literal

from repli.tasks.fallback.errors import IllegalMove

MAX_KEY_CHARACTERS = 255
"""The longest key. A longer one is cut, and ends in its hash."""
PROBE_SHARE_OF_LEASE = 0.8
"""Share of its lease after which a probe is cut off, so that it ends before another caller may begin one."""
LONGEST_WAIT_S = 24 * 3600.0
"""The longest time that a dependency may ask to be left alone for, in seconds."""
_MOST_DOUBLINGS = 30
_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")
_YEAR_S = 365 * 24 * 3600.0


class Position(StrEnum):
    """Position of a breaker: closed, open, half-open, or forced by an operator."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    FORCED_CLOSED = "forced_closed"

    @property
    def is_forced(self) -> bool:
        """Return whether an operator forced the breaker."""
        return self in (Position.FORCED_OPEN, Position.FORCED_CLOSED)


class Cause(StrEnum):
    """Cause of a breaker's move."""

    TOO_MANY_FAILURES = "too many failures"
    ASKED_TO_WAIT = "asked to wait"
    PROBE_DUE = "probe due"
    PROBE_SERVED = "probe served"
    PROBE_FAILED = "probe failed"
    PROBE_LOST = "probe lost"
    FORCED_OPEN = "forced open"
    FORCED_CLOSED = "forced closed"
    RESET = "reset"


MOVES: Mapping[tuple[Position, Cause], Position] = {
    (Position.CLOSED, Cause.TOO_MANY_FAILURES): Position.OPEN,
    (Position.CLOSED, Cause.ASKED_TO_WAIT): Position.OPEN,
    (Position.OPEN, Cause.PROBE_DUE): Position.HALF_OPEN,
    (Position.HALF_OPEN, Cause.PROBE_SERVED): Position.CLOSED,
    (Position.HALF_OPEN, Cause.PROBE_FAILED): Position.OPEN,
    (Position.HALF_OPEN, Cause.PROBE_LOST): Position.OPEN,
    # An operator may override a breaker in every position.
    **{(position, Cause.FORCED_OPEN): Position.FORCED_OPEN for position in Position},
    **{(position, Cause.FORCED_CLOSED): Position.FORCED_CLOSED for position in Position},
    **{(position, Cause.RESET): Position.CLOSED for position in Position},
}


def destination(position: Position, cause: Cause) -> Position:
    """Return the position that `cause` moves a breaker to. Raises `IllegalMove` if the table has no such move."""
    try:
        return MOVES[position, cause]
    except KeyError:
        raise IllegalMove(f"a breaker that is {position} has no move for: {cause}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """Settings of a rung's breaker: ``Rung("gpu", on_gpu, breaker=Breaker(scope="host"), ...)``.

    Args:
        scope: `fleet` for a service that all workers share, `host` for a device: each host, and
            each set of devices that a process of it sees, then has its own breaker. `key` for many dependencies of one
            kind, such as the origins of URIs: each key has its own breaker.
        key: With scope `key`: returns the key of an input, within the time limit of the rung. A batch is called group
            by group, and items whose key is refused cost no call. An item whose key cannot be told goes to the next
            rung; those whose key is None share one. Without it the rung names the key of each call itself, with
            ``context.call(key)``.
        at_once: With scope `key`: calls of one key at a time, in all workers together.
        per_second: With scope `key`: calls of one key in a second, in all workers together; None for any number.
        failures: The breaker opens after this many failures within `within_s`. A batch of which nothing was served is
            one failure.
        within_s: Length of the sliding window, in seconds.
        open_for_s: First cool-down, in seconds. It doubles with each failed probe.
        open_for_at_most_s: Longest cool-down, in seconds.
        lease_s: Seconds after which an unreported probe counts as lost.

    Raises:
        ValueError: A setting is out of range.

    Example:
        >>> Breaker(scope="fleet", failures=3, open_for_s=30).cool_down(failed_probes=1).total_seconds()
        60.0
        >>> by_origin = Breaker(scope="key", key=lambda uri: uri.split("/")[2], at_once=2)
        >>> by_origin.key("https://shop.example/cat.jpg")
        'shop.example'
    """

    scope: Literal["host", "fleet", "key"]
    failures: int = 5
    within_s: float = 600.0
    open_for_s: float = 60.0
    open_for_at_most_s: float = 900.0
    lease_s: float = 60.0
    key: Callable[[Any], str] | None = field(default=None, repr=False)  # the repr of a function differs by process
    at_once: int = 4
    per_second: float | None = None

    def __post_init__(self) -> None:
        if self.scope not in ("host", "fleet", "key"):
            raise ValueError(f"a breaker's scope must be 'host', 'fleet' or 'key', not {self.scope!r}")
        if self.scope != "key" and (self.key or self.at_once != 4 or self.per_second):
            raise ValueError(f"key, at_once and per_second go with scope='key', not with scope={self.scope!r}")
        if not (self.key is None or callable(self.key)):
            raise ValueError(f"a breaker's key is a {type(self.key).__name__}, not a function of an input")
        if self.at_once < 1 or (self.per_second is not None and not 0 < self.per_second < inf):
            raise ValueError("a key's calls at once must be at least 1, and its calls per second above 0")
        if self.failures < 1:
            raise ValueError(f"a breaker must open after at least 1 failure, not {self.failures}")
        durations = (self.within_s, self.open_for_s, self.open_for_at_most_s, self.lease_s)
        if not all(
            0 < seconds <= _YEAR_S for seconds in durations
        ):  # above a year a date overflows; NaN fails every comparison
            raise ValueError("a breaker's window, cool-downs and lease must be above 0 s and at most a year")
        if self.open_for_at_most_s < self.open_for_s:
            raise ValueError("a breaker's longest cool-down must not be shorter than its first")

    def cool_down(self, failed_probes: int) -> timedelta:
        """Return the cool-down after this number of failed probes."""
        seconds = self.open_for_s * 2 ** min(failed_probes, _MOST_DOUBLINGS)
        return timedelta(seconds=min(seconds, self.open_for_at_most_s))

    @property
    def longest_wait_s(self) -> float:
        """Return the longest time between two probes, in seconds."""
        return max(self.open_for_at_most_s, LONGEST_WAIT_S) if self.scope == "key" else self.open_for_at_most_s

    @property
    def slot_s(self) -> float:
        """Return how long each call keeps its slot at least, in seconds, so that the rate is kept."""
        return self.at_once / self.per_second if self.per_second else 0.0

    @property
    def probe_limit_s(self) -> float:
        """Return the time limit of a probe, in seconds."""
        return PROBE_SHARE_OF_LEASE * self.lease_s


def key_text(key: object) -> str:
    """Return what a pipeline names as a key, as breakers are kept by it. What names nothing shares one breaker.

    Example:
        >>> key_text(7), key_text(None), key_text(" ")
        ('7', 'None', '(blank)')
    """
    return short_key(str(key)) or "(blank)"


def short_key(key: str) -> str:
    """Return the key as breakers are kept by it and shown: on one line, and without credentials before a host.

    Example:
        >>> short_key("https://shop.example")
        'https://shop.example'
        >>> short_key("https://user:secret@shop.example/v1")
        'https://***@shop.example/v1'
        >>> len(short_key("a" * 1000))
        255
    """
    key = "".join(one if one.isprintable() else "\ufffd" for one in " ".join(key.split()))  # no store keeps them all
    key = _CREDENTIALS.sub("***@", key)
    if len(key) <= MAX_KEY_CHARACTERS:
        return key
    digest = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{key[: MAX_KEY_CHARACTERS - 1 - len(digest)]} {digest}"


def clock_time(at: datetime, now: datetime, *, seconds: bool = True) -> str:
    """Return a time for people, with its date where that is not the day of `now`.

    Example:
        >>> clock_time(datetime(2026, 11, 28, 3, 12), datetime(2026, 11, 27, 23, 5))
        '2026-11-28 03:12:00'
    """
    date = "" if at.date() == now.date() else f"{at:%Y-%m-%d} "
    return f"{date}{at:%H:%M:%S}" if seconds else f"{date}{at:%H:%M}"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed batch in the window, identified by the token of its permit."""

    token: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a probe. From `until` on, an unreported probe counts as lost."""

    token: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerState:
    """The state of one breaker.

    Args:
        failures: Failures in the window, oldest first.
        opened_at: Time of the last move from closed to open, or to forced open.
        probe_at: End of the cool-down; None means that a probe is due now.
        failed_probes: Number of probes that failed since the breaker opened.
        lease: The probe in flight; set only while half-open.
        cause: Cause of the last move.
        why: The error that opened the breaker or failed its last probe.
    """

    position: Position = Position.CLOSED
    failures: tuple[Failure, ...] = ()
    opened_at: datetime | None = None
    probe_at: datetime | None = None
    failed_probes: int = 0
    lease: Lease | None = None
    cause: Cause = Cause.RESET
    why: str = ""

    @property
    def is_blank(self) -> bool:
        """Return whether the breaker is closed, with nothing in its window: as one that never changed."""
        return self.position is Position.CLOSED and not self.failures

    def is_probe_due(self, now: datetime) -> bool:
        """Return whether the next call would be allowed as a probe."""
        if self.position is Position.OPEN:
            return self.probe_at is None or now >= self.probe_at
        return self.position is Position.HALF_OPEN and self.lease is None

    def is_held_open(self, now: datetime) -> bool:
        """Return whether the breaker is forced open, or open with its cool-down not over."""
        is_cooling_down = self.position is Position.OPEN and not self.is_probe_due(now)
        return is_cooling_down or self.position is Position.FORCED_OPEN

    def refuses(self, now: datetime) -> bool:
        """Return whether a call is refused without asking.

        False if a probe is due or was lost: only a request for a permit tells then.
        """
        return self.is_held_open(now) or (self.lease is not None and now < self.lease.until)


class Decision(StrEnum):
    """Answer to a `PermitRequested`. The answer to every other event is NOTED."""

    CALL = "call"
    PROBE = "probe"
    REFUSE = "refuse"
    NOTED = "noted"


class Verdict(StrEnum):
    """Verdict of a batch, or of a probe, on its rung. A failure that an item caused is inconclusive."""

    SERVED = "served"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class PermitRequested:
    """A caller requested a permit. `token` identifies the call from then on."""

    token: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """An allowed call, or batch of calls, ended. `retry_after_s`: the dependency asked to be left alone for so long."""

    token: str
    verdict: Verdict
    why: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class FailureTakenBack:
    """A later call has shown that the failed call `token` was not the end of the dependency."""

    token: str


Override = Literal[Cause.FORCED_OPEN, Cause.FORCED_CLOSED, Cause.RESET]


@dataclass(frozen=True, slots=True)
class Overridden:
    """An operator overrode the breaker: `FORCED_OPEN`, `FORCED_CLOSED` or `RESET`.

    `RESET` closes the breaker, and forgets its failures and any override.
    """

    cause: Override


Event = PermitRequested | CallEnded | FailureTakenBack | Overridden


def step(breaker: Breaker, state: BreakerState, event: Event, now: datetime) -> tuple[BreakerState, Decision]:
    """Return the state after `event`, and the decision on it. A step makes at most one move.

    Raises:
        IllegalMove: The event is an override that `MOVES` does not have. The state is unchanged.
    """
    state = replace(state, failures=_failures_in_window(breaker, state, now))
    match event:
        case PermitRequested(token):
            return _permit_requested(breaker, state, token, now)
        case CallEnded(token):
            if state.lease and state.lease.token == token:
                return _probe_ended(breaker, state, event, now), Decision.NOTED
            return _call_ended(breaker, state, event, now), Decision.NOTED
        case FailureTakenBack(token):
            return _failure_taken_back(state, token), Decision.NOTED
        case Overridden(cause):
            return _overridden(state, cause, now), Decision.NOTED


def _failures_in_window(breaker: Breaker, state: BreakerState, now: datetime) -> tuple[Failure, ...]:
    start = now - timedelta(seconds=breaker.within_s)
    return tuple(failure for failure in state.failures if failure.at > start)


def _permit_requested(
    breaker: Breaker, state: BreakerState, token: str, now: datetime
) -> tuple[BreakerState, Decision]:
    if state.position in (Position.CLOSED, Position.FORCED_CLOSED):
        return state, Decision.CALL
    if state.is_probe_due(now):
        lease = Lease(token, now + timedelta(seconds=breaker.lease_s))
        if state.position is Position.OPEN:
            state = _moved(state, Cause.PROBE_DUE, probe_at=None)
        return replace(state, lease=lease), Decision.PROBE
    if state.lease and now >= state.lease.until:
        next_probe_at = state.lease.until + breaker.cool_down(state.failed_probes)
        return _moved(state, Cause.PROBE_LOST, lease=None, probe_at=next_probe_at), Decision.REFUSE
    if state.lease and state.lease.token == token:  # requested again, since the answer was lost
        return state, Decision.PROBE
    return state, Decision.REFUSE


def _probe_ended(breaker: Breaker, state: BreakerState, event: CallEnded, now: datetime) -> BreakerState:
    if event.verdict is Verdict.INCONCLUSIVE:
        return replace(state, lease=None)
    if event.verdict is Verdict.SERVED:
        return replace(
            BreakerState(), position=destination(state.position, Cause.PROBE_SERVED), cause=Cause.PROBE_SERVED
        )
    failed = state.failed_probes + 1
    probe_at = max(now + breaker.cool_down(failed), _asked_until(breaker, event, now))
    return _moved(state, Cause.PROBE_FAILED, lease=None, failed_probes=failed, probe_at=probe_at, why=event.why)


def _call_ended(breaker: Breaker, state: BreakerState, event: CallEnded, now: datetime) -> BreakerState:
    is_known = any(failure.token == event.token for failure in state.failures)
    if event.verdict is not Verdict.FAILED or is_known or state.position.is_forced:
        return state
    state = replace(state, failures=(*state.failures, Failure(event.token, now)))
    if state.position is Position.OPEN and state.probe_at:
        return replace(state, probe_at=max(state.probe_at, _asked_until(breaker, event, now)))
    is_full = len(state.failures) >= breaker.failures
    if state.position is not Position.CLOSED or not (is_full or event.retry_after_s):
        return state
    cause = Cause.TOO_MANY_FAILURES if is_full else Cause.ASKED_TO_WAIT
    probe_at = max(now + breaker.cool_down(0), _asked_until(breaker, event, now))
    return _moved(state, cause, opened_at=now, probe_at=probe_at, failed_probes=0, why=event.why)


def _failure_taken_back(state: BreakerState, token: str) -> BreakerState:
    """Return the state without the failure, while it has not opened the breaker."""
    if state.position is not Position.CLOSED:
        return state
    return replace(state, failures=tuple(failure for failure in state.failures if failure.token != token))


def _asked_until(breaker: Breaker, event: CallEnded, now: datetime) -> datetime:
    return now + timedelta(seconds=min(event.retry_after_s or 0.0, breaker.longest_wait_s))


def _overridden(state: BreakerState, cause: Cause, now: datetime) -> BreakerState:
    position = destination(state.position, cause)
    if position is state.position and position.is_forced:
        return state
    opened_at = now if position is Position.FORCED_OPEN else None
    return BreakerState(position=position, cause=cause, opened_at=opened_at)


def _moved(state: BreakerState, cause: Cause, **changes: object) -> BreakerState:
    return replace(state, position=destination(state.position, cause), cause=cause, **changes)  # type: ignore[arg-type]
