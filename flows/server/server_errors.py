"""Read the errors that a running Prefect server writes to its log.

Prefect's services (scheduler, triggers, late runs, ...) log an exception and try again, for ever. The log is the only
sign that one of them never succeeds.
"""

from __future__ import annotations

import re
from pathlib import Path

_RECORD = re.compile(
    r"^\d\d:\d\d:\d\d\.\d{3} \| (?P<level>\w+) *\| [\w.]+ - (?P<message>.*)|^(?P<uvicorn>[A-Z]+): +(?P<said>.*)"
)
_ERRORS = frozenset({"ERROR", "CRITICAL"})
_SERVICE = re.compile(r"\] (?P<name>\w+)\(")
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?P<what>\w+: .*)")
"""The last line of a traceback, as in ``sqlalchemy.exc.OperationalError: no such table``."""


class ServerErrors:
    """The errors in a log file, each kind once.

    Example:
        >>> log = Path("server.log")
        >>> _ = log.write_text("08:45:16.500 | ERROR   | docket.worker - [16ms] schedule_runs(){}\\nValueError: no\\n")
        >>> errors = ServerErrors(log)
        >>> errors.new()  # an error is complete once the log has not grown between two calls
        []
        >>> errors.new()
        ['schedule_runs: ValueError: no']
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0
        self._unfinished: list[str] = []
        self._reported: set[str] = set()

    def new(self) -> list[str]:
        """Return the errors since the last call, one line each. An unfinished record comes with the next call."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        self._unfinished += text.decode(errors="replace").splitlines()
        if text:
            return []
        lines, self._unfinished = self._unfinished, []
        found = []
        for error in _errors(lines):
            kind = re.sub(r"\d+", "", error)
            if kind not in self._reported:
                self._reported.add(kind)
                found.append(error)
        return found


def _errors(lines: list[str]) -> list[str]:
    """Return a line for each error record: the service, and the exception that ends its traceback."""
    errors: list[str] = []
    logged: str | None = None
    reason = ""
    for line in [*lines, "INFO: end"]:
        if record := _RECORD.match(line):
            if logged is not None:
                errors.append(f"{logged}: {reason}" if reason else logged)
            is_error = (record["level"] or record["uvicorn"]) in _ERRORS
            message = record["message"] or record["said"] or ""
            service = _SERVICE.search(message)
            logged, reason = ((service["name"] if service else message.strip()) if is_error else None), ""
        elif exception := _EXCEPTION.match(line):
            reason = exception["what"]
    return errors
