"""The phases of a start, such as "starting 2 workers", for the display that shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from repli.tasks.runtime.timeline import note

FIRST_STAGE = "loading the models, before the first stage"
"""The phase until the first batch is through a stage: each worker loads the models first, unless it has them."""

_listeners: list[Callable[[str], None]] = []


def begin_phase(phase: str) -> None:
    """Tell the listeners what begins now.

    Example:
        >>> with listening(print):
        ...     begin_phase("starting 2 workers")
        starting 2 workers
    """
    note("command", phase)
    for listener in _listeners:
        listener(phase)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Call `listener` with each phase that begins in this process while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
