"""What the engine needs of the process it runs in: its clocks, its threads, its memory, its view of the breakers."""

from __future__ import annotations

import gc
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

from repli.tasks.execution.shared_breakers import BreakerRegistry, Notify, current_device_scope
from repli.tasks.execution.time_limit import TimeLimiter
from repli.tasks.fallback import AroundFallback, Runtime, WorkingSizes
from repli.tasks.storage.database import Database


def free_memory() -> None:
    """Give back what this process holds and does not use, the accelerator's cache included."""
    gc.collect()
    torch = sys.modules.get("torch")  # without it there is nothing on a device
    if torch is not None and torch.cuda.is_available():
        with suppress(RuntimeError):  # a device that is broken says so at the next call
            torch.cuda.empty_cache()


@lru_cache(maxsize=2)
def _process_runtime(may_exit: bool) -> Runtime:
    return Runtime(
        now=lambda: datetime.now(UTC),
        timer=time.monotonic,
        call_within=TimeLimiter(may_exit=may_exit),
        free_memory=free_memory,
        sizes=WorkingSizes(),
    )


def process_runtime(
    *, may_exit: bool, around_fallback: AroundFallback | None = None, gates: BreakerRegistry | None = None
) -> Runtime:
    """The runtime of this process: working sizes and threads are the same from call to call.

    Args:
        may_exit: somebody restarts this process, so a call that cannot be cut off may end it.
        around_fallback: shows fallbacks to people.
        gates: the way to the breakers; without it every rung is called, however often it failed.
    """
    runtime = _process_runtime(may_exit)
    if around_fallback:
        runtime = replace(runtime, around_fallback=around_fallback)
    return replace(runtime, breaker_of=gates.of) if gates else runtime


@lru_cache(maxsize=8)
def process_breakers(database_url: str, on_move: Notify) -> BreakerRegistry:
    """This process's gates onto the breakers of one store."""
    return BreakerRegistry(Database(database_url), place=current_device_scope(), on_move=on_move)
