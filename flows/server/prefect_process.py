"""A private Prefect server that ends with the process that started it.

``python -m repli.flows.server.prefect_process PORT`` serves on loopback until its standard input closes. The system
closes it when the parent process ends, even when that is killed: no server is left behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from repli.flows.server import prefect_template
from repli.flows.server.parent_watch import when_parent_ends
from repli.tasks.runtime.imports import without_collections
from repli.tasks.runtime.timeline import note, timed

if TYPE_CHECKING:
    from prefect.server.events.schemas.events import ReceivedEvent
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

NAME = "Prefect server"
"""The name of this process in the lines of `REPLI_DEBUG`."""
EVENTS_PER_QUERY = 500
"""Events that one query looks for: fewer than the variables that SQLite allows in a statement."""


def main() -> None:
    """Serve until standard input closes."""
    port = int(sys.argv[1])
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with timed(NAME, "import Prefect's server"), without_collections():
        import uvicorn
        from prefect.server.api.server import create_app
        from prefect.settings import PREFECT_API_DATABASE_MIGRATE_ON_START, temporary_settings

        _lock_at_begin()
        _skip_known_events()
        app = create_app(final=True)
    with timed(NAME, "migrate its database, or copy an empty one"):
        is_migrated = migrate()
    settings = {PREFECT_API_DATABASE_MIGRATE_ON_START: False} if is_migrated else {}
    with temporary_settings(settings):
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=2)
    note(NAME, "ended")


def migrate() -> bool:
    """Bring the server's database up to date, and return whether that is done; else the server does it at its start.

    Only a database of Prefect's own choice is: the file in its home. Where there is none yet, it is a copy of the
    template; without a template, the migrations make both.
    """
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_HOME

    database = PREFECT_HOME.value() / "prefect.db"
    template = prefect_template.template_path()
    if template is None or PREFECT_API_DATABASE_CONNECTION_URL.value() != f"sqlite+aiosqlite:///{database}":
        return False
    if prefect_template.is_current(database, template):
        return True
    if database.exists():
        return False
    asyncio.run(_create_database())
    prefect_template.keep(database, template)
    return True


async def _create_database() -> None:
    from prefect.server.database import provide_database_interface

    interface = provide_database_interface()
    await interface.create_db()
    await (await interface.engine()).dispose()  # the loop of the server opens its own


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
