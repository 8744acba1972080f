"""The lines that a command without a terminal writes on stderr while it works."""

from __future__ import annotations

import re

_PROGRESS = re.compile(r".* \(\d+ s\)|(enriching|reprocessing|drilling|serving): .*")


def without_progress(stderr: str) -> str:
    """Return what else the command has written."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not _PROGRESS.fullmatch(line.rstrip("\n")))
