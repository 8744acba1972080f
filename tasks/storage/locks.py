"""What only one process may do at a time, over all that share a store."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from repli.tasks.storage.database import Database


@contextmanager
def try_exclusive_lock(database: Database, name: str) -> Iterator[bool]:
    """Hold `name` while the block runs; whether it could be had: False where another process holds it, at once.

    However its holder ends, `kill -9` too, it is free at that moment: it is a lock of the operating system beside a
    SQLite file, which one machine has to itself, and else one of PostgreSQL, on a connection of its own.
    """
    number = int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:7], "big")
    with _of_file(database, number) if database.is_sqlite else _of_server(database, number) as is_held:
        yield is_held


@contextmanager
def _of_file(database: Database, number: int) -> Iterator[bool]:
    """One byte of a file stands for each name: no file for each is left behind."""
    with Path(f"{database.url.database}.lock").open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except BlockingIOError:
            is_held = False
        else:
            is_held = True
        yield is_held  # closing the file lets go


@contextmanager
def _of_server(database: Database, number: int) -> Iterator[bool]:
    with database.engine.connect() as pooled:
        connection = pooled.execution_options(isolation_level="AUTOCOMMIT")  # none of an open transaction for hours
        is_held = bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(number))))
        try:
            yield is_held
        finally:
            if is_held:
                with suppress(DBAPIError):  # a connection that is lost holds nothing
                    connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))
