"""Calls side by side, each within its limit: real threads and real hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from repli.tasks.fallback import TimedOut
from repli.tasks.runtime.limited_pool import LimitedPool, restart_limit

SOON_S = 0.2
MOMENT_S = 2.0
"""A limit that a call reaches only where it waits, on a busy machine too."""
LONG_S = 60.0
"""A limit that no call here reaches, on the slowest machine."""


@pytest.fixture
def wakes() -> Iterator[threading.Event]:
    """Wakes the calls that hang, at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def pool() -> Iterator[LimitedPool[str]]:
    """A pool of two threads."""
    pool: LimitedPool[str] = LimitedPool(2)
    yield pool
    pool.close()


def hanging(wakes: threading.Event, threads: list[threading.Thread]) -> Callable[[], None]:
    """A call that hangs in the system, where no exception reaches it."""

    def hang() -> None:
        threads.append(threading.current_thread())
        wakes.wait(LONG_S)

    return hang


def ended(pool: LimitedPool[str]) -> tuple[str, object]:
    """The key of the next call that ends, and what it returned or raised."""
    found = pool.next_ended(wait_s=LONG_S)
    assert found, "no call ended"
    key, outcome = found
    return key, outcome.exception() or outcome.result()


def test_outcomes_have_their_keys(pool: LimitedPool[str]) -> None:
    """More calls than threads, of which one raises: each outcome is that of its call."""
    for number in range(20):
        pool.submit(f"{number}", lambda number=number: number, limit_s=LONG_S)  # type: ignore[misc]
    pool.submit("bad", lambda: 1 // 0, limit_s=LONG_S)
    outcomes = dict(ended(pool) for _ in range(21))
    assert isinstance(outcomes.pop("bad"), ZeroDivisionError)
    assert outcomes == {f"{number}": number for number in range(20)}
    assert pool.next_ended(wait_s=0) is None


def test_two_threads_run_two_calls(pool: LimitedPool[str]) -> None:
    """Each call waits for the other inside: they run at the same time, and a third does not."""
    both, three = threading.Barrier(2), threading.Barrier(3)
    for key in "ab":
        pool.submit(key, lambda: both.wait(LONG_S), limit_s=LONG_S)
    assert {ended(pool)[0], ended(pool)[0]} == {"a", "b"}
    for key in "abc":
        pool.submit(key, lambda: three.wait(SOON_S), limit_s=LONG_S)
    assert all(isinstance(ended(pool)[1], threading.BrokenBarrierError) for _ in range(3))


def test_calls_that_hang_are_cut_off_and_hold_up_no_other(pool: LimitedPool[str], wakes: threading.Event) -> None:
    """Twice as many hang as there are threads: each ends at its own limit, and the calls behind them are made."""
    threads: list[threading.Thread] = []
    for number in range(4):
        pool.submit(f"hangs {number}", hanging(wakes, threads), limit_s=SOON_S)
    pool.submit("behind them", lambda: "made", limit_s=LONG_S)
    started = time.monotonic()
    outcomes = dict(ended(pool) for _ in range(5))
    assert time.monotonic() - started < LONG_S / 2
    assert outcomes.pop("behind them") == "made"
    assert {str(error) for error in outcomes.values()} == {"cut off at its time limit of 0.2 s"}
    assert all(isinstance(error, TimedOut) for error in outcomes.values())
    wakes.set()
    for thread in threads:
        thread.join(LONG_S)
    assert not any(thread.is_alive() for thread in threads)
    assert pool.next_ended(wait_s=0) is None  # what they came to is nobody's answer


def test_limit_begins_with_the_call(pool: LimitedPool[str]) -> None:
    """A call that waits for a free thread loses nothing of its time."""
    free = threading.Event()
    for key in "ab":
        pool.submit(key, lambda: free.wait(LONG_S), limit_s=LONG_S)
    pool.submit("behind them", lambda: "made", limit_s=MOMENT_S)
    assert pool.next_ended(wait_s=1.2 * MOMENT_S) is None
    free.set()
    assert dict(ended(pool) for _ in range(3))["behind them"] == "made"


def test_limits_hold_while_others_end(pool: LimitedPool[str], wakes: threading.Event) -> None:
    """A stream of calls that end at once does not keep the pool from looking at its limits."""
    pool.submit("hangs", hanging(wakes, []), limit_s=SOON_S)
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        pool.submit("quick", lambda: time.sleep(0.01), limit_s=LONG_S)
        key, outcome = ended(pool)
        if key == "hangs":
            assert isinstance(outcome, TimedOut)
            return
    pytest.fail("the call that hangs was not cut off")


def test_what_follows_a_call_has_a_limit_of_its_own(pool: LimitedPool[str], wakes: threading.Event) -> None:
    """`then` gets the result, however little time was left, and is cut off at its own limit."""

    def keep(number: int) -> int:
        time.sleep(1.2 * MOMENT_S)
        return number * 7

    pool.submit("a", lambda: 6, limit_s=MOMENT_S, then=keep, then_limit_s=LONG_S)
    assert ended(pool) == ("a", 42)
    pool.submit("b", lambda: 6, limit_s=LONG_S, then=lambda number: wakes.wait(LONG_S), then_limit_s=SOON_S)
    assert isinstance(ended(pool)[1], TimedOut)


def test_closing_cuts_off_what_runs_and_forgets_what_waits(pool: LimitedPool[str]) -> None:
    """A loop ends, a call behind it is never made, and no thread stays."""
    made: list[str] = []
    threads: list[threading.Thread] = []

    def loop() -> None:
        threads.append(threading.current_thread())
        while True:
            time.sleep(0.001)

    for key in "ab":
        pool.submit(key, loop, limit_s=LONG_S)
    pool.submit("behind them", lambda: made.append("made"), limit_s=LONG_S)
    while len(threads) < 2:
        assert pool.next_ended(wait_s=SOON_S) is None
    pool.close()
    for thread in threads:
        thread.join(LONG_S)
    assert len(threads) == 2
    assert not any(thread.is_alive() for thread in threads)
    assert not made


def test_a_call_that_had_to_wait_begins_its_limit_anew(pool: LimitedPool[str], wakes: threading.Event) -> None:
    """Its turn comes after its first limit; what it does then has a limit of its own, and is cut off at that."""

    def wait_then(work: Callable[[], str]) -> str:
        restart_limit(LONG_S)
        time.sleep(1.2 * MOMENT_S)
        restart_limit(MOMENT_S)
        return work()

    pool.submit("works", lambda: wait_then(lambda: "done"), limit_s=MOMENT_S)
    pool.submit("hangs", lambda: wait_then(lambda: str(wakes.wait(LONG_S))), limit_s=LONG_S)
    started = time.monotonic()
    outcomes = dict(ended(pool) for _ in range(2))
    assert outcomes["works"] == "done"
    assert isinstance(outcomes["hangs"], TimedOut)
    assert time.monotonic() - started < LONG_S / 2


def test_a_limit_is_restarted_in_calls_of_a_pool_only() -> None:
    """Elsewhere there is none."""
    restart_limit(SOON_S)
