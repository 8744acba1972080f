"""The database of the store: SQLite in WAL mode or PostgreSQL, migrated, with read and write transactions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from repli.tasks.fallback import StoreError, UsageError
from repli.tasks.storage.outages import StoreUnavailable, TransactionConflict, retried
from repli.tasks.storage.storable import dumps

HEAD = "0017"
"""The newest migration. A test compares it with Alembic's."""

BUSY_TIMEOUT_S = 60
WAL_PAUSE_S = 0.02
LOG_LIMIT = 64 * 1024 * 1024
"""Bytes of SQLite's write-ahead log above which it is emptied."""
CONNECT_TIMEOUT_S = 15
UNANSWERED_FOR_S = 30
"""Seconds without an answer after which a connection to PostgreSQL counts as lost: a cut line reports no error."""
_INSUFFICIENT_PRIVILEGE = "42501"
_CONFLICTS = {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock not available
_OUTAGES = ("08", "25006", "53", "57P", "58")
"""The classes of PostgreSQL's errors that pass: connection, read-only (a failover), resources, shutdown, system."""
_SQLITE_OUTAGES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}
_MIGRATION_LOCK = 0x7265706C69  # "repli": PostgreSQL advisory locks are numbers


class Database:
    """A store at one URL. No connection is opened before the first use.

    Every write is one short transaction that takes its lock at the start, so that on SQLite many processes queue
    instead of failing half-way.

    Args:
        is_read_only: writes fail and no file is created; the store must exist.
        patience_s: seconds for which the functions of the store wait out an outage; see `outages`.
    """

    def __init__(self, url: str, *, is_read_only: bool = False, patience_s: float = 0.0) -> None:
        self.patience_s = patience_s
        self.is_read_only = is_read_only
        try:
            parsed = sa.make_url(url)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
                raise UsageError(
                    f"the database {_without_password(parsed)} is neither sqlite:///FILE nor postgresql://…; choose one"
                )
            if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
                raise UsageError("a store in memory cannot be shared with the workers; write sqlite:///FILE")
            self.url = parsed
            self.engine = _engine(parsed.render_as_string(hide_password=False), is_read_only)
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            raise UsageError(
                f"the database URL cannot be read ({error}); write sqlite:///FILE or postgresql://…"
            ) from None
        except ModuleNotFoundError as error:
            raise UsageError(f"PostgreSQL needs the extra: pip install 'repli[postgres]' ({error})") from None
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        snapshot = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}  # SQLite's are snapshots anyway
        self._reading = self.engine.execution_options(**snapshot)
        self._writing = self.engine.execution_options(repli_writes=True)

    def __str__(self) -> str:
        """Return the URL without its password."""
        return _without_password(self.url)

    def without_patience(self) -> Database:
        """Return the same store for a caller that does not wait out an outage."""
        return Database(self.url.render_as_string(hide_password=False))

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """Return an insert that has ``on_conflict_do_update``, in this store's dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Yield a connection that reads one consistent state, whatever is committed meanwhile."""
        with self.translated_errors(), self._reading.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Yield a connection whose changes are committed together at the end of the block, or not at all."""
        with self.translated_errors(), self._writing.begin() as connection:
            yield connection
        if self.is_sqlite:
            self._shorten_log()

    def _shorten_log(self) -> None:
        """Empty SQLite's write-ahead log if it has grown long. It does not wait: the next write tries again.

        SQLite resets the log only when no transaction uses it. Beside a large registration and heartbeats there is no
        such moment, and the log grows to many times the size of the store.
        """
        log = Path(f"{self.url.database}-wal")
        if log.exists() and log.stat().st_size > LOG_LIMIT:
            with self.translated_errors(), self.engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA busy_timeout = 0")
                try:
                    driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                except sqlite3.Error:  # the transaction is committed, and the log is whole
                    return
                finally:
                    driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")

    def now(self) -> datetime:
        """Return the time of the store's own clock."""
        return _now(self)

    def version(self) -> str | None:
        """Return the migration of the store; None where there is no store yet."""
        if self.is_sqlite and not (self.url.database and Path(self.url.database).exists()):
            return None
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            version: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            return version

    def is_migrated(self) -> bool:
        """Return whether the store is at the newest migration. False where there is no store yet."""
        return self.version() == HEAD

    def migrate(self) -> None:
        """Create the store, or migrate it to `HEAD`. Safe while other processes do the same.

        Raises:
            StoreError: the store cannot be reached or written; the message names its URL.
        """
        _migrate(self)

    def _migrate(self) -> None:
        if self.is_sqlite and self.url.database:
            try:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"the store {self} cannot be created ({error.strerror}); choose another with --database"
                ) from None
        if self.is_migrated():
            return
        from alembic import command  # takes 0.2 s, which `status` and `show` need not pay
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "repli.tasks.storage:migrations")
        config.set_main_option("path_separator", "os")
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raise StoreError for the errors of the database while the block runs; programming errors pass.

        Raises:
            StoreUnavailable: the error passes, so that the same transaction may succeed later.
        """
        try:
            yield
        except sa.exc.TimeoutError as error:
            raise StoreUnavailable(
                f"all connections to the store {self} are in use ({error}); end other commands and try again"
            ) from error
        except DBAPIError as error:
            kind = _kind_of(error)
            if kind is None:
                raise  # a bug of ours, not a failure of the store
            reason = " ".join(str(error.orig).split())
            raise kind(
                f"the store {self} did not answer ({reason}); check that it exists and can be written"
            ) from error


def _kind_of(error: DBAPIError) -> type[StoreError] | None:
    """Return the StoreError class for an error of the database; None for a programming error."""
    state = getattr(error.orig, "sqlstate", None)
    if state in _CONFLICTS:
        return TransactionConflict
    sqlite_code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the rest tells more of the same kind
    if error.connection_invalidated or sqlite_code in _SQLITE_OUTAGES or (state or "").startswith(_OUTAGES):
        return StoreUnavailable
    if isinstance(error.orig, sqlite3.Error):
        is_lost = False
    else:  # a server that is not there gives no state
        is_lost = state is None and isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
    if is_lost:
        return StoreUnavailable
    is_bug = isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError | sa.exc.DataError)
    return None if is_bug and state != _INSUFFICIENT_PRIVILEGE else StoreError


@retried
def _now(database: Database) -> datetime:
    with database.read() as connection:
        return database_time(connection)


@retried
def _migrate(database: Database) -> None:
    database._migrate()


def database_time(connection: sa.Connection) -> datetime:
    """Return the time of the store's own clock."""
    if connection.dialect.name == "sqlite":
        text = connection.scalar(sa.text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')"))
        return datetime.fromisoformat(str(text)).replace(tzinfo=UTC)
    now: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    return now.astimezone(UTC)


def _without_password(url: sa.URL) -> str:
    cleaned = url.difference_update_query([name for name in url.query if "password" in name.lower()])
    return cleaned.render_as_string(hide_password=True)


@lru_cache(maxsize=8)
def _engine(url: str, is_read_only: bool) -> sa.Engine:
    """Return the engine for a URL, one connection pool per process and mode."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite" and is_read_only:
        uri = f"{Path(str(parsed.database)).absolute().as_uri()}?mode=ro"
        engine = sa.create_engine(parsed, creator=partial(_open_sqlite_to_read, uri), hide_parameters=True)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(
            parsed, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True, json_serializer=dumps
        )
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "handle_error", _drop_read_only_connection)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    limits = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": UNANSWERED_FOR_S * 1000,
        "keepalives_idle": UNANSWERED_FOR_S // 2,
        "keepalives_interval": UNANSWERED_FOR_S // 6,
    }
    engine = sa.create_engine(
        parsed, pool_pre_ping=True, hide_parameters=True, connect_args=limits, json_serializer=dumps
    )
    return engine.execution_options(postgresql_readonly=True) if is_read_only else engine


def _open_sqlite_to_read(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _set_up_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins the transactions, not the driver
    _set_wal(connection)
    for pragma in (
        "synchronous=NORMAL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_S * 1000}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _set_wal(connection: Any) -> None:
    """Set the WAL mode. Of two processes that do so on a new file at once, SQLite lets one fail without a wait."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(WAL_PAUSE_S)


def _drop_read_only_connection(context: sa.ExceptionContext) -> None:
    """Drop a connection that was opened while the disk was read-only: it stays so when the disk can be written."""
    code = getattr(context.original_exception, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_READONLY:
        context.is_disconnect = True


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("repli_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
