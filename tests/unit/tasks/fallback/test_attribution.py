"""Whose fault failed calls are: sentence by sentence, against an oracle, and with many workers on one breaker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from threading import Semaphore, Thread
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repli.tasks.fallback import (
    Breaker,
    Failed,
    ItemError,
    Outcome,
    OutOfMemory,
    Position,
    Served,
    TimedOut,
    Unavailable,
    WorkingSizes,
)
from repli.tasks.fallback.attribution import MAX_HELD_FAILURES, FailureAttribution
from repli.tasks.fallback.breaker import BreakerState, Cause, Decision, Verdict
from repli.tasks.fallback.breaker_client import Permit
from repli.tasks.fallback.errors import BadAnswer
from repli.tasks.fallback.splitting import call_rung
from tests.support.fakes import Does, LocalGate, ManualClock, ScriptedRung, works

R = TypeVar("R")

SERVED, FAILED, INCONCLUSIVE = Verdict.SERVED, Verdict.FAILED, Verdict.INCONCLUSIVE
BROKEN = RuntimeError("no driver")
ITEMS = 128


class Batch:
    """The calls of one batch of a rung, whose breaker does not open, but where `failures` says so."""

    def __init__(self, *, is_trusted: bool, has_neighbours: bool = True, failures: int = 10**6) -> None:
        self.gate = LocalGate("gpu", Breaker(scope="fleet", failures=failures), ManualClock())
        self.gate.has_served_last = is_trusted
        self.blame = FailureAttribution(self.gate, has_neighbours=has_neighbours)

    def asks(self, **changes: Any) -> Permit:
        """The permit of the next call, which may differ from what the gate says."""
        self.gate.permits.append(replace(self.gate.acquire(), **changes))
        return self.gate.permits.pop()

    def raises(self, error: Exception = BROKEN, *, items: int = 64, **changes: Any) -> Batch:
        self.blame.record_error(self.asks(**changes), error, items=items)
        return self

    def answers(self, *outcomes: Outcome[str], **changes: Any) -> Batch:
        self.blame.record_answer(self.asks(**changes), outcomes)
        return self

    def serves(self) -> Batch:
        return self.answers(Served("a"), Failed.because(ItemError("it is no image")))

    def is_over(self) -> Batch:
        self.blame.finish()
        return self

    @property
    def told(self) -> list[str]:
        """The failed calls that the gate was told of, in that order."""
        return [token for token, verdict in self.gate.ends if verdict is FAILED]

    @property
    def window(self) -> list[str]:
        """Those of them that still count."""
        return [failure.token for failure in self.gate.state.failures]


# Sentence by sentence


@pytest.mark.parametrize(("first_half_is_bad", "failed"), [(True, 2), (False, 1)])
def test_a_bad_item_breaks_its_batch_and_one_of_its_halves(first_half_is_bad: bool, failed: int) -> None:
    """...and the other half is served: so many failed calls in a row are held back, and not one is told."""
    assert MAX_HELD_FAILURES == 2
    batch = Batch(is_trusted=True).raises(items=128)
    if first_half_is_bad:
        batch.raises(items=64)
    batch.serves()
    assert batch.gate.ends == [(str(failed + 1), SERVED)]
    assert batch.is_over().gate.ends == [(str(failed + 1), SERVED)]
    assert not batch.gate.excused


@pytest.mark.parametrize("is_trusted", [False, True])
def test_a_rung_that_is_down_serves_nobody(is_trusted: bool) -> None:
    """Every failed call of it counts in the end, once, whatever it was worth before."""
    batch = Batch(is_trusted=is_trusted)
    for _ in range(9):
        batch.raises()
    assert batch.is_over().window == batch.told == list("123456789")
    assert not batch.gate.excused


def test_a_failed_call_counts_at_once() -> None:
    """Of a rung that did not serve last, or of which this process knows nothing; with the line of its error."""
    batch = Batch(is_trusted=False).raises()
    assert batch.window == ["1"]
    failed = Failed.because(BadAnswer("nonsense"))
    assert batch.answers(failed, failed).window == ["1", "2"]


def test_it_is_excused_where_the_same_batch_is_served_afterwards() -> None:
    """All that failed so far, in one excuse."""
    batch = Batch(is_trusted=False).raises().raises(TimedOut("cut off")).answers(Failed.because(BadAnswer("nonsense")))
    assert batch.window == ["1", "2", "3"]
    assert batch.serves().window == []
    assert batch.gate.excused == batch.told == ["1", "2", "3"]
    assert batch.is_over().gate.excused == ["1", "2", "3"]


def test_answers_that_blame_the_items_excuse_too() -> None:
    """A call that came back shows that the rung is not what broke the others, and it is trusted from there on."""
    batch = Batch(is_trusted=False).raises().answers(Failed.because(ItemError("it is no image"))).raises()
    assert batch.gate.ends == [("1", FAILED), ("2", INCONCLUSIVE)]
    assert batch.gate.excused == ["1"]


def test_what_failed_last_in_a_served_batch_is_excused_when_it_is_over() -> None:
    """Counted or held back: a batch that was served had bad items."""
    batch = Batch(is_trusted=True).serves().raises().raises().raises()
    assert batch.window == ["2", "3", "4"]
    assert batch.is_over().window == []
    assert batch.gate.excused == ["2", "3", "4"]
    assert Batch(is_trusted=True).serves().raises().is_over().gate.ends == [("1", SERVED)]


def test_of_a_rung_that_served_last_the_first_failed_calls_are_held_back() -> None:
    """Two of them; the third says that the rung is down, and all three are told at once, in their order. From there
    on each counts at once."""
    batch = Batch(is_trusted=True).raises().raises(TimedOut("cut off"))
    assert batch.told == []
    batch.answers(Failed.because(BadAnswer("nonsense")))
    assert batch.told == ["1", "2", "3"]
    assert batch.raises(is_trusted=True).told == ["1", "2", "3", "4"]
    assert batch.raises(is_trusted=True).told == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(("opens", "why"), [(1, "RuntimeError: one"), (2, "TimedOut: two"), (3, "BadAnswer: three")])
def test_each_is_told_with_its_own_error(opens: int, why: str) -> None:
    """Also where it is told late: a breaker says which of them opened it."""
    batch = Batch(is_trusted=True, failures=opens).raises(RuntimeError("one")).raises(TimedOut("two"))
    assert batch.gate.state.position is Position.CLOSED
    batch.answers(Failed.because(BadAnswer("three")))
    assert (batch.gate.state.position, batch.gate.state.why) == (Position.OPEN, why)


def test_served_in_this_batch_is_served_last() -> None:
    """Whatever the permits say, which another thread of the process may have had a part in."""
    batch = Batch(is_trusted=False).raises().serves()
    batch.raises(is_trusted=False).raises(is_trusted=False)
    assert batch.told == ["1"]
    assert batch.raises(is_trusted=False).window == ["3", "4", "5"]


def test_until_the_next_call_tells() -> None:
    """In a row means: none came back in between. Each call that did begins the row anew."""
    batch = Batch(is_trusted=True)
    for _ in range(5):
        batch.raises().raises().serves()
    assert batch.told == []


def test_a_batch_that_ends_unserved_counts() -> None:
    """No call is left to tell."""
    batch = Batch(is_trusted=True).raises()
    assert batch.told == []
    assert batch.is_over().window == ["1"]


def test_a_batch_that_was_cut_short_drops_what_was_held_back() -> None:
    """Refused or cancelled, it is never over: nobody will know."""
    assert Batch(is_trusted=True).raises().raises().gate.ends == []


@pytest.mark.parametrize("error", [OutOfMemory("full"), MemoryError()])
@pytest.mark.parametrize("is_trusted", [False, True])
def test_running_out_of_memory_with_several_items_is_no_failure(error: Exception, is_trusted: bool) -> None:
    """Splitting may cure it. With one item it is one, and tells no more of whose it is than another."""
    batch = Batch(is_trusted=is_trusted).raises(error, items=2)
    assert batch.gate.ends == [("1", INCONCLUSIVE)]
    assert batch.raises(error, items=1).told == ([] if is_trusted else ["2"])
    assert batch.is_over().window == ["2"]


def test_what_says_nothing_tells_nothing() -> None:
    """Neither memory nor an item's error of a whole call ends a row of failed calls, or is part of it."""
    batch = Batch(is_trusted=True).raises()
    for error in (OutOfMemory("full"), ItemError("it is no image"), MemoryError()):
        batch.raises(error)
    assert batch.gate.ends == [("2", INCONCLUSIVE), ("3", INCONCLUSIVE), ("4", INCONCLUSIVE)]
    assert batch.raises().told == []
    assert batch.raises(OutOfMemory("full")).raises().told == ["1", "5", "7"]


@pytest.mark.parametrize("count", [1, 2])
def test_item_error_of_a_whole_call_is_no_failure(count: int) -> None:
    """Also of a call with one item."""
    batch = Batch(is_trusted=False).raises(ItemError("it is no image"), items=count).is_over()
    assert batch.gate.ends == [("1", INCONCLUSIVE)]


def test_a_probe_counts_at_once() -> None:
    """Its verdict moves the breaker."""
    nonsense = Failed.because(BadAnswer("nonsense"))
    assert Batch(is_trusted=True).raises(items=1, decision=Decision.PROBE).told == ["1"]
    assert Batch(is_trusted=True).answers(nonsense, decision=Decision.PROBE).told == ["1"]


def test_a_rung_that_is_not_here_counts_at_once() -> None:
    """With what was held back before it; and it is not excused, since no item makes a device go away."""
    batch = Batch(is_trusted=True).raises().raises(Unavailable("no CUDA device"))
    assert batch.window == ["1", "2"]
    assert batch.serves().window == ["2"]
    assert batch.gate.excused == ["1"]


@pytest.mark.parametrize("is_trusted", [False, True])
def test_calls_of_one_item_count_at_once(is_trusted: bool) -> None:
    """Where each call has one: there are no neighbours to tell by, and nobody is excused either."""
    batch = Batch(is_trusted=is_trusted, has_neighbours=False).raises(items=1)
    assert batch.told == ["1"]
    assert batch.serves().raises(items=1).told == ["1", "3"]
    assert batch.is_over().window == ["1", "3"]
    assert not batch.gate.excused


# Against an oracle


class Call(StrEnum):
    """How a call went."""

    SERVED = "served"
    BAD_ITEMS = "bad items"
    NONSENSE = "nonsense"
    BROKE = "broke"
    NO_MEMORY_FOR_ONE = "no memory for one"
    NO_MEMORY = "no memory"
    ITEM_ERROR = "item error"
    GONE = "gone"

    @property
    def came_back(self) -> bool:
        return self in (Call.SERVED, Call.BAD_ITEMS)

    @property
    def says_nothing(self) -> bool:
        return self in (Call.NO_MEMORY, Call.ITEM_ERROR)


def make(batch: Batch, call: Call, **changes: Any) -> None:
    match call:
        case Call.SERVED:
            batch.answers(Served("a"), Failed.because(BadAnswer("nonsense")), **changes)
        case Call.BAD_ITEMS:
            batch.answers(Failed.because(ItemError("it is no image")), **changes)
        case Call.NONSENSE:
            batch.answers(Failed.because(ItemError("it is no image")), Failed.because(BadAnswer("none")), **changes)
        case Call.BROKE:
            batch.raises(**changes)
        case Call.NO_MEMORY_FOR_ONE:
            batch.raises(OutOfMemory("full"), items=1, **changes)
        case Call.NO_MEMORY:
            batch.raises(OutOfMemory("full"), **changes)
        case Call.ITEM_ERROR:
            batch.raises(ItemError("it is no image"), **changes)
        case Call.GONE:
            batch.raises(Unavailable("no CUDA device"), **changes)


@dataclass(slots=True)
class Oracle:
    """Who counts, told over the whole batch: its failed calls fall into rows, which end where a call comes back."""

    has_neighbours: bool
    rows: list[list[tuple[str, Call, bool]]] = field(default_factory=lambda: [[]])

    def happened(self, token: str, call: Call, *, is_trusted: bool, is_probe: bool) -> None:
        if call.came_back:
            self.rows.append([])
        elif not call.says_nothing:
            may_wait = (is_trusted or len(self.rows) > 1) and not is_probe and call is not Call.GONE
            self.rows[-1].append((token, call, may_wait))

    def window(self, *, is_over: bool) -> list[str]:
        if not self.has_neighbours:
            return [token for row in self.rows for token, _, _ in row]
        *ended, last = self.rows
        if is_over and ended:
            ended, last = self.rows, []
        gone = [token for row in ended for token, call, _ in row if call is Call.GONE]
        waits = len(last) <= 2 and all(may_wait for _, _, may_wait in last) and not is_over
        return gone + [token for token, _, _ in last if not waits]


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from([*Call, Call.BROKE, Call.BROKE, Call.BROKE]),
            st.sampled_from([True, True, False]),
            st.sampled_from([False, False, False, True]),
        ),
        max_size=12,
    ),
    has_neighbours=st.sampled_from([True, True, False]),
)
def test_what_counts_is_what_the_oracle_says(calls: list[tuple[Call, bool, bool]], has_neighbours: bool) -> None:
    """After each call of any batch, and when it is over; whatever is told is told once, and what is no failure at
    once."""
    batch, oracle = Batch(is_trusted=False, has_neighbours=has_neighbours), Oracle(has_neighbours)
    for number, (call, is_trusted, is_probe) in enumerate(calls, start=1):
        decision = Decision.PROBE if is_probe else Decision.CALL
        make(batch, call, is_trusted=is_trusted, decision=decision)
        oracle.happened(str(number), call, is_trusted=is_trusted, is_probe=is_probe)
        if call.came_back or call.says_nothing:
            assert batch.gate.ends[-1] == (str(number), SERVED if call is Call.SERVED else INCONCLUSIVE)
        assert batch.window == oracle.window(is_over=False)
    batch.is_over()
    assert batch.window == oracle.window(is_over=True)
    assert len({token for token, _ in batch.gate.ends}) == len(batch.gate.ends)


# Many workers, one breaker


class Turns:
    """Workers of which one goes on at a time, each until it takes its next turn; who is next is drawn."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.taken = 0
        self._is_back = Semaphore(0)

    def play(self, workers: Sequence[Callable[[Callable[[], None]], R]]) -> list[R]:
        """What they return, each of which is given what it calls to let others have their turn."""
        goes = [Semaphore(0) for _ in workers]
        results: list[Future[R]] = [Future() for _ in workers]
        threads = [Thread(target=self._work, args=one, daemon=True) for one in zip(workers, goes, results, strict=True)]
        for thread in threads:
            thread.start()
        while going := [number for number, result in enumerate(results) if not result.done()]:
            self.taken += 1
            goes[self.rng.choice(going)].release()
            self._is_back.acquire()
        for thread in threads:
            thread.join()
        return [result.result() for result in results]

    def _work(self, worker: Callable[[Callable[[], None]], R], goes: Semaphore, result: Future[R]) -> None:
        def turn() -> None:
            self._is_back.release()
            goes.acquire()

        goes.acquire()
        try:
            result.set_result(worker(turn))
        except BaseException as error:
            result.set_exception(error)
        self._is_back.release()


@dataclass(slots=True, eq=False)
class WorkersGate:
    """The one breaker as one of the workers sees it. Others may have their turn before it is asked."""

    shared: LocalGate
    turn: Callable[[], None]
    has_served_last: bool

    def acquire(self) -> Permit:
        self.turn()
        return replace(self.shared.acquire(), is_trusted=self.has_served_last)

    def record(self, permit: Permit, verdict: Verdict, why: str = "") -> None:
        if verdict is not INCONCLUSIVE:
            self.has_served_last = verdict is SERVED
        self.shared.record(permit, verdict, why)

    def forgive(self, permits: Iterable[Permit]) -> None:
        self.shared.forgive(permits)


@dataclass(eq=False)
class Fleet:
    """Workers with one breaker, whose primary breaks after so many turns."""

    seed: int
    failures: int
    has_served: bool
    breaks_after: float = float("inf")
    error: Exception = BROKEN

    def __post_init__(self) -> None:
        self.gate = LocalGate("gpu", Breaker(scope="fleet", failures=self.failures), ManualClock())
        self.turns = Turns(Random(self.seed))

    def work(self, rungs: Sequence[ScriptedRung], *, batches: int) -> list[list[str]]:
        """Each worker's items that its rung did not serve, over so many batches, the same again."""

        def worker(rung: ScriptedRung) -> Callable[[Callable[[], None]], list[str]]:
            def works_on(turn: Callable[[], None]) -> list[str]:
                gate, sizes = WorkersGate(self.gate, turn, self.has_served), WorkingSizes()

                def call(batch: Any, permit: Permit, running: object) -> Sequence[Outcome[str]]:
                    turn()
                    if self.turns.taken > self.breaks_after:
                        rung.always = self.error
                    return rung.on(batch)

                missed = []
                for _ in range(batches):
                    replies = call_rung(
                        "gpu",
                        works(ITEMS),
                        call,
                        per_item=False,
                        sizes=sizes,
                        free_memory=lambda: None,
                        timer=rung.clock.timer,
                        breaker=gate,
                    )
                    missed += [item for item, outcome in replies.outcomes.items() if isinstance(outcome, Failed)]
                    if len(replies.refused) == ITEMS:
                        break
                else:
                    assert self.gate.state.position is Position.CLOSED, "it is refused in the end"
                return missed

            return works_on

        return self.turns.play([worker(rung) for rung in rungs])


@dataclass(frozen=True, slots=True)
class Poison:
    """An item that breaks its calls, or does not fit alone."""

    item: int
    fits: bool

    def rung(self) -> ScriptedRung:
        item = str(self.item)
        return ScriptedRung("gpu", {item: Does.BREAK}) if self.fits else ScriptedRung("gpu", fits={item: 0})


poisons = st.builds(Poison, st.integers(0, ITEMS - 1), st.booleans())
seeds = st.integers(0, 2**32)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(seed=seeds, batch_of=st.lists(st.none() | poisons, min_size=1, max_size=16), failures=st.integers(1, 5))
@example(seed=1, batch_of=[Poison(0, fits=True)] * 3, failures=5)
@example(seed=2, batch_of=[Poison(127, fits=True)] * 16, failures=1)
@example(seed=3, batch_of=[Poison(0, fits=False)] * 16, failures=1)
def test_bad_items_of_many_workers_do_not_open_their_breaker(
    seed: int, batch_of: list[Poison | None], failures: int
) -> None:
    """A bad item in each worker's batch, call by call in any order: no failure is told, even the strictest breaker
    stays closed, and each worker misses its bad item and no other."""
    fleet = Fleet(seed=seed, failures=failures, has_served=True)
    rungs = [poison.rung() if poison else ScriptedRung("gpu") for poison in batch_of]
    assert fleet.work(rungs, batches=2) == [[str(poison.item)] * 2 if poison else [] for poison in batch_of]
    assert fleet.gate.state == BreakerState()
    assert FAILED not in fleet.gate.verdicts
    assert set(fleet.gate.decisions) == {Decision.CALL}


def failed_calls(rungs: Iterable[ScriptedRung]) -> int:
    return sum(len(rung.calls) - len(rung.answered) for rung in rungs)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    seed=seeds,
    workers=st.integers(1, 16),
    failures=st.integers(1, 8),
    error=st.sampled_from([BROKEN, BROKEN, TimedOut("cut off"), Unavailable("no CUDA device")]),
    turns=st.integers(0, 6),
)
def test_a_primary_that_dies_is_called_a_few_times_by_each_worker(
    seed: int, workers: int, failures: int, error: Exception, turns: int
) -> None:
    """At most two calls of each that were held back, and one under way, more than open the breaker."""
    fleet = Fleet(seed, failures, has_served=True, breaks_after=turns * workers, error=error)
    rungs = [ScriptedRung("gpu") for _ in range(workers)]
    fleet.work(rungs, batches=40)
    assert failures <= failed_calls(rungs) <= failures + (3 if error is BROKEN else 1) * workers
    assert fleet.gate.state.position is Position.OPEN
    assert fleet.gate.state.cause is Cause.TOO_MANY_FAILURES


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    seed=seeds,
    workers=st.integers(1, 16),
    failures=st.integers(1, 8),
    error=st.sampled_from([BROKEN, TimedOut("cut off"), Unavailable("no CUDA device")]),
)
def test_a_primary_that_is_dead_from_the_start_has_no_credit(
    seed: int, workers: int, failures: int, error: Exception
) -> None:
    """Nothing is held back: as many calls as open the breaker, and those under way."""
    fleet = Fleet(seed, failures, has_served=False, breaks_after=0, error=error)
    rungs = [ScriptedRung("gpu") for _ in range(workers)]
    fleet.work(rungs, batches=20)
    assert failures <= failed_calls(rungs) <= failures - 1 + workers
    assert len(fleet.gate.state.failures) == failed_calls(rungs)
    assert not fleet.gate.excused


def test_the_same_seed_plays_the_same_turns() -> None:
    """What a simulation finds can be found again."""
    played = []
    for seed in (7, 7, 8):
        fleet = Fleet(seed=seed, failures=5, has_served=True, breaks_after=9)
        fleet.work([ScriptedRung("gpu") for _ in range(4)], batches=9)
        played.append((fleet.turns.taken, fleet.gate.ends))
    assert played[0] == played[1] != played[2]
