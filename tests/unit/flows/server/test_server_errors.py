"""What is read of a Prefect server's log."""

from __future__ import annotations

from pathlib import Path

from repli.flows.server.server_errors import ServerErrors

FAILED = """\
08:45:16.500 | ERROR   | docket.dependencies - ↩ [   124ms] monitor_worker_health(){monitor_worker_health}
Traceback (most recent call last):
  File "cursor.py", line 40, in execute
sqlite3.OperationalError: no such table: work_queue

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "base.py", line 964, in do_execute
sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) no such table: work_queue
"""


def said(errors: ServerErrors) -> list[str]:
    """What two looks find: an error counts once the log has stopped growing."""
    return [*errors.new(), *errors.new()]


def test_an_error_is_told_once_with_who_failed_and_why(tmp_path: Path) -> None:
    """A service fails at each turn; what is no error is passed over."""
    log = tmp_path / "some.log"
    log.write_text("08:45:16.400 | WARNING | prefect.server - slow\n" + FAILED)
    errors = ServerErrors(log)
    told = "monitor_worker_health: OperationalError: (sqlite3.OperationalError) no such table: work_queue"
    assert said(errors) == [told]
    with log.open("a") as file:
        file.write(FAILED.replace("124ms", "98ms"))
        file.write("ERROR:    Application startup failed. Exiting.\n")
    assert said(errors) == ["Application startup failed. Exiting."]


def test_an_error_that_is_still_being_written_waits(tmp_path: Path) -> None:
    """Half a traceback does not say why."""
    log = tmp_path / "some.log"
    log.write_text(FAILED[:200])
    errors = ServerErrors(log)
    assert errors.new() == []
    log.write_text(FAILED)
    assert errors.new() == []
    assert [error.partition(":")[0] for error in errors.new()] == ["monitor_worker_health"]
