"""Refuse a wrong declaration where it stands: the error names the file and the line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from repli.tasks.fallback import UsageError

_PACKAGE = Path(__file__).parents[2]


class DeclarationError(UsageError, ValueError):
    """A stage, rung or pipeline that cannot work, refused when it is declared. The message begins with file and line.

    Example:
        >>> raise DeclarationError("translate.py, line 12: rung dictionary: the penalty 1.5 is not in (0, 1]")
        Traceback (most recent call last):
        repli.tasks.pipeline.declaration.DeclarationError: translate.py, line 12: rung dictionary: the penalty ...
    """


@contextmanager
def refused_in_place() -> Iterator[None]:
    """Raise a `ValueError` of the block as a `DeclarationError` with the line that declares.

    Raises:
        DeclarationError: The block raised ValueError.
    """
    try:
        yield
    except DeclarationError:
        raise
    except ValueError as error:
        raise DeclarationError(f"{_declaring_line()}{error}") from None


def _declaring_line() -> str:
    """Return the file and line of the innermost caller outside of this package; '' where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame and _is_own(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return ""
    path = Path(frame.f_code.co_filename)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}, line {frame.f_lineno}: "


def _is_own(filename: str) -> bool:
    """Return whether code is of this package, or of the standard library between two functions of it."""
    return Path(filename).is_relative_to(_PACKAGE) or filename == contextmanager.__code__.co_filename
