"""Exclusive locks among the processes that share a store."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import retried


@contextmanager
def try_exclusive_lock(database: Database, name: str) -> Iterator[bool]:
    """Try to hold the lock `name` while the block runs, without waiting. Yield False where another process holds it.

    The lock is released whenever its holder ends, by `kill -9` too: beside a SQLite file, which only one machine
    uses, it is a lock of the operating system; in PostgreSQL it is an advisory lock on a connection of its own. A
    restart of PostgreSQL releases the lock too.
    """
    number = int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:7], "big")
    with _of_file(database, number) if database.is_sqlite else _of_server(database, number) as is_held:
        yield is_held


@contextmanager
def _of_file(database: Database, number: int) -> Iterator[bool]:
    """Lock one byte of a common file for each name, so that no file per name is left behind."""
    with Path(f"{database.url.database}.lock").open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except BlockingIOError:
            is_held = False
        else:
            is_held = True
        yield is_held  # closing the file releases the lock


@contextmanager
def _of_server(database: Database, number: int) -> Iterator[bool]:
    connection, is_held = _lock_on_server(database, number)
    with connection:
        try:
            yield is_held
        finally:
            if is_held:
                with suppress(DBAPIError):  # a lost connection has released the lock
                    connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))


@retried
def _lock_on_server(database: Database, number: int) -> tuple[sa.Connection, bool]:
    """Return a connection of its own, and whether it holds the lock."""
    with database.translated_errors():
        connection = database.engine.connect()
        try:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")  # no transaction stays open
            return connection, bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(number))))
        except BaseException:
            connection.close()
            raise
