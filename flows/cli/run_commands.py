"""Run the flows for the command line: `run`, `reprocess` and `drill`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

from repli.flows.cli.store_commands import existing_store
from repli.flows.config.run_request import RetryRequest, RunRequest
from repli.tasks.fallback import RepliError
from repli.tasks.reporting.retry_report import RetryReport, build_retry_report
from repli.tasks.reporting.run_report import Report, build_report
from repli.tasks.settings import Settings
from repli.tasks.stages.default import STAGE_NAMES
from repli.tasks.storage import drills, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.drills import Drill
from repli.tasks.storage.runs import Run


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
    from repli.flows.server.dask_cluster import cluster

    Database(settings.database_url).migrate()  # what cannot be written is told before anything is started
    with show_progress(settings, request), cluster(settings) as dask_address:
        return run_on(dask_address, settings, request)


def reprocess(settings: Settings, request: RetryRequest) -> RetryOutcome:
    """Run `reprocess` on this machine, or on the cluster that the settings name, with progress on stderr.

    Raises:
        RepliError: there is no store.
        StoreError: the store cannot be reached or written.
    """
    from repli.flows.server.dask_cluster import cluster

    existing_store(settings)
    with show_progress(settings, request), cluster(settings) as dask_address:
        return reprocess_on(dask_address, settings, request)


def show_progress(settings: Settings, request: RunRequest | RetryRequest) -> AbstractContextManager[None]:
    """Progress of a run on stderr, while the block runs."""
    from rich.console import Console

    from repli.flows.cli.render import progress_shown, retry_progress, run_progress

    database = Database(settings.database_url)
    if isinstance(request, RunRequest):
        poll, doing = run_progress(database, str(request.source), refresh=request.refresh), "enriching"
    else:
        poll, doing = retry_progress(database), "reprocessing"
    return progress_shown(Console(stderr=True), poll, doing)


def run_on(dask_address: str, settings: Settings, request: RunRequest) -> RunOutcome:
    """Run `enrich` on a cluster that is there. The flow reads its settings from the environment."""
    from repli.flows.config.parameters import faults_by, forced_by
    from repli.flows.enrich import enrich

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
    return RunOutcome(report=build_report(Database(settings.database_url), begun, STAGE_NAMES), problem=problem)


def reprocess_on(dask_address: str, settings: Settings, request: RetryRequest) -> RetryOutcome:
    """Run `reprocess` on a cluster that is there. The flow reads its settings from the environment."""
    from repli.flows.config.parameters import faults_by
    from repli.flows.reprocess import reprocess as flow

    begun, problem = _flow_run(
        flow,
        dask_address,
        settings,
        limit=request.limit,
        batch_size=request.batch_size,
        faults=faults_by(request.faults),
    )
    return RetryOutcome(report=build_retry_report(Database(settings.database_url), begun), problem=problem)


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
class DrillOutcome:
    """A drill and the one before it, the last first. `problem` is set where it failed."""

    drills: Sequence[Drill]
    problem: str | None


def drill(settings: Settings, sample: int) -> DrillOutcome:
    """Hold a drill on this machine, or on the cluster that the settings name.

    Raises:
        RepliError: there is no store, or nothing in it to drill on.
    """
    from repli.flows.server.dask_cluster import cluster

    database = existing_store(settings)
    with cluster(settings) as dask_address:
        from repli.flows.drill import drill as flow  # Prefect reads its settings when it is imported

        state = _ended(flow, dask_address, sample=sample)
    if drills.of_flow_run(database, str(state.state_details.flow_run_id)) is None:
        raise RepliError(state.message or "the drill did not come to a verdict")
    return DrillOutcome(drills=drills.latest(database), problem=None if state.is_completed() else state.message)
