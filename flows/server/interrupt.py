"""End a command on Ctrl-C: one line, and nothing of it is left a second later.

What is finished is in the store, so nothing is lost when the command's processes are killed. Closing a Prefect server
and a Dask cluster in order takes up to half a minute, and prints the errors of all that was cut off.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

GRACE_S = 1.0
"""Seconds for the interrupted block to give back its claims and to tell a standing Prefect server of its end."""
STDOUT, STDERR = 1, 2
_DUMB_TERMINALS = frozenset({"dumb", "unknown"})
_CLEAR_LINE = "\r\x1b[2K\x1b[?25h"
"""Clear the line, where the progress bar and the echo of Ctrl-C are, and show the cursor, which the bar hides."""


@contextmanager
def ended_by(
    *signals: signal.Signals, status: int, line: str, descriptor: int = STDERR, then: Any = None
) -> Iterator[None]:
    """On the first of these signals print one line, and end this process and all that it started.

    The block is interrupted by KeyboardInterrupt. It has `GRACE_S` to end; what it prints is dropped, and further
    signals are ignored. The resource tracker of `multiprocessing` is left to remove what the others leave, and ends.

    Use it in the main thread.

    Args:
        status: The exit status after a signal.
        line: The line.
        descriptor: The file descriptor that the line is written to.
        then: The handler of the signals after the block; None for those before it.
    """
    _silence_resource_tracker()
    interrupted, over = threading.Event(), threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        for other in signals:
            signal.signal(other, signal.SIG_IGN)
        _say(line, descriptor)
        interrupted.set()
        raise KeyboardInterrupt

    def end_after_grace() -> None:
        interrupted.wait()
        if not over.wait(GRACE_S):
            _end(status)

    # Started now: a thread cannot be started safely in a signal handler.
    threading.Thread(target=end_after_grace, name="interrupt", daemon=True).start()
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        if interrupted.is_set():
            _end(status)
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler if then is None else then)
        over.set()
        interrupted.set()


def kill_descendants() -> None:
    """Kill all processes that this one started, with their process groups, except the resource tracker."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError):
            if "multiprocessing.resource_tracker" in " ".join(process.cmdline()):
                continue
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()


def _say(line: str, descriptor: int) -> None:
    """Write the line, and drop all that is written to stdout and stderr from now on."""
    is_clearable = os.isatty(STDERR) and os.environ.get("TERM", "").lower() not in _DUMB_TERMINALS
    if os.isatty(STDERR):
        _write(STDERR, _CLEAR_LINE if is_clearable else "\r")
    copy = os.dup(descriptor)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (STDOUT, STDERR):
        os.dup2(nowhere, stream)
    _write(copy, f"{line}\n")


def _write(descriptor: int, text: str) -> None:
    with suppress(OSError):  # the terminal or the reader of a pipe is gone
        os.write(descriptor, text.encode())


def _end(status: int) -> NoReturn:
    try:
        kill_descendants()
    finally:
        os._exit(status)


def _silence_resource_tracker() -> None:
    """Make the resource tracker, once it is started, remove semaphores of killed processes without a warning."""
    ignored = "ignore:resource_tracker"
    if ignored not in sys.warnoptions:
        sys.warnoptions.append(ignored)
