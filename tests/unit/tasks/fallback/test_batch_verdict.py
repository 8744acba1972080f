"""The verdict of a batch on its rung: sentence by sentence, against an oracle, and with many workers on one breaker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
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
    NotHere,
    Outcome,
    OutOfMemory,
    Position,
    Served,
    TimedOut,
    Unavailable,
    WorkingSizes,
)
from repli.tasks.fallback.breaker import BreakerState, Cause, Decision, Verdict
from repli.tasks.fallback.breaker_client import BatchPermit, Permit, verdict_of
from repli.tasks.fallback.errors import Declined
from repli.tasks.fallback.splitting import GIVE_UP_AFTER, call_rung
from tests.support.fakes import Does, LocalGate, ManualClock, ScriptedRung, works

R = TypeVar("R")

SERVED, FAILED, INCONCLUSIVE = Verdict.SERVED, Verdict.FAILED, Verdict.INCONCLUSIVE
BROKEN = RuntimeError("no driver")
ITEMS = 128


class Batch:
    """The calls of one batch of a rung, whose breaker opens after so many failures."""

    def __init__(self, failures: int = 10**6) -> None:
        self.clock = ManualClock()
        self.gate = LocalGate("gpu", Breaker(scope="fleet", failures=failures), self.clock)
        self.permit = BatchPermit(self.gate)

    def raises(self, error: Exception = BROKEN, *, items: int = 64) -> Batch:
        self.permit.record_error(self.permit.acquire(), error, items=items)
        return self

    def answers(self, *outcomes: Outcome[str]) -> Batch:
        self.permit.record(self.permit.acquire(), *verdict_of(outcomes))
        return self

    def ends(self) -> list[tuple[str, Verdict]]:
        self.permit.finish()
        return self.gate.ends


# Sentence by sentence


def test_a_batch_has_one_permit_and_one_verdict() -> None:
    """However many calls it takes: the breaker is asked for each, and told once, when the batch ends."""
    batch = Batch().raises().raises().raises()
    assert batch.gate.ends == []
    assert batch.ends() == [("1", FAILED)]
    assert len(batch.gate.permits) == 3


def test_something_served_is_no_failure() -> None:
    """Whatever failed before it and after: its items did."""
    assert Batch().raises().answers(Served("a")).raises(TimedOut("cut off")).ends() == [("1", SERVED)]


def test_nothing_served_is_one_failure() -> None:
    """With the first error that no item caused, wherever the items' own errors stand."""
    bad = Failed.because(ItemError("it is no image"))
    batch = Batch().answers(bad).raises(BROKEN).raises(TimedOut("cut off")).answers(bad)
    assert batch.ends() == [("1", FAILED)]
    opened = Batch(failures=1).answers(bad).raises(BROKEN).raises(TimedOut("cut off"))
    opened.ends()
    assert opened.gate.state.why == "RuntimeError: no driver"


@pytest.mark.parametrize(
    "error", [ItemError("bad"), Declined("unsure"), NotHere("no device"), OutOfMemory("full"), MemoryError()], ids=repr
)
def test_what_no_rung_caused_is_inconclusive(error: Exception) -> None:
    """Items' own errors, a device that is elsewhere, and memory that a smaller call may find."""
    assert Batch().raises(error, items=2).ends() == [("1", INCONCLUSIVE)]


def test_out_of_memory_with_one_item_is_a_failure() -> None:
    """No smaller call may find it."""
    assert Batch().raises(MemoryError(), items=2).raises(MemoryError(), items=1).ends() == [("1", FAILED)]


def test_a_probe_is_recorded_when_it_ends() -> None:
    """By itself; what is called once it has been served is another permit, and the batch has served."""
    batch = Batch(failures=1).raises()
    batch.ends()
    batch.clock.advance(60)
    after = BatchPermit(batch.gate)
    probe = after.acquire()
    assert probe.is_probe
    after.record(probe, SERVED)
    assert batch.gate.state.position is Position.CLOSED
    after.record_error(after.acquire(), BROKEN, items=64)
    after.finish()
    assert batch.gate.ends[1:] == [(probe.token, SERVED), ("3", SERVED)]


def test_a_batch_that_was_refused_or_cancelled_records_nothing() -> None:
    """Neither a failure nor a service."""
    batch = Batch(failures=1).raises()
    batch.ends()
    refused = BatchPermit(batch.gate)
    assert refused.acquire().is_refused
    refused.finish()
    assert batch.gate.ends == [("1", FAILED)]
    cancelled = Batch().raises()
    cancelled.permit.cancel(cancelled.permit.acquire())
    assert cancelled.gate.ends == [("1", INCONCLUSIVE)]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(Verdict), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_the_calls_does_not_matter(verdicts: list[Verdict], rng: Random) -> None:
    """Served beats failed, and failed beats inconclusive."""
    rng.shuffle(verdicts)
    batch = Batch()
    for verdict in verdicts:
        batch.permit.record(batch.permit.acquire(), verdict)
    best = next(verdict for verdict in (SERVED, FAILED, INCONCLUSIVE) if verdict in verdicts)
    assert batch.ends() == [("1", best)]


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

    def acquire(self) -> Permit:
        self.turn()
        return self.shared.acquire()

    def refusal(self) -> str | None:
        return None

    def record(self, permit: Permit, verdict: Verdict, why: str = "", *, retry_after_s: float | None = None) -> None:
        self.shared.record(permit, verdict, why, retry_after_s=retry_after_s)

    def take_back(self, permit: Permit) -> None:
        self.shared.take_back(permit)

    def refusal_elsewhere(self) -> str | None:
        return None


@dataclass(eq=False)
class Fleet:
    """Workers with one breaker, whose primary breaks after so many turns."""

    seed: int
    failures: int
    breaks_after: float = float("inf")
    error: Exception = BROKEN
    calls_of: int = ITEMS

    def __post_init__(self) -> None:
        self.gate = LocalGate("gpu", Breaker(scope="fleet", failures=self.failures), ManualClock())
        self.turns = Turns(Random(self.seed))

    def work(self, rungs: Sequence[ScriptedRung], *, batches: int) -> list[list[str]]:
        """Each worker's items that its rung did not serve, over so many batches, the same again."""

        def worker(rung: ScriptedRung) -> Callable[[Callable[[], None]], list[str]]:
            def works_on(turn: Callable[[], None]) -> list[str]:
                gate, sizes = WorkersGate(self.gate, turn), WorkingSizes()
                if self.calls_of < ITEMS:
                    sizes.record_out_of_memory("gpu", 2 * self.calls_of)

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
    fleet = Fleet(seed=seed, failures=failures)
    rungs = [poison.rung() if poison else ScriptedRung("gpu") for poison in batch_of]
    assert fleet.work(rungs, batches=2) == [[str(poison.item)] * 2 if poison else [] for poison in batch_of]
    assert fleet.gate.state == BreakerState()
    assert set(fleet.gate.verdicts) == {SERVED}
    assert set(fleet.gate.decisions) == {Decision.CALL}


def failed_calls(rungs: Iterable[ScriptedRung]) -> int:
    return sum(len(rung.calls) - len(rung.answered) for rung in rungs)


@settings(derandomize=True, deadline=None, max_examples=90)
@given(
    seed=seeds,
    workers=st.integers(1, 16),
    failures=st.integers(1, 8),
    error=st.sampled_from([BROKEN, TimedOut("cut off"), Unavailable("no CUDA device"), OutOfMemory("full")]),
    turns=st.integers(0, 6),
    calls_of=st.sampled_from([ITEMS, 32]),
)
def test_a_primary_that_dies_is_called_in_a_bounded_number_of_batches(
    seed: int, workers: int, failures: int, error: Exception, turns: int, calls_of: int
) -> None:
    """In those that open the breaker, and those under way then, each of which costs as many calls as its error takes;
    and in one a worker in whose midst it died, which costs twice as many. Halving is once a worker."""
    fleet = Fleet(seed, failures, breaks_after=turns * workers, error=error, calls_of=calls_of)
    rungs = [ScriptedRung("gpu") for _ in range(workers)]
    fleet.work(rungs, batches=40)
    batches = failures + workers - 1
    is_one_call = calls_of == ITEMS
    calls = {TimedOut: 1 if is_one_call else 2, Unavailable: 1}.get(type(error), GIVE_UP_AFTER)
    in_the_midst = 0 if is_one_call else 2 if isinstance(error, TimedOut) else 2 * calls
    halvings = calls_of.bit_length() - 1 if isinstance(error, OutOfMemory) else 0
    assert failures <= fleet.gate.verdicts.count(FAILED) <= batches
    assert failures <= failed_calls(rungs) <= batches * calls + workers * (halvings + in_the_midst)
    assert fleet.gate.state.position is Position.OPEN
    assert fleet.gate.state.cause is Cause.TOO_MANY_FAILURES


def test_the_same_seed_plays_the_same_turns() -> None:
    """What a simulation finds can be found again."""
    played = []
    for seed in (7, 7, 8):
        fleet = Fleet(seed=seed, failures=5, breaks_after=9)
        fleet.work([ScriptedRung("gpu") for _ in range(4)], batches=9)
        played.append((fleet.turns.taken, fleet.gate.ends))
    assert played[0] == played[1] != played[2]
