"""What the commands do, apart from how they are typed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

from flows.run_request import RunRequest
from tasks.fallback import Cause, Order, RepliError, UsageError
from tasks.report import Report, report_on
from tasks.settings import Settings
from tasks.stages import STAGE_NAMES, declared_breakers
from tasks.storage import breakers, lookup, runs
from tasks.storage.breakers import BreakerView, Key
from tasks.storage.database import Database
from tasks.storage.lookup import ItemView
from tasks.storage.runs import Run, Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended. `problem` is set where it failed."""

    report: Report
    problem: str | None


def run(settings: Settings, request: RunRequest) -> RunOutcome:
    """Run `enrich` on this machine, or on the cluster that the settings name, with progress on stderr.

    Raises:
        StoreError: the store cannot be reached or written.
    """
    from flows.cluster import cluster

    Database(settings.database_url).migrate()  # what cannot be written is told before anything is started
    with progress_of(settings, request), cluster(settings) as dask_address:
        return run_on(dask_address, settings, request)


def progress_of(settings: Settings, request: RunRequest) -> AbstractContextManager[None]:
    """Progress of a run on stderr, while the block runs."""
    from rich.console import Console

    from flows.terminal import progress_shown

    database = Database(settings.database_url)
    return progress_shown(Console(stderr=True), database, str(request.source), refresh=request.refresh)


def run_on(dask_address: str, settings: Settings, request: RunRequest) -> RunOutcome:
    """Run `enrich` on a cluster that is there. The flow reads its settings from the environment."""
    from prefect_dask import DaskTaskRunner

    from flows.enrich import enrich

    database = Database(settings.database_url)
    flow = enrich.with_options(task_runner=cast(Any, DaskTaskRunner(address=dask_address)))
    state = flow(
        str(request.source),
        limit=request.limit,
        batch_size=request.batch_size,
        refresh=request.refresh,
        force=list(request.force),
        faults=list(request.faults),
        return_state=True,
    )
    begun = runs.of_flow_run(database, str(state.state_details.flow_run_id))
    if begun is None:
        raise RepliError(f"the run did not begin: {state.message}")
    report = report_on(database, begun, STAGE_NAMES)
    return RunOutcome(report=report, problem=None if state.is_completed() else state.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What is in the store, and the run that began last."""

    database: Database
    tally: Tally
    last_run: Run | None

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
                "options": dict(last.options),
            },
        }


def status(settings: Settings) -> Overview:
    """What is in the store. Raises `RepliError` where there is none."""
    database = _existing(settings)
    return Overview(database=database, tally=runs.tally(database, STAGE_NAMES), last_run=runs.latest(database))


def show(settings: Settings, item_id: str) -> ItemView:
    """One item, whole. Raises `RepliError` where there is none of this id."""
    database = _existing(settings)
    view = lookup.view(database, item_id, STAGE_NAMES)
    if view is None:
        raise RepliError(f"there is no item {item_id[:200]!r} in {database}; see `repli status`, or the manifest's ids")
    return view


ORDERS: Mapping[str, Order] = {"open": Cause.FORCED_OPEN, "close": Cause.FORCED_CLOSED, "reset": Cause.RESET}
"""What a person may say to a breaker."""


def breakers_of(settings: Settings) -> list[BreakerView]:
    """Every declared breaker. Raises `RepliError` where there is no store."""
    return breakers.views(_existing(settings), declared_breakers())


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
    if moves and os.environ.get("PREFECT_API_URL"):
        from tasks.breaker_events import emit_now

        emit_now(moves)
    return breakers_of(settings)


def _existing(settings: Settings) -> Database:
    database = Database(settings.database_url)
    if not database.is_migrated():
        raise RepliError(f"there is no store of this version at {database}; make one with `repli run SOURCE`")
    return database
