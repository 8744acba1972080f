"""Shorten waits that a wrong clock wrote.

A clock that was a day ahead leaves times a day ahead behind: a breaker that is open until tomorrow, a claim that does
not expire. So no wait may be longer than the longest that can be written: it is cut to that, counted from now. Each run
does so when it starts and with each heartbeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa

from repli.tasks.fallback import Breaker
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.outages import retried
from repli.tasks.storage.retry.retry_queue import CLAIMED, DELAYED, select_for_update
from repli.tasks.storage.schema import breaker_failures, breakers, retry_queue, runs

TOLERANCE = timedelta(seconds=5)
"""Differences between two readings of the clock that are not worth a write."""


@retried
def shorten_waits(database: Database, retry: RetryPolicy, declared: Mapping[str, Breaker]) -> None:
    """Cut every wait in the store to the longest that could have been written now.

    Args:
        retry: the policy that delays and leases are written by.
        declared: the breakers, by name.
    """
    no_wait = timedelta(0)
    with database.read() as connection:
        now = database_time(connection)
    longest: list[tuple[sa.Column[datetime], sa.ColumnElement[bool], timedelta]] = [
        (runs.c.alive_at, sa.true(), no_wait),
        (retry_queue.c.due_at, retry_queue.c.state == CLAIMED, timedelta(seconds=retry.lease_s)),
        (retry_queue.c.due_at, retry_queue.c.state == DELAYED, retry.delay(retry.tries - 1)),
        (breaker_failures.c.at, sa.true(), no_wait),
    ]
    for name, breaker in declared.items():
        is_named = breakers.c.name == name
        longest += [
            (breakers.c.probe_at, is_named, timedelta(seconds=breaker.longest_wait_s)),
            (breakers.c.lease_until, is_named, timedelta(seconds=breaker.lease_s)),
        ]
    for column, condition, wait in longest:
        _shorten(database, column, condition, now + wait)


def _shorten(
    database: Database, column: sa.Column[datetime], condition: sa.ColumnElement[bool], latest: datetime
) -> None:
    """Write nothing where no wait is too long: a write waits for other writers."""
    is_too_long = sa.and_(condition, column > latest + TOLERANCE)
    with database.read() as connection:
        found = connection.execute(sa.select(column).where(is_too_long).limit(1)).first()
    if found:
        with database.write() as connection:
            if column.table is retry_queue:
                connection.execute(select_for_update(is_too_long))
            connection.execute(sa.update(column.table).where(is_too_long).values({column: latest}))
