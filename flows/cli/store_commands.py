"""Read and change the store for the command line: `status`, `show`, `forget`, `queue`, `search` and others."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import repli.tasks.search
from repli.flows.server.dask_cluster import known_server
from repli.flows.server.prefect_requests import CHECK_ADDRESS, CHECK_SERVE, send_breaker_moves
from repli.tasks.execution.run_pipeline import store_pipeline, store_versions
from repli.tasks.fallback import Breaker, Rate, RepliError, UsageError
from repli.tasks.fallback.breaker import Override, short_key
from repli.tasks.items import clean_text
from repli.tasks.search import Query, SearchResult
from repli.tasks.settings import Settings
from repli.tasks.storage import accuracy, breakers, counts, outdated, pipelines, runs
from repli.tasks.storage.blobs import Blobs
from repli.tasks.storage.breakers import BreakerView, Key
from repli.tasks.storage.counts import Tally
from repli.tasks.storage.database import Database
from repli.tasks.storage.forget import Forgotten, forget
from repli.tasks.storage.outdated import OutdatedTally
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.retry.retry_queue import Entry, QueueTally
from repli.tasks.storage.runs import Run
from repli.tasks.storage.views import lookup
from repli.tasks.storage.views.browse import Selection, browse
from repli.tasks.storage.views.lookup import ItemView


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The counts of a store, its rates, its results by older versions, and its latest run, at its time `now`."""

    database: Database
    tally: Tally
    rates: Mapping[str, Rate]
    outdated: OutdatedTally
    last_run: Run | None
    now: datetime

    def as_json(self) -> dict[str, Any]:
        last = self.last_run
        return {
            "database": str(self.database),
            **self.tally.as_json(),
            "pending": self.tally.pending,
            "rates": {rung: rate.as_json() for rung, rate in self.rates.items()},
            "outdated": self.outdated.by_stage,
            "unknown_version": self.outdated.unknown_by_stage,
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
    """Return the counts of the store.

    Raises:
        RepliError: There is no store.
    """
    database = existing_store(settings)
    names = store_pipeline(settings, database).names
    return Overview(
        database=database,
        tally=counts.tally(database, names),
        rates=accuracy.rates(database),
        outdated=outdated.tally(database, store_versions(settings, database)),
        last_run=runs.latest(database),
        now=database.now(),
    )


def show(settings: Settings, item_id: str) -> ItemView:
    """Return one item with all its results.

    Raises:
        RepliError: There is no store, or no item with this id.
    """
    database = existing_store(settings)
    view = lookup.view(database, item_id, store_pipeline(settings, database))
    if view is None:
        raise RepliError(f"there is no item {item_id[:200]!r} in {database}; see `repli status`, or the manifest's ids")
    return view


def list_breakers(settings: Settings) -> list[BreakerView]:
    """Return every declared breaker.

    Raises:
        RepliError: There is no store.
    """
    database = existing_store(settings)
    return breakers.views(database, _declared_breakers(settings, database))


def _declared_breakers(settings: Settings, database: Database) -> dict[str, Breaker]:
    """Return the breakers of the store's pipeline, and of the tasks of other flows that use the store."""
    declared = store_pipeline(settings, database).breakers  # migrates an older store
    return declared if database.version() is None else {**declared, **pipelines.task_breakers(database)}


def override_breaker(
    settings: Settings, name: str, override: Override, tell: Callable[[str], None]
) -> list[BreakerView]:
    """Force a breaker open or closed, or remove its override. Send the moves to the Prefect server, if one is known.

    Args:
        name: The breaker as `STAGE.RUNG`, or `STAGE.RUNG@KEY` for one device or key.
        override: What to do with it.
        tell: Prints a line when the override is stored, but the server did not accept the moves.

    Returns:
        Every declared breaker, after the override.

    Raises:
        UsageError: There is no breaker of this name.
    """
    rung, _, place = name.partition("@")
    database = Database(settings.database_url)
    declared = _declared_breakers(settings, database)
    if rung not in declared:
        raise UsageError(f"there is no breaker {name[:200]!r}; choose from {', '.join(declared)}")
    if place and declared[rung].scope == "fleet":
        raise UsageError(f"the breaker {rung} has the scope fleet, and no keys; omit @{place[:200]}")
    database.migrate()
    place = short_key(place) if declared[rung].scope == "key" else place  # as its calls name it
    moves = breakers.override(database, declared[rung], Key(rung, place), override)
    remedy = CHECK_ADDRESS if os.environ.get("PREFECT_API_URL") else CHECK_SERVE
    with known_server(settings):
        if moves and os.environ.get("PREFECT_API_URL"):
            try:
                send_breaker_moves(moves, remedy)
            except RepliError as error:
                tell(f"the breaker is changed, but no event was sent: {error}")
    return list_breakers(settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """The counts of the retry queue, and its first entries in the order of claims."""

    tally: QueueTally
    entries: Sequence[Entry]

    def as_json(self) -> dict[str, Any]:
        return {**self.tally.as_json(), "items": [entry.as_json() for entry in self.entries]}


def list_queue(settings: Settings, limit: int) -> QueueView:
    """Return the retry queue with its first `limit` entries.

    Raises:
        RepliError: There is no store.
    """
    database = existing_store(settings)
    return QueueView(tally=retry_queue.tally(database), entries=retry_queue.entries(database, limit))


def retry(settings: Settings, item_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Queue items with priority HIGH, parked items too.

    Returns:
        The ids that are queued now, and those that have nothing to retry: they succeeded, or are still pending.

    Raises:
        RepliError: There is no store, or one of the items does not exist. Nothing is queued then.
    """
    database = existing_store(settings)
    item_ids = list(dict.fromkeys(item_ids))  # without duplicates
    if unknown := retry_queue.unknown(database, item_ids):
        named = ", ".join(repr(id_[:200]) for id_ in unknown[:5]) + (", …" if len(unknown) > 5 else "")
        raise RepliError(f"there is no item {named} in {database}, so nothing was queued; see `repli queue`")
    return retry_queue.enqueue_by_operator(database, item_ids)


def forget_items(settings: Settings, item_ids: Sequence[str]) -> Forgotten:
    """Remove items from the store, its index and its blobs.

    Raises:
        RepliError: There is no store, one of the items does not exist, or a run is active. Nothing is removed then.
    """
    database = existing_store(settings)
    item_ids = list(dict.fromkeys(map(clean_text, item_ids)))
    if unknown := retry_queue.unknown(database, item_ids):
        named = ", ".join(repr(id_[:200]) for id_ in unknown[:5]) + (", …" if len(unknown) > 5 else "")
        raise RepliError(f"there is no item {named} in {database}, so nothing was removed; see `repli status`")
    if runs.is_other_alive(database):
        raise RepliError("a run is active, so nothing was removed; wait for its end")
    return forget(database, Blobs(settings.blobs), settings.picture_cache, item_ids)


def search(settings: Settings, query: Query) -> SearchResult:
    """Return the stored items that match a query best.

    Raises:
        RepliError: There is no store, or it holds nothing to compare with the query.
    """
    return repli.tasks.search.search(settings, existing_store(settings), query)


def export(
    settings: Settings,
    path: Path,
    *,
    status: Sequence[str] = (),
    min_quality: float | None = None,
    max_quality: float | None = None,
    overwrite: bool = False,
) -> int:
    """Write the selected items to a file and return their number.

    Args:
        status: Conditions on items, each STATE or STAGE=STATUS.

    Raises:
        UsageError: A condition or bound is invalid, the file exists and `overwrite` is False, or its suffix is unknown.
        RepliError: There is no store, or the file cannot be written.
    """
    from repli.tasks.reporting import export as exporter

    database = existing_store(settings)
    pipeline = store_pipeline(settings, database)
    selection = Selection.parse(status, pipeline.names, min_quality, max_quality)
    found = browse(database, pipeline, selection)
    return exporter.export(found, pipeline.names, path, overwrite=overwrite)


def existing_store(settings: Settings) -> Database:
    """Return the store, migrated to this version's schema.

    Raises:
        RepliError: There is no store.
    """
    database = Database(settings.database_url)
    if database.version() is None:
        raise RepliError(f"there is no store at {database}; make one with `repli run SOURCE`")
    database.migrate()
    return database
