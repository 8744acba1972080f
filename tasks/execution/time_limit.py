"""Cutting off a call that hangs.

Python cannot end a thread from outside, so a call is cut off in three steps, each for what the one before it
cannot reach:

1. The call runs in a thread of its own, and its caller stops waiting at the limit: the item goes on.
2. An exception is raised in that thread, which ends it at its next line of Python: an endless loop stops.
   A thread that hangs in a system call stays behind, asleep, until that call returns.
3. Where the call holds the interpreter's lock (a regular expression gone wild, say), no Python runs any more and
   nobody stops waiting. In a worker process a watchdog that needs no lock then ends the process: the flow runs its
   batch again in smaller pieces and sets the culprit aside.
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
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from repli.tasks.fallback import TimedOut

R = TypeVar("R")

WATCHDOG_GRACE_S = 15.0
"""How long after the limit the watchdog ends the process."""


class _CutOff(BaseException):
    """Raised in a thread that took too long. Not an `Exception`, so that no rung catches it."""


Jobs = queue.SimpleQueue[Callable[[], None] | None]


class _Caller:
    """A thread that makes calls, one after the other, for as long as they end in time. It ends with this object."""

    def __init__(self) -> None:
        self._jobs: Jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=_make_calls, args=(self._jobs,), name="rung", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None)

    def submit(self, function: Callable[[], R]) -> Future[R]:
        future: Future[R] = Future()
        context = contextvars.copy_context()

        def job() -> None:
            try:
                future.set_result(context.run(function))
            except BaseException as error:  # noqa: BLE001  whatever it is belongs to the caller, in its own thread
                future.set_exception(error)

        self._jobs.put(job)
        return future

    def cut_off(self) -> None:
        thread_id = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, ctypes.py_object(_CutOff))
        self._jobs.put(None)


def _make_calls(jobs: Jobs) -> None:
    try:
        while job := jobs.get():
            job()
            del job  # it holds the answer, which may be large
    except _CutOff:  # it came between two jobs
        return


class _Watchdog:
    """Ends the process at the earliest deadline that was set and not lifted, whoever holds the interpreter's lock.

    `faulthandler` has one alarm a process, which the calls of all threads share here.
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
    """Calls functions within a time limit. Threads may share it: each has a thread of its own to make its calls.

    With `may_exit`, a call that cannot be cut off otherwise ends the process `grace_s` seconds after its limit: for
    workers that somebody restarts.
    """

    def __init__(self, *, may_exit: bool = False, grace_s: float = WATCHDOG_GRACE_S) -> None:
        self._may_exit = may_exit
        self._grace_s = grace_s
        self._of_thread = threading.local()

    def __call__(self, function: Callable[[], R], limit_s: float, name: str) -> R:
        """What `function` answers or raises.

        Raises:
            TimedOut: it took longer than `limit_s` seconds, and was cut off.
        """
        with _WATCHDOG.within(limit_s + self._grace_s) if self._may_exit else nullcontext():
            caller = self._caller()
            future = caller.submit(function)
            try:
                return future.result(limit_s)
            except TimeoutError as error:
                if future.done():  # in the last moment, or the function itself raised a TimeoutError
                    return future.result()
                raise TimedOut(f"{name} was cut off at its time limit of {limit_s:g} s") from error
            finally:
                if not future.done():  # the limit, or whoever waits was interrupted
                    del self._of_thread.caller
                    caller.cut_off()

    def _caller(self) -> _Caller:
        if not hasattr(self._of_thread, "caller"):
            self._of_thread.caller = _Caller()
        caller: _Caller = self._of_thread.caller
        return caller
