"""What servers and workers log while tests run: an error that no test asked for fails the test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

NAMES = ("server.log", "setup.log", "worker.log", "prefect-*.log", "dask-*.log")
_RECORD = re.compile(r"^(\d\d:\d\d:\d\d\.\d{3} \| |\d{4}-\d\d-\d\d |[A-Z]+: )")
_ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL)\b|^Traceback \(most recent call last\)", re.MULTILINE)
_PUT_OFF = re.compile(r"Error flushing \d+ events \(\d+ to retry, 0 dropped\)[\s\S]*CancelledError")
"""A server that ends in the midst of a write cancels it, and writes the events once more before it ends."""


class ServerLogs:
    """The logs under some folders, and how far they have been read."""

    def __init__(self) -> None:
        self._roots: list[Path] = []
        self._read: dict[Path, int] = {}

    def watch(self, root: Path) -> None:
        """From now on read the logs under this folder too."""
        self._roots.append(root)

    def new_errors(self, asked_for: Iterable[str] = ()) -> list[str]:
        """Return the records of errors that came since the last call, but for those that a pattern finds."""
        patterns = list(asked_for)
        records = [f"{log.name}: {record}" for log in self._logs() for record in _records(self._new_text(log))]
        errors = [record for record in records if _ERROR.search(record) and not _PUT_OFF.search(record)]
        return [error for error in errors if not any(re.search(pattern, error) for pattern in patterns)]

    def _logs(self) -> list[Path]:
        return sorted({log for root in self._roots if root.exists() for name in NAMES for log in root.rglob(name)})

    def _new_text(self, log: Path) -> str:
        text = log.read_bytes()
        start = self._read.get(log, 0)
        self._read[log] = len(text)
        return text[start if start <= len(text) else 0 :].decode(errors="replace")


def _records(text: str) -> Iterator[str]:
    """The records of a log, each with the traceback that follows it."""
    record: list[str] = []
    for line in text.splitlines():
        if record and _RECORD.match(line):
            yield "\n".join(record)
            record = []
        record.append(line)
    if record:
        yield "\n".join(record)
