"""The engine's `Runtime` in this process: clocks, time limits and memory."""

from __future__ import annotations

import gc
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from repli.tasks.fallback import Runtime, WorkingSizes
from repli.tasks.fallback.breaker_client import BreakerOf, without_breakers
from repli.tasks.fallback.keyed_calls import SlotOf
from repli.tasks.fallback.splitting import RungResult
from repli.tasks.runtime.call_slots import CallSlots
from repli.tasks.runtime.fatal_errors import is_fatal
from repli.tasks.runtime.time_limit import TimeLimiter


def free_memory() -> None:
    """Free the memory that this process holds and does not use, the accelerator's cache included."""
    gc.collect()
    torch = sys.modules.get("torch")  # not imported: nothing is on a device
    if torch is not None and torch.cuda.is_available():
        with suppress(RuntimeError):  # a broken device fails at its next call, in the chain
            torch.cuda.empty_cache()


_LOCAL_SLOTS = CallSlots()


@lru_cache(maxsize=2)
def _process_runtime(may_exit: bool) -> Runtime:
    return Runtime(
        now=lambda: datetime.now(UTC),
        timer=time.monotonic,
        call_within=TimeLimiter(may_exit=may_exit),
        free_memory=free_memory,
        sizes=WorkingSizes(),
        host=socket.gethostname(),
        is_fatal=is_fatal if may_exit else lambda error: False,
        slot_of=_LOCAL_SLOTS.of,
        with_calls=lambda context, calls: context and replace(context, call=calls),
    )


def process_runtime(
    *,
    may_exit: bool,
    around_fallback: Callable[..., RungResult[Any]] | None = None,
    breaker_of: BreakerOf = without_breakers,
    slot_of: SlotOf = _LOCAL_SLOTS.of,
    lacks: Callable[[Mapping[str, float]], bool] = lambda resources: False,
    accelerator: str | None = None,
) -> Runtime:
    """Return the runtime of this process. Working sizes and threads are kept from call to call.

    Args:
        may_exit: whether a call that cannot be cut off may end this process, because a supervisor restarts it.
        around_fallback: called around each fallback, to show it in a UI.
        breaker_of: returns the breaker client of a rung; by default every rung is called, however often it has failed.
        slot_of: returns a slot of a key's calls at once; by default the calls of this process are counted.
        lacks: returns whether this process lacks some of a rung's resources.
        accelerator: the devices of this process, for the trail of rungs that ask for resources and note no device.
    """
    runtime = _process_runtime(may_exit)
    if around_fallback:
        runtime = replace(runtime, around_fallback=around_fallback)
    return replace(runtime, breaker_of=breaker_of, slot_of=slot_of, lacks=lacks, accelerator=accelerator)
