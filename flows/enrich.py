"""The flow `enrich`: take the items of a manifest through the stages of the pipeline, in batches, into the store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from repli.flows.config.parameters import (
    BatchSize,
    Columns,
    Delimiter,
    EncodingName,
    Faults,
    Folder,
    ForcedRungs,
    Limit,
    PipelineName,
    Prune,
    Refresh,
    Source,
    directives_of,
)
from repli.flows.config.resolve import configured_run, dask_client, task_runner
from repli.flows.config.run_request import RunRequest
from repli.flows.config.unlisted_items import treat_unlisted
from repli.flows.dispatch.dispatcher import BatchDispatcher, RunContext
from repli.flows.dispatch.heartbeat import heartbeat
from repli.flows.dispatch.routing import Routing
from repli.flows.dispatch.stage_counts import StageCounts
from repli.flows.dispatch.worker_deaths import mark_poison_item
from repli.flows.server.phases import FIRST_STAGE, begin_phase
from repli.flows.server.records import note_outages, server_link, server_may_fail
from repli.tasks.execution.batch_size import choose_batch_size
from repli.tasks.execution.rung_versions import present_versions
from repli.tasks.execution.stage_runner import RunOptions, StageReport
from repli.tasks.execution.stage_task import Batch
from repli.tasks.fallback import StoreError
from repli.tasks.pipeline import Pipeline
from repli.tasks.reporting import events
from repli.tasks.reporting.run_report import Report, build_report, markdown
from repli.tasks.runtime.timeline import timed
from repli.tasks.settings import Settings
from repli.tasks.sources.manifest import ManifestOptions, ShortRows
from repli.tasks.sources.manifest.remembered import remembered_options
from repli.tasks.storage import catalogue, counts, outdated, runs
from repli.tasks.storage.accuracy import refresh_expected_accuracy
from repli.tasks.storage.blobs import Blobs, keep_contents
from repli.tasks.storage.database import Database
from repli.tasks.storage.locks import try_exclusive_lock
from repli.tasks.storage.runs import Progress

NO_SOURCE = (
    "no source is set; give the deployment `enrich` the parameter `source`, or start `repli serve --nightly SOURCE`"
)
PROGRESS_EVERY_S = 5.0
"""Seconds between two updates of the progress artifact."""


@flow(name="enrich", flow_run_name="enrich {source}", task_runner=task_runner(), persist_result=False)
def enrich(
    source: Source = "",
    limit: Limit = None,
    batch_size: BatchSize = None,
    refresh: Refresh = False,
    force: ForcedRungs = (),
    faults: Faults = (),
    pipeline: PipelineName = "",
    columns: Columns = (),
    delimiter: Delimiter = "",
    encoding: EncodingName = "",
    folder: Folder = "",
    prune: Prune = False,
) -> State[dict[str, Any]]:
    """Enrich the items of a manifest. Stages that an earlier run finished are not repeated.

    A source is enriched by one run at a time: while another runs, on any machine, this one ends `Cancelled`.
    The parameters are described in `repli.flows.config.parameters`.
    """
    if not source:
        return Failed(message=NO_SOURCE)
    with server_may_fail():
        try:
            with timed("flow", "read the settings"):
                chosen, database = configured_run(pipeline)
            options = ManifestOptions.parse(columns, delimiter=delimiter, encoding=encoding, folder=folder)
            request = RunRequest(
                source=Path(source),
                batch_size=batch_size or chosen.settings.batch_size,
                limit=limit,
                refresh=refresh,
                prune=prune,
                directives=directives_of(force, faults),
                pipeline=chosen.active,
                manifest_options=remembered_options(database, Path(source), options),
            )
            return _enrich_alone(database, request, chosen.settings)
        except StoreError as error:
            return Failed(message=f"{error}; start the run again")


def _enrich_alone(database: Database, request: RunRequest, settings: Settings) -> State[dict[str, Any]]:
    """Enrich a source that no other run enriches."""
    source = request.source
    with try_exclusive_lock(database, f"enrich {source.resolve()}") as is_alone:
        if not is_alone:
            return Cancelled(message=f"{source} is being enriched by another run; wait for its end")
        return _enrich(database, request, settings)


def _enrich(database: Database, request: RunRequest, settings: Settings) -> State[dict[str, Any]]:
    """Run the stages over every item, and return the last state of the flow."""
    flow_run_id, source = str(flow_run.get_id()), str(request.source)
    run_id = runs.start(database, flow_run_id, source, request.options(settings), database.now())
    note_outages(database, run_id)
    run = _EnrichRun(database, run_id, request, settings)
    with heartbeat(run_id, settings, request.pipeline.chains, lambda: run.progress):
        run.process()
    if run.store_error:
        return _state_without_store(database, run)
    try:
        with timed("flow", "write the report"):
            return _finish(database, run, settings, request.pipeline)
    except StoreError as error:
        return Failed(message=f"{error}; {run.progress}; start the run again, it continues from here")


class _EnrichRun:
    """One run over a manifest. `progress` counts its items as the stages of the batches end."""

    def __init__(self, database: Database, run_id: str, request: RunRequest, settings: Settings) -> None:
        self._database = database
        self.request = request
        self._settings = settings
        self._pipeline = request.pipeline
        self._counts = StageCounts(request.pipeline.names)
        self._shown_at = time.monotonic()
        self.run_id = run_id
        self.progress: Progress | None = None
        self.problems: list[str] = []
        self.notes: list[str] = [*request.manifest.notes]
        self.store_error: StoreError | None = None
        self._worse = 0

    def process(self) -> None:
        """Register the items, and take every batch with work left through the stages."""
        begin_phase("registering the items")
        artifact = create_progress_artifact(0.0, key="enrich-progress", description=f"Enriching {self.request.source}")
        self._artifact = cast(UUID, artifact)
        try:
            with timed("flow", "register the items"):
                refresh_expected_accuracy(self._database)  # of a store that an older Repli has filled
                self._register()
        except StoreError as error:
            self.store_error = error
            return
        dispatcher = self._dispatcher()
        begin_phase("waiting for a worker")
        with timed("flow", "run the stages"):
            self.problems = dispatcher.run(self._batches())
        self.notes += dispatcher.notes
        if self._worse:
            results = "1 result was" if self._worse == 1 else f"{self._worse} results were"
            self.notes.append(f"{results} worse than what is stored, which stands")
        self.store_error = dispatcher.store_error

    def _register(self) -> None:
        short_rows = ShortRows()
        records = keep_contents(self.request.records(short_rows), Blobs(self._settings.blobs))
        registered = catalogue.register(self._database, self.run_id, records)
        self.notes += short_rows.explained(f"the manifest {self.request.source}")
        self.progress = Progress(items=registered.items, stages=self._counts.as_mapping())
        if not self.request.refresh:
            earlier = sum(registered.stored.values()) + registered.failed
            self.progress = replace(self.progress, earlier=earlier)
            self.progress = self.progress.after(earlier, registered.failed, registered.stored)

    def _batches(self) -> Iterator[Batch]:
        begin_phase(FIRST_STAGE)
        items = self._registered().items - self._registered().earlier
        threads = sum(dask_client().nthreads().values())
        size = choose_batch_size(self.request.batch_size, items=items, threads=threads)
        listed = catalogue.batches(self._database, self.run_id, size, refresh=self.request.refresh)
        for number, item_ids in enumerate(listed, 1):
            yield Batch(number=number, item_ids=item_ids)

    def _dispatcher(self) -> BatchDispatcher:
        client = dask_client()
        directives = self.request.directives
        context = RunContext(
            client=client,
            database=self._database,
            options=RunOptions(run_id=self.run_id, refresh=self.request.refresh, directives=directives),
            settings=self._settings,
            routing=Routing(client, self._database.without_patience(), forced=directives.forced),
            pipeline=self._pipeline,
        )
        return BatchDispatcher(
            context,
            self._pipeline.stages,
            on_stage_done=self._stage_done,
            on_done=self._count,
            mark_poison_item=self._mark_poison_item,
        )

    def _mark_poison_item(self, batch: Batch, stage: str) -> None:
        mark_poison_item(self._database, self.run_id, batch, stage)
        self._count(batch)

    def _stage_done(self, batch: Batch, report: StageReport) -> None:
        self._counts.stage_done(batch.item_ids, report.stage)
        self._worse += report.worse
        self._show(self._registered())

    def _count(self, batch: Batch) -> None:
        self._counts.items_done(batch.item_ids)
        failed, qualities = counts.states_of(self._database, batch.item_ids)
        self._show(self._registered().after(len(batch.item_ids), failed, qualities))

    def _registered(self) -> Progress:
        """Return the progress, which is known once the items are registered."""
        if self.progress is None:
            raise AssertionError("a stage ended before the items were registered")
        return self.progress

    def _show(self, progress: Progress) -> None:
        self.progress = replace(progress, stages=self._counts.as_mapping())
        if time.monotonic() - self._shown_at > PROGRESS_EVERY_S:
            self._shown_at = time.monotonic()
            update_progress_artifact(self._artifact, progress=100 * self.progress.share)


def _state_without_store(database: Database, run: _EnrichRun) -> State[dict[str, Any]]:
    """Return the last state of a run that the store has ended, with its counts so far. It does not wait again."""
    with suppress(StoreError):
        runs.finish(impatient := database.without_patience(), run.run_id, impatient.now())
    done = f"; {run.progress}" if run.progress else ""
    return Failed(message=f"{run.store_error}{done}; start the run again, it continues from here")


def _finish(database: Database, run: _EnrichRun, settings: Settings, pipeline: Pipeline) -> State[dict[str, Any]]:
    unlisted = treat_unlisted(database, run.run_id, run.request, settings)
    older = outdated.tally(database, present_versions(pipeline, settings.models))
    notes = [*run.notes, *unlisted, *older.notes, *server_link().notes]
    runs.finish(database, run.run_id, database.now(), notes)
    report = build_report(database, runs.find(database, run.run_id), pipeline.names)
    runs.summarize(database, run.run_id, report.as_json())
    with suppress(StoreError):  # the next run prunes
        runs.prune(database, settings.keep_runs)
    return _last_state(report, pipeline, run.problems)


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
