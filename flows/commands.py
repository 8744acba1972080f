"""What the commands do, apart from how they are typed."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, cast

import tasks.search
from flows.cluster import known_server
from flows.run_request import RetryRequest, RunRequest
from tasks.fallback import Cause, Order, RepliError, UsageError
from tasks.report import Report, report_on
from tasks.retry_report import RetryReport, retry_report_on
from tasks.search import Found, Query
from tasks.settings import Settings
from tasks.stages import STAGE_NAMES, declared_breakers
from tasks.storage import breakers, drills, lookup, retry_queue, runs
from tasks.storage.breakers import BreakerView, Key
from tasks.storage.browse import Selection, browse
from tasks.storage.database import Database
from tasks.storage.drills import Drill
from tasks.storage.lookup import ItemView
from tasks.storage.retry_queue import Entry, QueueTally
from tasks.storage.runs import Run, Tally

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run of `enrich` ended. `problem` is set where it failed."""

    report: Report
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOutcome:
    """How a run of `reprocess` ended. `problem` is set where it failed."""

    report: RetryReport
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


def reprocess(settings: Settings, request: RetryRequest) -> RetryOutcome:
    """Run `reprocess` on this machine, or on the cluster that the settings name, with progress on stderr.

    Raises:
        RepliError: there is no store.
        StoreError: the store cannot be reached or written.
    """
    from flows.cluster import cluster

    _existing(settings)
    with progress_of(settings, request), cluster(settings) as dask_address:
        return reprocess_on(dask_address, settings, request)


def progress_of(settings: Settings, request: RunRequest | RetryRequest) -> AbstractContextManager[None]:
    """Progress of a run on stderr, while the block runs."""
    from rich.console import Console

    from flows.terminal import progress_shown, retry_progress, run_progress

    database = Database(settings.database_url)
    if isinstance(request, RunRequest):
        poll, doing = run_progress(database, str(request.source), refresh=request.refresh), "enriching"
    else:
        poll, doing = retry_progress(database), "reprocessing"
    return progress_shown(Console(stderr=True), poll, doing)


def run_on(dask_address: str, settings: Settings, request: RunRequest) -> RunOutcome:
    """Run `enrich` on a cluster that is there. The flow reads its settings from the environment."""
    from flows.enrich import enrich
    from flows.parameters import faults_by, forced_by

    begun, problem = _flow_run(
        enrich,
        dask_address,
        settings,
        source=str(request.source),
        limit=request.limit,
        batch_size=request.batch_size,
        refresh=request.refresh,
        force=forced_by(request.force),
        faults=faults_by(request.faults),
    )
    return RunOutcome(report=report_on(Database(settings.database_url), begun, STAGE_NAMES), problem=problem)


def reprocess_on(dask_address: str, settings: Settings, request: RetryRequest) -> RetryOutcome:
    """Run `reprocess` on a cluster that is there. The flow reads its settings from the environment."""
    from flows.parameters import faults_by
    from flows.reprocess import reprocess as flow

    begun, problem = _flow_run(
        flow,
        dask_address,
        settings,
        limit=request.limit,
        batch_size=request.batch_size,
        faults=faults_by(request.faults),
    )
    return RetryOutcome(report=retry_report_on(Database(settings.database_url), begun), problem=problem)


def _flow_run(flow: Any, dask_address: str, settings: Settings, **parameters: Any) -> tuple[Run, str | None]:
    """Run a flow on a cluster: its run in the store, and why it failed, if it did."""
    state = _ended(flow, dask_address, **parameters)
    begun = runs.of_flow_run(Database(settings.database_url), str(state.state_details.flow_run_id))
    if begun is None:
        raise RepliError(f"the run did not begin: {state.message}")
    return begun, None if state.is_completed() else state.message


def _ended(flow: Any, dask_address: str, **parameters: Any) -> Any:
    """The last state of a flow that ran on a cluster."""
    from prefect_dask import DaskTaskRunner

    runner = cast(Any, DaskTaskRunner(address=dask_address))
    return flow.with_options(task_runner=runner)(**parameters, return_state=True)


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
    database = _existing(settings)
    return Overview(
        database=database, tally=runs.tally(database, STAGE_NAMES), last_run=runs.latest(database), now=database.now()
    )


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
    with known_server(settings):
        if moves and os.environ.get("PREFECT_API_URL"):
            from tasks.events import breakers_moved_now

            breakers_moved_now(moves)
    return breakers_of(settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillOutcome:
    """A drill and the one before it, the last first. `problem` is set where it failed."""

    drills: Sequence[Drill]
    problem: str | None


def drill(settings: Settings, sample: int) -> DrillOutcome:
    """Hold a drill on this machine, or on the cluster that the settings name.

    Raises:
        RepliError: there is no store, or nothing in it to drill on.
    """
    from flows.cluster import cluster

    database = _existing(settings)
    with cluster(settings) as dask_address:
        from flows.drill import drill as flow  # Prefect reads its settings when it is imported

        state = _ended(flow, dask_address, sample=sample)
    if drills.of_flow_run(database, str(state.state_details.flow_run_id)) is None:
        raise RepliError(state.message or "the drill did not come to a verdict")
    return DrillOutcome(drills=drills.latest(database), problem=None if state.is_completed() else state.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """The retry queue, and the first of those in it."""

    tally: QueueTally
    entries: Sequence[Entry]

    def as_json(self) -> dict[str, Any]:
        return {**self.tally.as_json(), "items": [entry.as_json() for entry in self.entries]}


def queue_of(settings: Settings, limit: int) -> QueueView:
    """The retry queue. Raises `RepliError` where there is no store."""
    database = _existing(settings)
    return QueueView(tally=retry_queue.tally(database), entries=retry_queue.entries(database, limit))


def retry(settings: Settings, item_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Queue items on a person's word: those that are queued now, and those about which there is nothing to do again.

    Raises:
        RepliError: there is no store, or no such item; nothing is queued then.
    """
    database = _existing(settings)
    item_ids = list(dict.fromkeys(item_ids))
    if unknown := retry_queue.unknown(database, item_ids):
        named = ", ".join(repr(id_[:200]) for id_ in unknown[:5]) + (", …" if len(unknown) > 5 else "")
        raise RepliError(f"there is no item {named} in {database}, so nothing was queued; see `repli queue`")
    return retry_queue.ask_for(database, item_ids)


def search(settings: Settings, query: Query) -> Found:
    """The items that go best with a query.

    Raises:
        RepliError: there is no store, or nothing in it that could be compared with the query.
    """
    return tasks.search.search(settings, _existing(settings), query)


def export(settings: Settings, path: Path, selection: Selection, *, overwrite: bool) -> int:
    """Write the items that meet a selection to a file; how many.

    Raises:
        UsageError: the file is there and not to be overwritten, or of an unknown kind.
        RepliError: there is no store, or the file cannot be written.
    """
    from tasks import export as exporter

    found = browse(_existing(settings), STAGE_NAMES, selection)
    return exporter.export(found, STAGE_NAMES, path, overwrite=overwrite)


def dashboard(settings: Settings, port: int) -> NoReturn:
    """Become the dashboard's server, on this machine's own address. It reads its settings from the environment.

    Raises:
        RepliError: the extra is not installed, there is no store of today's kind, or the port is taken.
    """
    from tasks.storage.figures import opened

    try:
        import streamlit  # noqa: F401
    except ModuleNotFoundError:
        raise RepliError("the dashboard needs the extra: pip install 'repli[dashboard]'") from None
    opened(settings.database_url).engine.dispose()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise RepliError(f"port {port} cannot be had ({error.strerror}); choose another with --port") from None
    options = {
        "server.address": LOOPBACK,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "browser.serverAddress": LOOPBACK,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "runner.magicEnabled": "false",
    }
    page = Path(__file__).with_name("dashboard.py")
    asked = [f"--{name}={value}" for name, value in options.items()]
    os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", str(page), *asked])  # noqa: S606


def _existing(settings: Settings) -> Database:
    database = Database(settings.database_url)
    if database.version() is None:
        raise RepliError(f"there is no store at {database}; make one with `repli run SOURCE`")
    database.migrate()
    return database
