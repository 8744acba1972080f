"""What the private Prefect server does otherwise than Prefect's own: a real database of Prefect, without the server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from prefect.server.database import provide_database_interface
from prefect.server.events.schemas.events import ReceivedEvent, Resource
from prefect.server.events.storage import database
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

from repli.flows.server.prefect_process import _skip_known_events


def test_events_that_are_sent_again_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect fails to write a batch of which it has all events already."""
    monkeypatch.setattr(database, "_write_sqlite_events", database._write_sqlite_events)  # restored after the test
    _skip_known_events()
    first, second = _event(), _event()

    async def write() -> int:
        prefect = provide_database_interface()
        await prefect.create_db()
        for batch in ([first], [first], [first, second]):
            async with prefect.session_context(begin_transaction=True) as session:
                await database.write_events(session, batch)
        async with prefect.session_context() as session:
            count = await session.scalar(sa.select(sa.func.count()).select_from(prefect.Event))
        await (await prefect.engine()).dispose()
        return int(count or 0)

    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"}):
        assert asyncio.run(write()) == 2


def _event() -> ReceivedEvent:
    resource = Resource({"prefect.resource.id": "repli.run"})
    return ReceivedEvent(id=uuid4(), occurred=datetime.now(UTC), event="repli.run.degraded", resource=resource)
