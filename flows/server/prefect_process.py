"""A private Prefect server that ends with the process that started it.

``python -m repli.flows.server.prefect_process PORT`` serves on loopback until its standard input closes. The system
closes it when the parent process ends, even when that is killed: no server is left behind.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from repli.flows.server.parent_watch import when_parent_ends

if TYPE_CHECKING:
    from prefect.server.events.schemas.events import ReceivedEvent
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

EVENTS_PER_QUERY = 500
"""Events that one query looks for: fewer than the variables that SQLite allows in a statement."""


def main() -> None:
    """Serve until standard input closes."""
    port = int(sys.argv[1])
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    _lock_at_begin()
    _skip_known_events()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(final=True), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=2)


def _lock_at_begin() -> None:
    """Make each transaction that Prefect begins on SQLite take the write lock at its begin.

    By default it begins as a reader, and fails at once with "database is locked", without the wait of `busy_timeout`,
    if another one writes before it does (https://www.sqlite.org/rescode.html#busy_snapshot). Prefect drops an event
    that fails so three times: an automation does not fire, and a notification is not sent.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def begin_immediate(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = True
    ) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_immediate  # type: ignore[assignment, method-assign]


def _skip_known_events() -> None:
    """Make the server write only the events of a batch that it does not have yet.

    A client that loses the server sends its unconfirmed events again. Prefect cannot insert a batch of which it has
    all events already: it fails with "NOT NULL constraint failed: events.occurred", and drops what came with it.
    """
    import sqlalchemy as sa
    from prefect.server.database import provide_database_interface
    from prefect.server.events.storage import database

    write: Callable[[AsyncSession, list[ReceivedEvent]], Awaitable[None]] = database._write_sqlite_events

    async def write_new(session: AsyncSession, events: list[ReceivedEvent]) -> None:
        event_id = provide_database_interface().Event.id
        for start in range(0, len(events), EVENTS_PER_QUERY):
            some = events[start : start + EVENTS_PER_QUERY]
            known = set(await session.scalars(sa.select(event_id).where(event_id.in_({event.id for event in some}))))
            if new := [event for event in some if event.id not in known]:
                await write(session, new)

    database._write_sqlite_events = write_new


if __name__ == "__main__":
    main()
