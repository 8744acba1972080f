"""The flow `reprocess`: repeat degraded, failed and stale stages whose better rungs are available again.

First come items whose `store` result failed or is stale, for example because a run was killed before it stored them.
Then a few items are tried at each stage where a rung better than that of their result can be called, and more while
that decides nothing. All other items follow at the stages that upgraded an item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from distributed import Client
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from repli.flows.config.parameters import BatchSize, Faults, Limit, Outdated, OutdatedStage, PipelineName, directives_of
from repli.flows.config.resolve import configured_run, dask_client, task_runner
from repli.flows.config.run_request import RetryRequest
from repli.flows.dispatch.dispatcher import BatchDispatcher, RunContext, full_width
from repli.flows.dispatch.heartbeat import heartbeat
from repli.flows.dispatch.retry_planner import PROBE_ITEMS, RetryDecision, StageProgress, retry_targets
from repli.flows.dispatch.routing import Routing
from repli.flows.dispatch.stage_counts import StageCounts
from repli.flows.dispatch.worker_deaths import mark_poison_item
from repli.flows.server.phases import FIRST_STAGE, begin_phase
from repli.flows.server.records import note_outages, server_link, server_may_fail
from repli.tasks.execution.batch_size import choose_batch_size
from repli.tasks.execution.run_pipeline import RunPipeline
from repli.tasks.execution.stage_runner import RunOptions, StageReport, Upgrade
from repli.tasks.execution.stage_task import Batch
from repli.tasks.fallback import StoreError
from repli.tasks.pipeline import Stage
from repli.tasks.reporting.retry_report import RetryReport, build_retry_report, markdown
from repli.tasks.settings import Settings
from repli.tasks.storage import counts, outdated, runs
from repli.tasks.storage.accuracy import refresh_expected_accuracy
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims, retry_queue
from repli.tasks.storage.retry.claims import Claim
from repli.tasks.storage.retry.needs import RetryTarget
from repli.tasks.storage.runs import Progress

MAX_REFUSALS = 5
"""Times that a run claims an item again which it was refused for its key: the breaker is open, so that there is no
claim, or a probe has closed it."""
SLOWDOWN_BESIDE_ENRICH = 8
"""While an `enrich` runs, batches are smaller by this factor, one at a time, beside two per worker of `enrich`."""


@flow(name="reprocess", task_runner=task_runner(), persist_result=False)
def reprocess(
    limit: Limit = None,
    batch_size: BatchSize = None,
    faults: Faults = (),
    pipeline: PipelineName = "",
    outdated: Outdated = False,
    outdated_stage: OutdatedStage = "",
) -> State[dict[str, Any]]:
    """Process the retry queue: repeat the stages whose better rungs are available again.

    The parameters are described in `repli.flows.config.parameters`.
    """
    with server_may_fail():
        try:
            chosen, database = configured_run(pipeline)
            request = RetryRequest(
                batch_size=batch_size or chosen.settings.batch_size,
                limit=limit,
                directives=directives_of(faults=faults),
                pipeline=chosen.active,
                outdated=outdated,
                outdated_stage=outdated_stage,
            )
            return _reprocess(database, request, chosen)
        except StoreError as error:
            return Failed(message=f"{error}; start the run again")


def _reprocess(database: Database, request: RetryRequest, chosen: RunPipeline) -> State[dict[str, Any]]:
    """Process the queue, and return the last state of the flow."""
    settings = chosen.settings
    source, options = "the retry queue", request.options(settings)
    run_id = runs.start(database, str(flow_run.get_id()), source, options, database.now(), kind=runs.REPROCESS)
    note_outages(database, run_id)
    client = dask_client()
    run = _ReprocessRun(database, client, run_id, request, chosen)
    with heartbeat(run_id, settings, request.pipeline.chains, lambda: run.progress):
        try:
            problems = run.process()
        except StoreError as error:
            return _state_without_store(settings, run, error)
    try:
        return _finish(database, run, settings, problems)
    except StoreError as error:
        return Failed(message=f"{error}; {run.progress}; start the run again")


def _state_without_store(settings: Settings, run: _ReprocessRun, error: StoreError) -> State[dict[str, Any]]:
    """Return the last state of a run that the store has ended, with its counts so far. It does not wait again."""
    with suppress(StoreError):
        runs.finish(impatient := Database(settings.database_url), run.run_id, impatient.now())
    return Failed(message=f"{error}; {run.progress}; the claims expire; start the run again")


def _finish(
    database: Database, run: _ReprocessRun, settings: Settings, problems: Sequence[str]
) -> State[dict[str, Any]]:
    summary = {"calls": dict(run.calls), "ending": run.ending}
    older = outdated.tally(database, run.chosen.versions)
    runs.finish(database, run.run_id, database.now(), [*run.notes, *older.notes, *server_link().notes], summary)
    report = build_retry_report(database, runs.find(database, run.run_id))
    with suppress(StoreError):  # the next run prunes
        runs.prune(database, settings.keep_runs)
    return _last_state(report, problems)


class _ReprocessRun:
    """One run over the retry queue. `calls` counts the items, by stage, for which a rung was called."""

    def __init__(
        self, database: Database, client: Client, run_id: str, request: RetryRequest, chosen: RunPipeline
    ) -> None:
        self._database = database
        self._client = client
        self.run_id = run_id
        self._request = request
        self._settings = chosen.settings
        self.chosen = chosen
        self._pipeline = request.pipeline
        *self._improving, self._last = self._pipeline.names
        self._routing = Routing(client, database.without_patience())
        self._remaining = request.limit
        self._claims: dict[str, Claim] = {}
        self._tried: set[str] = set()
        self._refused: set[str] = set()
        self._refusals: Counter[str] = Counter()
        self._numbers = count(1)
        self._stages: frozenset[str] = frozenset()
        self._progress: dict[str, StageProgress] = {}
        self._counts = StageCounts(self._pipeline.names)
        self.progress = self._progress_of_queue()
        self.calls = Counter(dict.fromkeys(self._pipeline.names, 0))
        self.notes: list[str] = []
        self.ending = ""

    def process(self) -> list[str]:
        """Store unfinished items, probe the stages, and continue where items were upgraded. Return the problems."""
        refresh_expected_accuracy(self._database)  # of a store that an older Repli has filled
        outdated.withdraw(self._database, self.chosen.versions, self._settings.retry.below)
        if self._request.outdated:
            self._enqueue_outdated()
        begin_phase(FIRST_STAGE)
        problems = self._dispatch(self._unfinished(), self._improvable(), self._pipeline.stages)
        self._progress = dict.fromkeys(self._improving, StageProgress())
        self.progress = replace(self.progress, is_probing=True)
        probed, probe_problems = self._probe()
        self.progress = replace(self.progress, is_probing=False)
        problems += probe_problems
        if stages := self._stages_that_are(RetryDecision.CONTINUE):
            problems += self._dispatch(self._batches(), stages, self._from(stages))
        self.ending = self._reason_for_ending(probed)
        return problems

    def _progress_of_queue(self) -> Progress:
        waiting = retry_queue.tally(self._database).waiting
        items = waiting if self._request.limit is None else min(waiting, self._request.limit)
        return Progress(items=items, stages=self._counts.as_mapping())

    def _enqueue_outdated(self) -> None:
        """Queue the items with results by older versions; of a stage that is named, those by unknown ones too."""
        begin_phase("queueing outdated results")
        stage = self._request.outdated_stage
        versions = {name: rungs for name, rungs in self.chosen.versions.items() if stage in {"", name}}
        queued = outdated.enqueue(self._database, versions, include_unknown=bool(stage))
        if not queued:
            of_stage = f" of {stage}" if stage else ""
            self.notes.append(f"no result{of_stage} is known to be by another version than the present one")
        self.progress = self._progress_of_queue()

    def _probe(self) -> tuple[int, list[str]]:
        """Send a few items of each stage, and more at the stages that are still undecided.

        Returns:
            The number of items that were sent, and the problems.
        """
        candidates, probed, size, problems = tuple(self._improving), 0, PROBE_ITEMS, list[str]()
        while not problems:
            stages = self._improvable() - self._stages_that_are(RetryDecision.STOP)
            undecided = stages & self._stages_that_are(RetryDecision.PROBING)
            found = {stage: self._claim(self._targets([stage]), size) for stage in candidates if stage in undecided}
            claimed = [claim for some in found.values() for claim in some]
            if not claimed:
                break
            candidates = tuple(stage for stage, some in found.items() if some)  # an empty search is slow: once only
            problems = self._dispatch(self._cut(claimed), stages, self._from(stages))
            probed += len(claimed)
            size = max(PROBE_ITEMS, min(2 * size, self._size()))
        return probed, problems

    def _reason_for_ending(self, probed: int) -> str:
        if self._stages_that_are(RetryDecision.CONTINUE):
            return ""
        if any(progress.has_upgraded for progress in self._progress.values()):
            return "the stages that were tried stopped improving, so the other items wait"
        if probed:
            return f"the probe of {probed} items improved nothing, so the other items wait"
        if retry_queue.tally(self._database).waiting == 0:
            return f"the queue is empty: stored items are queued below quality {self._settings.retry.below:g}"
        if due_at := retry_queue.next_due(self._database):
            return f"no queued item is due before {due_at:%Y-%m-%d %H:%M:%S} UTC"
        return "no better rung is available now"

    def _stages_that_are(self, decision: RetryDecision) -> frozenset[str]:
        return frozenset(stage for stage, progress in self._progress.items() if progress.decision is decision)

    def _from(self, stages: Collection[str]) -> Sequence[Stage]:
        """Return the first of these stages and all later ones: they are computed from its result."""
        return self._pipeline.stages[min(self._pipeline.names.index(stage) for stage in stages) :]

    def _dispatch(
        self, batches: Sequence[Batch] | Iterator[Batch], stages: frozenset[str], through: Sequence[Stage]
    ) -> list[str]:
        """Take batches `through` some stages, to upgrade the results of `stages`. Return the problems."""
        self._stages = stages
        upgrade = Upgrade(holder=self.run_id, stages=stages)
        context = RunContext(
            client=self._client,
            database=self._database,
            options=RunOptions(run_id=self.run_id, upgrade=upgrade, directives=self._request.directives),
            settings=self._settings,
            routing=self._routing,
            pipeline=self._pipeline,
        )
        dispatcher = BatchDispatcher(
            context,
            through,
            on_stage_done=self._stage_done,
            on_done=self._batch_done,
            mark_poison_item=self._mark_poison_item,
            width=self._width,
        )
        problems = dispatcher.run(batches)
        self.notes += dispatcher.notes
        if dispatcher.store_error:
            raise dispatcher.store_error
        return problems

    def _batches(self) -> Iterator[Batch]:
        while claimed := self._claim(self._targets(self._stages_that_are(RetryDecision.CONTINUE)), self._size()):
            yield self._batch(claimed)

    def _unfinished(self) -> Iterator[Batch]:
        while claimed := self._claim(self._targets([self._last]), self._size()):
            yield self._batch(claimed)

    def _cut(self, claimed: Sequence[Claim]) -> Iterator[Batch]:
        """Yield the claimed items in batches of the usual size."""
        while claimed:
            size = self._size()
            yield self._batch(claimed[:size])
            claimed = claimed[size:]

    def _batch(self, claimed: Sequence[Claim]) -> Batch:
        return Batch(number=next(self._numbers), item_ids=tuple(claim.item_id for claim in claimed))

    def _claim(self, targets: Sequence[RetryTarget], limit: int) -> list[Claim]:
        """Claim the next items with a result to improve; see `claims.claim`."""
        limit = limit if self._remaining is None else min(limit, self._remaining)
        claimed = claims.claim(self._database, self.run_id, targets, limit, self._settings.retry.lease_s)
        if self._remaining is not None:
            self._remaining -= len(claimed)
        self._claims.update((claim.item_id, claim) for claim in claimed)
        return claimed

    def _improvable(self) -> frozenset[str]:
        """Return the stages with a rung that can be called now, except the last, which stores the others' results."""
        return frozenset(target.stage for target in self._targets(self._improving))

    def _targets(self, stages: Collection[str]) -> list[RetryTarget]:
        """Return the results of these stages that a rung may improve now."""
        found: list[RetryTarget] = []
        for chain in self._pipeline.chains:
            if chain.stage in stages:
                callable_now = {rung.name for rung in chain.rungs if self._routing.may_be_called(chain.stage, rung)}
                declared = self.chosen.declared.stage(chain.stage).chain.rung_names
                refused = partial(self._routing.refused_keys, chain.stage)
                found += retry_targets(chain, declared, callable_now, self._pipeline.rules, refused)
        return found

    def _stage_done(self, batch: Batch, report: StageReport) -> None:
        self._tried |= report.tried
        self._refused |= report.refused_by_key
        self.calls[report.stage] += len(report.tried)
        self._counts.stage_done(batch.item_ids, report.stage)
        self.progress = replace(self.progress, stages=self._counts.as_mapping())
        if report.stage in self._stages and report.stage in self._progress:
            self._progress[report.stage] = self._progress[report.stage].after(report)

    def _batch_done(self, batch: Batch) -> None:
        tried = self._tried.intersection(batch.item_ids)
        self._tried -= tried
        self._settle(batch, tried)

    def _mark_poison_item(self, batch: Batch, stage: str) -> None:
        mark_poison_item(self._database, self.run_id, batch, stage)
        if stage in self._progress:  # counted against the stage: each such item costs two workers
            dead = StageReport(stage=stage, items=len(batch.item_ids), failed_by_rung=frozenset(batch.item_ids))
            self._progress[stage] = self._progress[stage].after(dead)
        self._settle(batch, batch.item_ids)

    def _settle(self, batch: Batch, tried: Collection[str]) -> None:
        done = [self._claims.pop(id_) for id_ in batch.item_ids]
        refused = self._refused.intersection(batch.item_ids)
        self._refused -= refused
        self._refusals.update(refused)
        at_once = {item_id for item_id in refused if self._refusals[item_id] <= MAX_REFUSALS}
        claims.settle(self._database, self.run_id, self.run_id, done, tried, self._settings.retry, refused=at_once)
        failed, qualities = counts.states_of(self._database, batch.item_ids)
        self._counts.items_done(batch.item_ids)
        self.progress = replace(self.progress.after(len(done), failed, qualities), stages=self._counts.as_mapping())

    def _size(self) -> int:
        """Return the size of the next batch: small while an `enrich` runs, since fresh items go first."""
        size = choose_batch_size(self._request.batch_size, items=self.progress.items, threads=self._routing.threads())
        return max(1, size // SLOWDOWN_BESIDE_ENRICH) if self._is_enrich_alive() else size

    def _width(self, threads: int) -> int:
        return 1 if self._is_enrich_alive() else full_width(threads)

    def _is_enrich_alive(self) -> bool:
        return runs.is_any_alive(self._database, runs.ENRICH)


def _last_state(report: RetryReport, problems: Sequence[str]) -> State[dict[str, Any]]:
    """Publish the run's report, and return the flow's last state; unless it failed, the report is its data."""
    create_markdown_artifact(markdown(report), key="reprocess-report", description=str(report))
    for problem in problems:
        get_run_logger().error(problem)
    if problems:
        return Failed(message=f"{problems[0]}; {report}; the claimed items are back in the queue; start the run again")
    if report.all_upgraded:
        return Completed(message=str(report), data=report.as_json())
    return Completed(name="Degraded", message=str(report), data=report.as_json())
