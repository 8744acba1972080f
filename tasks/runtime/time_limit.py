"""Time limits for calls that hang.

Python cannot end a thread from outside, so a call is cut off in three steps, each for the cases that the one before
cannot end:

1. The call runs in a thread of its own, and its caller stops waiting at the limit: the item goes to the next rung.
2. An exception is raised in that thread, which ends it at its next line of Python: an endless loop stops.
   A thread that hangs in a system call stays behind, asleep, until that call returns.
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
from typing import TypeVar

from repli.tasks.fallback import TimedOut

R = TypeVar("R")

LOOK_EVERY_S = 1.0
WATCHDOG_GRACE_S = 15.0
"""Seconds after the limit at which the watchdog ends the process."""


class _CutOff(BaseException):
    """The exception that is raised in a thread at its limit. Not an `Exception`, so that no rung catches it."""


Jobs = queue.SimpleQueue[Callable[[], None] | None]


class _CallThread:
    """A thread that runs calls one after another, until one exceeds its limit. It ends with this object."""

    def __init__(self) -> None:
        self._jobs: Jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=_run_jobs, args=(self._jobs,), name="rung", daemon=True)
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
        thread_id = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, ctypes.py_object(_CutOff))
        self._jobs.put(None)


def _run_jobs(jobs: Jobs) -> None:
    try:
        while job := jobs.get():
            job()
            del job  # it holds the result, which may be large
    except _CutOff:  # raised between two jobs
        return


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
        self, function: Callable[[], R], limit_s: float, name: str, *, while_waiting: Callable[[], None] | None = None
    ) -> R:
        """Call `function` and return its result, or raise its exception.

        Args:
            while_waiting: called about every `LOOK_EVERY_S` in this thread until the call ends.

        Raises:
            TimedOut: the call took longer than `limit_s` seconds and was cut off.
        """
        with _WATCHDOG.within(limit_s + self._grace_s) if self._may_exit else nullcontext():
            call_thread = self._call_thread()
            future = call_thread.submit(function)
            try:
                return _result(future, limit_s, while_waiting)
            except TimeoutError as error:
                if future.done():  # at the last moment, or the function itself raised a TimeoutError
                    return future.result()
                raise TimedOut(f"{name} was cut off at its time limit of {limit_s:g} s") from error
            finally:
                if not future.done():  # at the limit, or when the waiting thread was interrupted
                    del self._per_thread.call_thread
                    call_thread.cut_off()

    def _call_thread(self) -> _CallThread:
        if not hasattr(self._per_thread, "call_thread"):
            self._per_thread.call_thread = _CallThread()
        call_thread: _CallThread = self._per_thread.call_thread
        return call_thread


def _result(future: Future[R], limit_s: float, while_waiting: Callable[[], None] | None) -> R:
    """Return the result of a call, and call `while_waiting` about every `LOOK_EVERY_S` until then.

    Raises:
        TimeoutError: it did not end within `limit_s` seconds.
    """
    deadline = time.monotonic() + limit_s
    while while_waiting and (left := deadline - time.monotonic()) > LOOK_EVERY_S:
        if wait([future], timeout=min(LOOK_EVERY_S, left)).done:
            break
        while_waiting()
    return future.result(max(0.0, deadline - time.monotonic()))
