"""Time limits that really cut off: real threads, real hangs, and real processes that end."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from repli.tasks.fallback import TimedOut
from repli.tasks.runtime.time_limit import TimeLimiter
from tests.support import ROOT

SOON_S = 0.3
"""A limit that a hanging call reaches at once."""
LONG_S = 60.0
"""A limit that no call here reaches, on the slowest machine."""


@pytest.fixture
def limiter() -> TimeLimiter:
    """A limiter with no call made yet."""
    return TimeLimiter()


def ends(thread: threading.Thread) -> bool:
    """Whether the thread ends, given the time that a slow machine needs."""
    thread.join(LONG_S)
    return not thread.is_alive()


def test_answer_in_time_is_the_answer(limiter: TimeLimiter) -> None:
    """A call that ends in time changes nothing."""
    assert limiter(lambda: "answer", LONG_S, "fetch.origin") == "answer"


@pytest.mark.parametrize("error", [ValueError("bad"), StopIteration(), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_error_in_time_is_the_error(limiter: TimeLimiter, error: BaseException) -> None:
    """What the function raises is raised to its caller, interrupts included, and the next call works."""

    def function() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        limiter(function, LONG_S, "fetch.origin")
    assert raised.value is error
    assert limiter(lambda: 1, LONG_S, "fetch.origin") == 1


def test_timeout_error_of_the_function_is_its_own(limiter: TimeLimiter) -> None:
    """A socket that timed out is no call that was cut off."""

    def function() -> None:
        raise TimeoutError("the socket timed out")

    with pytest.raises(TimeoutError, match="the socket timed out"):
        limiter(function, LONG_S, "fetch.origin")


def test_endless_loop_ends(limiter: TimeLimiter) -> None:
    """A loop in Python is cut off: its caller goes on, and its thread is gone."""
    threads: list[threading.Thread] = []

    def loop() -> None:
        threads.append(threading.current_thread())
        while True:
            pass

    with pytest.raises(TimedOut) as raised:
        limiter(loop, SOON_S, "extract_text.full")
    assert str(raised.value) == "extract_text.full was cut off at its time limit of 0.3 s"
    assert ends(threads[0])  # while the error, and with it the frames that it came through, is still held


def test_rung_that_catches_every_exception_is_cut_off_too(limiter: TimeLimiter) -> None:
    """A loop that takes any exception for a bad try ends as well."""
    threads: list[threading.Thread] = []

    def stubborn() -> None:
        threads.append(threading.current_thread())
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    with pytest.raises(TimedOut):
        limiter(stubborn, SOON_S, "fetch.origin")
    assert ends(threads[0])


def test_call_that_swallows_the_cut_is_cut_off_again(limiter: TimeLimiter) -> None:
    """A bare `except:` around a library's call keeps a loop alive for one more cut, and no longer."""
    threads: list[threading.Thread] = []
    swallowed: list[BaseException] = []

    def swallow() -> None:
        threads.append(threading.current_thread())
        while True:
            try:
                while True:
                    pass
            except BaseException as error:
                if swallowed:
                    raise
                swallowed.append(error)

    with pytest.raises(TimedOut):
        limiter(swallow, SOON_S, "extract_text.full")
    assert ends(threads[0])
    assert len(swallowed) == 1


def test_caller_is_told_that_it_waits(limiter: TimeLimiter) -> None:
    """`while_waiting` is called about once a second in the caller's thread, and not for a call that ends at once."""
    called: list[threading.Thread] = []

    def note() -> None:
        called.append(threading.current_thread())

    assert limiter(lambda: "at once", LONG_S, "fetch.origin", while_waiting=note) == "at once"
    assert not called
    assert limiter(lambda: time.sleep(2.5) or "later", LONG_S, "fetch.origin", while_waiting=note) == "later"
    assert 1 <= len(called) <= 3
    assert set(called) == {threading.current_thread()}


def test_caller_that_stops_waiting_cuts_the_call_off(limiter: TimeLimiter) -> None:
    """An error of `while_waiting` is raised to the caller at once, and the call ends with it."""
    threads: list[threading.Thread] = []

    def loop() -> None:
        threads.append(threading.current_thread())
        while True:
            pass

    def stop() -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        limiter(loop, LONG_S, "fetch.origin", while_waiting=stop)
    assert ends(threads[0])
    assert time.monotonic() - started < LONG_S


def test_caller_that_waits_can_be_cut_off_itself(limiter: TimeLimiter) -> None:
    """A rung that waits for a limited call of its own ends at the rung's limit, and so does that call."""
    threads: list[threading.Thread] = []

    def inner() -> None:
        threads.append(threading.current_thread())
        while True:
            time.sleep(0.01)

    def outer() -> None:
        threads.append(threading.current_thread())
        limiter(inner, 2 * LONG_S, "inner")

    with pytest.raises(TimedOut, match="outer"):
        limiter(outer, SOON_S, "outer")
    assert all(ends(thread) for thread in threads)
    assert len(threads) == 2


def test_blocking_call_is_abandoned(limiter: TimeLimiter) -> None:
    """A call that sleeps in the system is left behind, its caller goes on, and its thread ends when it wakes."""
    wakes = threading.Event()
    threads: list[threading.Thread] = []

    def sleep() -> None:
        threads.append(threading.current_thread())
        wakes.wait(LONG_S)

    with pytest.raises(TimedOut):
        limiter(sleep, SOON_S, "fetch.origin")
    assert threads[0].is_alive()
    assert limiter(lambda: "next", LONG_S, "fetch.origin") == "next"
    wakes.set()
    assert ends(threads[0])


def test_call_that_wakes_late_reaches_nobody(limiter: TimeLimiter) -> None:
    """What an abandoned call does in the end is not the answer to the next one."""
    wakes = threading.Event()
    with pytest.raises(TimedOut):
        limiter(lambda: wakes.wait(LONG_S) and "late", SOON_S, "fetch.origin")

    def second() -> str:
        wakes.set()
        return "second"

    assert limiter(second, LONG_S, "fetch.origin") == "second"


def test_calls_in_time_share_a_thread(limiter: TimeLimiter) -> None:
    """A thread is not started for each call: models keep what they hold per thread."""
    threads = {limiter(threading.current_thread, LONG_S, "fetch.origin") for _ in range(3)}
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_threads_do_not_wait_for_each_other(limiter: TimeLimiter) -> None:
    """The calls of two threads of one worker run at the same time: each waits for the other inside its call."""
    both_inside = threading.Barrier(2, timeout=LONG_S)
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(limiter(both_inside.wait, LONG_S, "fetch.origin")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert all(ends(thread) for thread in threads)
    assert sorted(answers) == [0, 1]


def test_cutting_off_one_thread_leaves_the_others(limiter: TimeLimiter) -> None:
    """A call that hangs in one thread ends neither the call that another thread makes, nor its time."""
    is_inside, goes_on = threading.Event(), threading.Event()
    answers: list[str] = []

    def patient() -> str:
        is_inside.set()
        goes_on.wait(LONG_S)
        return "patient"

    other = threading.Thread(target=lambda: answers.append(limiter(patient, LONG_S, "fetch.origin")))
    other.start()
    is_inside.wait(LONG_S)
    with pytest.raises(TimedOut):
        limiter(lambda: threading.Event().wait(1), SOON_S, "fetch.origin")
    goes_on.set()
    assert ends(other)
    assert answers == ["patient"]


def test_thread_that_ends_takes_its_caller_with_it(limiter: TimeLimiter) -> None:
    """Threads that come and go leave no threads behind."""
    inner: list[threading.Thread] = []
    outer = threading.Thread(target=lambda: inner.append(limiter(threading.current_thread, LONG_S, "fetch.origin")))
    outer.start()
    assert ends(outer)
    assert ends(inner[0])


def test_limiter_that_goes_takes_its_caller_with_it() -> None:
    """A limiter that nobody holds any more leaves no thread behind."""
    limiter = TimeLimiter()
    thread = limiter(threading.current_thread, LONG_S, "fetch.origin")
    del limiter
    assert ends(thread)


class Answer:
    """Something large."""


def test_answer_is_held_by_its_caller_alone(limiter: TimeLimiter) -> None:
    """The thread that makes the calls does not keep the last answer alive until the next."""
    gone = threading.Event()
    answer = limiter(Answer, LONG_S, "fetch.origin")
    weakref.finalize(answer, gone.set)
    del answer
    assert gone.wait(LONG_S)


def test_call_sees_the_context_of_its_caller(limiter: TimeLimiter) -> None:
    """Context variables (Prefect keeps its runs in them) go along, and come back unchanged."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    token = variable.set("mine")

    def read_and_set() -> str:
        seen = variable.get()
        variable.set("theirs")
        return seen

    assert limiter(read_and_set, LONG_S, "fetch.origin") == "mine"
    assert variable.get() == "mine"
    variable.reset(token)


def test_limited_call_may_limit_another(limiter: TimeLimiter) -> None:
    """A call within a call has a thread of its own, and its own limit."""

    def outer() -> str:
        with pytest.raises(TimedOut, match="inner"):
            limiter(lambda: threading.Event().wait(1), SOON_S, "inner")
        return "outer"

    assert limiter(outer, LONG_S, "outer") == "outer"


PREAMBLE = """
import re, signal, sys, threading, time
from repli.tasks.runtime.time_limit import TimeLimiter, TimedOut

limiter = TimeLimiter(may_exit=True, grace_s=0.2)

def run_wild():
    print("wild", flush=True)
    re.match(r"(a+)+$", "a" * 64 + "b")  # holds the interpreter's lock for ages

"""


def run_script(script: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A process of its own that runs the script, and the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script], cwd=ROOT, capture_output=True, text=True, timeout=LONG_S
    )
    return done, time.monotonic() - started


def test_call_that_holds_the_lock_ends_the_process() -> None:
    """Where no Python runs any more, the watchdog ends the process after its grace and says where it hung."""
    done, seconds = run_script("limiter(run_wild, 1.0, 'extract_text.full')\nprint('came back')")
    assert (done.returncode, done.stdout) == (1, "wild\n")
    assert "run_wild" in done.stderr
    assert seconds < LONG_S


def test_watchdog_of_one_thread_is_not_lifted_by_another() -> None:
    """Calls of other threads, whether they end in time or have long to go, leave the watchdog of a call that hangs."""
    done, seconds = run_script("""
inside, others_done = threading.Event(), threading.Event()
def hang():
    inside.set()
    others_done.wait()
    run_wild()
def in_a_thread(function, limit_s):
    thread = threading.Thread(target=limiter, args=(function, limit_s, "extract_text.full"), daemon=True)
    thread.start()
    return thread
thread = in_a_thread(hang, 3.0)
inside.wait()
in_a_thread(lambda: time.sleep(3600), 3600)
limiter(lambda: None, 20, "fetch.origin")
limiter(lambda: None, 3600, "fetch.origin")
others_done.set()
thread.join()
print("came back")
""")
    assert (done.returncode, done.stdout) == (1, "wild\n")
    assert seconds < LONG_S


def test_watchdog_is_lifted_when_the_call_ends() -> None:
    """A process whose calls ended in time, raised, or were cut off, lives on past every grace."""
    done, _ = run_script("""
limiter = TimeLimiter(may_exit=True, grace_s=2.0)
limiter(lambda: None, 1.5, "fetch.origin")
for function in (lambda: 1 / 0, lambda: time.sleep(1.7)):
    try:
        limiter(function, 1.5, "fetch.origin")
    except (ZeroDivisionError, TimedOut) as error:
        print(type(error).__name__)
time.sleep(2.5)
print("lives")
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ZeroDivisionError\nTimedOut\nlives\n", "")


def test_cut_that_lands_in_a_callback_is_raised_again() -> None:
    """Python prints and ignores what is raised in a callback of C code: the call behind it ends all the same."""
    done, seconds = run_script("""
import ctypes
threads = []
@ctypes.CFUNCTYPE(None)
def callback():
    while True:
        pass
def call():
    threads.append(threading.current_thread())
    callback()
    print("swallowed", flush=True)
    while True:
        pass
try:
    TimeLimiter()(call, 1.0, "embed_text.text_only")
except TimedOut:
    threads[0].join(20)
    print("ended" if not threads[0].is_alive() else "runs on")
""")
    assert (done.returncode, done.stdout) == (0, "swallowed\nended\n")
    assert seconds < LONG_S


def test_abandoned_calls_are_counted() -> None:
    """A call that hangs in the system counts from its grace on until it returns; one that ended at its cut does not."""
    done, _ = run_script("""
from repli.tasks.runtime.time_limit import abandoned_calls
wakes, threads = threading.Event(), []
def hang():
    threads.append(threading.current_thread())
    wakes.wait(20)
def loop():
    threads.append(threading.current_thread())
    while True:
        pass
for function in (loop, hang):
    try:
        TimeLimiter()(function, 1.0, "fetch.origin")
    except TimedOut:
        pass
threads[0].join(20)
print(abandoned_calls(grace_s=0), abandoned_calls(grace_s=20), abandoned_calls())
wakes.set()
threads[1].join(20)
print(abandoned_calls(grace_s=0))
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 0 0\n0\n", "")


@pytest.mark.parametrize("patient", ["TimeLimiter(grace_s=0)", "TimeLimiter(may_exit=True, grace_s=30)"])
def test_call_that_gives_the_lock_back_ends_no_process(patient: str) -> None:
    """A process that nobody restarts is never ended, and another not within the grace: the call is only cut off."""
    done, _ = run_script(f"""
pattern, text = re.compile(r"(a+)+$"), "a" * 24 + "b"
try:
    {patient}(lambda: [pattern.match(text) for _ in range(2)], 0.05, "extract_text.full")
except TimedOut:
    print("cut off")
""")
    assert (done.returncode, done.stdout) == (0, "cut off\n")


def test_interrupt_of_the_caller_leaves_nothing_in_the_way() -> None:
    """After Ctrl-C during a call the next one does not wait behind it."""
    done, seconds = run_script("""
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
calm = TimeLimiter()
def interrupted():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    threading.Event().wait(3600)
try:
    calm(interrupted, 3600, "fetch.origin")
except KeyboardInterrupt:
    print(calm(lambda: "next", 20, "fetch.origin"))
""")
    assert (done.returncode, done.stdout) == (0, "next\n")
    assert seconds < LONG_S


def test_last_moment_counts(limiter: TimeLimiter) -> None:
    """At the limit a call has either answered or was cut off, and nothing else is ever raised."""

    def about(seconds: float) -> Callable[[], str]:
        ends_at = time.monotonic() + seconds

        def wait() -> str:
            while time.monotonic() < ends_at:
                pass
            return "in time"

        return wait

    outcomes = set()
    for step in range(40):
        try:
            outcomes.add(limiter(about(0.005 + (step - 20) * 0.00005), 0.005, "fetch.origin"))
        except TimedOut:
            outcomes.add("cut off")
    assert outcomes <= {"in time", "cut off"}


AFTER_A_CUT = """
import sys, time
from repli.tasks.fallback import TimedOut
from repli.tasks.runtime.time_limit import TimeLimiter

def spin():
    while True:
        pass

limiter = TimeLimiter()
try:
    limiter(spin, 0.3, "spin")
except TimedOut:
    limiter(lambda: 1, 1.0, "answer")
del limiter
time.sleep(1.5)

class Stop(Exception):
    pass

def stop(frame, event, argument):
    raise Stop

sys.settrace(stop)
try:
    (lambda: 1)()
except Stop:
    sys.settrace(None)
    print("ended")
"""


def test_the_interpreter_has_nothing_pending_after_a_cut() -> None:
    """Where it has, a trace function that raises makes CPython 3.11 run for ever, and each loop is slower."""
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_CUT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "ended\n"
