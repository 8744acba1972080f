"""The way to the store."""

from __future__ import annotations

import multiprocessing
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from repli.tasks.fallback import StoreError, UsageError
from repli.tasks.storage.database import HEAD, Database
from repli.tasks.storage.schema import metadata


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
