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
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from tasks.fallback import TimedOut

R = TypeVar("R")

WATCHDOG_GRACE_S = 15.0
"""How long after the limit the watchdog ends the process."""


class _CutOff(BaseException):
    """Raised in a thread that took too long. Not an `Exception`, so that no rung catches it."""


class _Caller:
    """A thread that makes calls, one after the other, for as long as they end in time."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="rung", daemon=True)
        self._thread.start()

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

    def _work(self) -> None:
        try:
            while job := self._jobs.get():
                job()
        except _CutOff:  # it came between two jobs
            return


class TimeLimiter:
    """Calls functions within a time limit. One thread at a time makes the calls of one limiter.

    With `may_exit`, a call that cannot be cut off otherwise ends the process after a grace: for workers that
    somebody restarts.
    """

    def __init__(self, *, may_exit: bool = False) -> None:
        self._may_exit = may_exit
        self._caller: _Caller | None = None

    def __call__(self, function: Callable[[], R], limit_s: float, name: str) -> R:
        """What `function` answers or raises.

        Raises:
            TimedOut: it took longer than `limit_s` seconds, and was cut off.
        """
        caller = self._caller = self._caller or _Caller()
        future = caller.submit(function)
        if self._may_exit:
            faulthandler.dump_traceback_later(limit_s + WATCHDOG_GRACE_S, exit=True, file=sys.__stderr__)
        try:
            return future.result(limit_s)
        except FutureTimeoutError as error:
            if future.done():  # the function itself raised a TimeoutError
                raise
            self._caller = None
            caller.cut_off()
            raise TimedOut(f"{name} was cut off at its time limit of {limit_s:g} s") from error
        finally:
            if self._may_exit:
                faulthandler.cancel_dump_traceback_later()
