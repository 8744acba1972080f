"""The healing flow: what was stored degraded, or failed, is done again where it may succeed now, and nothing else is.

First comes what an earlier run was killed over: items with better results than they are stored with. Then it goes by
stages. A stage may be done again where some rung better than the one that served can be called; a few items of each go
ahead as a probe, more where these say nothing of the others, and all follow at the stages where something was gained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from typing import Any

from distributed import Client
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from repli.flows.config.parameters import BatchSize, Faults, Limit, fault_specs
from repli.flows.config.resolve import configured_settings, dask_client, task_runner
from repli.flows.config.run_request import RetryRequest
from repli.flows.dispatch.dispatcher import BatchDispatcher, full_width
from repli.flows.dispatch.heartbeat import heartbeat
from repli.flows.dispatch.retry_planner import PROBE_ITEMS, RetryDecision, StageProgress, gaps
from repli.flows.dispatch.routing import Routing
from repli.flows.dispatch.worker_deaths import mark_poison_item
from repli.tasks.execution.stage_runner import RunOptions, StageReport, Upgrade
from repli.tasks.execution.stage_task import Batch
from repli.tasks.pipeline import AnyStage
from repli.tasks.reporting.retry_report import RetryReport, build_retry_report, markdown
from repli.tasks.settings import Settings
from repli.tasks.stages.default import PIPELINE, STAGE_NAMES
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims
from repli.tasks.storage.retry.claims import Claim, RetryTarget

STALE_STORE_RESULTS = RetryTarget(stage="store", rungs=(None,), include_stale=True)
"""What failed there, or has changed since it was stored."""
SHARE = 8
"""While an `enrich` works, one batch of a `SHARE`th of its usual size is in flight, beside `enrich`'s two a worker."""


@flow(name="reprocess", task_runner=task_runner(), persist_result=False)
def reprocess(limit: Limit = None, batch_size: BatchSize = None, faults: Faults = ()) -> State[dict[str, Any]]:
    """Do again what is in the retry queue, at the stages where something better may be had now.

    The parameters are those of `repli.flows.config.parameters`.
    """
    settings = configured_settings()
    request = RetryRequest(
        batch_size=batch_size or settings.batch_size,
        limit=limit,
        faults=fault_specs(faults),
        policy=settings.policy,
    )
    database = Database(settings.database_url)
    database.migrate()
    source, options = "the retry queue", request.options(settings)
    run_id = runs.start(database, str(flow_run.get_id()), source, options, database.now(), kind=runs.REPROCESS)
    client = dask_client()
    healing = _ReprocessRun(database, client, run_id, request, settings)
    with heartbeat(database, run_id, settings.retry.lease_s):
        problems = healing.run()
    summary = {"calls": dict(healing.calls), "ending": healing.ending}
    runs.finish(database, run_id, database.now(), healing.notes, summary)
    return _ending(build_retry_report(database, runs.find(database, run_id)), problems)


class _ReprocessRun:
    """One run over the queue. `calls` counts, by stage, the items for which a rung was called."""

    def __init__(
        self, database: Database, client: Client, run_id: str, request: RetryRequest, settings: Settings
    ) -> None:
        self._database = database
        self._client = client
        self._run_id = run_id
        self._request = request
        self._settings = settings
        self._pipeline = PIPELINE.with_policy(settings.policy)
        self._routing = Routing(client, database)
        self._left = request.limit
        self._claims: dict[str, Claim] = {}
        self._numbers = count(1)
        self._stages: frozenset[str] = frozenset()
        self._prospects: dict[str, StageProgress] = {}
        self.calls = Counter(dict.fromkeys(STAGE_NAMES, 0))
        self.notes: list[str] = []
        self.ending = ""

    def run(self) -> list[str]:
        """Finish, probe, and go on where something was gained; what went wrong on the way."""
        problems = self._send(self._unfinished(), self._improvable(), self._pipeline.stages)
        self._prospects = dict.fromkeys(STAGE_NAMES[:-1], StageProgress())
        probed, went_wrong = self._probe()
        problems += went_wrong
        if stages := self._stages_that_are(RetryDecision.CONTINUE):
            problems += self._send(self._batches(), stages, self._from(stages))
        self.ending = self._why_it_ended(probed)
        return problems

    def _probe(self) -> tuple[int, list[str]]:
        """Send a few items of each stage, and more of those of which these say nothing.

        Returns:
            How many were sent, and what went wrong on the way.
        """
        asked, probed, size, problems = STAGE_NAMES[:-1], 0, PROBE_ITEMS, list[str]()
        while not problems:
            stages = self._improvable() - self._stages_that_are(RetryDecision.STOP)
            is_open = stages & self._stages_that_are(RetryDecision.PROBING)
            found = {stage: self._claim(self._gaps([stage]), size) for stage in asked if stage in is_open}
            taken = [claim for some in found.values() for claim in some]
            if not taken:
                break
            asked = tuple(stage for stage, some in found.items() if some)  # that there are none takes long to find
            problems = self._send(self._cut(taken), stages, self._from(stages))
            probed += len(taken)
            size = max(PROBE_ITEMS, min(2 * size, self._size()))
        return probed, problems

    def _why_it_ended(self, probed: int) -> str:
        if self._stages_that_are(RetryDecision.CONTINUE):
            return ""
        if any(prospect.has_gained for prospect in self._prospects.values()):
            return "the stages that were tried stopped gaining, so the others wait"
        if probed:
            return f"the probe of {probed} items did no better, so the others wait"
        return "nothing that waits may be tried now"

    def _stages_that_are(self, verdict: RetryDecision) -> frozenset[str]:
        return frozenset(stage for stage, prospect in self._prospects.items() if prospect.verdict is verdict)

    def _from(self, stages: Collection[str]) -> Sequence[AnyStage]:
        """The first of these stages, and all that come after it: what it makes they are made from."""
        return self._pipeline.stages[min(STAGE_NAMES.index(stage) for stage in stages) :]

    def _send(
        self, batches: Sequence[Batch] | Iterator[Batch], stages: frozenset[str], through: Sequence[AnyStage]
    ) -> list[str]:
        """Take batches `through` some stages, for something better at those of them that are in `stages`."""
        self._stages = stages
        upgrade = Upgrade(holder=self._run_id, stages=stages)
        window = BatchDispatcher(
            self._client,
            self._database,
            RunOptions(run_id=self._run_id, upgrade=upgrade, directives=self._request.directives()),
            self._settings,
            on_done=self._came_through,
            mark_poison_item=self._mark_poison_item,
            routing=self._routing,
            pipeline=self._pipeline,
            stages=through,
            width=self._width,
        )
        problems = window.run(batches)
        self.notes += window.notes
        return problems

    def _batches(self) -> Iterator[Batch]:
        while taken := self._claim(self._gaps(self._stages_that_are(RetryDecision.CONTINUE)), self._size()):
            yield self._batch(taken)

    def _unfinished(self) -> Iterator[Batch]:
        while taken := self._claim([STALE_STORE_RESULTS], self._size()):
            yield self._batch(taken)

    def _cut(self, taken: Sequence[Claim]) -> Iterator[Batch]:
        """What was taken, in batches of the usual size."""
        while taken:
            size = self._size()
            yield self._batch(taken[:size])
            taken = taken[size:]

    def _batch(self, taken: Sequence[Claim]) -> Batch:
        return Batch(number=next(self._numbers), item_ids=tuple(claim.item_id for claim in taken))

    def _claim(self, gaps: Sequence[RetryTarget], limit: int) -> list[Claim]:
        """The next items that have one of these gaps; see `claims.claim`."""
        limit = limit if self._left is None else min(limit, self._left)
        taken = claims.claim(self._database, self._run_id, gaps, limit, self._settings.retry.lease_s)
        if self._left is not None:
            self._left -= len(taken)
        self._claims.update((claim.item_id, claim) for claim in taken)
        return taken

    def _improvable(self) -> frozenset[str]:
        """The stages at which some rung can be called now, but the last, which takes what the others leave."""
        return frozenset(gap.stage for gap in self._gaps(STAGE_NAMES[:-1]))

    def _gaps(self, stages: Collection[str]) -> list[RetryTarget]:
        """What may be gained at these stages now."""
        found: list[RetryTarget] = []
        for chain in self._pipeline.chains:
            if chain.stage in stages:
                callable_now = {rung.name for rung in chain.rungs if self._routing.may_be_called(chain.stage, rung)}
                declared = PIPELINE.stage(chain.stage).chain.rung_names
                found += gaps(chain, declared, callable_now, self._pipeline.rules)
        return found

    def _came_through(self, batch: Batch, reports: Sequence[StageReport]) -> None:
        tried: set[str] = set()
        for report in reports:
            tried |= report.tried
            self.calls[report.stage] += len(report.tried)
            if report.stage in self._stages and report.stage in self._prospects:
                self._prospects[report.stage] = self._prospects[report.stage].after(report)
        self._settle(batch, tried)

    def _mark_poison_item(self, batch: Batch, stage: str) -> None:
        mark_poison_item(self._database, self._run_id, batch, stage)
        if stage in self._prospects:  # whatever the items are, no stage is tried on at two workers an item
            dead = StageReport(stage=stage, items=len(batch.item_ids), failed_by_rung=frozenset(batch.item_ids))
            self._prospects[stage] = self._prospects[stage].after(dead)
        self._settle(batch, batch.item_ids)

    def _settle(self, batch: Batch, tried: Collection[str]) -> None:
        done = [self._claims.pop(id_) for id_ in batch.item_ids]
        claims.settle(self._database, self._run_id, self._run_id, done, tried, self._settings.retry)

    def _size(self) -> int:
        """Items in the next batch. Fresh items go first."""
        size = self._request.batch_size
        return max(1, size // SHARE) if self._is_enrich_alive() else size

    def _width(self, workers: int) -> int:
        return 1 if self._is_enrich_alive() else full_width(workers)

    def _is_enrich_alive(self) -> bool:
        return runs.is_any_alive(self._database, runs.ENRICH)


def _ending(report: RetryReport, problems: Sequence[str]) -> State[dict[str, Any]]:
    """The flow's last state, with the run's summary as its data, and the report beside it."""
    create_markdown_artifact(markdown(report), key="reprocess-report", description=str(report))
    for problem in problems:
        get_run_logger().error(problem)
    if problems:
        return Failed(message=f"{problems[0]}; {report}; what was claimed is back in the queue, start it again")
    if report.is_whole:
        return Completed(message=str(report), data=report.as_json())
    return Completed(name="Degraded", message=str(report), data=report.as_json())
