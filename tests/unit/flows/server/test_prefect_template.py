"""The empty database that new homes copy: made by Prefect's real migrations, and used only where it is whole."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from repli.flows.server.prefect_template import is_current, keep

MIGRATE = """
import sys
import prefect.server.api.server
from repli.flows.server import prefect_process
print(prefect_process.migrate())
"""


def database(path: Path, revision: str = "a1", rows: int = 0) -> Path:
    """A database that was migrated to a revision, with a table that has rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", [revision])
        connection.execute("CREATE TABLE flow (name TEXT)")
        connection.executemany("INSERT INTO flow VALUES (?)", [(f"flow {number:04}",) for number in range(rows)])
    return path


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_a_home_without_a_database_gets_a_copy(tmp_path: Path) -> None:
    """It is whole, and nothing else is left in either folder."""
    template, new = database(tmp_path / "cache" / "empty.db", rows=3), tmp_path / "home" / "prefect.db"
    new.parent.mkdir()
    assert is_current(new, template)
    assert content(new) == content(template)
    assert [path.name for path in new.parent.iterdir()] == ["prefect.db"]
    assert [path.name for path in template.parent.iterdir()] == ["empty.db"]


def test_a_database_that_is_there_is_kept(tmp_path: Path) -> None:
    """It needs no migration where it has them all; else that is left to the server, and it stays as it is."""
    template = database(tmp_path / "empty.db", revision="a2")
    used = database(tmp_path / "used.db", revision="a2", rows=5)
    older = database(tmp_path / "older.db", revision="a1", rows=5)
    before = content(used), content(older)
    assert is_current(used, template)
    assert not is_current(older, template)
    assert (content(used), content(older)) == before


@pytest.mark.parametrize("kind", ["missing", "no database", "cut off", "overwritten", "two revisions"])
def test_a_damaged_template_is_not_used(tmp_path: Path, kind: str) -> None:
    """No error, no database in the home, and no rest of a copy: the server migrates."""
    template, new = database(tmp_path / "cache" / "empty.db", rows=2000), tmp_path / "home" / "prefect.db"
    new.parent.mkdir()
    whole = template.read_bytes()
    damage = {
        "missing": template.unlink,
        "no database": lambda: template.write_bytes(b"not a database" * 1000),
        "cut off": lambda: template.write_bytes(whole[: len(whole) // 2]),
        "overwritten": lambda: template.write_bytes(whole[:8192] + bytes(8192) + whole[16384:]),
        "two revisions": lambda: insert_revision(template),
    }
    damage[kind]()
    assert not is_current(new, template)
    assert list(new.parent.iterdir()) == []


def insert_revision(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO alembic_version VALUES ('b1')")


def test_a_template_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    """The next new home migrates again."""
    keep(database(tmp_path / "prefect.db"), tmp_path / "no-such-folder" / "empty.db")
    assert [path.name for path in tmp_path.iterdir()] == ["prefect.db"]


@pytest.mark.campaign
def test_prefects_own_migrations_make_it(tmp_path: Path) -> None:
    """The first home migrates, and the second copies: the same schema and revision, and no row of a run in either."""
    cache, first, second = tmp_path / "cache", tmp_path / "first", tmp_path / "second"
    for home in (first, second):
        home.mkdir()
        variables = {"PREFECT_HOME": str(home), "XDG_CACHE_HOME": str(cache)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        done = subprocess.run(
            [sys.executable, "-c", MIGRATE], env={**kept, **variables}, capture_output=True, text=True, check=False
        )
        assert done.stdout == "True\n", done.stderr
    (template,) = (cache / "repli" / "prefect").iterdir()
    assert content(first / "prefect.db") == content(template) == content(second / "prefect.db")
    inserted = {line.split('"')[1] for line in content(template) if line.startswith("INSERT INTO")}
    assert inserted == {"alembic_version"}
    assert list(second.glob("prefect.db*")) == [second / "prefect.db"]
