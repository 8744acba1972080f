"""Where the seconds of a command go: with `REPLI_DEBUG` set, each process prints a line on stderr for each step.

A line names the seconds since the command began, the process, the step, and how long the step took:

    repli +  2.31 s  worker 4711: import Prefect (1.12 s)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

BEGAN = "_REPLI_DEBUG_BEGAN"
"""The variable with the time at which the command began, in seconds since the epoch, for the processes it starts."""
DESCRIPTOR = "_REPLI_DEBUG_DESCRIPTOR"
"""The variable with the file descriptor to write to, for a process whose own stderr is a log."""


def begin() -> None:
    """Note that a command begins: with the start of its process, which includes that of the interpreter."""
    if os.environ.get("REPLI_DEBUG"):
        os.environ[BEGAN] = str(time.time() - _age_s())


def _age_s() -> float:
    """Return the seconds since this process started; psutil's are a second off, as it rounds the time of the boot."""
    if sys.platform != "linux":
        return time.process_time()
    stat = Path("/proc/self/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[19]) / os.sysconf("SC_CLK_TCK")


def note(process: str, step: str) -> None:
    """Print that a process is at this step.

    Example:
        >>> note("command", "the cluster is ready")  # prints nothing, unless `REPLI_DEBUG` is set
    """
    if began := os.environ.get(BEGAN):
        line = f"repli +{time.time() - float(began):6.2f} s  {process}: {step}\n"
        with suppress(OSError):  # nobody reads it any more
            os.write(int(os.environ.get(DESCRIPTOR, "2")), line.encode())


@contextmanager
def timed(process: str, step: str) -> Iterator[None]:
    """Print the step and how long it took when the block has ended, whether it failed or not."""
    started = time.monotonic()
    try:
        yield
    finally:
        note(process, f"{step} ({time.monotonic() - started:.2f} s)")


def worker() -> str:
    """Return the name of this process, a Dask worker, in its lines."""
    return f"worker {os.getpid()}"


def for_logged_child() -> tuple[dict[str, str], tuple[int, ...]]:
    """Return the variables and the file descriptors of a child process that prints lines, but whose stderr is a log."""
    if BEGAN not in os.environ:
        return {}, ()
    descriptor = _stderr_copy()
    return {DESCRIPTOR: str(descriptor)}, (descriptor,)


@cache
def _stderr_copy() -> int:
    """Return a descriptor of this process's stderr that no child inherits as its own."""
    return os.dup(2)
