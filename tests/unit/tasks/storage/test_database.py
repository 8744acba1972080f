"""The way to the store."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from repli.tasks.fallback import StoreError, UsageError
from repli.tasks.storage import database as database_module
from repli.tasks.storage.database import HEAD, Database
from repli.tasks.storage.retry import claims
from repli.tasks.storage.retry.needs import RetryTarget
from repli.tasks.storage.schema import items, metadata, runs, step_results
from repli.tasks.storage.schema import retry_queue as queue_rows


def test_head_is_alembics_head() -> None:
    """The revision that the code takes for today's is the newest migration."""
    config = Config()
    config.set_main_option("script_location", "repli.tasks.storage:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


FULL_TEXT = ("documents_words", *(f"documents_words_{part}" for part in ("config", "data", "docsize", "idx")))
MADE_BY_HAND = {
    *(("table", None, name) for name in (*FULL_TEXT, "document_vectors")),
    ("column", "documents", "words"),
    ("index", "documents", "documents_by_word"),
    ("index", "step_results", "step_results_outdated"),
    *(("index", "retry_queue", f"retry_queue_by_{name}") for name in ("turn", "due_time", "holder")),
}
"""What migrations make in the database's own words, or that Alembic cannot compare: partial indexes."""


def _is_declared(name: str | None, kind: str, parents: MutableMapping[Any, str | None]) -> bool:
    return (kind, parents.get("table_name") if kind != "table" else None, name) not in MADE_BY_HAND


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    """There is no difference between the migrated store and the schema."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": _is_declared})
        assert compare_metadata(context, metadata) == []


def test_migrating_twice_changes_nothing(database: Database) -> None:
    """A store that is up to date is left as it is."""
    assert database.is_migrated()
    database.migrate()
    assert database.is_migrated()


def _migrate(url: str) -> None:
    Database(url).migrate()


def test_processes_may_migrate_at_once(tmp_path: Path) -> None:
    """Four processes that open a new store at the same moment make it once."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_migrate, [url] * 4)
    assert Database(url).is_migrated()


def _open_many(folder: Path, began: float) -> set[str]:
    """The modes of a hundred stores, each opened at a moment that other processes open it at too."""
    modes = set()
    for number in range(100):
        store = Database(f"sqlite:///{folder / f'{number}.db'}")
        time.sleep(max(0.0, began + number / 50 - time.time()))
        with store.read() as connection:
            modes.add(str(connection.scalar(sa.text("PRAGMA journal_mode"))))
        store.engine.dispose()
    return modes


def test_a_new_store_may_be_opened_by_processes_at_once(tmp_path: Path) -> None:
    """Each changes the mode of the file, and SQLite lets one of two fail without a wait."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_migrate, [f"sqlite:///{tmp_path / f'warm-{number}'}" for number in range(4)], chunksize=1)
        found = pool.starmap(_open_many, [(tmp_path, time.time() + 0.5)] * 4, chunksize=1)
    assert found == [{"wal"}] * 4


def test_sqlite_is_in_wal_mode(tmp_path: Path) -> None:
    """Readers and the writer do not wait for each other."""
    store = Database(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    with store.read() as connection:
        assert connection.scalar(sa.text("PRAGMA journal_mode")) == "wal"
    store.engine.dispose()


def _count_up(url: str) -> None:
    store = Database(url)
    for _ in range(50):
        with store.write() as connection:
            value = connection.scalar(sa.text("SELECT lines FROM runs")) or 0
            connection.execute(sa.text("UPDATE runs SET lines = :lines"), {"lines": value + 1})


def test_no_write_is_lost_between_processes(tmp_path: Path) -> None:
    """Four processes that read and then write in one transaction queue for it."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    store = Database(url)
    store.migrate()
    with store.write() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO runs (id, source, started_at, options, lines, duplicates) "
                "VALUES ('r', 's', '2026-01-01', '{}', 0, 0)"
            )
        )
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_count_up, [url] * 4)
    with store.read() as connection:
        assert connection.scalar(sa.text("SELECT lines FROM runs")) == 200
    store.engine.dispose()


@pytest.mark.parametrize("url", ["mysql://x", "nonsense", "sqlite://", "sqlite:///:memory:", "postgresql://h:port/db"])
def test_a_url_of_another_kind_is_a_usage_error(url: str) -> None:
    """What cannot be a store is refused before anything is opened."""
    with pytest.raises(UsageError, match="sqlite:///FILE"):
        Database(url)


def test_a_store_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A path under a file is an error that names the store."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be created"):
        Database(f"sqlite:///{tmp_path / 'file' / 'store.db'}").migrate()


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    """A text file in the store's place is an error that names the store."""
    path = tmp_path / "store.db"
    path.write_text("this is no database at all, but it is long enough to be looked at" * 50)
    store = Database(f"sqlite:///{path}")
    with pytest.raises(StoreError, match=r"store\.db did not answer"):
        store.migrate()
    store.engine.dispose()


def test_the_password_is_not_shown() -> None:
    """A store is named without its password."""
    assert "secret" not in str(Database("postgresql://user:secret@localhost/db"))
    assert "secret" not in str(Database("postgresql://user@localhost/db?password=secret"))


def test_a_read_is_one_snapshot(database: Database) -> None:
    """What is committed between two queries of a read is in neither, on both databases."""
    count = sa.select(sa.func.count()).select_from(runs)
    with database.read() as connection:
        before = connection.scalar(count)
        row = {"id": "r", "kind": "enrich", "source": "s", "started_at": datetime.now(UTC), "options": {}}
        with database.write() as other:
            other.execute(sa.insert(runs).values(row))
        assert connection.scalar(count) == before
    with database.read() as connection:
        assert connection.scalar(count) == (before or 0) + 1


def test_a_long_log_of_sqlite_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another process writes and a reader holds it for a while; nobody waits for it."""
    monkeypatch.setattr(database_module, "LOG_LIMIT", 200_000)
    store = Database(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    log = tmp_path / "store.db-wal"

    insert = "INSERT INTO good_copies VALUES (hex(randomblob(20)), hex(randomblob(20000)), '', 0, '', '')"

    def write(count: int) -> int:
        for _ in range(count):
            with store.write() as connection:
                connection.execute(sa.text(insert))
        return log.stat().st_size

    with store.read() as connection:
        connection.execute(sa.select(sa.func.count()).select_from(runs)).all()
        assert write(20) > 400_000
    assert write(1) == 0
    store.engine.dispose()


def test_a_log_that_cannot_be_emptied_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction is committed: the connection waits for locks as before, and the next write tries again."""
    monkeypatch.setattr(database_module, "LOG_LIMIT", 0)
    store = Database(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()

    def refuse(code: int, argument: str | None, *_: object) -> int:
        return (
            sqlite3.SQLITE_DENY if code == sqlite3.SQLITE_PRAGMA and argument == "wal_checkpoint" else sqlite3.SQLITE_OK
        )

    with store.read() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_authorizer(refuse)
    with store.write() as connection:
        connection.execute(sa.text("INSERT INTO good_copies VALUES ('a', 'b', '', 0, '', '')"))
    with store.read() as connection:
        assert connection.scalar(sa.text("PRAGMA busy_timeout")) == 1000 * database_module.BUSY_TIMEOUT_S
    assert (tmp_path / "store.db-wal").stat().st_size > 0
    store.engine.dispose()


def test_an_older_queue_is_migrated(database: Database, registered: Callable[..., str]) -> None:
    """Each item waits as before, with what it needs; a claim ends, and what succeeded and was retryable is stale. What
    a killed run left failed without a failed result, or stored without one of `store`, is unfinished."""
    registered("low", "stale", "parked", "mended", "half")
    _alembic(database, "downgrade", "0008")
    step = (
        "INSERT INTO step_results (item_id, stage, status, standing, rung, retryable, attempts, run_id, finished_at) "
    )
    entry = "INSERT INTO retry_queue (item_id, priority, quality, enqueued_at, not_before, tries, is_parked, holder) "
    now = "'2026-11-23 03:00:00'"
    with database.write() as connection:
        for text in (
            f"{step} VALUES ('low', 'look', 'degraded', 2.5, 'cpu', true, '[]', 'r', {now})",
            f"{step} VALUES ('low', 'fetch', 'not_applicable', 4, NULL, false, '[]', 'r', {now})",
            f"{step} VALUES ('stale', 'look', 'succeeded', 4, 'gpu', true, '[]', 'r', {now})",
            f"{step} VALUES ('parked', 'look', 'failed', 0, NULL, true, '[]', 'r', {now})",
            f"{step} VALUES ('mended', 'look', 'succeeded', 4, 'gpu', false, '[]', 'r', {now})",
            f"{step} VALUES ('half', 'look', 'succeeded', 4, 'gpu', false, '[]', 'r', {now})",
            f"{step} VALUES ('low', 'store', 'succeeded', 4, 'database', false, '[]', 'r', {now})",
            f"{step} VALUES ('stale', 'store', 'succeeded', 4, 'database', false, '[]', 'r', {now})",
            "UPDATE items SET state = 'stored', quality = 0.5 WHERE id IN ('low', 'stale', 'half')",
            "UPDATE items SET state = 'failed' WHERE id IN ('parked', 'mended')",
            f"{entry} VALUES ('mended', 2, NULL, {now}, {now}, 0, false, NULL)",
            f"{entry} VALUES ('low', 3, 0.5, {now}, {now}, 2, false, 'a run')",
            f"{entry} VALUES ('stale', 3, 1.0, {now}, {now}, 0, false, NULL)",
            f"{entry} VALUES ('parked', 2, NULL, {now}, {now}, 5, true, NULL)",
        ):
            connection.execute(sa.text(text))
    _alembic(database, "upgrade", "head")
    with database.read() as connection:
        columns = queue_rows.c.item_id, queue_rows.c.state, queue_rows.c.tries, queue_rows.c.holder, queue_rows.c.needs
        assert connection.execute(sa.select(*columns).order_by(queue_rows.c.item_id)).all() == [
            ("low", "delayed", 2, None, "look=cpu?;store=database"),
            ("mended", "delayed", 0, None, "store=!?"),
            ("parked", "parked", 5, None, "look=!?"),
            ("stale", "delayed", 0, None, "look=gpu~;store=database"),
        ]
        states = connection.execute(sa.select(items.c.id, items.c.state, items.c.quality).order_by(items.c.id)).all()
        assert states == [
            ("half", "pending", None),
            ("low", "stored", 0.5),
            ("mended", "pending", None),
            ("parked", "failed", None),
            ("stale", "stored", 0.5),
        ]
    target = RetryTarget(stage="look", rungs=["cpu"], include_stale=True)
    assert [claim.item_id for claim in claims.claim(database, "holder", [target], 9, 60)] == ["low", "stale"]


def test_an_older_repli_was_too_sure_of_texts_and_vectors(database: Database, registered: Callable[..., str]) -> None:
    """Their confidence was 1. Now it is the measured rate of the rung, and of a page where it was a page's text."""
    pages = {"page": "text/html", "file": "text/plain", "named": "text/html"}
    registered(*pages)
    _alembic(database, "downgrade", "0014")
    old = {"confidence": 1.0, "status": "succeeded", "rank": 4.0, "retryable": False, "attempts": []}
    rows = [
        {"item_id": id_, "stage": "fetch", "rung": "origin", "value": {"document": {"media_type": media_type}}}
        for id_, media_type in pages.items()
    ]
    texts = {"page": "plain", "file": "plain", "named": "name_only"}
    rows += [{"item_id": id_, "stage": "extract_text", "rung": rung, "value": {}} for id_, rung in texts.items()]
    vectors = {"page": "text_and_label", "file": "hashed"}
    rows += [{"item_id": id_, "stage": "embed_text", "rung": rung, "value": {}} for id_, rung in vectors.items()]
    rows += [{"item_id": "named", "stage": "classify_image", "rung": "gpu", "value": {}, "confidence": 0.5}]
    with database.write() as connection:
        late = {"run_id": "r", "finished_at": datetime(2026, 11, 23, tzinfo=UTC)}
        connection.execute(sa.insert(step_results), [{**old, **row, **late} for row in rows])
    _alembic(database, "upgrade", "head")
    c = step_results.c
    with database.read() as connection:
        query = sa.select(c.item_id, c.confidence).where(c.stage != "fetch").order_by(c.item_id, c.stage)
        found = connection.execute(query).tuples().all()
    assert found == [
        ("file", 0.25),
        ("file", 1.0),
        ("named", 0.5),
        ("named", 0.035),
        ("page", 1.0),
        ("page", 0.643),
    ]


def _alembic(database: Database, command: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", "repli.tasks.storage:migrations")
    config.set_main_option("path_separator", "os")
    with database.write() as connection:
        config.attributes["connection"] = connection
        getattr(alembic.command, command)(config, revision)
