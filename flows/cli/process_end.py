"""The end of a command's process, without the second that Python takes to take large libraries apart."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn

from repli.tasks.runtime.timeline import note, timed


def end_process(ended: SystemExit) -> NoReturn:
    """End the process as this exception would, but for the end of its modules, whose memory the system frees.

    Threads are waited for, exit handlers run, output is flushed, and the status is the same, in the order of CPython's
    `Py_FinalizeEx`. A status that is to be printed, or output that cannot be flushed, is left to the interpreter.
    """
    if not isinstance(ended.code, int | None):
        raise ended
    with timed("command", "run the exit handlers"):
        threading._shutdown()  # type: ignore[attr-defined]  # as the processes of multiprocessing do
        atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):  # closed, or nobody reads it: the interpreter reports it
        raise ended from None
    note("command", "ended")
    os._exit((ended.code or 0) & 0xFF)
