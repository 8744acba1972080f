"""Read and change the store for the command line: `status`, `show`, `breakers`, `queue`, `search` and `export`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import repli.tasks.search
from repli.flows.server.dask_cluster import known_server
from repli.tasks.fallback import Cause, Order, RepliError, UsageError
from repli.tasks.search import Found, Query
from repli.tasks.settings import Settings
from repli.tasks.stages.default import STAGE_NAMES, declared_breakers
from repli.tasks.storage import breakers, runs
from repli.tasks.storage.breakers import BreakerView, Key
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.retry.retry_queue import Entry, QueueTally
from repli.tasks.storage.runs import Run, Tally
from repli.tasks.storage.views import lookup
from repli.tasks.storage.views.browse import Selection, browse
from repli.tasks.storage.views.lookup import ItemView


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What is in the store, and the run that began last."""

    database: Database
    tally: Tally
    last_run: Run | None
    now: datetime

    def as_json(self) -> dict[str, Any]:
        last = self.last_run
        return {
            "database": str(self.database),
            **self.tally.as_json(),
            "pending": self.tally.pending,
            "last_run": last
            and {
                "run_id": last.id,
                "source": last.source,
                "started_at": last.started_at.isoformat(),
                "finished_at": last.finished_at and last.finished_at.isoformat(),
                "state": last.state(self.now),
                "options": dict(last.options),
            },
        }


def status(settings: Settings) -> Overview:
    """What is in the store. Raises `RepliError` where there is none."""
    database = existing_store(settings)
    return Overview(
        database=database, tally=runs.tally(database, STAGE_NAMES), last_run=runs.latest(database), now=database.now()
    )


def show(settings: Settings, item_id: str) -> ItemView:
    """One item, whole. Raises `RepliError` where there is none of this id."""
    database = existing_store(settings)
    view = lookup.view(database, item_id, STAGE_NAMES)
    if view is None:
        raise RepliError(f"there is no item {item_id[:200]!r} in {database}; see `repli status`, or the manifest's ids")
    return view


ORDERS: Mapping[str, Order] = {"open": Cause.FORCED_OPEN, "close": Cause.FORCED_CLOSED, "reset": Cause.RESET}
"""What a person may say to a breaker."""


def list_breakers(settings: Settings) -> list[BreakerView]:
    """Every declared breaker. Raises `RepliError` where there is no store."""
    return breakers.views(existing_store(settings), declared_breakers())


def order_breaker(settings: Settings, verb: str, name: str) -> list[BreakerView]:
    """Force a breaker open or closed, or let it go, and tell the Prefect server, if one is known; all breakers then.

    Raises:
        UsageError: there is no such verb, or no such breaker.
    """
    if verb not in ORDERS:
        raise UsageError(f"`repli breakers {verb[:40]}`: there is no such order; choose from {', '.join(ORDERS)}")
    rung, _, place = name.partition("@")
    declared = declared_breakers()
    if rung not in declared:
        raise UsageError(f"there is no breaker {name[:200]!r}; choose from {', '.join(declared)}")
    if place and declared[rung].scope == "fleet":
        raise UsageError(f"the breaker {rung} is the whole fleet's; leave @{place[:200]} away")
    database = Database(settings.database_url)
    database.migrate()
    moves = breakers.order(database, declared[rung], Key(rung, place), ORDERS[verb])
    with known_server(settings):
        if moves and os.environ.get("PREFECT_API_URL"):
            from repli.tasks.reporting.events import breakers_moved_now

            breakers_moved_now(moves)
    return list_breakers(settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """The retry queue, and the first of those in it."""

    tally: QueueTally
    entries: Sequence[Entry]

    def as_json(self) -> dict[str, Any]:
        return {**self.tally.as_json(), "items": [entry.as_json() for entry in self.entries]}


def list_queue(settings: Settings, limit: int) -> QueueView:
    """The retry queue. Raises `RepliError` where there is no store."""
    database = existing_store(settings)
    return QueueView(tally=retry_queue.tally(database), entries=retry_queue.entries(database, limit))


def retry(settings: Settings, item_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Queue items on a person's word: those that are queued now, and those about which there is nothing to do again.

    Raises:
        RepliError: there is no store, or no such item; nothing is queued then.
    """
    database = existing_store(settings)
    item_ids = list(dict.fromkeys(item_ids))
    if unknown := retry_queue.unknown(database, item_ids):
        named = ", ".join(repr(id_[:200]) for id_ in unknown[:5]) + (", …" if len(unknown) > 5 else "")
        raise RepliError(f"there is no item {named} in {database}, so nothing was queued; see `repli queue`")
    return retry_queue.enqueue_by_operator(database, item_ids)


def search(settings: Settings, query: Query) -> Found:
    """The items that go best with a query.

    Raises:
        RepliError: there is no store, or nothing in it that could be compared with the query.
    """
    return repli.tasks.search.search(settings, existing_store(settings), query)


def export(settings: Settings, path: Path, selection: Selection, *, overwrite: bool) -> int:
    """Write the items that meet a selection to a file; how many.

    Raises:
        UsageError: the file is there and not to be overwritten, or of an unknown kind.
        RepliError: there is no store, or the file cannot be written.
    """
    from repli.tasks.reporting import export as exporter

    found = browse(existing_store(settings), STAGE_NAMES, selection)
    return exporter.export(found, STAGE_NAMES, path, overwrite=overwrite)


def existing_store(settings: Settings) -> Database:
    """Return the store, migrated. Raises `RepliError` where there is none."""
    database = Database(settings.database_url)
    if database.version() is None:
        raise RepliError(f"there is no store at {database}; make one with `repli run SOURCE`")
    database.migrate()
    return database
