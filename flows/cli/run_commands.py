"""Run the flows for the command line: `run`, `reprocess` and `drill`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from repli.flows.cli.store_commands import existing_store
from repli.flows.config.run_request import RetryRequest, RunRequest
from repli.flows.server.environment import NO_HEARTBEATS, environment, run_variables
from repli.flows.server.prefect_requests import server_errors
from repli.tasks.execution.run_pipeline import RunPipeline, choose
from repli.tasks.fallback import RepliError, StoreError, UsageError
from repli.tasks.reporting.retry_report import RetryReport, build_retry_report
from repli.tasks.reporting.run_report import Report, build_report
from repli.tasks.settings import Settings
from repli.tasks.storage import drills, pipelines, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.drills import Drill
from repli.tasks.storage.outages import PATIENCE_S
from repli.tasks.storage.runs import Run

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[Content]):
    """How a flow run ended. `problem` is the message of a run that failed, else None.

    The report of a failed run counts the results that were stored before the failure.
    """

    report: Content
    problem: str | None


def choose_pipeline(settings: Settings) -> RunPipeline:
    """Return the pipeline of a run with these settings; see `repli.tasks.execution.run_pipeline.choose`."""
    return choose(settings, Database(settings.database_url))


def run(chosen: RunPipeline, request: RunRequest, *, change_pipeline: bool = False) -> Outcome[Report]:
    """Run `enrich` on the cluster that the settings name, else on a local one, with progress on stderr.

    Args:
        change_pipeline: Go on with the chosen pipeline where the store was filled by another.

    Raises:
        PipelineConflict: The store was filled by another pipeline, and `change_pipeline` is false.
        StoreError: The store cannot be reached or written.
    """
    from repli.flows.server.dask_cluster import MAX_WORKERS, cluster

    database = Database(chosen.settings.database_url)
    database.migrate()  # fails before anything is started
    if change_pipeline:
        _change_pipeline(database, chosen)
    pipelines.declare(database, chosen.stored)
    with (
        show_progress(chosen.settings, request),
        cluster(
            chosen.settings,
            batches=request.batches(at_most=MAX_WORKERS),
            meanwhile=partial(_import_for, "enrich"),
        ) as dask_address,
    ):
        return run_on(dask_address, chosen, request)


def _change_pipeline(database: Database, chosen: RunPipeline) -> None:
    for kind in (runs.ENRICH, runs.REPROCESS):
        if runs.is_any_alive(database, kind):
            raise UsageError(f"--change-pipeline: a run of {kind} is active; wait for its end")
    pipelines.change(database, chosen.stored)


def reprocess(chosen: RunPipeline, request: RetryRequest) -> Outcome[RetryReport]:
    """Run `reprocess` on the cluster that the settings name, else on a local one, with progress on stderr.

    Raises:
        PipelineConflict: The store was filled by another pipeline.
        StoreError: The store cannot be reached or written.
    """
    from repli.flows.server.dask_cluster import cluster

    pipelines.declare(Database(chosen.settings.database_url), chosen.stored)
    with (
        show_progress(chosen.settings, request),
        cluster(chosen.settings, meanwhile=partial(_import_for, "reprocess")) as dask_address,
    ):
        return reprocess_on(dask_address, chosen, request)


def _import_for(flow: str) -> None:
    """Import a flow and, while it runs, what its end needs: its report has a chart, and the command prints it."""
    import_module(f"repli.flows.{flow}")
    threading.Thread(target=_import_for_end, name="imports", daemon=True).start()


def _import_for_end() -> None:
    for module in ("repli.flows.cli.render", "matplotlib.figure"):
        import_module(module)


def show_progress(settings: Settings, request: RunRequest | RetryRequest) -> AbstractContextManager[None]:
    """Show the progress of a run on stderr while the block runs."""
    from repli.flows.cli.progress import poll_run, progress_shown

    database = Database(settings.database_url)
    if isinstance(request, RunRequest):
        return progress_shown("enriching", poll_run(database, runs.ENRICH, str(request.source)))
    return progress_shown("reprocessing", poll_run(database, runs.REPROCESS))


def run_on(dask_address: str, chosen: RunPipeline, request: RunRequest) -> Outcome[Report]:
    """Run `enrich` on a running cluster, on the store of the settings."""
    from repli.flows.config.parameters import FaultToInject
    from repli.flows.enrich import enrich

    return _run_flow(
        enrich,
        dask_address,
        chosen.settings,
        source=str(request.source),
        limit=request.limit,
        batch_size=request.batch_size,
        refresh=request.refresh,
        force=tuple(f"{stage}.{rung}" for stage, rung in request.directives.forced.items()),
        faults=tuple(map(FaultToInject.from_fault, request.directives.faults)),
        prune=request.prune,
        columns=tuple(request.manifest_options.column_specs),
        delimiter=request.manifest_options.delimiter or "",
        encoding=request.manifest_options.encoding or "",
        folder=request.manifest_options.folder or "",
        report_on=partial(build_report, stages=chosen.declared.names),
    )


def reprocess_on(dask_address: str, chosen: RunPipeline, request: RetryRequest) -> Outcome[RetryReport]:
    """Run `reprocess` on a running cluster, on the store of the settings."""
    from repli.flows.config.parameters import FaultToInject
    from repli.flows.reprocess import reprocess as flow

    return _run_flow(
        flow,
        dask_address,
        chosen.settings,
        limit=request.limit,
        batch_size=request.batch_size,
        faults=tuple(map(FaultToInject.from_fault, request.directives.faults)),
        outdated=request.outdated,
        outdated_stage=request.outdated_stage,
        report_on=build_retry_report,
    )


def _run_flow(
    flow: Any,
    dask_address: str,
    settings: Settings,
    *,
    report_on: Callable[[Database, Run], Content],
    **parameters: Any,
) -> Outcome[Content]:
    """Run a flow on a cluster, and return its report and the message of a run that failed.

    Raises:
        RepliError: The flow failed before it registered its run, or the store that ended it is still unavailable.
    """
    state = _final_state(flow, dask_address, settings, **parameters)
    problem = None if state.is_completed() else state.message
    database = Database(settings.database_url, patience_s=0 if problem else PATIENCE_S)
    try:
        run = runs.of_flow_run(database, str(state.state_details.flow_run_id))
        if run is None:
            raise RepliError(f"the run did not start: {state.message}")
        return Outcome(report=report_on(database, run), problem=problem)
    except StoreError:
        if problem is None:
            raise
        raise RepliError(problem) from None  # the run says what happened, and its counts


def _final_state(flow: Any, dask_address: str, settings: Settings, **parameters: Any) -> Any:
    """Run a flow on a cluster and return its final Prefect state.

    The flow reads its settings itself, from the environment and the Prefect blocks. The environment names the store and
    the pipeline of `settings` while the flow runs.

    Raises:
        RepliError: The Prefect server stopped answering.
    """
    from prefect.context import SyncClientContext
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from repli.flows.server.records import record_client
    from repli.tasks.execution.task_runner import StageTaskRunner

    runner = cast(Any, StageTaskRunner(address=dask_address))
    # Prefect has read its settings when it was imported: an earlier run of this process had another server.
    server: dict[Any, Any] = {PREFECT_API_URL: url} if (url := os.environ.get("PREFECT_API_URL")) else {}
    if NO_HEARTBEATS in os.environ:
        server[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
    with (
        environment(run_variables(settings)),
        temporary_settings(server),
        server_errors(),
        SyncClientContext() as engine,
    ):
        record_client(engine.client)  # before the engine uses it: the start of the run waits for the server too
        return flow.with_options(task_runner=runner)(**parameters, return_state=True)


def drill(settings: Settings, sample: int) -> Outcome[Sequence[Drill]]:
    """Run a drill on the cluster that the settings name, else on a local one.

    Returns:
        The drill and the one before it, newest first.

    Raises:
        RepliError: There is no store, it holds no item for the sample, or the drill reached no verdict.
    """
    from repli.flows.cli.progress import progress_shown
    from repli.flows.server.dask_cluster import cluster

    database = existing_store(settings)
    chosen = choose_pipeline(settings)
    pipelines.declare(database, chosen.stored)
    meanwhile = partial(_import_for, "drill")
    with progress_shown("drilling"), cluster(chosen.settings, meanwhile=meanwhile) as dask_address:
        from repli.flows.drill import drill as flow  # inside: Prefect reads its settings when it is imported

        state = _final_state(flow, dask_address, chosen.settings, sample=sample)
    if drills.of_flow_run(database, str(state.state_details.flow_run_id)) is None:
        raise RepliError(state.message or "the drill reached no verdict; see the log of its flow run")
    return Outcome(report=drills.latest(database), problem=None if state.is_completed() else state.message)
