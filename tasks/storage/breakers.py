"""Shared circuit breakers: failures as rows, moves by compare-and-set on a version.

Every change is one short transaction: read the state and its version, compute the next state with the state machine of
`repli.tasks.fallback.breaker`, and write it only if the version is still the same. Otherwise the change starts again
from the new state, so that no failure is lost and no two callers hold one lease. All times are the database's: workers'
clocks need not agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from zlib import crc32

import sqlalchemy as sa

from repli.tasks.fallback import Breaker, Position, StoreError
from repli.tasks.fallback.breaker import (
    BreakerState,
    CallEnded,
    Cause,
    Decision,
    Event,
    Failure,
    Lease,
    Overridden,
    Override,
    step,
)
from repli.tasks.items import clean_text
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.outages import retried
from repli.tasks.storage.schema import breaker_failures, breaker_moves, breakers

FLEET = ""
"""The `place` of a breaker of scope `fleet`, and of an override of all hosts, or of all keys, of another scope."""

SWEEP_EVERY = 64
"""One failure in so many, drawn by its token, removes the breakers of its rung that are closed with an empty window."""

TRIES = 1000
"""Tries of one change before it fails: far more than there are workers to change the breaker in between."""

Clock = Callable[[sa.Connection], datetime]
_CLOSED = frozenset({Position.CLOSED, Position.FORCED_CLOSED})


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The key of one breaker: its rung as `stage.rung`, and its place.

    That is `host/device` for scope `host`, and the key itself for scope `key`.
    """

    name: str
    place: str = FLEET

    def __str__(self) -> str:
        return f"{self.name}@{self.place}" if self.place else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move of a breaker. `number` counts the changes of that breaker."""

    key: Key
    number: int
    at: datetime
    old: Position
    new: Position
    cause: Cause
    why: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} → {self.new} ({self.cause})"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerView:
    """A declared breaker and its state."""

    key: Key
    breaker: Breaker
    state: BreakerState

    @property
    def is_closed(self) -> bool:
        """Return whether calls go through."""
        return self.state.position in _CLOSED

    @property
    def is_of_closed_key(self) -> bool:
        """Return whether this is the breaker of one key, and closed: of these there may be very many."""
        return self.breaker.scope == "key" and self.key.place != FLEET and self.is_closed

    def as_json(self) -> dict[str, Any]:
        """Return the breaker as `breakers --json` prints it."""
        state = self.state
        return {
            "name": self.key.name,
            "state": state.position.value,
            "scope": self.breaker.scope,
            "failures": len(state.failures),
            "opened_at": state.opened_at and state.opened_at.isoformat(),
            "next_probe_at": state.probe_at and state.probe_at.isoformat(),
            "key": self.key.place or None,
            "lease_until": state.lease and state.lease.until.isoformat(),
            "why": state.why,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The effect of an event. `now` is the database's time; `move` is None where the position did not change."""

    state: BreakerState
    decision: Decision
    now: datetime
    move: Move | None


@retried
def read(
    database: Database, breaker: Breaker, keys: Sequence[Key], *, clock: Clock = database_time
) -> tuple[dict[Key, BreakerState], datetime]:
    """Return the states of these breakers and the database's time, in one small read."""
    with database.read() as connection:
        now = clock(connection)
        found = _load(connection, breaker, keys, now)
        return {key: state for key, (state, _) in found.items()}, now


@retried
def read_rung(
    database: Database, breaker: Breaker, name: str, *, clock: Clock = database_time
) -> tuple[dict[Key, BreakerState], datetime]:
    """Return the states of all keys of a rung that are not closed with an empty window, and the database's time."""
    with database.read() as connection:
        now = clock(connection)
        found = _load(connection, breaker, None, now, name=name)
        return {key: state for key, (state, _) in found.items() if not state.is_blank}, now


def held_back(
    database: Database, breaker: Breaker, name: str, *, probes: int, clock: Clock = database_time
) -> frozenset[Key]:
    """Return the keys of a rung that refuse calls, and those that are due for a probe behind `probes` others.

    First come those that are due the longest.
    """
    states, now = read_rung(database, breaker, name, clock=clock)
    not_closed = {key: state for key, state in states.items() if state.position not in _CLOSED}
    due = sorted(
        (key for key, state in not_closed.items() if not state.refuses(now)),
        key=lambda key: (not_closed[key].probe_at or now, key),
    )
    return frozenset(not_closed.keys() - set(due[:probes]))


def not_closed(connection: sa.Connection) -> list[Key]:
    """Return the keys and places whose breakers let no calls through, or single ones; an override of all is no key."""
    is_listed = breakers.c.place != FLEET, breakers.c.position.not_in(_CLOSED)
    rows = connection.execute(sa.select(breakers.c.name, breakers.c.place).where(*is_listed))
    return [Key(row.name, row.place) for row in rows]


@retried
def apply(database: Database, breaker: Breaker, key: Key, event: Event, *, clock: Clock = database_time) -> Change:
    """Apply `event` to a breaker and save its new state, failures and move.

    Raises:
        StoreError: the store is out of reach; nothing changed.
    """
    if isinstance(event, CallEnded):
        event = replace(event, why=clean_text(event.why))  # as it is stored: the move is sent as an event too
    for _ in range(TRIES):
        with database.write() as connection:
            if not database.is_sqlite:  # wait here instead of losing the swap; SQLite's writers queue anyway
                connection.execute(sa.select(breakers.c.version).where(_of(breakers, key)).with_for_update())
            now = clock(connection)
            before, version = _load(connection, breaker, [key], now)[key]
            after, decision = step(breaker, before, event, now)
            if after == before:
                return Change(state=after, decision=decision, now=now, move=None)
            number = version + 1 if version else _last_number(connection, key) + 1
            if _swap(database, connection, key, version, number, after):
                _save_failures(connection, breaker, key, before, after, now)
                move = _save_move(connection, key, number, before, after, now)
                if isinstance(event, CallEnded) and crc32(event.token.encode()) % SWEEP_EVERY == 0:
                    _sweep(connection, breaker, key.name, now)
                return Change(state=after, decision=decision, now=now, move=move)
    raise StoreError(f"the breaker {key} changed {TRIES} times while it was being changed; start the run again")


@retried
def views(database: Database, declared: Mapping[str, Breaker], *, clock: Clock = database_time) -> list[BreakerView]:
    """Return the state of each declared breaker at each place where it ever changed; closed where it never did.

    Those that are not closed come first.
    """
    found = []
    with database.read() as connection:
        now = clock(connection)
        rows = connection.execute(sa.select(breakers.c.name, breakers.c.place)).all()
        for name, breaker in declared.items():
            keys = sorted(Key(*row) for row in rows if row.name == name) or [Key(name)]
            for key, (state, _) in _load(connection, breaker, None if len(keys) > 1 else keys, now, name=name).items():
                is_removed = breaker.scope != "fleet" and key.place == FLEET and not state.position.is_forced
                if is_removed and len(keys) > 1:  # a removed override of all hosts has no effect any more
                    continue
                view = BreakerView(key=key, breaker=breaker, state=state)
                if not (view.is_of_closed_key and state.is_blank):  # it has not failed lately, and will be swept
                    found.append(view)
            if not any(view.key.name == name for view in found):
                found.append(BreakerView(key=Key(name), breaker=breaker, state=BreakerState()))
    return sorted(found, key=lambda view: view.is_closed)


def override(
    database: Database, breaker: Breaker, key: Key, cause: Override, *, clock: Clock = database_time
) -> list[Move]:
    """Override a breaker as an operator: for all hosts, unless `key` names a place.

    A reset removes the override and clears the failures, at every place unless `key` names one.

    Returns:
        The moves that followed.
    """
    keys = {key}
    if cause is Cause.RESET and key.place == FLEET:
        keys |= {view.key for view in views(database, {key.name: breaker}, clock=clock)}
    changes = [apply(database, breaker, each, Overridden(cause), clock=clock) for each in sorted(keys)]
    return [change.move for change in changes if change.move]


@retried
def moves_since(database: Database, start: datetime, end: datetime | None = None) -> list[Move]:
    """Return the moves of all breakers from `start` on, oldest first."""
    conditions = [breaker_moves.c.at >= start] + ([breaker_moves.c.at <= end] if end else [])
    query = sa.select(breaker_moves).where(*conditions)
    order = (breaker_moves.c.at, breaker_moves.c.name, breaker_moves.c.place, breaker_moves.c.version)
    with database.read() as connection:
        rows = connection.execute(query.order_by(*order)).mappings().all()
    return [_move(row) for row in rows]


@retried
def last_moves(database: Database, count: int) -> list[Move]:
    """Return the latest `count` moves of all breakers, the newest first."""
    order = (breaker_moves.c.at.desc(), breaker_moves.c.name, breaker_moves.c.place, breaker_moves.c.version.desc())
    with database.read() as connection:
        rows = connection.execute(sa.select(breaker_moves).order_by(*order).limit(count)).mappings().all()
    return [_move(row) for row in rows]


def _move(row: sa.RowMapping) -> Move:
    return Move(
        key=Key(row["name"], row["place"]),
        number=row["version"],
        at=row["at"],
        old=Position(row["old"]),
        new=Position(row["new"]),
        cause=Cause(row["cause"]),
        why=row["why"],
    )


def _of(table: sa.Table, key: Key) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.name == key.name, table.c.place == key.place)


def _load(
    connection: sa.Connection, breaker: Breaker, keys: Sequence[Key] | None, now: datetime, *, name: str = ""
) -> dict[Key, tuple[BreakerState, int]]:
    """Return the states of breakers and their versions, 0 for one without a row. `keys` None: all that `name` has.

    One query, so that states and failures are consistent.
    """
    start = now - timedelta(seconds=breaker.within_s)
    is_same = sa.and_(breaker_failures.c.name == breakers.c.name, breaker_failures.c.place == breakers.c.place)
    rows = connection.execute(
        sa.select(breakers, breaker_failures.c.token, breaker_failures.c.at)
        .outerjoin(breaker_failures, sa.and_(is_same, breaker_failures.c.at > start))
        .where(breakers.c.name == name if keys is None else sa.or_(*(_of(breakers, key) for key in keys)))
        .order_by(breaker_failures.c.at, breaker_failures.c.token)
    ).mappings()
    found: dict[Key, tuple[BreakerState, int]] = {key: (BreakerState(), 0) for key in keys or ()}
    failures: dict[Key, list[Failure]] = defaultdict(list)
    for row in rows:
        key = Key(row["name"], row["place"])
        if row["token"]:
            failures[key].append(Failure(row["token"], row["at"]))
        found[key] = _state(row, failures[key]), row["version"]
    return found


def _state(row: sa.RowMapping, failures: Sequence[Failure]) -> BreakerState:
    return BreakerState(
        position=Position(row["position"]),
        failures=tuple(failures),
        opened_at=row["opened_at"],
        probe_at=row["probe_at"],
        failed_probes=row["failed_probes"],
        lease=Lease(row["lease_token"], row["lease_until"]) if row["lease_token"] else None,
        cause=Cause(row["cause"]),
        why=row["why"],
    )


def _last_number(connection: sa.Connection, key: Key) -> int:
    """Return the number of the last move of a breaker whose row was removed; 0 where it never moved."""
    last = sa.select(sa.func.max(breaker_moves.c.version)).where(_of(breaker_moves, key))
    return connection.execute(last).scalar() or 0


def _swap(
    database: Database, connection: sa.Connection, key: Key, version: int, number: int, state: BreakerState
) -> bool:
    """Write `state` as `number` if the version is still `version`. Return False, and change nothing, otherwise.

    A state that is blank has no row.
    """
    if state.is_blank:
        removed = sa.delete(breakers).where(_of(breakers, key), breakers.c.version == version)
        return connection.execute(removed).rowcount == 1 or version == 0
    values: dict[str, Any] = {
        "version": number,
        "position": state.position.value,
        "opened_at": state.opened_at,
        "probe_at": state.probe_at,
        "failed_probes": state.failed_probes,
        "lease_token": state.lease.token if state.lease else None,
        "lease_until": state.lease.until if state.lease else None,
        "cause": state.cause.value,
        "why": state.why,
    }
    if version == 0:
        first = database.insert(breakers).values(name=key.name, place=key.place, **values)
        written = first.on_conflict_do_nothing().returning(breakers.c.version)  # an INSERT's rowcount may be -1
        return connection.execute(written).first() is not None
    swapped = sa.update(breakers).where(_of(breakers, key), breakers.c.version == version).values(**values)
    return connection.execute(swapped).rowcount == 1


@retried
def sweep(database: Database, declared: Mapping[str, Breaker], *, clock: Clock = database_time) -> None:
    """Remove the breakers that are closed, and whose failures have all left the window; without one, write nothing."""
    with database.read() as connection:
        is_closed = breakers.c.position == Position.CLOSED.value
        closed = set(connection.scalars(sa.select(breakers.c.name).where(is_closed).distinct()))
    for name in closed & declared.keys():
        with database.write() as connection:
            _sweep(connection, declared[name], name, clock(connection))


def _sweep(connection: sa.Connection, breaker: Breaker, name: str, now: datetime) -> None:
    """Remove the breakers of a rung that are closed, and whose failures have all left the window."""
    start = now - timedelta(seconds=breaker.within_s)
    connection.execute(
        sa.delete(breaker_failures).where(breaker_failures.c.name == name, breaker_failures.c.at <= start)
    )
    is_same = sa.and_(breaker_failures.c.name == breakers.c.name, breaker_failures.c.place == breakers.c.place)
    is_blank = breakers.c.position == Position.CLOSED.value, ~sa.exists().where(is_same)
    connection.execute(sa.delete(breakers).where(breakers.c.name == name, *is_blank))


def _save_failures(
    connection: sa.Connection, breaker: Breaker, key: Key, before: BreakerState, after: BreakerState, now: datetime
) -> None:
    """Insert the new failures, and delete those that were removed or have left the window."""
    is_of_breaker = _of(breaker_failures, key)
    kept = {failure.token for failure in after.failures}
    removed = [failure.token for failure in before.failures if failure.token not in kept]
    start = now - timedelta(seconds=breaker.within_s)
    connection.execute(
        sa.delete(breaker_failures).where(
            is_of_breaker, sa.or_(breaker_failures.c.token.in_(removed), breaker_failures.c.at <= start)
        )
    )
    known = {failure.token for failure in before.failures}
    new = [
        {"token": failure.token, "name": key.name, "place": key.place, "at": failure.at}
        for failure in after.failures
        if failure.token not in known
    ]
    if new:
        connection.execute(sa.insert(breaker_failures), new)


def _save_move(
    connection: sa.Connection, key: Key, number: int, before: BreakerState, after: BreakerState, now: datetime
) -> Move | None:
    if after.position is before.position:
        return None
    move = Move(
        key=key,
        number=number,
        at=now,
        old=before.position,
        new=after.position,
        cause=after.cause,
        why=after.why,
    )
    row = {"old": move.old.value, "new": move.new.value, "cause": move.cause.value, "why": move.why, "at": now}
    connection.execute(sa.insert(breaker_moves).values(name=key.name, place=key.place, version=number, **row))
    return move
