"""The breakers that all workers share: failures as rows, moves by compare-and-set on a version.

Every change is one short transaction: read the state and the version, let the machine of `repli.tasks.fallback.breaker`
work out the next, and write it to that version alone. Whoever comes second finds another version, and begins again
with what the first one left, so no failure is lost and no two callers hold one lease. The time is the database's:
workers' clocks need not agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from repli.tasks.fallback import (
    Breaker,
    BreakerState,
    Cause,
    Decision,
    Ended,
    Event,
    Failure,
    Lease,
    Order,
    Ordered,
    Position,
    StoreError,
    step,
)
from repli.tasks.items import clean_text
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.schema import breaker_failures, breaker_moves, breakers

FLEET = ""
"""The place of a breaker of scope `fleet`, and of a person's word on one of scope `host`."""

TRIES = 1000
"""Changes that others may get in before ours: far more than there are workers."""

Clock = Callable[[sa.Connection], datetime]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """One breaker: its rung as `stage.rung`, and its place."""

    name: str
    place: str = FLEET

    def __str__(self) -> str:
        return f"{self.name}@{self.place}" if self.place else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A breaker moved. `number` counts the changes of one breaker."""

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
    """A declared breaker, and where it stands."""

    key: Key
    breaker: Breaker
    state: BreakerState

    def as_json(self) -> dict[str, Any]:
        """The outside form: `breakers --json` of section 11 of the design, and beside it the lease and the reason."""
        state = self.state
        return {
            "name": self.key.name,
            "state": state.position.value,
            "scope": self.breaker.scope,
            "failures": len(state.failures),
            "opened_at": state.opened_at and state.opened_at.isoformat(),
            "next_probe_at": state.probe_at and state.probe_at.isoformat(),
            "place": self.key.place or None,
            "lease_until": state.lease and state.lease.until.isoformat(),
            "why": state.why,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an event came to. `now` is the database's time; `move` is None where the breaker stayed where it is."""

    state: BreakerState
    decision: Decision
    now: datetime
    move: Move | None


def read(
    database: Database, breaker: Breaker, keys: Sequence[Key], *, clock: Clock = database_time
) -> tuple[dict[Key, BreakerState], datetime]:
    """Where these breakers stand, and the database's time. One small read."""
    with database.read() as connection:
        now = clock(connection)
        found = _load(connection, breaker, keys, now)
        return {key: state for key, (state, _) in found.items()}, now


def apply(database: Database, breaker: Breaker, key: Key, event: Event, *, clock: Clock = database_time) -> Change:
    """Let `event` happen to a breaker, and keep what follows from it.

    Raises:
        StoreError: the store is out of reach; nothing changed.
    """
    if isinstance(event, Ended):
        event = replace(event, why=clean_text(event.why))  # an error quotes what it likes
    for _ in range(TRIES):
        with database.write() as connection:
            if not database.is_sqlite:  # whose writers queue by themselves: wait here instead of losing the swap
                connection.execute(sa.select(breakers.c.version).where(_of(breakers, key)).with_for_update())
            now = clock(connection)
            before, version = _load(connection, breaker, [key], now)[key]
            after, decision = step(breaker, before, event, now)
            if after == before:
                return Change(state=after, decision=decision, now=now, move=None)
            if _swap(database, connection, key, version, after):
                _keep_failures(connection, breaker, key, before, after, now)
                move = _keep_move(connection, key, version + 1, before, after, now)
                return Change(state=after, decision=decision, now=now, move=move)
    raise StoreError(f"the breaker {key} changed {TRIES} times while it was being changed; start the run again")


def views(database: Database, declared: Mapping[str, Breaker], *, clock: Clock = database_time) -> list[BreakerView]:
    """Where the declared breakers stand, wherever they ever changed; one that never did is closed."""
    found = []
    with database.read() as connection:
        now = clock(connection)
        rows = connection.execute(sa.select(breakers.c.name, breakers.c.place)).all()
        for name, breaker in declared.items():
            keys = sorted(Key(*row) for row in rows if row.name == name) or [Key(name)]
            for key, (state, _) in _load(connection, breaker, keys, now).items():
                is_lifted = breaker.scope == "host" and key.place == FLEET and not state.position.is_forced
                if not (is_lifted and len(keys) > 1):  # an order that was taken back says nothing any more
                    found.append(BreakerView(key=key, breaker=breaker, state=state))
    return found


def order(database: Database, breaker: Breaker, key: Key, cause: Order, *, clock: Clock = database_time) -> list[Move]:
    """Do as a person says: `key` everywhere, unless it names a place. A reset lets it think for itself everywhere."""
    keys = {key}
    if cause is Cause.RESET and key.place == FLEET:
        keys |= {view.key for view in views(database, {key.name: breaker}, clock=clock)}
    changes = [apply(database, breaker, each, Ordered(cause), clock=clock) for each in sorted(keys)]
    return [change.move for change in changes if change.move]


def moves_since(database: Database, start: datetime, end: datetime | None = None) -> list[Move]:
    """The moves of all breakers from `start` on, oldest first."""
    wanted = [breaker_moves.c.at >= start] + ([breaker_moves.c.at <= end] if end else [])
    query = sa.select(breaker_moves).where(*wanted)
    order = (breaker_moves.c.at, breaker_moves.c.name, breaker_moves.c.place, breaker_moves.c.version)
    with database.read() as connection:
        rows = connection.execute(query.order_by(*order)).mappings().all()
    return [_move(row) for row in rows]


def last_moves(database: Database, count: int) -> list[Move]:
    """The moves of all breakers that came last, the last one first."""
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
    connection: sa.Connection, breaker: Breaker, keys: Sequence[Key], now: datetime
) -> dict[Key, tuple[BreakerState, int]]:
    """The states of breakers and their versions, 0 for one that never changed. One query, so that they fit together."""
    start = now - timedelta(seconds=breaker.within_s)
    is_its = sa.and_(breaker_failures.c.name == breakers.c.name, breaker_failures.c.place == breakers.c.place)
    rows = connection.execute(
        sa.select(breakers, breaker_failures.c.token, breaker_failures.c.at)
        .outerjoin(breaker_failures, sa.and_(is_its, breaker_failures.c.at > start))
        .where(sa.or_(*(_of(breakers, key) for key in keys)))
        .order_by(breaker_failures.c.at, breaker_failures.c.token)
    ).mappings()
    found: dict[Key, tuple[BreakerState, int]] = {key: (BreakerState(), 0) for key in keys}
    failures: dict[Key, list[Failure]] = {key: [] for key in keys}
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


def _swap(database: Database, connection: sa.Connection, key: Key, version: int, state: BreakerState) -> bool:
    """Write `state` over `version`. False where somebody else wrote first; nothing is changed then."""
    values: dict[str, Any] = {
        "version": version + 1,
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


def _keep_failures(
    connection: sa.Connection, breaker: Breaker, key: Key, before: BreakerState, after: BreakerState, now: datetime
) -> None:
    """Write what the state's failures became. Those that left the window go too."""
    mine = _of(breaker_failures, key)
    kept = {failure.token for failure in after.failures}
    gone = [failure.token for failure in before.failures if failure.token not in kept]
    start = now - timedelta(seconds=breaker.within_s)
    connection.execute(
        sa.delete(breaker_failures).where(
            mine, sa.or_(breaker_failures.c.token.in_(gone), breaker_failures.c.at <= start)
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


def _keep_move(
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
