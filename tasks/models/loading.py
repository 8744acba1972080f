"""Load each model once per process, in a thread of its own, so that a load that hangs holds up nobody for long.

A load reads files that may lie on a disk or server that no longer answers, and Python cannot end such a read. So no
caller loads a model itself: it waits for the thread that does, until `LOAD_LIMIT_S` after the load began. From then on
callers are told at once, as long as the load hangs; if it ends after all, the model is used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from functools import partial, update_wrapper
from typing import Generic, ParamSpec, TypeVar

from repli.tasks.fallback import TimedOut

LOAD_LIMIT_S = 120.0
"""Seconds after the start of a load for which callers wait for it."""
IMPORTS = threading.Lock()
"""Held while a load imports its libraries: two threads that import one of them at a time may see a part of it."""

_WAIT_S = 1.0  # the longest wait without a line of Python, so that the caller can be cut off

P = ParamSpec("P")
M = TypeVar("M")


class _Load(Generic[M]):
    """One load of a model: its thread has begun, and `model` is its outcome."""

    def __init__(self) -> None:
        self.model: Future[M] = Future()
        self._started = time.monotonic()
        self._started_at = datetime.now(UTC)

    def wait(self, what: str, limit_s: float) -> M:
        """Return the model, or raise what the load raised.

        Raises:
            TimedOut: the load has not ended `limit_s` seconds after it began.
        """
        deadline = self._started + limit_s
        while not self.model.done():
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimedOut(
                    f"{what} has been loading since {self._started_at:%H:%M:%S} UTC, for more than {limit_s:g} s; "
                    "check that its disk or server answers"
                )
            wait((self.model,), timeout=min(_WAIT_S, remaining_s))
        return self.model.result()


class ModelLoader(Generic[P, M]):
    """A function that loads a model, called once per process for each set of arguments. Thread-safe.

    A load that raised is tried again at the next call.

    Args:
        function: loads a model. Its first argument is the model's source.
        what: what the model is called in messages.
        keep: how many models are kept, those used last.
        limit_s: seconds after the start of a load for which callers wait for it.

    Example:
        >>> lengths = ModelLoader(len, what="model", keep=2)
        >>> lengths.start("brass lamp")  # returns at once
        >>> lengths("brass lamp")
        10
    """

    def __init__(self, function: Callable[P, M], *, what: str, keep: int, limit_s: float = LOAD_LIMIT_S) -> None:
        self._function = function
        self._what = what
        self._keep = keep
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._loads: dict[Hashable, _Load[M]] = {}  # those used last come last
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> M:
        """Return the model; wait for it if it is still being loaded.

        Raises:
            TimedOut: the load hangs; the message names the source, and says since when.
        """
        return self._load(*args, **kwargs).wait(f"{self._what} {args[0]!r}", self._limit_s)

    def start(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Start to load the model, unless it is there or being loaded, and return at once."""
        self._load(*args, **kwargs)

    def _load(self, *args: P.args, **kwargs: P.kwargs) -> _Load[M]:
        key = (args, tuple(sorted(kwargs.items())))
        with self._lock:
            load = self._loads.pop(key, None)
            if load is None:
                load = _Load()
                run = partial(self._run, key, load, partial(self._function, *args, **kwargs))
                threading.Thread(target=run, name="load", daemon=True).start()
            self._loads[key] = load
            loaded = [other for other, one in self._loads.items() if one.model.done()]
            for other in loaded[: -self._keep]:
                del self._loads[other]
            return load

    def _run(self, key: Hashable, load: _Load[M], function: Callable[[], M]) -> None:
        try:
            model = function()
        except BaseException as error:  # noqa: BLE001  every exception is raised again in the callers' threads
            with self._lock:
                if self._loads.get(key) is load:
                    del self._loads[key]
            load.model.set_exception(error)
        else:
            load.model.set_result(model)


def loaded_once(*, what: str, keep: int) -> Callable[[Callable[P, M]], ModelLoader[P, M]]:
    """Return a decorator that makes a `ModelLoader` of a function."""

    def decorate(function: Callable[P, M]) -> ModelLoader[P, M]:
        return ModelLoader(function, what=what, keep=keep)

    return decorate
