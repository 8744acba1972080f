"""Why the state of a Prefect server cannot be written: its own answer is "500 Internal Server Error" then."""

from __future__ import annotations

import tempfile
from pathlib import Path

ROOM_NEEDED = 1024**2
"""Bytes that are written to see whether the disk has room."""


def disk_problem(home: Path) -> str | None:
    """Return why nothing can be written under the home of a Prefect server, and what to do; None where it can."""
    try:
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(bytes(ROOM_NEEDED))
    except OSError as error:
        return (
            f"the Prefect server cannot write to the disk of {home} ({error.strerror}); make room there, or set "
            "REPLI_HOME to a folder on another disk"
        )
    return None
