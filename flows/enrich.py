"""The flow `enrich`: take the items of a manifest through the six stages, in batches, into the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from repli.flows.config.parameters import BatchSize, Faults, ForcedRungs, Limit, Refresh, Source, directives_of
from repli.flows.config.resolve import configured_settings, dask_client, task_runner
from repli.flows.config.run_request import RunRequest
from repli.flows.dispatch.dispatcher import BatchDispatcher, RunContext
from repli.flows.dispatch.heartbeat import heartbeat
from repli.flows.dispatch.routing import Routing
from repli.flows.dispatch.worker_deaths import mark_poison_item
from repli.tasks.execution.stage_runner import RunOptions, StageReport
from repli.tasks.execution.stage_task import Batch
from repli.tasks.pipeline import Pipeline
from repli.tasks.reporting import events
from repli.tasks.reporting.run_report import Report, build_report, markdown
from repli.tasks.settings import Settings
from repli.tasks.stages.default import PIPELINE, STAGE_NAMES
from repli.tasks.storage import catalogue, counts, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.locks import try_exclusive_lock
from repli.tasks.storage.retry import claims

NO_SOURCE = (
    "no source is set; give the deployment `enrich` the parameter `source`, or start `repli serve --nightly SOURCE`"
)
PROGRESS_EVERY_S = 5.0
"""Seconds between two updates of the progress artifact: counting a large run takes a while."""


@flow(name="enrich", flow_run_name="enrich {source}", task_runner=task_runner(), persist_result=False)
def enrich(
    source: Source = "",
    limit: Limit = None,
    batch_size: BatchSize = None,
    refresh: Refresh = False,
    force: ForcedRungs = (),
    faults: Faults = (),
) -> State[dict[str, Any]]:
    """Enrich the items of a manifest. Stages that an earlier run finished are not repeated.

    A source is enriched by one run at a time: while another runs, on any machine, this one ends `Cancelled`.
    The parameters are described in `repli.flows.config.parameters`.
    """
    if not source:
        return Failed(message=NO_SOURCE)
    settings = configured_settings()
    pipeline = PIPELINE.with_policy(settings.policy)
    request = RunRequest(
        source=Path(source),
        batch_size=batch_size or settings.batch_size,
        limit=limit,
        refresh=refresh,
        directives=directives_of(force, faults),
        policy=settings.policy,
    )
    database = Database(settings.database_url)
    database.migrate()
    with try_exclusive_lock(database, f"enrich {Path(source).resolve()}") as is_alone:
        if not is_alone:
            return Cancelled(message=f"{source} is being enriched by another run; wait for its end")
        return _enrich(database, request, settings, pipeline)


def _enrich(database: Database, request: RunRequest, settings: Settings, pipeline: Pipeline) -> State[dict[str, Any]]:
    """Run the stages over every item, and return the last state of the flow."""
    flow_run_id, source = str(flow_run.get_id()), str(request.source)
    run_id = runs.start(database, flow_run_id, source, request.options(settings), database.now())
    catalogue.register(database, run_id, request.records())
    options = RunOptions(run_id=run_id, refresh=request.refresh, directives=request.directives)
    with heartbeat(database, run_id, settings.retry.lease_s):
        problems, notes = _enrich_batches(database, request, options, settings, pipeline)
    runs.finish(database, run_id, database.now(), notes)
    return _last_state(build_report(database, runs.find(database, run_id), STAGE_NAMES), pipeline, problems)


def _enrich_batches(
    database: Database, request: RunRequest, options: RunOptions, settings: Settings, pipeline: Pipeline
) -> tuple[list[str], list[str]]:
    """Take every batch through the stages, and return the problems and the notes of the run."""
    artifact = create_progress_artifact(0.0, key="enrich-progress", description=f"Enriching {request.source}")
    shown_at = time.monotonic()

    def on_done(batch: Batch, reports: Sequence[StageReport]) -> None:
        nonlocal shown_at
        claims.release(database, options.run_id, batch.item_ids)
        if time.monotonic() - shown_at < PROGRESS_EVERY_S:
            return
        shown_at = time.monotonic()
        progress = counts.progress(database, options.run_id, refresh=options.refresh)
        update_progress_artifact(cast(UUID, artifact), progress=100 * progress.finished / max(1, progress.items))

    client = dask_client()
    context = RunContext(
        client=client,
        database=database,
        options=options,
        settings=settings,
        routing=Routing(client, database, forced=options.directives.forced),
        pipeline=pipeline,
    )
    dispatcher = BatchDispatcher(
        context,
        pipeline.stages,
        on_done=on_done,
        mark_poison_item=partial(mark_poison_item, database, options.run_id),
    )
    listed = catalogue.batches(
        database, options.run_id, request.batch_size, refresh=options.refresh, lease_s=settings.retry.lease_s
    )
    problems = dispatcher.run(Batch(number=number, item_ids=item_ids) for number, item_ids in enumerate(listed, 1))
    return problems, dispatcher.notes


def _last_state(report: Report, pipeline: Pipeline, problems: list[str]) -> State[dict[str, Any]]:
    """Publish the run's report, and return the flow's last state with the summary as its data."""
    create_markdown_artifact(markdown(report, pipeline.chains), key="enrich-report", description=str(report))
    for problem in problems:
        get_run_logger().error(problem)
    if problems:
        return Failed(message=f"{problems[0]}; {report}; start the run again, it continues from here")
    if report.tally.pending:
        return Failed(message=f"{report.tally.pending} items are unfinished; {report}; start the run again")
    if report.tally.stored == 0:
        return Failed(message=f"no item was stored: {report}; see the run's report for the reasons")
    if report.tally.degraded or report.tally.failed:
        events.emit_run_degraded(report.as_json())
        return Completed(name="Degraded", message=str(report), data=report.as_json())
    return Completed(message=str(report), data=report.as_json())
