"""The breakers as one process sees them."""

from __future__ import annotations

import random
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.execution.shared_breakers import BreakerRegistry, SharedBreaker, current_device_scope
from repli.tasks.fallback import Breaker, Position
from repli.tasks.fallback.breaker import Cause, Decision, Overridden, Verdict
from repli.tasks.fallback.breaker_client import Permit
from repli.tasks.storage import breakers, schema
from repli.tasks.storage.breakers import Key, Move
from repli.tasks.storage.database import Database
from tests.support.fakes import ManualClock

NAME = "stage.rung"
FLEET = Breaker(scope="fleet", failures=3, within_s=600, open_for_s=60, lease_s=30)
HOST = Breaker(scope="host", failures=3, within_s=600, open_for_s=60, lease_s=30)
EVER = datetime(2000, 1, 1, tzinfo=UTC)

on_one_store = pytest.mark.parametrize("kept_database", ["sqlite"], indirect=True)
"""For what is this process's own affair: that the stores do the same is tested beside them."""


@dataclass
class Process:
    """The breakers of one process, by a clock that is the store's too, and the moves that it reported."""

    registry: BreakerRegistry
    told: list[Move] = field(default_factory=list)

    def shared_breaker(self, breaker: Breaker = FLEET) -> SharedBreaker:
        return self.registry.of(NAME, breaker)

    def fail(self, times: int = 1, breaker: Breaker = FLEET) -> None:
        """So many calls that are let through, and fail."""
        for _ in range(times):
            permit = self.shared_breaker(breaker).acquire()
            assert not permit.is_refused, permit.why
            self.shared_breaker(breaker).record(permit, Verdict.FAILED, "down")

    def asks(self, breaker: Breaker = FLEET) -> Decision:
        return self.shared_breaker(breaker).acquire().decision


@dataclass
class Site:
    """A store, and the processes before it."""

    database: Database
    clock: ManualClock = field(default_factory=ManualClock)

    def process(self, place: str = "here") -> Process:
        told: list[Move] = []
        registry = BreakerRegistry(
            self.database, device_scope=place, on_move=told.append, timer=self.clock.timer, clock=self.now
        )
        return Process(registry, told)

    def now(self, connection: sa.Connection) -> datetime:
        return self.clock.now()

    def order(self, cause: Any, breaker: Breaker = HOST) -> None:
        """A person's word, at another machine."""
        breakers.apply(self.database, breaker, Key(NAME), Overridden(cause), clock=self.now)

    def failures(self, breaker: Breaker = FLEET, place: str = "") -> int:
        key = Key(NAME, place)
        return len(breakers.read(self.database, breaker, [key], clock=self.now)[0][key].failures)

    def position(self, breaker: Breaker = FLEET, place: str = "") -> Position:
        key = Key(NAME, place)
        return breakers.read(self.database, breaker, [key], clock=self.now)[0][key].position

    def moves(self) -> list[Move]:
        return breakers.moves_since(self.database, EVER)


@pytest.fixture
def site(database: Database) -> Site:
    return Site(database)


@dataclass
class Traffic:
    """What went to a store."""

    transactions: int = 0
    attempts: int = 0
    statements: list[str] = field(default_factory=list)

    @property
    def writes(self) -> list[str]:
        return [text for text in self.statements if text.startswith(("INSERT", "UPDATE", "DELETE", "BEGIN IMMEDIATE"))]


@contextmanager
def traffic(database: Database) -> Iterator[Traffic]:
    """Counts what goes to the store, connections that are tried included."""
    seen = Traffic()

    def on_begin(connection: sa.Connection) -> None:
        seen.transactions += 1

    def on_statement(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        seen.statements.append(statement)

    def on_connect(*_: Any) -> None:
        seen.attempts += 1

    listeners: list[tuple[str, Callable[..., None]]] = [
        ("begin", on_begin),
        ("before_cursor_execute", on_statement),
        ("do_connect", on_connect),
    ]
    for name, listener in listeners:
        sa.event.listen(database.engine, name, listener)
    yield seen
    for name, listener in listeners:
        sa.event.remove(database.engine, name, listener)


class Outage:
    """Takes a store out of reach, and brings it back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._name = database.url.database or ""

    def begin(self) -> None:
        self._database.engine.dispose()
        if self._database.is_sqlite:  # the disk is not there
            Path(self._name).parent.rename(f"{Path(self._name).parent}-away")
        else:  # the server lets nobody in, and throws out who is
            self._administer(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false")
            self._administer(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'")

    def end(self) -> None:
        if self._database.is_sqlite:
            Path(f"{Path(self._name).parent}-away").rename(Path(self._name).parent)
        else:
            self._administer(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")

    def _administer(self, statement: str) -> None:
        admin = sa.create_engine(self._database.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(sa.text(statement))
        admin.dispose()


@pytest.fixture
def outage(database: Database) -> Outage:
    return Outage(database)


class TestHealthy:
    """A rung that works."""

    @pytest.mark.parametrize("breaker", [FLEET, HOST], ids=lambda breaker: breaker.scope)
    def test_it_costs_one_read_a_second_and_no_write(self, site: Site, breaker: Breaker) -> None:
        """A thousand served calls in 7.8 s: eight readings, and nothing in the store."""
        shared_breaker = site.process().shared_breaker(breaker)
        with traffic(site.database) as seen:
            for _ in range(1000):
                permit = shared_breaker.acquire()
                assert permit.decision is Decision.CALL
                shared_breaker.record(permit, Verdict.SERVED)
                site.clock.advance(1 / 128)
        assert seen.transactions == 8
        assert seen.writes == []
        assert site.moves() == []

    def test_a_bad_item_leaves_no_trace_either(self, site: Site) -> None:
        """A call that says nothing of the rung is not written."""
        shared_breaker = site.process().shared_breaker()
        permit = shared_breaker.acquire()
        with traffic(site.database) as seen:
            shared_breaker.record(permit, Verdict.INCONCLUSIVE, "a bad image")
        assert seen.statements == []

    def test_each_call_has_a_token_of_its_own(self, site: Site) -> None:
        """By which its failure is known."""
        shared_breaker = site.process().shared_breaker()
        assert shared_breaker.acquire().token != shared_breaker.acquire().token

    def test_a_rung_has_one_breaker(self, site: Site) -> None:
        """All threads of a process share it; another rung has another."""
        registry = site.process().registry
        assert registry.of(NAME, FLEET) is registry.of(NAME, FLEET)
        assert registry.of("stage.other", FLEET) is not registry.of(NAME, FLEET)


class TestFailing:
    """A rung that fails, as several processes see it."""

    def test_failures_of_others_count(self, site: Site) -> None:
        """Two failures here and one there open it, for both, without a moment in between."""
        here, there = site.process(), site.process()
        here.fail(2)
        there.fail(1)
        assert here.asks() is Decision.REFUSE
        assert there.asks() is Decision.REFUSE
        assert site.position() is Position.OPEN

    def test_it_is_read_before_each_call_once_it_has_failed(self, site: Site) -> None:
        """As long as there is a failure in the window; then once a second again."""
        process = site.process()
        process.fail(1)
        with traffic(site.database) as seen:
            assert [process.asks() for _ in range(5)] == [Decision.CALL] * 5
            assert seen.transactions == 5
            site.clock.advance(600)
            assert [process.asks() for _ in range(5)] == [Decision.CALL] * 5
            assert seen.transactions == 6
        assert seen.writes == []

    def test_a_healthy_reading_is_believed_for_a_second(self, site: Site) -> None:
        """What happens elsewhere is seen a second later, and no later."""
        here, there = site.process(), site.process()
        assert here.asks() is Decision.CALL
        there.fail(3)
        site.clock.advance(0.99)
        assert here.asks() is Decision.CALL
        site.clock.advance(0.01)
        assert here.asks() is Decision.REFUSE

    def test_one_failed_call_on_an_old_reading_is_the_last(self, site: Site) -> None:
        """Telling of the failure brings the news that the rung is not to be called."""
        here, there = site.process(), site.process()
        permit = here.shared_breaker().acquire()
        there.fail(3)
        here.shared_breaker().record(permit, Verdict.FAILED, "down here too")
        assert here.asks() is Decision.REFUSE
        assert site.failures() == 4

    def test_a_reading_of_all_keys_is_not_believed_over_a_later_failure(self, site: Site) -> None:
        """Another key's breaker has had all keys read just before the one of a slow call opened."""
        breaker = Breaker(scope="key", failures=1)
        registry = site.process().registry
        slow, other = (registry.of(NAME, breaker, key) for key in ("slow.example", "other.example"))
        permit = slow.acquire()
        site.clock.advance(30)
        assert not other.acquire().is_refused
        site.clock.advance(0.1)
        slow.record(permit, Verdict.FAILED, "no answer")
        assert slow.acquire().is_refused
        assert not other.acquire().is_refused

    def test_a_refusal_is_a_second_old_at_most(self, site: Site) -> None:
        """A fleet that is refused does not wear out the store, and is let through a second after a reset."""
        process = site.process()
        process.fail(3)
        with traffic(site.database) as seen:
            assert {process.asks() for _ in range(100)} == {Decision.REFUSE}
        assert seen.statements == []
        site.order(Cause.RESET, FLEET)
        site.clock.advance(1)
        assert process.asks() is Decision.CALL

    def test_nobody_who_is_told_stops_the_pipeline(self, site: Site) -> None:
        """Where telling fails the move is kept all the same, and noted."""

        def fails(move: Move) -> None:
            raise RuntimeError("no server")

        registry = BreakerRegistry(
            site.database, device_scope="here", on_move=fails, timer=site.clock.timer, clock=site.now
        )
        Process(registry).fail(3)
        assert site.position() is Position.OPEN
        [note] = registry.drain_notes()
        assert "no server" in note

    def test_only_own_moves_are_told(self, site: Site) -> None:
        """Whoever made a move tells of it, once it is kept, so each move is told once."""
        here, there = site.process(), site.process()
        here.fail(2)
        there.fail(1)
        site.clock.advance(60)
        here.shared_breaker().record(here.shared_breaker().acquire(), Verdict.SERVED)
        site.order(Cause.FORCED_OPEN, FLEET)
        site.clock.advance(1)
        assert {here.asks(), there.asks()} == {Decision.REFUSE}
        assert [move.cause for move in there.told] == [Cause.TOO_MANY_FAILURES]
        assert [move.cause for move in here.told] == [Cause.PROBE_DUE, Cause.PROBE_SERVED]
        assert site.moves()[:-1] == there.told + here.told
        assert site.moves()[-1].cause is Cause.FORCED_OPEN

    def test_threads_share_a_breaker(self, site: Site) -> None:
        """Eight threads on a rung that fails half the time: a bounded number of failures, and one opening."""
        process = site.process()
        shared_breaker = process.shared_breaker()
        together = threading.Barrier(8)
        failed: list[Permit] = []

        def work(draw: random.Random) -> None:
            together.wait()
            while not (permit := shared_breaker.acquire()).is_refused:
                verdict = draw.choice([Verdict.FAILED, Verdict.SERVED])
                if verdict is Verdict.FAILED:
                    failed.append(permit)
                shared_breaker.record(permit, verdict, "down")

        threads = [threading.Thread(target=work, args=[random.Random(seed)]) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 3 <= len(failed) <= 3 + 8 - 1
        assert site.failures() == len(failed)
        assert process.told == site.moves()
        assert [move.cause for move in process.told] == [Cause.TOO_MANY_FAILURES]


@on_one_store
class TestProbes:
    """When the cool-down is over."""

    @pytest.fixture
    def processes(self, site: Site) -> list[Process]:
        """Three of them before a rung whose probe is due."""
        processes = [site.process() for _ in range(3)]
        processes[0].fail(3)
        for process in processes:
            assert process.asks() is Decision.REFUSE
        site.clock.advance(60)
        return processes

    def test_one_process_gets_it(self, processes: list[Process]) -> None:
        """Though all of them know that it is due."""
        decisions = [process.asks() for process in processes]
        assert decisions == [Decision.PROBE, Decision.REFUSE, Decision.REFUSE]

    def test_a_reading_is_aged_by_the_own_clock(self, site: Site, processes: list[Process]) -> None:
        """A refusal that is half a second old does not outlast the cool-down."""
        site.clock.advance(-0.5)
        assert processes[1].asks() is Decision.REFUSE
        site.clock.advance(0.5)
        assert processes[1].asks() is Decision.PROBE

    def test_served_it_closes_for_all(self, site: Site, processes: list[Process]) -> None:
        """For who probed at once, for the others a second later."""
        permit = processes[0].shared_breaker().acquire()
        processes[1].shared_breaker().acquire()
        processes[0].shared_breaker().record(permit, Verdict.SERVED)
        assert processes[0].asks() is Decision.CALL
        assert processes[1].asks() is Decision.REFUSE
        site.clock.advance(1)
        assert processes[1].asks() is Decision.CALL

    def test_failed_it_opens_for_twice_as_long(self, site: Site, processes: list[Process]) -> None:
        """Nobody asks in vain before that."""
        processes[0].shared_breaker().record(processes[0].shared_breaker().acquire(), Verdict.FAILED, "still down")
        site.clock.advance(119)
        assert {process.asks() for process in processes} == {Decision.REFUSE}
        site.clock.advance(1)
        assert [process.asks() for process in processes].count(Decision.PROBE) == 1

    def test_a_permit_that_says_nothing_is_given_back(self, site: Site, processes: list[Process]) -> None:
        """Whoever asks next has it: nobody waits for the lease to end."""
        processes[0].shared_breaker().record(
            processes[0].shared_breaker().acquire(), Verdict.INCONCLUSIVE, "a bad image"
        )
        assert processes[1].asks() is Decision.PROBE
        assert processes[0].asks() is Decision.REFUSE

    def test_a_lost_one_is_noticed_by_any_process(self, site: Site, processes: list[Process]) -> None:
        """The lease ends, the cool-down follows, and another process probes."""
        assert [process.asks() for process in processes] == [Decision.PROBE, Decision.REFUSE, Decision.REFUSE]
        site.clock.advance(30)
        assert processes[1].asks() is Decision.REFUSE
        assert processes[1].told[-1].cause is Cause.PROBE_LOST
        site.clock.advance(59)
        assert processes[2].asks() is Decision.REFUSE
        site.clock.advance(1)
        assert processes[2].asks() is Decision.PROBE

    def test_one_lost_long_ago_is_followed_at_once(self, site: Site, processes: list[Process]) -> None:
        """Nobody asked for a day: who asks then both notices it and probes."""
        processes[0].shared_breaker().acquire()
        site.clock.advance(86_400)
        assert processes[1].asks() is Decision.PROBE
        assert [move.cause for move in processes[1].told] == [Cause.PROBE_LOST, Cause.PROBE_DUE]

    def test_one_that_answers_after_its_lease_changes_nothing(self, site: Site, processes: list[Process]) -> None:
        """The lease is another's by then."""
        late = processes[0].shared_breaker().acquire()
        site.clock.advance(30)
        processes[1].shared_breaker().acquire()
        site.clock.advance(60)
        assert processes[1].asks() is Decision.PROBE
        processes[0].shared_breaker().record(late, Verdict.SERVED)
        assert site.position() is Position.HALF_OPEN
        assert processes[2].asks() is Decision.REFUSE


class TestScopes:
    """Whose failures count for whom."""

    def test_a_device_is_its_own_place(self, site: Site) -> None:
        """A broken one benches nobody else."""
        here, there = site.process("host/0"), site.process("host/1")
        here.fail(3, HOST)
        site.clock.advance(1)
        assert here.asks(HOST) is Decision.REFUSE
        assert there.asks(HOST) is Decision.CALL
        assert [move.key for move in site.moves()] == [Key(NAME, "host/0")]

    def test_processes_of_one_place_share_it(self, site: Site) -> None:
        """Two workers on one device count together."""
        one, other = site.process("host/0"), site.process("host/0")
        one.fail(2, HOST)
        other.fail(1, HOST)
        assert one.asks(HOST) is Decision.REFUSE

    def test_a_service_is_shared_from_everywhere(self, site: Site) -> None:
        """The place does not matter."""
        here, there = site.process("host/0"), site.process("other/1")
        here.fail(2)
        there.fail(1)
        assert here.asks() is Decision.REFUSE
        assert [move.key for move in site.moves()] == [Key(NAME)]

    def test_this_place_is_the_host_and_its_devices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers that see different devices of one host are at different places, however long the list of them."""
        longest = ",".join(f"GPU-{number:036}" for number in range(16))

        def place(devices: str | None) -> str:
            current_device_scope.cache_clear()
            if devices is None:
                monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            else:
                monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
            return current_device_scope()

        host = socket.gethostname()
        assert [place(None), place(""), place("0,1")] == [host, f"{host}/no-cuda", f"{host}/0,1"]
        assert place(longest) != place(longest[:-1] + "x")
        assert place(longest).startswith(f"{host}/")
        assert len(place(longest)) <= schema.breakers.c.place.type.length - 64 + len(host)
        current_device_scope.cache_clear()


@on_one_store
class TestOrders:
    """A person's word."""

    @pytest.mark.parametrize("breaker", [FLEET, HOST], ids=lambda breaker: breaker.scope)
    def test_forced_open_is_obeyed_everywhere_within_a_second(self, site: Site, breaker: Breaker) -> None:
        """By the breakers of every scope, until it is taken back."""
        processes = [site.process(place) for place in ("host/0", "host/1")]
        for process in processes:
            assert process.asks(breaker) is Decision.CALL
        site.order(Cause.FORCED_OPEN, breaker)
        site.clock.advance(1)
        for process in processes:
            permit = process.shared_breaker(breaker).acquire()
            assert permit.is_refused
            assert "forced open" in permit.why
            assert f"repli breakers reset {NAME}" in permit.why
        site.clock.advance(86_400)
        assert {process.asks(breaker) for process in processes} == {Decision.REFUSE}
        site.order(Cause.RESET, breaker)
        site.clock.advance(1)
        assert {process.asks(breaker) for process in processes} == {Decision.CALL}
        assert [process.told for process in processes] == [[], []]

    @pytest.mark.parametrize("breaker", [FLEET, HOST], ids=lambda breaker: breaker.scope)
    def test_forced_closed_calls_whatever_happened(self, site: Site, breaker: Breaker) -> None:
        """A rung that is open is called, fails, and is called again."""
        process = site.process()
        process.fail(3, breaker)
        site.order(Cause.FORCED_CLOSED, breaker)
        site.clock.advance(1)
        process.fail(5, breaker)
        assert process.asks(breaker) is Decision.CALL

    def test_one_place_can_be_forced(self, site: Site) -> None:
        """The others are not concerned."""
        here, there = site.process("host/0"), site.process("host/1")
        breakers.apply(site.database, HOST, Key(NAME, "host/0"), Overridden(Cause.FORCED_OPEN), clock=site.now)
        assert here.asks(HOST) is Decision.REFUSE
        assert there.asks(HOST) is Decision.CALL

    def test_news_of_a_shared_breaker_are_news_of_its_order(self, site: Site) -> None:
        """They are one: a call that ends brings both along."""
        process = site.process()
        site.order(Cause.FORCED_CLOSED, FLEET)
        permit = process.shared_breaker().acquire()
        assert permit.decision is Decision.CALL
        site.order(Cause.FORCED_OPEN, FLEET)
        process.shared_breaker().record(permit, Verdict.FAILED, "down")
        assert process.asks() is Decision.REFUSE

    def test_what_happens_at_a_place_does_not_put_an_order_off(self, site: Site) -> None:
        """A place's news are not news of the order: that is read a second after it was read last."""
        process = site.process()
        process.fail(3, HOST)
        site.clock.advance(59.5)
        assert process.asks(HOST) is Decision.REFUSE
        site.order(Cause.FORCED_OPEN)
        site.clock.advance(0.5)
        process.shared_breaker(HOST).record(process.shared_breaker(HOST).acquire(), Verdict.SERVED)
        site.clock.advance(0.5)
        assert process.asks(HOST) is Decision.REFUSE


@on_one_store
class TestRefusals:
    """What a refused call is told."""

    def test_it_says_since_when_and_until_when(self, site: Site) -> None:
        """And what went wrong; the clock of the tests begins at 03:00."""
        process = site.process()
        process.fail(3)
        why = process.shared_breaker().acquire().why
        assert NAME in why
        assert "03:00:00" in why
        assert "next probe at 03:01:00" in why
        assert "(down)" in why

    def test_it_says_that_somebody_probes(self, site: Site) -> None:
        """There is no time to name then."""
        process = site.process()
        process.fail(3)
        site.clock.advance(60)
        assert process.shared_breaker().acquire().why == ""
        assert "a probe is in flight" in process.shared_breaker().acquire().why


class TestOutOfReach:
    """The store does not answer."""

    def test_a_process_keeps_count_by_itself(self, site: Site, outage: Outage) -> None:
        """It opens after so many failures, refuses, probes after the cool-down, and closes."""
        process = site.process()
        outage.begin()
        process.fail(3)
        assert process.asks() is Decision.REFUSE
        site.clock.advance(59)
        assert process.asks() is Decision.REFUSE
        site.clock.advance(1)
        permit = process.shared_breaker().acquire()
        assert permit.is_probe
        assert process.asks() is Decision.REFUSE
        process.shared_breaker().record(permit, Verdict.SERVED)
        assert process.asks() is Decision.CALL
        assert process.told == []
        outage.end()

    def test_it_goes_on_from_what_it_had_read(self, site: Site, outage: Outage) -> None:
        """Two failures that the store knew of, and one since then, open it; so does an order stay."""
        process, ordered = site.process(), site.process()
        process.fail(2)
        breakers.apply(site.database, FLEET, Key("stage.other"), Overridden(Cause.FORCED_OPEN), clock=site.now)
        other = ordered.registry.of("stage.other", FLEET)
        assert other.acquire().is_refused
        outage.begin()
        process.fail(1)
        assert process.asks() is Decision.REFUSE
        site.clock.advance(3600)
        assert other.acquire().is_refused
        outage.end()

    def test_its_clock_goes_on_as_the_stores_did(self, site: Site, outage: Outage) -> None:
        """However long before the outage the last call began."""
        process = site.process()
        process.fail(2)
        permit = process.shared_breaker().acquire()
        site.clock.advance(30)
        process.shared_breaker().record(permit, Verdict.FAILED, "down")
        outage.begin()
        site.clock.advance(59)
        assert process.asks() is Decision.REFUSE
        site.clock.advance(1)
        assert process.asks() is Decision.PROBE
        outage.end()

    def test_it_is_said_once_and_so_is_its_return(self, site: Site, outage: Outage) -> None:
        """By the process, not by each of its breakers, and with what follows from it."""
        process = site.process()
        other = process.registry.of("stage.other", HOST)
        process.fail(1)
        assert process.registry.drain_notes() == ()
        outage.begin()
        for _ in range(10):
            process.asks()
            other.acquire()
            site.clock.advance(5)
        (lost,) = process.registry.drain_notes()
        assert lost.startswith("breakers: the store ")
        assert lost.endswith("this worker counts failures locally until the store is back")
        outage.end()
        process.asks()
        other.acquire()
        assert process.registry.drain_notes() == ("breakers: the store is back after 50 s; breakers are shared again",)
        process.asks()
        assert process.registry.drain_notes() == ()

    def test_a_second_outage_is_said_again(self, site: Site, outage: Outage) -> None:
        """Each has its own two notes, and its own length."""
        process = site.process()
        for seconds in (10, 20):
            site.clock.advance(5)
            outage.begin()
            process.asks()
            site.clock.advance(seconds)
            outage.end()
            process.asks()
            lost, back = process.registry.drain_notes()
            assert "counts failures locally" in lost
            assert f"after {seconds} s" in back

    def test_it_is_asked_again_every_five_seconds(self, site: Site, outage: Outage) -> None:
        """No more often, however many calls there are, and fail."""
        shared_breaker = site.process().shared_breaker(replace(FLEET, failures=1000))
        shared_breaker.acquire()
        outage.begin()
        site.clock.advance(1)
        tried = []
        with traffic(site.database) as seen:
            for _ in range(2 * 128):
                before = seen.attempts
                shared_breaker.record(shared_breaker.acquire(), Verdict.FAILED, "down")
                if seen.attempts > before:
                    tried.append(site.clock.seconds)
                site.clock.advance(1 / 8)
        assert tried == [1, 6, 11, 16, 21, 26, 31]
        outage.end()

    def test_failures_meanwhile_are_told_on_return(self, site: Site, outage: Outage) -> None:
        """They count together with those of the others; a move that follows is this process's own."""
        here, there = site.process(), site.process()
        outage.begin()
        here.fail(1)
        there.fail(2)
        site.clock.advance(5)
        assert {here.asks(), there.asks()} == {Decision.CALL}  # in vain: it is still out of reach
        site.clock.advance(5)
        outage.end()
        assert here.asks() is Decision.CALL
        assert site.failures() == 1
        assert there.asks() is Decision.REFUSE
        assert site.failures() == 3
        assert [move.cause for move in there.told] == [Cause.TOO_MANY_FAILURES]
        assert (there.told, here.told) == (site.moves(), [])

    def test_what_is_taken_back_meanwhile_is_not_told_on_return(self, site: Site, outage: Outage) -> None:
        """The others stay."""
        process = site.process()
        outage.begin()
        permits = [process.shared_breaker().acquire() for _ in range(2)]
        for permit in permits:
            process.shared_breaker().record(permit, Verdict.FAILED, "down")
        process.shared_breaker().take_back(permits[0])
        site.clock.advance(5)
        outage.end()
        assert process.asks() is Decision.CALL
        assert site.failures() == 1

    def test_what_failed_long_ago_is_not_told_on_return(self, site: Site, outage: Outage) -> None:
        """As many failures as open it, but never so many in one window: it stays closed for everybody."""
        process = site.process()
        outage.begin()
        for _ in range(FLEET.failures):
            process.fail(1)
            site.clock.advance(FLEET.within_s + 1)
        process.fail(1)
        site.clock.advance(5)
        outage.end()
        assert process.asks() is Decision.CALL
        assert (site.failures(), site.position()) == (1, Position.CLOSED)

    def test_a_call_that_began_before_it_is_told_too(self, site: Site, outage: Outage) -> None:
        """That the store is gone is seen when the failure is to be written; nothing is lost by that."""
        process = site.process()
        permit = process.shared_breaker().acquire()
        outage.begin()
        process.shared_breaker().record(permit, Verdict.FAILED, "down")
        assert len(process.registry.drain_notes()) == 1
        process.fail(2)
        assert process.asks() is Decision.REFUSE
        outage.end()
        site.clock.advance(5)
        assert process.asks() is Decision.REFUSE
        assert site.failures() == 3

    def test_they_are_told_once(self, site: Site, outage: Outage) -> None:
        """A second outage does not bring those of the first again."""
        process = site.process()
        for _ in range(2):
            outage.begin()
            process.fail(1)
            site.clock.advance(5)
            outage.end()
            assert process.asks() is Decision.CALL
            breakers.apply(site.database, FLEET, Key(NAME), Overridden(Cause.RESET), clock=site.now)
            process.asks()
        assert site.failures() == 0

    def test_a_rung_that_has_recovered_is_not_opened_for_the_others(self, site: Site, outage: Outage) -> None:
        """What failed before a probe was served is as little told as it would be remembered in the store."""
        process = site.process()
        outage.begin()
        process.fail(3)
        site.clock.advance(60)
        process.shared_breaker().record(process.shared_breaker().acquire(), Verdict.SERVED)
        process.fail(1)
        outage.end()
        site.clock.advance(5)
        assert process.asks() is Decision.CALL
        assert (site.position(), site.failures()) == (Position.CLOSED, 1)

    def test_a_probe_that_says_nothing_forgets_nothing(self, site: Site, outage: Outage) -> None:
        """A bad item is no sign of recovery: what failed is told on return."""
        process = site.process()
        outage.begin()
        process.fail(3)
        site.clock.advance(60)
        process.shared_breaker().record(process.shared_breaker().acquire(), Verdict.INCONCLUSIVE, "a bad image")
        outage.end()
        site.clock.advance(5)
        assert process.asks() is Decision.REFUSE
        assert (site.position(), site.failures()) == (Position.OPEN, 3)

    def test_threads_keep_count_together(self, site: Site, outage: Outage) -> None:
        """No failure is lost between eight threads without a store: the last one of all opens the breaker."""
        process, breaker = site.process(), replace(FLEET, failures=8 * 50)
        outage.begin()
        process.asks(breaker)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        threads = [threading.Thread(target=process.fail, args=[50, breaker]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
        assert process.asks(breaker) is Decision.REFUSE
        outage.end()

    def test_on_return_the_shared_state_counts(self, site: Site, outage: Outage) -> None:
        """What the others know by then replaces what this process made out by itself."""
        process = site.process()
        outage.begin()
        process.fail(1)
        outage.end()
        site.order(Cause.FORCED_OPEN, FLEET)
        assert process.asks() is Decision.CALL
        site.clock.advance(5)
        assert process.asks() is Decision.REFUSE

    def test_a_probe_that_ends_in_an_outage_is_over(self, site: Site, outage: Outage) -> None:
        """Served, this process goes on; the others wait for the lease to end, as if its holder had died."""
        process, other = site.process(), site.process()
        process.fail(3)
        site.clock.advance(60)
        permit = process.shared_breaker().acquire()
        outage.begin()
        process.shared_breaker().record(permit, Verdict.SERVED)
        assert process.asks() is Decision.CALL
        outage.end()
        site.clock.advance(30)
        assert other.asks() is Decision.REFUSE
        assert other.told[-1].cause is Cause.PROBE_LOST

    def test_a_probe_that_fails_in_an_outage_is_told_as_one(self, site: Site, outage: Outage) -> None:
        """On return the lease is still this process's, and the cool-down doubles."""
        process = site.process()
        process.fail(3)
        site.clock.advance(60)
        permit = process.shared_breaker().acquire()
        outage.begin()
        process.shared_breaker().record(permit, Verdict.FAILED, "still down")
        assert process.asks() is Decision.REFUSE
        site.clock.advance(5)
        outage.end()
        assert process.asks() is Decision.REFUSE
        assert process.told[-1].cause is Cause.PROBE_FAILED

    def test_a_probe_of_an_outage_does_not_outlive_it(self, site: Site, outage: Outage) -> None:
        """The store never knew of that lease: its end is no news there, and nothing is left half-open."""
        process = site.process()
        process.fail(3)
        outage.begin()
        site.clock.advance(60)
        permit = process.shared_breaker().acquire()
        assert permit.is_probe
        site.clock.advance(5)
        outage.end()
        second = process.shared_breaker().acquire()
        assert second.is_probe
        process.shared_breaker().record(permit, Verdict.SERVED)
        assert site.position() is Position.HALF_OPEN
        process.shared_breaker().record(second, Verdict.SERVED)
        assert site.position() is Position.CLOSED
