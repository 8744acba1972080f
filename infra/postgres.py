"""The database of the native form: the installed PostgreSQL, with a data folder of its own."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import psycopg
import sqlalchemy as sa

from infra.compose_file import Part
from repli.flows.server.ports import LOOPBACK
from repli.tasks.fallback import RepliError, StoreError, UsageError

INIT = Path(__file__).with_name("init.sql")
_HAS_TRIGRAMS = "SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'"
_INSTALL_PREFIXES = ("/usr/lib/postgresql", "/usr", "/opt/homebrew/opt", "/usr/local/opt", "/usr/local")
_UNPRIVILEGED = "postgres"
"""The user that PostgreSQL's packages create. PostgreSQL refuses to run as root."""


class OwnPostgres:
    """A PostgreSQL server with its data in a folder. The data are initialised where there are none.

    Args:
        folder: The folder of its data and its password.
        user: The role that owns everything in it.
        password: The role's password on a new server; random if None. It is stored in `password_file`.

    Raises:
        RepliError: No PostgreSQL is installed, or it cannot use the folder.
    """

    def __init__(self, folder: Path, user: str, password: str | None) -> None:
        self._bin = installed()
        self._data = folder / "data"
        self.password_file = folder / "password"
        self.user = _UNPRIVILEGED if os.geteuid() == 0 else None
        folder.mkdir(parents=True, exist_ok=True)
        if self.user:
            _hand_over(folder, self.user)
        if not (self._data / "PG_VERSION").exists():
            self._initialise(user, password or secrets.token_urlsafe(24))
        self.password = self.password_file.read_text(encoding="utf-8").strip()

    def _initialise(self, user: str, password: str) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(password + "\n", encoding="utf-8")
        if self.user:
            shutil.chown(self.password_file, self.user)
        new = self._data.with_name("new")
        shutil.rmtree(new, ignore_errors=True)
        command: list[str | Path] = [
            self._bin / "initdb",
            "--pgdata",
            new,
            "--username",
            user,
            "--pwfile",
            self.password_file,
        ]
        done = subprocess.run(  # noqa: S603  the installed PostgreSQL
            [*command, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale"],
            user=self.user,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RepliError(f"PostgreSQL could not initialise {new} ({done.stderr.strip()}); choose another --folder")
        new.rename(self._data)

    def here(self, part: Part) -> Part:
        """Return the part of compose.yaml as a process on this folder that listens on loopback only."""
        command = (str(self._bin / part.command[0]), *part.command[1:], "-D", str(self._data))
        options = ("-c", f"listen_addresses={LOOPBACK}", "-c", "unix_socket_directories=")
        health = (str(self._bin / part.health[0]), *part.health[1:])
        return replace(part, command=(*command, *options), health=health)


def installed() -> Path:
    """Return the folder with the programs of the newest PostgreSQL server on this machine.

    Raises:
        RepliError: None is installed.
    """
    on_path = shutil.which("postgres")
    found = [Path(on_path).resolve().parent] if on_path else []
    for prefix in map(Path, _INSTALL_PREFIXES):
        programs = [prefix / "bin/postgres", *prefix.glob("*/bin/postgres")]
        found += sorted((path.parent for path in programs if path.exists()), key=_version, reverse=True)
    for folder in found:
        if (folder / "initdb").exists():
            return folder
    raise RepliError(
        "no PostgreSQL server is installed; install one with its contrib modules (Debian: apt-get install postgresql), "
        "or set REPLI_DATABASE_URL to one on another machine"
    )


def prefect_url(database_url: str) -> str:
    """Return the URL of Prefect's database, on the same server as Repli's.

    Raises:
        UsageError: `database_url` names no PostgreSQL.
    """
    url = _parsed(database_url)
    return url.set(drivername="postgresql+asyncpg", database="prefect").render_as_string(hide_password=False)


def prepare(database_url: str, password: str | None = None) -> str | None:
    """Create the database and the objects of `init.sql`, where they do not exist yet. Idempotent.

    Returns:
        A note for the operator, or None.

    Raises:
        StoreError: The server cannot be reached, or the role may not create databases.
        RepliError: The server lacks the extension pg_trgm, which Prefect needs.
    """
    url = _parsed(database_url).set(drivername="postgresql")
    note = None
    try:
        _execute(url.set(database="postgres"), password, f'CREATE DATABASE "{url.database}"')
        for statement in re.sub(r"--.*", "", INIT.read_text(encoding="utf-8")).split(";"):
            if statement.strip():
                _execute(url, password, statement)
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
        note = "this PostgreSQL has no pgvector: search compares vectors one by one, without an index"
    except psycopg.Error as error:
        why = str(error).partition("\n")[0]
        raise StoreError(
            f"the database {url.render_as_string()} cannot be used ({why}); check that it runs and that its "
            "role may run infra/init.sql, or unset REPLI_DATABASE_URL to start one here"
        ) from None
    if not _execute(url, password, _HAS_TRIGRAMS):
        raise RepliError(
            f"the PostgreSQL at {url.render_as_string()} has no pg_trgm, which Prefect's server needs; "
            "install its contrib modules (Debian: postgresql-contrib)"
        )
    return note


def _execute(url: sa.URL, password: str | None, statement: str) -> int:
    """Run the statement and return its number of rows. An existing database is no error."""
    with psycopg.connect(
        url.render_as_string(hide_password=False), password=password, autocommit=True, connect_timeout=15
    ) as connection:
        try:
            return connection.execute(statement).rowcount
        except psycopg.errors.DuplicateDatabase:
            return 0


def _parsed(database_url: str) -> sa.URL:
    try:
        url = sa.make_url(database_url)
    except (sa.exc.ArgumentError, ValueError):
        raise UsageError("REPLI_DATABASE_URL is no URL; write postgresql://…, or unset it") from None
    if url.get_backend_name() != "postgresql":
        raise UsageError(
            "the production deployment needs PostgreSQL, REPLI_DATABASE_URL names another; unset it to start one here"
        )
    return url


def _hand_over(folder: Path, user: str) -> None:
    """Make the user that PostgreSQL runs as the owner of the folder.

    Raises:
        RepliError: There is no such user, or it may not enter a folder above.
    """
    try:
        owner = pwd.getpwnam(user)
    except KeyError:
        raise RepliError(
            f"PostgreSQL refuses to run as root, and there is no user {user!r} to run it as; create one"
        ) from None
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    folder.chmod(0o700)
    if subprocess.run(["test", "-x", folder], user=user, check=False).returncode:  # noqa: S603, S607
        raise RepliError(
            f"PostgreSQL runs as {user!r}, which may not enter a folder above {folder}; "
            "choose another with --folder, such as /var/lib/repli"
        )


def _version(folder: Path) -> tuple[int, ...]:
    digits = "".join(character if character.isdigit() else " " for character in str(folder.parent.name))
    return tuple(map(int, digits.split()))
