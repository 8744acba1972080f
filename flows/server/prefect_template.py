"""An empty database of Prefect, which new homes copy: its migrations take seconds of processor time.

The template is made by the real migrations of the first server that this user starts, and kept in the user's cache. Its
name holds the versions of Prefect and of Python, and Prefect's latest migration. Without a template that can be read,
the server migrates, as Prefect does.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

from repli.tasks.user_cache import cache_folder

MIGRATIONS = Path("server/database/_migrations/versions/sqlite")
"""The folder of the migrations in Prefect's package. Their names begin with their dates."""


def template_path() -> Path | None:
    """Return where the template of this Prefect and Python is, or is to be; None where the user has no cache."""
    folder = cache_folder("prefect")
    package = find_spec("prefect")
    if folder is None or package is None or package.origin is None:
        return None
    migrations = sorted(path.stem for path in (Path(package.origin).parent / MIGRATIONS).glob("[0-9]*.py"))
    if not migrations:
        return None
    python = "".join(map(str, sys.version_info[:2]))
    return folder / f"{version('prefect')}-{migrations[-1]}-py{python}.db"


def is_current(database: Path, template: Path) -> bool:
    """Return whether a database has all migrations: its revision is that of the template, after a copy if it is new.

    Args:
        database: The file of the database in the server's home. It is created where there is none yet.
    """
    if (wanted := _revision(template)) is None:
        return False
    if not database.exists():
        with suppress(sqlite3.Error, OSError):
            _copy(template, database)
    return _revision(database) == wanted


def keep(database: Path, template: Path) -> None:
    """Make the template from a database that was migrated and holds nothing else. It is no error if that fails."""
    with suppress(sqlite3.Error, OSError):
        _copy(database, template)


def _revision(database: Path) -> str | None:
    """Return the revision of a database's schema; None where there is none, or the file is damaged."""
    if not database.exists():  # sqlite3 would create it
        return None
    try:
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error:
        return None
    return str(rows[0][0]) if len(rows) == 1 else None


def _copy(source: Path, target: Path) -> None:
    """Copy a database. The copy gets its name once it is whole; one that is there is replaced.

    Raises:
        sqlite3.Error: The source is damaged.
        OSError: The target cannot be written.
    """
    folder = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        copy = folder / target.name
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(copy)) as new:
            problems = old.execute("PRAGMA quick_check(1)").fetchall()
            if problems != [("ok",)]:
                raise sqlite3.DatabaseError(f"{source} is damaged: {problems[0][0]}")
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # one file: no part of it stays in another
        copy.replace(target)
    finally:
        for rest in folder.iterdir():
            rest.unlink()
        folder.rmdir()
