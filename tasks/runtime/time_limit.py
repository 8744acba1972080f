"""Time limits for calls that hang.

Python cannot end a thread from outside, so a call is cut off in three steps, each for the cases that the one before
cannot end:

1. The call runs in a thread of its own, and its caller stops waiting at the limit: the item goes to the next rung.
2. An exception is raised in that thread, which ends it at its next line of Python: an endless loop stops. It is raised
   again until the thread has ended, because a callback or a bare `except:` may swallow it. A thread that hangs in a
   system call stays behind, asleep, until that call returns; `abandoned_calls` counts such threads.
3. A call that holds the interpreter lock, such as a regular expression that backtracks for ever, stops all Python
   code, its waiting caller included. In a worker process a watchdog that needs no lock then ends the process: the
   flow runs its batch again in smaller parts and marks the poison item as failed.
"""

from __future__ import annotations

import contextvars
import ctypes
import faulthandler
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from repli.tasks.fallback import TimedOut

R = TypeVar("R")

WATCHDOG_GRACE_S = 15.0
"""Seconds after the limit at which the watchdog ends the process."""
WAIT_S = 1.0
"""The longest that a caller waits without a line of Python, so that it can be cut off itself."""
RAISE_AGAIN_S = 0.5
"""Seconds after which a call that was cut off and runs on is cut off again: longer than most calls take to clean up."""


class CutOff(BaseException):
    """The exception that is raised in a thread at its limit. Not an `Exception`, so that no rung catches it."""


Jobs = queue.SimpleQueue[Callable[[], None] | None]


class Cutter:
    """Raises `CutOff` in one thread, until that thread has begun to end: its id may then be another thread's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False
        self._was_cut = False

    def cut(self, thread: threading.Thread) -> None:
        """Raise `CutOff` at the thread's next line of Python."""
        if self._lock.acquire(timeout=RAISE_AGAIN_S):
            try:
                if not self._is_closed and thread.ident:
                    self._was_cut = True
                    _raise_in(thread.ident, CutOff)
            finally:
                self._lock.release()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Run what the thread runs, end it at a cut, and prevent further cuts. Entered in the thread itself."""
        try:
            yield
        except CutOff:
            pass
        finally:
            self._close()

    def _close(self) -> None:
        is_over = False
        while not is_over:
            try:
                with self._lock:
                    self._is_closed = True
                if self._was_cut:
                    # A cut may be on its way. One more takes its place, and is waited for: where it is only taken back,
                    # the interpreter looks for it for ever, at each loop of each thread (seen in CPython 3.11).
                    _raise_in(threading.get_ident(), CutOff)
                    while True:
                        pass
                is_over = True
            except CutOff:
                is_over = self._is_closed


def _raise_in(thread_id: int, error: type[BaseException]) -> None:
    """Raise `error` at the next line of Python of a thread."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(error))


class _CallThread:
    """A thread that runs calls one after another, until one exceeds its limit. It ends with this object."""

    def __init__(self) -> None:
        self._jobs: Jobs = queue.SimpleQueue()
        self._cutter = Cutter()
        self._thread = threading.Thread(target=_run_jobs, args=(self._jobs, self._cutter), name="rung", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None)

    def submit(self, function: Callable[[], R]) -> Future[R]:
        future: Future[R] = Future()
        context = contextvars.copy_context()

        def job() -> None:
            try:
                future.set_result(context.run(function))
            except BaseException as error:  # noqa: BLE001  every exception is raised again in the caller's thread
                future.set_exception(error)

        self._jobs.put(job)
        return future

    def cut_off(self) -> None:
        self._jobs.put(None)
        cut_off(self._thread, self._cutter)


def _run_jobs(jobs: Jobs, cutter: Cutter) -> None:
    with cutter.ending():
        while job := jobs.get():
            job()
            del job  # it holds the result, which may be large


class CutOffCalls:
    """The calls of this process that were cut off and have not ended. Each is cut off again until it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[tuple[threading.Thread, Cutter, float]] = []
        self._is_watched = False

    def add(self, thread: threading.Thread, cutter: Cutter) -> None:
        """Cut off the call that the thread runs, now and until the thread has ended."""
        cutter.cut(thread)
        with self._lock:
            self._calls.append((thread, cutter, time.monotonic()))
            if not self._is_watched:
                self._is_watched = True
                threading.Thread(target=self._watch, name="cut off", daemon=True).start()

    def count(self, grace_s: float) -> int:
        """Return how many calls still run `grace_s` seconds after they were cut off."""
        before = time.monotonic() - grace_s
        with self._lock:
            return sum(thread.is_alive() and since <= before for thread, _, since in self._calls)

    def _watch(self) -> None:
        while True:
            time.sleep(RAISE_AGAIN_S)
            with self._lock:
                self._calls = [call for call in self._calls if call[0].is_alive()]
                if not self._calls:
                    self._is_watched = False
                    return
                running = tuple(self._calls)
            for thread, cutter, _ in running:
                cutter.cut(thread)


_CUT_OFF_CALLS = CutOffCalls()


def cut_off(thread: threading.Thread, cutter: Cutter) -> None:
    """Raise an exception in a thread, which runs under `Cutter.ending`, again and again until it has ended."""
    _CUT_OFF_CALLS.add(thread, cutter)


def abandoned_calls(*, grace_s: float = WATCHDOG_GRACE_S) -> int:
    """Return how many calls of this process still run `grace_s` seconds after they were cut off.

    Such a call hangs where no exception reaches it, such as in a system call: only the end of the process ends it.

    Example:
        >>> abandoned_calls()
        0
    """
    return _CUT_OFF_CALLS.count(grace_s)


class _Watchdog:
    """A watchdog that ends the process at the earliest pending deadline, even if a call holds the interpreter lock.

    `faulthandler` has one alarm per process, which the calls of all threads share here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadlines: list[float] = []

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        deadline = time.monotonic() + seconds
        with self._lock:
            self._deadlines.append(deadline)
            self._set_alarm()
        try:
            yield
        finally:
            with self._lock:
                self._deadlines.remove(deadline)
                self._set_alarm()

    def _set_alarm(self) -> None:
        if self._deadlines:
            seconds = max(0.001, min(self._deadlines) - time.monotonic())
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
        else:
            faulthandler.cancel_dump_traceback_later()


_WATCHDOG = _Watchdog()


class TimeLimiter:
    """A caller of functions within a time limit. Threads may share it: each gets a thread of its own for its calls.

    Args:
        may_exit: whether a call that cannot be cut off otherwise ends the process, for workers that are restarted.
        grace_s: seconds after the limit at which the process then ends.

    Example:
        >>> TimeLimiter()(lambda: 6 * 7, limit_s=1.0, name="answer")
        42
    """

    def __init__(self, *, may_exit: bool = False, grace_s: float = WATCHDOG_GRACE_S) -> None:
        self._may_exit = may_exit
        self._grace_s = grace_s
        self._per_thread = threading.local()

    def __call__(
        self,
        function: Callable[[], R],
        limit_s: float,
        name: str,
        *,
        while_waiting: Callable[[], None] | None = None,
    ) -> R:
        """Call `function` and return its result, or raise its exception.

        Args:
            while_waiting: called about once a second in the caller's thread while it waits. What it raises is raised
                to the caller, and cuts the call off.

        Raises:
            TimedOut: the call took longer than `limit_s` seconds and was cut off.
        """
        with _WATCHDOG.within(limit_s + self._grace_s) if self._may_exit else nullcontext():
            call_thread = self._call_thread()
            future = call_thread.submit(function)
            try:
                if _is_done_within(future, limit_s, while_waiting):
                    return future.result()
                raise TimedOut(f"{name} was cut off at its time limit of {limit_s:g} s")
            finally:
                if not future.done():  # at the limit, or when the waiting thread was interrupted
                    del self._per_thread.call_thread
                    call_thread.cut_off()

    def _call_thread(self) -> _CallThread:
        if not hasattr(self._per_thread, "call_thread"):
            self._per_thread.call_thread = _CallThread()
        call_thread: _CallThread = self._per_thread.call_thread
        return call_thread


def _is_done_within(future: Future[Any], limit_s: float, while_waiting: Callable[[], None] | None) -> bool:
    """Wait for `future`, `limit_s` seconds at most, and return whether it is done."""
    deadline = time.monotonic() + limit_s
    while True:
        remaining_s = deadline - time.monotonic()
        wait((future,), timeout=min(WAIT_S, max(0.0, remaining_s)))
        if future.done():
            return True
        if remaining_s <= 0:
            return False
        if while_waiting:
            while_waiting()
