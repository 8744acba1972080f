"""Results made ahead: in order, no more than asked for, by threads that end with their user."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from repli.tasks.fallback import TimedOut
from repli.tasks.runtime.ahead import made_ahead
from repli.tasks.runtime.time_limit import TimeLimiter

LONG_S = 30.0
"""A wait that no test here reaches, on the slowest machine."""


@pytest.fixture
def wakes() -> Iterator[threading.Event]:
    """Wakes the threads that wait, at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def until(is_true: Callable[[], bool]) -> bool:
    """Whether it becomes true."""
    deadline = time.monotonic() + LONG_S
    while not is_true() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return is_true()


class Recorder:
    """Doubles numbers, and notes the threads that it runs in."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()
        self.done = 0

    def __call__(self, number: int) -> int:
        self.threads.add(threading.current_thread())
        self.done += 1
        return 2 * number

    def has_ended(self) -> bool:
        return not any(thread.is_alive() for thread in self.threads)


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_results_have_the_order_of_the_items(threads: int, count: int) -> None:
    """In lists of four and a last one with the rest, by any number of threads."""
    double = Recorder()
    with made_ahead(double, range(count), threads=threads, at_least=4, at_most=4) as chunks:
        lists = list(chunks)
    assert [number for one in lists for number in one] == [2 * number for number in range(count)]
    assert [len(one) for one in lists] == [4] * (count // 4) + [count % 4] * bool(count % 4)


def test_a_late_result_keeps_its_place(wakes: threading.Event) -> None:
    """The first one is made last: the others wait for it."""
    made = []

    def make(number: int) -> int:
        if number == 0:
            wakes.wait(LONG_S)
        made.append(number)
        if len(made) == 3:
            wakes.set()
        return number

    with made_ahead(make, range(4), threads=2, at_least=4, at_most=4) as chunks:
        assert next(chunks) == [0, 1, 2, 3]
    assert made[-1] == 0


def test_all_that_is_ready_is_taken() -> None:
    """A user that comes late gets more at once, though no more than it can take."""
    double = Recorder()
    with made_ahead(double, range(100), threads=2, at_least=2, at_most=8) as chunks:
        first = next(chunks)
        assert until(lambda: double.done == 10)
        second = next(chunks)
    assert 10 - len(first) <= len(second) <= 8


def test_no_more_is_made_ahead_than_is_soon_needed() -> None:
    """A user that is slow does not find all results of a large batch in its memory."""
    double = Recorder()
    with made_ahead(double, range(1000), threads=2, at_least=4, at_most=4) as chunks:
        next(chunks)
        assert until(lambda: double.done == 8)
        next(chunks)
        assert until(lambda: double.done == 12)
    assert double.done == 12


def test_they_are_made_beside_their_user() -> None:
    """While the user holds the first list, the next are being made."""
    begun: queue.SimpleQueue[int] = queue.SimpleQueue()

    def make(number: int) -> int:
        begun.put(number)
        return number

    with made_ahead(make, range(4), threads=2, at_least=2, at_most=2) as chunks:
        next(chunks)
        assert {begun.get(timeout=LONG_S) for _ in range(4)} == {0, 1, 2, 3}


def test_one_thread_is_the_users_own() -> None:
    """Nothing is made before it is asked for, and no thread is started."""
    double = Recorder()
    with made_ahead(double, range(9), threads=1, at_least=4, at_most=4) as chunks:
        next(chunks)
        assert (double.done, double.threads) == (4, {threading.current_thread()})


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_raised_reaches_the_user(threads: int) -> None:
    """As it was raised; what waited is not made, and the threads end."""
    double = Recorder()

    def make(number: int) -> int:
        return double(number) if number != 1 else 1 // 0

    with (
        pytest.raises(ZeroDivisionError),
        made_ahead(make, range(1000), threads=threads, at_least=4, at_most=4) as chunks,
    ):
        list(chunks)
    assert double.done < 10
    assert until(lambda: double.has_ended() or threads == 1)


def test_threads_end_with_their_user() -> None:
    """One that leaves in the middle leaves no thread."""
    double = Recorder()
    with made_ahead(double, range(100), threads=4, at_least=4, at_most=4) as chunks:
        next(chunks)
    assert until(double.has_ended)


@pytest.mark.parametrize("hangs_in", ["threads", "user"])
def test_a_user_that_is_cut_off_leaves_no_thread(wakes: threading.Event, hangs_in: str) -> None:
    """At its time limit, whether it waits for a result that never comes or hangs itself; no exception gets loose."""
    loose: list[object] = []
    double = Recorder()

    def make(number: int) -> int:
        double(number)
        while hangs_in == "threads" and number >= 4 and not wakes.is_set():
            pass
        return number

    def use() -> None:
        with made_ahead(make, range(100), threads=2, at_least=4, at_most=4) as chunks:
            next(chunks)
            while hangs_in == "user":
                pass
            next(chunks)

    before, threading.excepthook = threading.excepthook, loose.append
    try:
        with pytest.raises(TimedOut):
            TimeLimiter()(use, limit_s=0.5, name="use")
        assert double.threads
        assert until(double.has_ended)
    finally:
        threading.excepthook = before
    assert loose == []
