"""The breakers as one process sees them: the shared ones, read seldom; or its own, while the store is out of reach.

A healthy rung costs no write, and one small read a second at most: the last reading is believed for so long, and
aged by this process's own clock. Once a rung has failed within its window it is read before each call, so that nobody
calls on a reading that is out of date; a refusal may be a second old.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from repli.tasks.fallback import (
    Asked,
    Breaker,
    BreakerState,
    Cause,
    Decision,
    Ended,
    Event,
    Excused,
    Permit,
    Position,
    StoreError,
    Verdict,
    step,
)
from repli.tasks.storage import breakers
from repli.tasks.storage.breakers import FLEET, Change, Key, Move
from repli.tasks.storage.database import Database, database_time

CACHE_TTL_S = 1.0
STORE_AGAIN_AFTER_S = 5.0
"""While the store is out of reach it is asked no more often."""

_LONGEST_DEVICES = 128
"""As the store has it, a place is at most 255 characters long, and a host's name 64."""

Notify = Callable[[Move], None]


@lru_cache(maxsize=1)
def current_device_scope() -> str:
    """Where this process is, as far as devices go: the host, and the CUDA devices of it that the process sees."""
    host, devices = socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices is None:
        return host
    if len(devices) > _LONGEST_DEVICES:  # many UUIDs
        devices = hashlib.sha256(devices.encode()).hexdigest()[:16]
    return f"{host}/{devices or 'no-cuda'}"


@dataclass(slots=True)
class _Reading:
    """What was read, when: by the database's clock, and by this process's."""

    own: BreakerState
    ordered: BreakerState
    now: datetime
    at: float


@dataclass(slots=True)
class _Outage:
    """The store is out of reach, and is asked again at `again_at`; what failed meanwhile, and when."""

    again_at: float
    failures: list[tuple[Ended, float]] = field(default_factory=list)


class BreakerRegistry:
    """The gates of one process onto one store.

    Args:
        place: where this process is, for breakers of scope `host`.
        on_move: told of each move that this process made, once it is kept.
        timer: seconds that only grow.
        clock: the store's time.
    """

    def __init__(
        self,
        database: Database,
        *,
        place: str,
        on_move: Notify = lambda move: None,
        timer: Callable[[], float] = time.monotonic,
        clock: breakers.Clock = database_time,
    ) -> None:
        self.database = database
        self.place = place
        self._on_move = on_move
        self.timer = timer
        self.clock = clock
        self._gates: dict[tuple[str, Breaker], SharedBreaker] = {}
        self._lock = threading.Lock()
        self._out_since: float | None = None
        self._notes: list[str] = []

    def of(self, name: str, breaker: Breaker) -> SharedBreaker:
        """The gate of the rung that is named `stage.rung`."""
        with self._lock:
            return self._gates.setdefault((name, breaker), SharedBreaker(self, name, breaker))

    def on_transition(self, move: Move) -> None:
        """A breaker moved, and it is kept. Whoever is told may fail; the pipeline goes on."""
        try:
            self._on_move(move)
        except Exception as error:  # noqa: BLE001  telling people is not worth an item
            with self._lock:
                self._notes.append(f"breakers: nobody could be told of {move} ({type(error).__name__}: {error})")

    def on_store_lost(self, error: StoreError) -> None:
        """The store is out of reach. It is said once."""
        with self._lock:
            if self._out_since is None:
                self._out_since = self.timer()
                self._notes.append(f"breakers: {error}; until it is back this worker keeps count by itself")

    def on_store_recovered(self) -> None:
        """The store answers."""
        with self._lock:
            if self._out_since is not None:
                seconds = self.timer() - self._out_since
                self._notes.append(f"breakers: the store is back after {seconds:.0f} s; they are shared again")
                self._out_since = None

    def drain_notes(self) -> tuple[str, ...]:
        """What there is to say of the store, once each."""
        with self._lock:
            notes, self._notes = tuple(self._notes), []
        return notes


class SharedBreaker:
    """One rung's breaker. Threads may share it."""

    def __init__(self, gates: BreakerRegistry, name: str, breaker: Breaker) -> None:
        self._gates = gates
        self._breaker = breaker
        self._key = Key(name, FLEET if breaker.scope == "fleet" else gates.place)
        self._ordered_key = Key(name)
        self._lock = threading.RLock()
        self._reading: _Reading | None = None
        self._outage: _Outage | None = None
        self._has_served_last = False

    def acquire(self) -> Permit:
        """Whether the rung may be called now. A probe's permit is a lease, which its holder ends by `ended`."""
        token = uuid.uuid4().hex
        with self._lock:
            reading = self._read()
            if reading.ordered.position.is_forced:
                return self._permit(token, *step(self._breaker, reading.ordered, Asked(token), self._now(reading)))
            state, decision = step(self._breaker, reading.own, Asked(token), self._now(reading))
            if state.position is not reading.own.position or state.lease != reading.own.lease:
                state, decision = self._apply_event(Asked(token))
                if state.cause is Cause.PROBE_LOST and state.owes_probe(self._now(self._last_known())):
                    state, decision = self._apply_event(Asked(token))  # the lease was lost long ago
            return self._permit(token, state, decision)

    def record(self, permit: Permit, verdict: Verdict, why: str = "") -> None:
        """The call that `permit` let through is over. Healthy calls leave no trace in the store."""
        if verdict is not Verdict.INCONCLUSIVE:
            self._has_served_last = verdict is Verdict.SERVED
        if verdict is Verdict.FAILED or permit.is_probe:
            with self._lock:
                self._apply_event(Ended(permit.token, verdict, why))

    def forgive(self, permits: Iterable[Permit]) -> None:
        """Those calls failed over an item."""
        tokens = frozenset(permit.token for permit in permits)
        with self._lock:
            if self._outage:
                self._outage.failures = [one for one in self._outage.failures if one[0].token not in tokens]
            self._apply_event(Excused(tokens))

    def _permit(self, token: str, state: BreakerState, decision: Decision) -> Permit:
        why = _refusal(self._key, state) if decision is Decision.REFUSE else ""
        is_trusted = self._has_served_last and not state.failures
        return Permit(token=token, decision=decision, why=why, is_trusted=is_trusted)

    def _now(self, reading: _Reading) -> datetime:
        return reading.now + timedelta(seconds=self._gates.timer() - reading.at)

    def _read(self) -> _Reading:
        """The last reading, or a new one where that is not to be believed any more."""
        reading = self._reading
        if self._outage and self._gates.timer() < self._outage.again_at:
            return self._last_known()
        if reading and not self._outage and self._gates.timer() - reading.at < CACHE_TTL_S:
            is_sure = reading.own.position is not Position.CLOSED or not reading.own.failures
            if is_sure:
                return reading
        keys = [self._key, self._ordered_key]
        try:
            self._replay()
            states, now = breakers.read(self._gates.database, self._breaker, keys, clock=self._gates.clock)
        except StoreError as error:
            return self._enter_outage(error)
        if self._outage:
            self._outage = None
            self._gates.on_store_recovered()
        self._reading = _Reading(states[self._key], states[self._ordered_key], now, self._gates.timer())
        return self._reading

    def _apply_event(self, event: Event) -> tuple[BreakerState, Decision]:
        """Let the event happen to the shared breaker, or to this process's own while that is out of reach."""
        if not self._outage:
            try:
                change = self._apply(event)
            except StoreError as error:
                self._enter_outage(error)
            else:
                known = self._last_known()
                ordered = change.state if self._key == self._ordered_key else known.ordered
                now = change.now - timedelta(seconds=self._gates.timer() - known.at)
                self._reading = _Reading(change.state, ordered, now, known.at)  # no younger: the order was not read
                return change.state, change.decision
        reading = self._last_known()
        state, decision = step(self._breaker, reading.own, event, self._now(reading))
        self._reading = replace(reading, own=state)
        if self._outage and isinstance(event, Ended):
            if event.verdict is Verdict.FAILED:
                self._outage.failures.append((event, self._gates.timer()))
            elif state.position is not reading.own.position:  # a served probe: what failed before it is over
                self._outage.failures.clear()
        return state, decision

    def _last_known(self) -> _Reading:
        """The last reading, however old; a closed breaker where there never was one."""
        if self._reading is None:
            self._reading = _Reading(BreakerState(), BreakerState(), datetime.now(UTC), self._gates.timer())
        return self._reading

    def _apply(self, event: Event) -> Change:
        database, clock = self._gates.database, self._gates.clock
        change = breakers.apply(database, self._breaker, self._key, event, clock=clock)
        if change.move:
            self._gates.on_transition(change.move)
        return change

    def _enter_outage(self, error: StoreError) -> _Reading:
        self._outage = self._outage or _Outage(again_at=0.0)
        self._outage.again_at = self._gates.timer() + STORE_AGAIN_AFTER_S
        self._gates.on_store_lost(error)
        return self._last_known()

    def _replay(self) -> None:
        """Tell the shared breaker what failed while it was out of reach, but for what left the window meanwhile."""
        while self._outage and self._outage.failures:
            failed, at = self._outage.failures[0]
            if self._gates.timer() - at < self._breaker.within_s:
                self._apply(failed)
            del self._outage.failures[0]


def _refusal(key: Key, state: BreakerState) -> str:
    if state.position is Position.FORCED_OPEN:
        return f"{key.name} was not called: its breaker is forced open; `repli breakers reset {key.name}` lets it go"
    why = f" ({state.why})" if state.why else ""
    since = f", opened at {state.opened_at:%H:%M:%S} UTC" if state.opened_at else ""
    again = f", next probe at {state.probe_at:%H:%M:%S}" if state.probe_at else ", a probe is under way"
    return f"{key.name} was not called: its breaker is open{why}{since}{again}"
