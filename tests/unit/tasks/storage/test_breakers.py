"""The breakers that all workers share."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from repli.tasks.fallback import Breaker, Position, StoreError
from repli.tasks.fallback.breaker import (
    BreakerState,
    CallEnded,
    Cause,
    Decision,
    Event,
    FailureTakenBack,
    Lease,
    Overridden,
    Override,
    PermitRequested,
    Verdict,
    step,
)
from repli.tasks.items import clean_text
from repli.tasks.storage import breakers
from repli.tasks.storage.breakers import Change, Key, Move, database_time
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import breaker_failures
from tests.support.fakes import ManualClock

R = TypeVar("R")
BREAKER = Breaker(scope="fleet", failures=3, within_s=100, open_for_s=10, open_for_at_most_s=40, lease_s=20)
KEY = Key("stage.rung")
EVER = datetime(2000, 1, 1, tzinfo=UTC)
ORDERS: list[Override] = [Cause.FORCED_OPEN, Cause.FORCED_CLOSED, Cause.RESET]


class Shared:
    """One store, by a clock that moves when told."""

    def __init__(self, database: Database, breaker: Breaker = BREAKER) -> None:
        self.database = database
        self.breaker = breaker
        self.clock = ManualClock()

    def now(self, connection: sa.Connection) -> datetime:
        return self.clock.now()

    def apply(self, event: Event, key: Key = KEY) -> Change:
        return breakers.apply(self.database, self.breaker, key, event, clock=self.now)

    def fail(self, *tokens: str, key: Key = KEY) -> Change:
        """Calls that failed, all at this moment."""
        return [self.apply(CallEnded(token, Verdict.FAILED, "down"), key) for token in tokens][-1]

    def state(self, key: Key = KEY) -> BreakerState:
        return breakers.read(self.database, self.breaker, [key], clock=self.now)[0][key]

    def moves(self, *keys: Key) -> list[Move]:
        return [move for move in breakers.moves_since(self.database, EVER) if move.key in (keys or [KEY])]

    def failures_kept(self) -> list[str]:
        """The tokens of all failures that lie in the store, of the window or not."""
        with self.database.read() as connection:
            return sorted(connection.scalars(sa.select(breaker_failures.c.token)))


@pytest.fixture
def shared(database: Database) -> Shared:
    return Shared(database)


def at_once(jobs: Sequence[Callable[[], R]]) -> list[R]:
    """What the jobs give, each on its own thread, begun together."""
    together = threading.Barrier(len(jobs))
    answers: dict[int, R] = {}

    def do(number: int, job: Callable[[], R]) -> None:
        together.wait()
        answers[number] = job()

    threads = [threading.Thread(target=do, args=numbered) for numbered in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(len(jobs))]


class TestOneBreaker:
    """A breaker in the store, changed by one caller after the other."""

    def test_a_breaker_that_never_changed_is_closed(self, shared: Shared) -> None:
        """It has no row, and asking makes none: nor does a call that was served."""
        assert shared.state() == BreakerState()
        assert shared.apply(PermitRequested("a")).decision is Decision.CALL
        change = shared.apply(CallEnded("a", Verdict.SERVED))
        assert (change.state, change.decision, change.move) == (BreakerState(), Decision.NOTED, None)
        with shared.database.read() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM breakers")) == 0

    def test_every_position_comes_back_as_it_went_in(self, shared: Shared) -> None:
        """Nothing of a state is lost on the way, to the microsecond: failures, times, lease, count, reason."""
        seen: list[Position] = []

        def comes_back(change: Change) -> None:
            assert shared.state() == change.state
            seen.append(change.state.position)

        shared.clock.advance(0.123457)
        comes_back(shared.fail("a"))
        shared.clock.advance(1.5)
        comes_back(shared.apply(CallEnded("b", Verdict.FAILED, 'it\'s "down"; -- 🦜\n' * 100)))
        comes_back(shared.fail("c"))
        shared.clock.advance(10)
        comes_back(shared.apply(PermitRequested("probe")))
        assert shared.state().lease == Lease("probe", shared.clock.now() + timedelta(seconds=20))
        comes_back(shared.apply(CallEnded("probe", Verdict.FAILED, "still 🦜 down")))
        assert (shared.state().failed_probes, shared.state().why) == (1, "still 🦜 down")
        comes_back(shared.apply(Overridden(Cause.FORCED_OPEN)))
        comes_back(shared.apply(Overridden(Cause.FORCED_CLOSED)))
        comes_back(shared.apply(Overridden(Cause.RESET)))
        assert set(seen) == set(Position)

    def test_a_reason_that_no_database_takes_is_kept_all_the_same(self, shared: Shared) -> None:
        """An error may quote a null byte or half a character; the breaker opens nevertheless."""
        change = [shared.apply(CallEnded(token, Verdict.FAILED, "b\0d\udc80")) for token in "abc"][-1]
        assert change.state.position is Position.OPEN
        assert shared.state() == change.state
        assert shared.moves()[0].why == change.state.why == "b\ufffdd\ufffd"

    def test_it_opens_at_exactly_the_last_failure(self, shared: Shared) -> None:
        """Two failures leave it closed; the third opens it, and that is one move, with its reason."""
        assert shared.fail("a", "b").state.position is Position.CLOSED
        change = shared.fail("c")
        move = Move(
            key=KEY,
            number=3,
            at=shared.clock.now(),
            old=Position.CLOSED,
            new=Position.OPEN,
            cause=Cause.TOO_MANY_FAILURES,
            why="down",
        )
        assert (change.move, shared.moves()) == (move, [move])
        assert change.now == shared.clock.now()

    def test_a_failure_counts_once(self, shared: Shared) -> None:
        """Told twice of one call, because the first answer was lost on the way, the store knows it by its token."""
        shared.fail("a")
        shared.fail("a", "a")
        assert len(shared.state().failures) == 1
        assert shared.state().position is Position.CLOSED

    def test_failures_that_left_the_window_are_removed(self, shared: Shared) -> None:
        """The window's last moment counts no more; rows go with the next change, so they do not pile up."""
        shared.fail("a")
        shared.clock.advance(1)
        shared.fail("b")
        shared.clock.advance(99)
        assert [failure.token for failure in shared.state().failures] == ["b"]
        assert shared.failures_kept() == ["a", "b"]
        shared.fail("c")
        assert shared.failures_kept() == ["b", "c"]
        assert shared.state().position is Position.CLOSED

    def test_another_breakers_window_is_its_own(self, shared: Shared) -> None:
        """What has left one rung's window may still be in that of a rung with a longer one."""
        patient = replace(BREAKER, within_s=1000)
        breakers.apply(shared.database, patient, Key("stage.other"), CallEnded("a", Verdict.FAILED), clock=shared.now)
        shared.clock.advance(200)
        shared.fail("b")
        assert shared.failures_kept() == ["a", "b"]

    def test_a_breaker_that_is_closed_and_empty_has_no_row(self, shared: Shared) -> None:
        """It is removed by the write that closes it; its moves stay, and are counted on when it opens again."""
        for _ in range(2):
            shared.fail(*(uuid.uuid4().hex for _ in range(3)))
            shared.apply(Overridden(Cause.RESET))
        with shared.database.read() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM breakers")) == 0
        assert [move.number for move in shared.moves()] == [3, 4, 7, 8]

    def test_keys_that_failed_once_are_swept(self, shared: Shared) -> None:
        """A thousand keys that failed once, and never again, do not stay; one that is open does."""
        shared.fail("a", "b", "c", key=Key("stage.rung", "open"))
        for number in range(200):
            shared.fail(f"early {number}", key=Key("stage.rung", f"{number}.example"))
        shared.clock.advance(BREAKER.within_s)
        for number in range(300):
            shared.fail(f"late {number}", key=Key("stage.rung", "late"))
        with shared.database.read() as connection:
            places = connection.scalars(sa.text("SELECT place FROM breakers ORDER BY place")).all()
        assert places == ["late", "open"]

    def test_a_night_that_is_over_leaves_no_keys(self, shared: Shared) -> None:
        """Where nothing fails any more, nothing is written: runs sweep, and the list leaves out what has not failed."""
        declared = {"stage.rung": replace(BREAKER, scope="key"), "stage.other": BREAKER}
        shared.fail("a", "b", "c", key=Key("stage.rung", "open"))
        shared.fail("early", key=Key("stage.rung", "once"))

        def listed() -> list[str]:
            views = breakers.views(shared.database, declared, clock=shared.now)
            return [view.key.place for view in views if view.key.name == "stage.rung"]

        breakers.sweep(shared.database, declared, clock=shared.now)
        assert listed() == ["open", "once"]
        shared.clock.advance(BREAKER.within_s)
        assert listed() == ["open"]
        breakers.sweep(shared.database, declared, clock=shared.now)
        with shared.database.read() as connection:
            assert connection.scalars(sa.text("SELECT place FROM breakers")).all() == ["open"]
            assert connection.scalar(sa.text("SELECT count(*) FROM breaker_failures WHERE place = 'once'")) == 0
        breakers.override(shared.database, declared["stage.rung"], Key("stage.rung"), Cause.RESET, clock=shared.now)
        assert listed() == [""]

    def test_of_many_dead_keys_a_few_are_probed_at_a_time(self, shared: Shared) -> None:
        """Those that are due the longest; the others are held back, as are those that cool down or are forced open."""
        breaker = Breaker(scope="key", failures=1, open_for_s=60)
        keys = [Key("stage.api", f"{number}.example") for number in range(40)]
        for key in keys:
            end = CallEnded(key.place, Verdict.FAILED, "503")
            breakers.apply(shared.database, breaker, key, end, clock=shared.now)
            shared.clock.advance(1)

        def held_back() -> frozenset[Key]:
            return breakers.held_back(shared.database, breaker, "stage.api", probes=8, clock=shared.now)

        assert held_back() == set(keys), "all of them cool down"
        shared.clock.advance(45)  # 26 are due
        assert held_back() == set(keys[8:])
        probe = PermitRequested("probe")
        breakers.apply(shared.database, breaker, keys[0], probe, clock=shared.now)
        assert held_back() == {keys[0], *keys[9:]}, "one is being probed, and another is next"
        breakers.apply(shared.database, breaker, keys[0], CallEnded("probe", Verdict.SERVED), clock=shared.now)
        breakers.apply(shared.database, breaker, keys[1], Overridden(Cause.FORCED_OPEN), clock=shared.now)
        breakers.apply(shared.database, breaker, keys[39], Overridden(Cause.FORCED_CLOSED), clock=shared.now)
        assert held_back() == {keys[1], *keys[10:39]}

    def test_a_key_that_asked_to_be_left_alone_is(self, shared: Shared) -> None:
        """From its first failure on, for as long as it asked, up to a day; a later answer may ask for longer."""
        breaker = Breaker(scope="key")
        for number, (asked_s, open_s) in enumerate([(7.0, 60.0), (3600.0, 3600.0), (1e6, 86400.0)]):
            key = Key("stage.api", str(number))
            end = CallEnded(f"{number}", Verdict.FAILED, "429", asked_s)
            change = breakers.apply(shared.database, breaker, key, end, clock=shared.now)
            assert change.state.probe_at == shared.clock.now() + timedelta(seconds=open_s)
            assert change.move and change.move.cause is Cause.ASKED_TO_WAIT
        later = CallEnded("later", Verdict.FAILED, "429", 7200.0)
        change = breakers.apply(shared.database, breaker, Key("stage.api", "1"), later, clock=shared.now)
        assert change.state.probe_at == shared.clock.now() + timedelta(hours=2)

    def test_a_served_probe_forgets_the_failures(self, shared: Shared) -> None:
        """Closed again, it counts from zero."""
        shared.fail("a", "b", "c")
        shared.clock.advance(10)
        shared.apply(PermitRequested("probe"))
        shared.apply(CallEnded("probe", Verdict.SERVED))
        assert shared.failures_kept() == []
        assert shared.state().position is Position.CLOSED

    def test_breakers_do_not_touch_each_other(self, shared: Shared) -> None:
        """Neither another rung's, nor the same rung's at another place; each has its own failures and moves."""
        here, there, other = Key("stage.rung", "here"), Key("stage.rung", "there"), Key("stage.other", "here")
        shared.fail("a", "b", key=there)
        shared.fail("c", "d", key=other)
        shared.fail("e", "f", "g", key=here)
        shared.apply(Overridden(Cause.FORCED_CLOSED), there)
        assert shared.state(here).position is Position.OPEN
        assert len(shared.state(here).failures) == 3
        assert shared.state(there).position is Position.FORCED_CLOSED
        assert len(shared.state(other).failures) == 2
        assert shared.state() == BreakerState()
        assert [str(move) for move in shared.moves(here, there, other)] == [
            "stage.rung@here: closed → open (too many failures)",
            "stage.rung@there: closed → forced_closed (forced closed)",
        ]

    def test_several_are_read_at_once(self, shared: Shared) -> None:
        """Each by its key, with the store's time."""
        other = Key("stage.other")
        shared.fail("a", key=other)
        states, now = breakers.read(shared.database, BREAKER, [KEY, other], clock=shared.now)
        assert states == {KEY: BreakerState(), other: shared.state(other)}
        assert now == shared.clock.now()

    def test_the_time_is_the_stores_own(self, shared: Shared) -> None:
        """In UTC, and close to this machine's, which both stores run on."""
        with shared.database.read() as connection:
            if not shared.database.is_sqlite:
                connection.execute(sa.text("SET TIME ZONE 'Asia/Tokyo'"))
            now = database_time(connection)
        assert now.tzinfo is UTC
        assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)

    def test_without_another_clock_it_is_used(self, shared: Shared) -> None:
        """For reading and for changing alike."""
        started = datetime.now(UTC) - timedelta(seconds=1)
        change = breakers.apply(shared.database, BREAKER, KEY, CallEnded("a", Verdict.FAILED))
        _, now = breakers.read(shared.database, BREAKER, [KEY])
        (failure,) = change.state.failures
        assert started <= failure.at == change.now <= now <= datetime.now(UTC) + timedelta(seconds=1)


class TestMoves:
    """What is kept of the past."""

    def test_moves_come_in_the_order_of_their_making(self, shared: Shared) -> None:
        """Those of one moment too; each says from where, to where, and why."""
        shared.fail("a", "b", "c")
        shared.clock.advance(10)
        shared.apply(PermitRequested("probe"))
        shared.apply(CallEnded("probe", Verdict.FAILED, "still down"))
        shared.clock.advance(20)
        shared.apply(PermitRequested("second"))
        shared.clock.advance(20)
        assert shared.apply(PermitRequested("third")).decision is Decision.REFUSE
        shared.apply(Overridden(Cause.FORCED_OPEN))
        shared.apply(Overridden(Cause.RESET))
        moves = shared.moves()
        assert [(move.old.value, move.new.value, move.cause.value, move.why) for move in moves] == [
            ("closed", "open", "too many failures", "down"),
            ("open", "half_open", "probe due", "down"),
            ("half_open", "open", "probe failed", "still down"),
            ("open", "half_open", "probe due", "still down"),
            ("half_open", "open", "probe lost", "still down"),
            ("open", "forced_open", "forced open", ""),
            ("forced_open", "closed", "reset", ""),
        ]
        assert [move.number for move in moves] == [3, 4, 5, 6, 7, 8, 9]

    def test_a_change_that_is_no_move_leaves_none(self, shared: Shared) -> None:
        """A failure, a permit that is given back, a lease: the position is the same."""
        shared.fail("a", "b", "c")
        shared.clock.advance(10)
        shared.apply(PermitRequested("probe"))
        before = shared.moves()
        assert shared.fail("late").move is None
        assert shared.apply(CallEnded("probe", Verdict.INCONCLUSIVE)).move is None
        change = shared.apply(PermitRequested("next"))
        assert (change.decision, change.move) == (Decision.PROBE, None)
        assert shared.moves() == before

    def test_a_reset_of_what_is_closed_is_no_move(self, shared: Shared) -> None:
        """It forgets the failures, and that a probe closed it."""
        shared.fail("a", "b", "c")
        shared.clock.advance(10)
        shared.apply(PermitRequested("probe"))
        shared.apply(CallEnded("probe", Verdict.SERVED))
        before = shared.moves()
        assert shared.apply(Overridden(Cause.RESET)).move is None
        assert shared.moves() == before

    def test_moves_are_found_by_time(self, shared: Shared) -> None:
        """From the first moment on, up to the last one, both included."""
        times = []
        for name in ("b", "a", "c"):
            shared.apply(Overridden(Cause.FORCED_OPEN), Key(name))
            times.append(shared.clock.now())
            shared.clock.advance(1)

        def names(start: datetime, end: datetime | None = None) -> list[str]:
            return [move.key.name for move in breakers.moves_since(shared.database, start, end)]

        assert names(times[0]) == ["b", "a", "c"]
        assert names(times[1]) == ["a", "c"]
        assert names(times[0], times[1]) == ["b", "a"]
        assert names(times[2] + timedelta(microseconds=1)) == []


class TestRaces:
    """Many callers at the same moment, on real threads with connections of their own."""

    def test_no_failure_is_lost(self, shared: Shared) -> None:
        """Sixteen calls fail together: all are kept, one of them opens the breaker, and knows it."""
        shared.breaker = replace(BREAKER, failures=16)
        changes = at_once([lambda token=str(n): shared.fail(token) for n in range(16)])  # type: ignore[misc]
        assert len(shared.state().failures) == 16
        assert [move.number for move in shared.moves()] == [16]
        assert [change.move for change in changes if change.move] == shared.moves()

    def test_it_opens_once(self, shared: Shared) -> None:
        """Of sixteen failures the third opens it; the later ones are kept, and open nothing again."""
        at_once([lambda token=str(n): shared.fail(token) for n in range(16)])  # type: ignore[misc]
        assert len(shared.state().failures) == 16
        (move,) = shared.moves()
        assert (move.number, move.cause) == (3, Cause.TOO_MANY_FAILURES)

    def test_one_of_many_gets_the_probe(self, shared: Shared) -> None:
        """Sixteen ask when a probe is due: one holds the lease, all others are refused."""
        shared.fail("a", "b", "c")
        shared.clock.advance(10)
        changes = at_once([lambda token=str(n): shared.apply(PermitRequested(token)) for n in range(16)])  # type: ignore[misc]
        decisions = [change.decision for change in changes]
        assert (decisions.count(Decision.PROBE), decisions.count(Decision.REFUSE)) == (1, 15)
        lease = shared.state().lease
        assert lease and lease.token == str(decisions.index(Decision.PROBE))

    @pytest.mark.parametrize("kept_database", ["postgresql"], indirect=True)  # on SQLite writers queue
    def test_who_comes_second_begins_again(self, shared: Shared) -> None:
        """The first change has no row to wait for: somebody else's gets in, is kept, and ours is worked out anew."""
        shared.breaker = replace(BREAKER, failures=2)
        with before_the_first_change(shared.database, lambda: shared.fail("first")):
            change = shared.fail("second")
        assert [failure.token for failure in shared.state().failures] == ["first", "second"]
        assert shared.state() == change.state
        assert [change.move] == shared.moves()
        assert change.move and change.move.number == 2

    @pytest.mark.parametrize("kept_database", ["postgresql"], indirect=True)
    def test_who_never_gets_through_says_so(self, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
        """After so many tries that is an error of the store, and nothing was changed by it."""
        monkeypatch.setattr(breakers, "TRIES", 1)
        with (
            before_the_first_change(shared.database, lambda: shared.apply(Overridden(Cause.FORCED_CLOSED))),
            pytest.raises(StoreError, match=r"stage\.rung changed 1 times"),
        ):
            shared.fail("never")
        assert shared.failures_kept() == []
        assert shared.state().position is Position.FORCED_CLOSED


@contextmanager
def before_the_first_change(database: Database, other: Callable[[], object]) -> Iterator[None]:
    """Just before a breaker's row is made, `other` changes that breaker, in a transaction of its own."""
    others = [other]

    def get_in(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO breakers ") and others:
            others.pop()()

    sa.event.listen(database.engine, "before_cursor_execute", get_in)
    yield
    sa.event.remove(database.engine, "before_cursor_execute", get_in)


def by_time(state: BreakerState) -> BreakerState:
    """The state with failures of one moment in one order, which has no meaning."""
    return replace(state, failures=tuple(sorted(state.failures, key=lambda failure: (failure.at, failure.token))))


KEYS = 4


class Twins(RuleBasedStateMachine):
    """Breakers of many keys in the store, each beside one in memory: whatever happens, they are the same."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.name = uuid.uuid4().hex  # a new pair for every example; the database is the same
        self.keys = [Key(self.name), *(Key(self.name, f"https://{number}.example") for number in range(KEYS - 1))]
        self.shared = Shared(database, Breaker(scope="key", failures=2, within_s=30, open_for_s=5, lease_s=8))
        self.states = {key: BreakerState() for key in self.keys}
        self.numbers = dict.fromkeys(self.keys, 0)
        self.tokens: dict[Key, list[str]] = {key: [] for key in self.keys}
        self.moves: list[Move] = []

    def token(self, key: Key) -> str:
        """A new one."""
        self.tokens[key].append(f"{self.name}{self.keys.index(key)}{len(self.tokens[key]):03}")
        return self.tokens[key][-1]

    def happens(self, key: Key, event: Event) -> None:
        """In the store as in memory."""
        now = self.shared.clock.now()
        before = self.as_of_now(key)
        after, decision = step(self.shared.breaker, before, event, now)
        change = self.shared.apply(event, key)
        move = None
        if after.position is not before.position:
            number = change.move.number if change.move else 0
            assert number > self.numbers[key], "the numbers of a breaker's moves grow, also where its row was removed"
            self.numbers[key] = number
            positions = {"old": before.position, "new": after.position}
            move = Move(key=key, number=number, at=now, cause=after.cause, why=after.why, **positions)
            self.moves.append(move)
        self.states[key] = BreakerState() if after.is_blank else after
        assert by_time(change.state) == by_time(after)
        assert (change.decision, change.now, change.move) == (decision, now, move)

    def as_of_now(self, key: Key) -> BreakerState:
        """The state in memory, without what has left the window since it was worked out."""
        start = self.shared.clock.now() - timedelta(seconds=self.shared.breaker.within_s)
        failures = tuple(failure for failure in self.states[key].failures if failure.at > start)
        return replace(self.states[key], failures=failures)

    @rule(key=st.integers(0, KEYS - 1))
    def ask(self, key: int) -> None:
        self.happens(self.keys[key], PermitRequested(self.token(self.keys[key])))

    @rule(key=st.integers(0, KEYS - 1))
    def fail(self, key: int) -> None:
        self.happens(self.keys[key], CallEnded(self.token(self.keys[key]), Verdict.FAILED, "down"))

    @rule(key=st.integers(0, KEYS - 1), verdict=st.sampled_from(Verdict), why=st.text(max_size=5))
    def end_probe(self, key: int, verdict: Verdict, why: str) -> None:
        lease = self.states[self.keys[key]].lease
        token = lease.token if lease else self.token(self.keys[key])
        self.happens(self.keys[key], CallEnded(token, verdict, clean_text(why)))

    @rule(key=st.integers(0, KEYS - 1), verdict=st.sampled_from(Verdict), ago=st.integers(1, 4))
    def end_late(self, key: int, verdict: Verdict, ago: int) -> None:
        for token in self.tokens[self.keys[key]][-ago:][:1]:
            self.happens(self.keys[key], CallEnded(token, verdict, "late"))

    @rule(key=st.integers(0, KEYS - 1), ago=st.integers(1, 4))
    def take_back(self, key: int, ago: int) -> None:
        for token in self.tokens[self.keys[key]][-ago:][:1]:
            self.happens(self.keys[key], FailureTakenBack(token))

    @rule(key=st.integers(0, KEYS - 1), seconds=st.sampled_from([1.0, 40.0, 1e6]))
    def asks_to_wait(self, key: int, seconds: float) -> None:
        self.happens(self.keys[key], CallEnded(self.token(self.keys[key]), Verdict.FAILED, "429", seconds))

    @rule(key=st.integers(0, KEYS - 1), cause=st.sampled_from(ORDERS))
    def order(self, key: int, cause: Override) -> None:
        self.happens(self.keys[key], Overridden(cause))

    @rule(seconds=st.sampled_from([0.000001, 1.0, 5.0, 8.0, 10.0, 29.0, 30.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.shared.clock.advance(seconds)

    @invariant()
    def they_are_the_same(self) -> None:
        states, now = breakers.read(self.shared.database, self.shared.breaker, self.keys, clock=self.shared.now)
        expected = {key: by_time(self.as_of_now(key)) for key in self.keys}
        assert states == expected
        at_once, _ = breakers.read_rung(self.shared.database, self.shared.breaker, self.name, clock=self.shared.now)
        assert at_once == {key: state for key, state in expected.items() if not state.is_blank}
        assert now == self.shared.clock.now()

    def teardown(self) -> None:
        order = sorted(self.moves, key=lambda move: (move.at, move.key, move.number))
        assert self.shared.moves(*self.keys) == order


def test_the_shared_breaker_is_the_one_in_memory(database: Database) -> None:
    """Whatever happens to it, in whatever order: same state, same decision, same moves, same numbers."""
    run_state_machine_as_test(
        lambda: Twins(database),
        settings=settings(derandomize=True, deadline=None, max_examples=25, stateful_step_count=25),
    )
