"""A private Prefect server that ends with the process that started it.

``python -m repli.flows.server.prefect_process PORT`` serves on loopback until its standard input closes. The system
closes it when the parent process ends, even when that is killed: no server is left behind.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from repli.flows.server.parent_watch import when_parent_ends

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


def main() -> None:
    """Serve until standard input closes."""
    port = int(sys.argv[1])
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    _lock_at_begin()
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


if __name__ == "__main__":
    main()
