"""Circuit breakers as one process sees them: shared through the store, or local while the store is unreachable.

A healthy rung costs no write and at most one small read a second: the state is cached for `CACHE_TTL_S` and aged by
this process's own clock. Once the cache shows a failure in the rung's window, the state is read before each call. Until
then a decision may rest on a state up to one second old; while the store is unreachable, on an older one.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256

from repli.tasks.fallback import Breaker, Position, StoreError
from repli.tasks.fallback.breaker import (
    BreakerState,
    CallEnded,
    Cause,
    Decision,
    Event,
    FailureTakenBack,
    PermitRequested,
    Verdict,
    clock_time,
    short_key,
    step,
)
from repli.tasks.fallback.breaker_client import Permit
from repli.tasks.storage import breakers
from repli.tasks.storage.breakers import FLEET, Change, Key, Move
from repli.tasks.storage.database import Database, database_time

CACHE_TTL_S = 1.0
STORE_RETRY_S = 5.0
"""Seconds between two tries to reach a store that is unreachable."""

_MAX_DEVICES_LENGTH = 128
"""A device scope has at most 255 characters in the store, and a host name 64."""
MAX_KNOWN_BREAKERS = 10_000
"""Breakers of keys that a process keeps in mind, about 1 KB each."""

Notify = Callable[[Move], None]


@lru_cache(maxsize=1)
def current_device_scope() -> str:
    """Return the device scope of this process: the host name, and the CUDA devices that the process sees."""
    host, devices = socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices is None:
        return host
    if len(devices) > _MAX_DEVICES_LENGTH:  # many UUIDs
        devices = sha256(devices.encode()).hexdigest()[:16]
    return f"{host}/{devices or 'no-cuda'}"


@dataclass(slots=True)
class _CachedState:
    """The last known states of a breaker.

    Args:
        own: the state that this process's calls change.
        override: the state of the fleet, which holds an operator's override for all scopes.
        store_time: the database's time at `read_at`.
        read_at: seconds by this process's timer.
    """

    own: BreakerState
    override: BreakerState
    store_time: datetime
    read_at: float


@dataclass(slots=True)
class _Outage:
    """A time in which the store is unreachable: when to try it again, and the failures since, with their times."""

    retry_at: float
    failures: list[tuple[CallEnded, float]] = field(default_factory=list)


class BreakerRegistry:
    """The breakers of one process, shared through one store. Threads may share it.

    Args:
        database: the store that keeps the breakers' states.
        device_scope: the host and devices of this process, which breakers of scope `host` are kept by.
        on_move: called with each transition that this process caused, once the store has it.
        timer: a monotonic clock, in seconds.
        clock: the store's time.

    Example:
        >>> registry = BreakerRegistry(database, device_scope=current_device_scope())
        >>> breaker = registry.of("classify_image.gpu", Breaker(scope="host"))
        >>> permit = breaker.acquire()
        >>> if not permit.is_refused:
        ...     breaker.record(permit, Verdict.SERVED)
    """

    def __init__(
        self,
        database: Database,
        *,
        device_scope: str,
        on_move: Notify = lambda move: None,
        timer: Callable[[], float] = time.monotonic,
        clock: breakers.Clock = database_time,
    ) -> None:
        self.database = database
        self.device_scope = device_scope
        self._on_move = on_move
        self.timer = timer
        self.clock = clock
        self._breakers: dict[tuple[str, Breaker, str], SharedBreaker] = {}
        self._readings: dict[tuple[str, Breaker], tuple[dict[Key, BreakerState], datetime, float]] = {}
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._outage_since: float | None = None
        self._notes: list[str] = []

    def of(self, name: str, breaker: Breaker, key: str = "") -> SharedBreaker:
        """Return the breaker of the rung `name`, written `STAGE.RUNG`; the same object for equal arguments.

        Args:
            key: the key, for a breaker of scope `key`.
        """
        with self._lock:
            if len(self._breakers) > MAX_KNOWN_BREAKERS:  # a key that is asked again is read again
                self._breakers = {known: one for known, one in self._breakers.items() if not one.can_be_forgotten}
            if (name, breaker, key) not in self._breakers:
                self._breakers[name, breaker, key] = SharedBreaker(self, name, breaker, key)
            return self._breakers[name, breaker, key]

    def read_keys(self, name: str, breaker: Breaker) -> tuple[dict[Key, BreakerState], datetime, float]:
        """Return the states of a rung's keys that are not closed with an empty window, at most `CACHE_TTL_S` old.

        One read for all keys. With them: the database's time, and this process's when it was read.

        Raises:
            StoreError: the store is unreachable.
        """
        with self._reading:
            reading = self._readings.get((name, breaker))
            if reading is None or self.timer() - reading[2] >= CACHE_TTL_S:
                states, now = breakers.read_rung(self.database, breaker, name, clock=self.clock)
                reading = self._readings[name, breaker] = states, now, self.timer()
            return reading

    def forget_reading(self, name: str, breaker: Breaker) -> None:
        """Have the keys of a rung read again: one of them has changed since."""
        with self._reading:
            self._readings.pop((name, breaker), None)

    def on_transition(self, move: Move) -> None:
        """Report a transition that the store has. A failing `on_move` becomes a note: it must not stop the pipeline."""
        try:
            self._on_move(move)
        except Exception as error:  # noqa: BLE001  a lost notification must cost no item
            with self._lock:
                self._notes.append(f"breakers: {move} could not be reported ({type(error).__name__}: {error})")

    def on_store_lost(self, error: StoreError) -> None:
        """Note that the store is unreachable, once for each outage."""
        with self._lock:
            if self._outage_since is None:
                self._outage_since = self.timer()
                self._notes.append(f"breakers: {error}; this worker counts failures locally until the store is back")

    def on_store_recovered(self) -> None:
        """Note that the store answers again, if it was unreachable."""
        with self._lock:
            if self._outage_since is not None:
                seconds = self.timer() - self._outage_since
                self._notes.append(f"breakers: the store is back after {seconds:.0f} s; breakers are shared again")
                self._outage_since = None

    def drain_notes(self) -> tuple[str, ...]:
        """Return and clear the pending log messages."""
        with self._lock:
            notes, self._notes = tuple(self._notes), []
        return notes


class SharedBreaker:
    """One rung's breaker, a `BreakerClient`. Threads may share it. Get it from `BreakerRegistry.of`."""

    def __init__(self, registry: BreakerRegistry, name: str, breaker: Breaker, key: str) -> None:
        self._registry = registry
        self._breaker = breaker
        self._key = Key(name, _place(breaker, registry.device_scope, key))
        self._override_key = Key(name)
        self._lock = threading.RLock()
        self._cached: _CachedState | None = None
        self._outage: _Outage | None = None

    def acquire(self) -> Permit:
        """Return the permit for one call, or a refusal. A probe's permit is a lease: end it with `record`."""
        token = uuid.uuid4().hex
        with self._lock:
            cached = self._read()
            if cached.override.position.is_forced:
                return self._permit_for(
                    token, *step(self._breaker, cached.override, PermitRequested(token), self._now(cached))
                )
            state, decision = step(self._breaker, cached.own, PermitRequested(token), self._now(cached))
            if state.position is not cached.own.position or state.lease != cached.own.lease:
                state, decision = self._apply_event(PermitRequested(token))
                if state.cause is Cause.PROBE_LOST and state.is_probe_due(self._now(self._last_known())):
                    state, decision = self._apply_event(PermitRequested(token))  # lost so long ago that a probe is due
            return self._permit_for(token, state, decision)

    @property
    def can_be_forgotten(self) -> bool:
        """Return whether this process knows nothing of the breaker that the store does not."""
        return self._breaker.scope == "key" and self._outage is None

    def refusal(self) -> str | None:
        """Return why a call would be refused, where it would be for sure; else None."""
        with self._lock:
            cached = self._read()
            state = cached.override if cached.override.position.is_forced else cached.own
            return self._refusal_message(state) if state.refuses(self._now(cached)) else None

    def record(self, permit: Permit, verdict: Verdict, why: str = "", *, retry_after_s: float | None = None) -> None:
        """Record the verdict on the batch of `permit`. A served one writes nothing, unless it is a probe."""
        if verdict is Verdict.FAILED or permit.is_probe:
            with self._lock:
                self._apply_event(CallEnded(permit.token, verdict, why, retry_after_s))

    def take_back(self, permit: Permit) -> None:
        """Take back the recorded failure of the call that `permit` allowed: a later call was served."""
        with self._lock:
            self._apply_event(FailureTakenBack(permit.token))

    def refusal_elsewhere(self) -> str | None:
        """Return why the rung is refused at other places, where it is; None where it is not, or the store is away."""
        if self._breaker.scope == "key":
            return None
        declared = {self._key.name: self._breaker}
        try:
            now = self._registry.database.now()
            views = breakers.views(self._registry.database, declared, clock=self._registry.clock)
        except StoreError:
            return None
        longest = timedelta(seconds=self._breaker.open_for_at_most_s)
        refused = [
            view
            for view in views
            if view.key.place not in {self._key.place, FLEET} and _has_refused(view.state, since=now - longest)
        ]
        if not refused:
            return None
        last = max(refused, key=lambda view: (view.state.opened_at or now, view.key))
        return _refusal_message(last.key.name, last.state)

    def _permit_for(self, token: str, state: BreakerState, decision: Decision) -> Permit:
        why = self._refusal_message(state) if decision is Decision.REFUSE else ""
        return Permit(token=token, decision=decision, why=why)

    def _refusal_message(self, state: BreakerState) -> str:
        """Return why a call is refused, with the key of a breaker of scope `key`."""
        is_of_one_key = self._breaker.scope == "key" and not self._last_known().override.position.is_forced
        name = str(self._key) if is_of_one_key else self._key.name
        return _refusal_message(name, state)

    def _now(self, cached: _CachedState) -> datetime:
        return cached.store_time + timedelta(seconds=self._registry.timer() - cached.read_at)

    def _read(self) -> _CachedState:
        """Return the cached states; read them again where they are outdated."""
        cached = self._cached
        if self._outage and self._registry.timer() < self._outage.retry_at:
            return self._last_known()
        is_failing = cached is not None and cached.own.position is Position.CLOSED and bool(cached.own.failures)
        is_fresh = cached is not None and self._registry.timer() - cached.read_at < CACHE_TTL_S
        if cached and is_fresh and not self._outage and not is_failing:
            return cached
        try:
            self._replay()
            states, now, read_at = self._read_store(is_failing)
        except StoreError as error:
            return self._enter_outage(error)
        if self._outage:
            self._outage = None
            self._registry.on_store_recovered()
        own, override = (states.get(key, BreakerState()) for key in (self._key, self._override_key))
        self._cached = _CachedState(own, override, now, read_at)
        return self._cached

    def _read_store(self, is_failing: bool) -> tuple[dict[Key, BreakerState], datetime, float]:
        """Read the states that this breaker depends on: those of all keys in one, unless this one is failing."""
        if self._breaker.scope == "key" and not is_failing:
            return self._registry.read_keys(self._key.name, self._breaker)
        keys, database = [self._key, self._override_key], self._registry.database
        return *breakers.read(database, self._breaker, keys, clock=self._registry.clock), self._registry.timer()

    def _apply_event(self, event: Event) -> tuple[BreakerState, Decision]:
        """Apply the event to the shared breaker, or to this process's copy while the store is unreachable."""
        if not self._outage:
            try:
                change = self._apply(event)
            except StoreError as error:
                self._enter_outage(error)
            else:
                known = self._last_known()
                override = change.state if self._key == self._override_key else known.override
                store_time = change.now - timedelta(seconds=self._registry.timer() - known.read_at)
                self._registry.forget_reading(self._key.name, self._breaker)
                # `read_at` stays: the override was not read now, so the cache has to expire as before.
                self._cached = _CachedState(change.state, override, store_time, known.read_at)
                return change.state, change.decision
        known = self._last_known()
        state, decision = step(self._breaker, known.own, event, self._now(known))
        self._cached = replace(known, own=state)
        if self._outage and isinstance(event, FailureTakenBack):
            self._outage.failures = [one for one in self._outage.failures if one[0].token != event.token]
        if self._outage and isinstance(event, CallEnded):
            if event.verdict is Verdict.FAILED:
                self._outage.failures.append((event, self._registry.timer()))
            elif state.position is not known.own.position:  # a served probe: earlier failures no longer count
                self._outage.failures.clear()
        return state, decision

    def _last_known(self) -> _CachedState:
        """Return the cached states, however old; closed breakers if none were ever read."""
        if self._cached is None:
            self._cached = _CachedState(BreakerState(), BreakerState(), datetime.now(UTC), self._registry.timer())
        return self._cached

    def _apply(self, event: Event) -> Change:
        database, clock = self._registry.database, self._registry.clock
        change = breakers.apply(database, self._breaker, self._key, event, clock=clock)
        if change.move:
            self._registry.on_transition(change.move)
        return change

    def _enter_outage(self, error: StoreError) -> _CachedState:
        self._outage = self._outage or _Outage(retry_at=0.0)
        self._outage.retry_at = self._registry.timer() + STORE_RETRY_S
        self._registry.on_store_lost(error)
        return self._last_known()

    def _replay(self) -> None:
        """Apply the failures of the outage to the shared breaker, except those that have left the window."""
        while self._outage and self._outage.failures:
            failed, at = self._outage.failures[0]
            if self._registry.timer() - at < self._breaker.within_s:
                self._apply(failed)
            del self._outage.failures[0]


def _place(breaker: Breaker, device_scope: str, key: str) -> str:
    """Return the place that a breaker is kept by."""
    if breaker.scope == "key":
        return short_key(key)
    return FLEET if breaker.scope == "fleet" else device_scope


def _has_refused(state: BreakerState, *, since: datetime) -> bool:
    """Return whether a breaker refuses, or did until its cool-down ended after `since`: its host may be gone."""
    is_open = state.position in {Position.OPEN, Position.HALF_OPEN, Position.FORCED_OPEN}
    return is_open and (state.probe_at is None or state.probe_at > since)


def _refusal_message(name: str, state: BreakerState) -> str:
    if state.position is Position.FORCED_OPEN:
        return f"{name} was not called: its breaker is forced open; undo it with `repli breakers reset {name}`"
    why = f" ({state.why})" if state.why else ""
    since = f", opened at {state.opened_at:%H:%M:%S} UTC" if state.opened_at else ""
    next_at = state.probe_at and clock_time(state.probe_at, state.opened_at or state.probe_at)
    again = f", next probe at {next_at}" if next_at else ", a probe is in flight"
    return f"{name} was not called: its breaker is open{why}{since}{again}"


@lru_cache(maxsize=8)
def process_breakers(database_url: str, on_move: Notify) -> BreakerRegistry:
    """Return this process's breakers of one store."""
    return BreakerRegistry(Database(database_url), device_scope=current_device_scope(), on_move=on_move)
