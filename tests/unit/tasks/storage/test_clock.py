"""A clock that was a day ahead and is put right: what it wrote holds nothing up for longer than it could by itself."""

from __future__ import annotations

import datetime as clock_of_this_host
import importlib
import pkgutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import Self

import pytest
import sqlalchemy as sa

import repli.tasks.storage as storage
from repli.tasks.fallback import Breaker, Position
from repli.tasks.fallback.breaker import CallEnded, Cause, Decision, PermitRequested, Verdict
from repli.tasks.items import Item
from repli.tasks.storage import breakers, catalogue, clock, runs
from repli.tasks.storage.breakers import Change, Event, Key
from repli.tasks.storage.clock import TOLERANCE, shorten_waits
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.retry import claims
from repli.tasks.storage.schema import breaker_failures, incoming
from repli.tasks.storage.schema import runs as run_rows
from tests.support.queue import POLICY, Queue

DAY = timedelta(days=1)
NAME = "classify_image.gpu"
BREAKER = Breaker(scope="host", failures=3, within_s=600, open_for_s=60, open_for_at_most_s=900, lease_s=60)
KEY = Key(NAME, "host/0")


def put_right(database: Database) -> datetime:
    """Shorten what the wrong clock wrote, as a run does with each beat; the time now."""
    shorten_waits(database, POLICY, {NAME: BREAKER})
    return database.now()


def apply(database: Database, event: Event, *, ahead: timedelta = timedelta(0)) -> Change:
    """An event by a clock that is `ahead`."""
    return breakers.apply(database, BREAKER, KEY, event, clock=lambda connection: database_time(connection) + ahead)


def open_breaker(database: Database, *, ahead: timedelta, failed_probes: int = 0) -> None:
    for number in range(BREAKER.failures):
        apply(database, CallEnded(str(number), Verdict.FAILED, "down"), ahead=ahead)
    for number in range(failed_probes):
        ahead += timedelta(seconds=BREAKER.open_for_at_most_s + 1)
        token = f"probe {number}"
        assert apply(database, PermitRequested(token), ahead=ahead).decision is Decision.PROBE
        apply(database, CallEnded(token, Verdict.FAILED, "down"), ahead=ahead)


def state(database: Database) -> breakers.BreakerState:
    states, _ = breakers.read(database, BREAKER, [KEY])
    return states[KEY]


@pytest.mark.parametrize("failed_probes", [0, 3])
def test_an_open_breaker_refuses_at_most_its_longest_cool_down(database: Database, failed_probes: int) -> None:
    """After that it allows a probe, as after a cool-down that the right clock wrote."""
    open_breaker(database, ahead=DAY, failed_probes=failed_probes)
    now = put_right(database)
    found = state(database)
    assert found.position is Position.OPEN
    assert found.is_held_open(now), "the dependency is still taken for down"
    longest = timedelta(seconds=BREAKER.open_for_at_most_s)
    assert found.probe_at
    assert found.probe_at <= now + longest + TOLERANCE
    assert apply(database, PermitRequested("early")).decision is Decision.REFUSE
    assert apply(database, PermitRequested("probe"), ahead=longest + TOLERANCE).decision is Decision.PROBE


def test_a_probe_holds_its_lease_no_longer_than_a_lease(database: Database) -> None:
    """A probe whose worker died is lost after one lease: the breaker probes again after a cool-down."""
    open_breaker(database, ahead=DAY)
    late = DAY + timedelta(seconds=BREAKER.open_for_s + 1)
    assert apply(database, PermitRequested("lost"), ahead=late).decision is Decision.PROBE
    now = put_right(database)
    lease = state(database).lease
    assert lease
    assert lease.until <= now + timedelta(seconds=BREAKER.lease_s) + TOLERANCE
    over = timedelta(seconds=BREAKER.lease_s) + TOLERANCE
    assert apply(database, PermitRequested("next"), ahead=over).state.cause is Cause.PROBE_LOST
    over += timedelta(seconds=BREAKER.open_for_s + 1)
    assert apply(database, PermitRequested("probe"), ahead=over).decision is Decision.PROBE


def test_failures_leave_the_window_when_it_has_passed(database: Database) -> None:
    """Two failures of tomorrow are failures of now: a third one half an hour later opens nothing."""
    for number in range(BREAKER.failures - 1):
        apply(database, CallEnded(str(number), Verdict.FAILED, "down"), ahead=DAY)
    now = put_right(database)
    with database.read() as connection:
        assert max(connection.scalars(sa.select(breaker_failures.c.at))) <= now + TOLERANCE
    assert len(state(database).failures) == BREAKER.failures - 1, "they happened not long ago"
    later = timedelta(seconds=BREAKER.within_s) + TOLERANCE
    change = apply(database, CallEnded("third", Verdict.FAILED, "down"), ahead=later)
    assert change.state.position is Position.CLOSED
    assert len(change.state.failures) == 1


def test_a_breaker_that_is_not_declared_is_left_alone(database: Database) -> None:
    """Its longest cool-down is not known."""
    open_breaker(database, ahead=DAY)
    before = state(database)
    shorten_waits(database, POLICY, {})
    assert state(database).probe_at == before.probe_at


def test_a_claim_of_tomorrow_expires_after_one_lease(queue: Queue) -> None:
    """Its run has died: nobody renews it."""
    queue.store("a")
    queue.hold("dead run", "a", lease_s=DAY.total_seconds() + POLICY.lease_s)
    now = put_right(queue.database)
    until = queue.entry("a").claimed_until
    assert until
    assert until <= now + timedelta(seconds=POLICY.lease_s) + TOLERANCE
    assert queue.claimed("another") == []
    queue.pass_time(POLICY.lease_s + TOLERANCE.total_seconds())
    assert queue.claimed("another") == ["a"]


@pytest.mark.parametrize("tries", range(POLICY.tries))
def test_a_delay_of_tomorrow_ends_after_the_longest_delay(queue: Queue, tries: int) -> None:
    """Of an item that was not tried, and of one that was tried as often as an item may be."""
    queue.store("a")
    queue.claim("holder")
    ahead = replace(POLICY, delay_s=POLICY.delay_s + DAY.total_seconds())
    for number in range(tries):
        queue.hold("holder", "a")
        queue.settle("holder", [claims.Claim(item_id="a", quality=0.5)], policy=ahead)
        assert queue.entry("a").tries == number + 1
    if not tries:
        queue.settle("holder", [claims.Claim(item_id="a", quality=0.5)], tried=[], policy=ahead)
    now = put_right(queue.database)
    longest = POLICY.delay(POLICY.tries - 1)
    assert queue.entry("a").not_before <= now + longest + TOLERANCE
    queue.pass_time((longest + TOLERANCE).total_seconds())
    assert queue.claimed("another") == ["a"]


def test_waits_of_the_right_clock_stay(queue: Queue) -> None:
    """The longest of each kind, written now, is what it was."""
    queue.store("a", "b")
    queue.hold("holder", "a")
    taken = queue.claim("another")
    assert [claim.item_id for claim in taken] == ["b"]
    queue.settle("another", taken)
    open_breaker(queue.database, ahead=timedelta(0), failed_probes=0)
    run = runs.find(queue.database, queue.begin_run())
    before = queue.entries(), state(queue.database), run
    put_right(queue.database)
    assert (queue.entries(), state(queue.database), runs.find(queue.database, run.id)) == before


def test_nothing_is_written_where_nothing_is_wrong(database: Database) -> None:
    """A beat would wait for the other writers."""
    queue = Queue(database)
    queue.register("a")
    writes = []

    def note(connection: sa.Connection) -> None:
        writes.append(connection.get_execution_options().get("repli_writes", False))

    sa.event.listen(database.engine, "begin", note)
    try:
        put_right(database)
    finally:
        sa.event.remove(database.engine, "begin", note)
    assert writes
    assert not any(writes)


def ahead_of_time(database: Database, run_id: str, by: timedelta = DAY) -> None:
    """Make a run's last heartbeat one of the clock that was ahead."""
    with database.write() as connection:
        alive_at = database_time(connection) + by
        connection.execute(sa.update(run_rows).where(run_rows.c.id == run_id).values(alive_at=alive_at))


def test_a_dead_run_of_tomorrow_is_not_alive(database: Database) -> None:
    """Neither before the clock's waits are shortened nor, once it has missed its beats, after it."""
    run_id = Queue(database).begin_run()
    assert runs.is_any_alive(database, runs.ENRICH)
    ahead_of_time(database, run_id)
    assert not runs.is_any_alive(database, runs.ENRICH)
    assert runs.find(database, run_id).state(database.now()) == "cut off"
    put_right(database)
    later = database.now() + timedelta(seconds=runs.DEAD_AFTER_S) + TOLERANCE
    run = runs.find(database, run_id)
    assert run.state(later) == "cut off"
    assert run.alive_at
    assert run.alive_at <= database.now() + TOLERANCE
    ahead_of_time(database, run_id, by=-timedelta(seconds=runs.DEAD_AFTER_S + 1))
    assert not runs.is_any_alive(database, runs.ENRICH)


def test_a_live_run_of_tomorrow_beats_and_is_alive(database: Database) -> None:
    run_id = Queue(database).begin_run()
    ahead_of_time(database, run_id)
    runs.beat(database, run_id)
    assert runs.is_any_alive(database, runs.ENRICH)
    assert runs.find(database, run_id).state(database.now()) == "running"


def is_listed(database: Database, run_id: str) -> bool:
    with database.read() as connection:
        return bool(connection.execute(sa.select(incoming).where(incoming.c.run_id == run_id)).first())


def begin_registering(database: Database, *, now: datetime | None = None) -> str:
    """A run in the middle of its registration."""
    run_id = runs.start(database, str(uuid.uuid4()), "manifest.jsonl", {}, now or database.now())
    row = catalogue._incoming_row(run_id, 0, Item(id="a", name="a"))
    catalogue._add_incoming(database, [row])
    return run_id


class Ahead(datetime):
    """The clock of a host that is a day ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + DAY  # type: ignore[return-value]


def test_the_clock_of_a_host_that_is_a_day_ahead_abandons_no_run(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its own run, nor those of others: the store's clock decides."""
    mine = begin_registering(database)
    monkeypatch.setattr(clock_of_this_host, "datetime", Ahead)
    for found in pkgutil.walk_packages(storage.__path__, f"{storage.__name__}."):
        if "migrations" not in found.name:
            module = importlib.import_module(found.name)
            if hasattr(module, "datetime"):
                monkeypatch.setattr(module, "datetime", Ahead)
    assert Ahead.now(clock_of_this_host.UTC) - datetime.now(clock_of_this_host.UTC) > DAY / 2
    catalogue.delete_abandoned(database, Queue(database).begin_run())
    assert is_listed(database, mine)
    theirs = begin_registering(database, now=Ahead.now(clock_of_this_host.UTC))
    assert runs.find(database, theirs).state(database.now()) == "running"
    monkeypatch.undo()
    catalogue.delete_abandoned(database, Queue(database).begin_run())
    assert is_listed(database, theirs)
    registered = catalogue.register(database, theirs, [])
    assert registered.items == 1


def test_a_run_that_died_by_a_clock_ahead_is_abandoned(database: Database) -> None:
    """Its rows are deleted by the next run, not in a day."""
    dead = begin_registering(database)
    ahead_of_time(database, dead)
    assert timedelta(seconds=runs.DEAD_AFTER_S) > clock.TOLERANCE
    catalogue.delete_abandoned(database, Queue(database).begin_run())
    assert not is_listed(database, dead)


@pytest.mark.parametrize("by", [DAY, -DAY], ids=["put right", "ahead"])
def test_a_run_whose_registration_is_cut_by_a_jump_of_the_clock_loses_no_item(
    database: Database, by: timedelta
) -> None:
    """The store's clock jumps while a run reads its manifest, and before its next heartbeat another run starts."""
    run_id = runs.start(database, str(uuid.uuid4()), "manifest.jsonl", {}, database.now())
    half = catalogue.LINES_PER_TRANSACTION

    def records() -> Iterator[Item]:
        yield from (Item(id=f"{number:05}", name="name") for number in range(half))
        ahead_of_time(database, run_id, by)
        other = runs.start(database, str(uuid.uuid4()), "another.jsonl", {}, database.now())
        catalogue.register(database, other, [Item(id="other", name="other")])
        yield Item(id=f"{half:05}", name="name")

    registered = catalogue.register(database, run_id, records())
    assert (registered.items, registered.duplicates) == (half + 1, 0)
