"""A run's heartbeat: nothing ends it before the run, and the run does not wait for it."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from repli.flows.dispatch import heartbeat as module
from repli.flows.dispatch.heartbeat import heartbeat
from repli.tasks.settings import Settings
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.runs import Progress
from repli.tasks.storage.schema import runs as run_rows
from tests.support.queue import Queue

BEAT_S = 0.1
LEASE_S = BEAT_S * module.RENEWALS_PER_LEASE
ENDS_WITHIN_S = 30.0
"""Half of the time for which a run waits for its store."""


@pytest.fixture
def beating(database: Database, settings: Settings) -> Settings:
    """Settings by which a run beats ten times a second."""
    url = database.url.render_as_string(hide_password=False)
    return replace(settings, database_url=url, retry=replace(settings.retry, lease_s=LEASE_S))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it does not come to be"
        time.sleep(0.02)


def test_a_beat_shows_the_progress_and_renews_the_claims(database: Database, beating: Settings) -> None:
    """Until the run is over, and releases them."""
    queue = Queue(database)
    run_id = queue.register("a")
    queue.store("a")
    queue.claim(run_id, lease_s=LEASE_S)
    counts = iter(range(1, 1000))
    with heartbeat(run_id, beating, (), lambda: Progress(items=1000, finished=next(counts))):
        began_at = runs.find(database, run_id).alive_at
        assert began_at
        until(lambda: (runs.find(database, run_id).progress or {}).get("finished", 0) > 2 * module.RENEWALS_PER_LEASE)
        run = runs.find(database, run_id)
        assert run.alive_at
        assert run.alive_at > began_at + timedelta(seconds=LEASE_S)
        assert queue.states() == {"a": "claimed"}
    assert queue.states() == {"a": "queued"}


def test_an_unexpected_error_does_not_end_the_beating(
    database: Database, beating: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged. Without the beats the run would count as dead, and its claims would expire."""
    run_id = Queue(database).register("a")
    answers = iter([ZeroDivisionError("a bug"), ZeroDivisionError("a bug")])

    def progress() -> Progress | None:
        if error := next(answers, None):
            raise error
        return Progress(items=1, finished=1)

    with caplog.at_level(logging.ERROR), heartbeat(run_id, beating, (), progress):
        until(lambda: runs.find(database, run_id).progress)
    records = [record for record in caplog.records if "heartbeat of run" in record.getMessage()]
    assert len(records) == 2
    assert all(run_id in record.getMessage() and record.exc_info for record in records)


def test_an_error_of_the_store_does_not_end_the_beating(
    database: Database, beating: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is it logged: the stages report it."""
    run_id = Queue(database).register("a")
    with heartbeat(run_id, beating, (), lambda: Progress(items=1)):
        until(lambda: runs.find(database, run_id).progress)
        with away(database):
            time.sleep(5 * BEAT_S)
        assert caplog.records == []
        with database.write() as connection:
            connection.execute(sa.update(run_rows).values(progress=sa.null()))
        until(lambda: runs.find(database, run_id).progress)


@contextmanager
def away(database: Database) -> Iterator[None]:
    """Take the store away while the block runs."""
    if database.is_sqlite:
        path = Path(str(database.url.database))
        database.engine.dispose()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("ALTER TABLE retry_queue RENAME TO elsewhere")
            yield
            connection.execute("ALTER TABLE elsewhere RENAME TO retry_queue")
        return
    name = database.url.database
    admin = sa.create_engine(database.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        connection.execute(sa.text(end), {"name": name})
        yield
        connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    admin.dispose()


def test_the_end_does_not_wait_for_a_server_that_is_away(beating: Settings) -> None:
    """Nor is its absence an error of the run."""
    away = replace(beating, database_url="postgresql://repli@127.0.0.1:1/repli")
    began_at = time.monotonic()
    with heartbeat("run", away, (), lambda: None):
        time.sleep(3 * BEAT_S)
    assert time.monotonic() - began_at < ENDS_WITHIN_S


def test_no_thread_is_left(tmp_path: Path, settings: Settings) -> None:
    """The process can end."""
    store = Database(settings.database_url)
    store.migrate()
    with heartbeat("run", settings, (), lambda: None):
        assert "heartbeat" in {thread.name for thread in threading.enumerate()}
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}
    store.engine.dispose()
