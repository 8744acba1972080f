"""Errors of the command line: one line on stderr that says what to do next, and an exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

import typer

from repli.flows.cli.output import print_note
from repli.flows.server.interrupt import STDOUT, ended_by
from repli.tasks.fallback import RepliError, UsageError

FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130
"""The exit statuses of errors."""

INTERRUPTION = "interrupted"
CONTINUES = f"{INTERRUPTION}; what is finished is stored, the same command continues from there"
BEGINS_AGAIN = f"{INTERRUPTION}; the same command begins again"


def interruptible(message: str = INTERRUPTION, *, then: Any = None) -> AbstractContextManager[None]:
    """On Ctrl-C in the block print one line, exit with `INTERRUPTED`, and end all that the command started.

    Args:
        message: The line.
        then: The handler of Ctrl-C after the block; None for the one before it.
    """
    return ended_by(signal.SIGINT, status=INTERRUPTED, line=f"repli: {message}", then=then)


def stoppable() -> AbstractContextManager[None]:
    """On Ctrl-C or SIGTERM in the block print `stopped`, exit with 0, and end all that the command started."""
    return ended_by(signal.SIGINT, signal.SIGTERM, status=0, line="stopped", descriptor=STDOUT)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error of the block as one line on stderr, and exit: 1 failed, 2 usage error, 130 interrupted."""
    try:
        yield
    except UsageError as error:
        _exit(error, USAGE_ERROR)
    except RepliError as error:
        _exit(error, FAILED)
    except typer.TyperException as error:
        _exit(_with_hint(error), error.exit_code)
    except Exception as error:
        if os.environ.get("REPLI_DEBUG"):
            raise
        message = f"unexpected {type(error).__name__}: {error}"
        _exit(f"{message}; set REPLI_DEBUG=1 for the traceback, and report it", FAILED)


def raise_problem(problem: str | None) -> None:
    """Raise the problem of a flow run that failed."""
    if problem:
        raise RepliError(problem)


def _with_hint(error: typer.TyperException) -> str:
    """Return the message of a usage error that Typer found, and the command that shows the usage."""
    message = error.format_message().removesuffix(".")
    context = getattr(error, "ctx", None)
    hint = f"; see `{context.command_path} --help`" if context else ""
    return message[:1].lower() + message[1:] + hint


def _exit(message: object, status: int) -> NoReturn:
    """Print one line on stderr and exit."""
    print_note(message)
    sys.exit(status)
