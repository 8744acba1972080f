"""The device that a call of a rung ran on, as the rung itself says it, for the trail of each item."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

DEFAULT_DEVICE = "cpu"
"""The device of a rung that notes none and asks for no resources."""


@dataclass(slots=True)
class DeviceNote:
    """The device that a running call has noted last; None as long as it has noted none."""

    device: str | None = None


_note: ContextVar[DeviceNote | None] = ContextVar("device_note", default=None)


def note_device(name: str) -> None:
    """Note the device that the running rung uses, such as `cuda:0` or `cpu`; the last note of a call counts.

    A call in a thread of its own must run in a copy of its caller's context, as time-limited calls do. Outside of a
    rung's call nothing is noted.

    Example:
        >>> with noting(note := DeviceNote()):
        ...     note_device("cuda:0")
        >>> note.device
        'cuda:0'
    """
    note = _note.get()
    if note is not None:
        note.device = name


@contextmanager
def noting(note: DeviceNote) -> Iterator[None]:
    """Keep in `note` the device that is noted within this block, in this context or in a copy of it."""
    token = _note.set(note)
    try:
        yield
    finally:
        _note.reset(token)
