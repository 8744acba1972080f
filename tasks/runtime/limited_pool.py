"""Calls side by side, each within a time limit of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from repli.tasks.fallback import TimedOut
from repli.tasks.runtime.time_limit import Cutter, cut_off

K = TypeVar("K", bound=Hashable)

CHECK_S = 0.25
"""Seconds after which the limits are checked again."""
_thread = threading.local()


def restart_limit(limit_s: float) -> None:
    """Cut off the call that this thread runs `limit_s` seconds from now. Do nothing in a thread of no pool.

    A call that waits for its turn before it begins its work has a limit for each.
    """
    worker: _Worker[Any] | None = getattr(_thread, "worker", None)
    if worker:
        worker.restart_limit(limit_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call(Generic[K]):
    key: K
    function: Callable[[], Any]
    limit_s: float
    then: Callable[[Any], Any] | None
    then_limit_s: float
    outcome: Future[Any] = field(default_factory=Future)


Calls = queue.SimpleQueue[_Call[K] | None]


class _Worker(Generic[K]):
    """A thread that takes calls from a queue, until it gets None or is cut off."""

    def __init__(self, waiting: Calls[K], ended: Calls[K]) -> None:
        self._waiting = waiting
        self._ended = ended
        self._lock = threading.Lock()  # held to begin and to end a call, so that a cut ends no other one
        self._cutter = Cutter()
        self._call: _Call[K] | None = None
        self._deadline = 0.0
        self._is_cut = False
        self._thread = threading.Thread(target=self._run, name="limited pool", daemon=True)
        self._thread.start()

    def overdue(self, now: float) -> _Call[K] | None:
        """Cut off the call that has exceeded its limit, and this thread with it, and return the call."""
        with self._lock:
            call = self._call
            if call is None or now < self._deadline:
                return None
            self._is_cut = True
        cut_off(self._thread, self._cutter)
        return call

    def restart_limit(self, limit_s: float) -> None:
        """Set the limit of the call that runs, counted from now."""
        with self._lock:
            self._deadline = time.monotonic() + limit_s

    def end(self) -> None:
        """Cut off the call that runs, if one does, and begin no other."""
        with self._lock:
            self._is_cut = True
            is_idle = self._call is None
        if not is_idle:
            cut_off(self._thread, self._cutter)

    def _begin(self, call: _Call[K], limit_s: float) -> bool:
        """Begin a step of a call; return False if this thread was cut off."""
        with self._lock:
            self._call, self._deadline = call, time.monotonic() + limit_s
            return not self._is_cut

    def _run(self) -> None:
        _thread.worker = self
        with self._cutter.ending():
            while call := self._waiting.get():
                if not self._begin(call, call.limit_s):
                    return
                try:
                    result, error = call.function(), None
                    if call.then:
                        if not self._begin(call, call.then_limit_s):
                            return
                        result = call.then(result)
                except BaseException as raised:  # noqa: BLE001  every exception is raised again to the pool's user
                    result, error = None, raised
                with self._lock:
                    if self._is_cut:
                        return
                    self._call = None
                if error:
                    call.outcome.set_exception(error)
                else:
                    call.outcome.set_result(result)
                self._ended.put(call)
                del call, result, error  # they hold what may be large


class LimitedPool(Generic[K]):
    """Threads that run calls side by side. A call that exceeds its limit is cut off, and a new thread takes its place.

    One thread uses the pool: it hands in calls, and takes back those that ended.

    Args:
        threads: how many calls run at the same time.

    Example:
        >>> pool = LimitedPool(8)
        >>> pool.submit("answer", lambda: 6 * 7, limit_s=1.0)
        >>> key, outcome = pool.next_ended(wait_s=10.0)
        >>> key, outcome.result()
        ('answer', 42)
        >>> pool.close()
    """

    def __init__(self, threads: int) -> None:
        self._waiting: Calls[K] = queue.SimpleQueue()
        self._ended: Calls[K] = queue.SimpleQueue()
        self._threads = threads
        self._workers: list[_Worker[K]] = []
        self._next_check = 0.0

    def submit(
        self,
        key: K,
        function: Callable[[], Any],
        *,
        limit_s: float,
        then: Callable[[Any], Any] | None = None,
        then_limit_s: float = 0.0,
    ) -> None:
        """Call `function` once a thread is free, and cut it off `limit_s` seconds after it began.

        Args:
            then: called with the result in the same thread, within `then_limit_s`; the outcome is what it returns.
        """
        self._waiting.put(_Call(key=key, function=function, limit_s=limit_s, then=then, then_limit_s=then_limit_s))
        if len(self._workers) < self._threads:
            self._workers.append(_Worker(self._waiting, self._ended))

    def widen(self, threads: int, *, at_most: int) -> None:
        """Add threads, up to `at_most` in all."""
        self._threads = max(self._threads, min(self._threads + threads, at_most))

    def next_ended(self, *, wait_s: float) -> tuple[K, Future[Any]] | None:
        """Return the key and the outcome of a call that ended; None if none does within `wait_s` seconds.

        The outcome of a call that was cut off is `TimedOut`.
        """
        until = time.monotonic() + wait_s
        while True:
            now = time.monotonic()
            if now >= self._next_check:
                if call := self._overdue(now):
                    return call.key, call.outcome
                self._next_check = now + CHECK_S
            try:
                call = self._ended.get(timeout=max(0.0, min(until, self._next_check) - now))
            except queue.Empty:
                if now >= until:
                    return None
            else:
                if call:
                    return call.key, call.outcome

    def close(self) -> None:
        """Cut off what runs, and forget what waits."""
        waiting = self._waiting
        while not waiting.empty():
            try:
                waiting.get_nowait()
            except queue.Empty:
                break
        for worker in self._workers:
            waiting.put(None)
            worker.end()
        self._workers = []

    def _overdue(self, now: float) -> _Call[K] | None:
        """Cut off a call that has exceeded its limit, put a new thread in its place, and return the call."""
        for position, worker in enumerate(self._workers):
            if call := worker.overdue(now):
                call.outcome.set_exception(TimedOut(f"cut off at its time limit of {call.limit_s:g} s"))
                self._workers[position] = _Worker(self._waiting, self._ended)
                return call
        return None
