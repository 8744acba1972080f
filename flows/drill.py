"""The flow `drill`: call every rung on a sample, so that no fallback runs for the first time at 3 a.m."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol, cast

import dask
from distributed import KilledWorker
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from repli.flows.config.parameters import PipelineName, Sample
from repli.flows.config.resolve import configured_run, dask_client, task_runner
from repli.flows.dispatch.routing import Routing
from repli.flows.server.phases import begin_phase
from repli.flows.server.records import server_may_fail
from repli.tasks.drill.proposals import describe, propose
from repli.tasks.drill.questions import Question
from repli.tasks.drill.report import markdown
from repli.tasks.drill.task import drill_stage
from repli.tasks.drill.verdict import DrillVerdict, RuleVerdict, RungVerdict, StageVerdict
from repli.tasks.fallback import RepliError
from repli.tasks.pipeline import Pipeline, Stage
from repli.tasks.reporting import events
from repli.tasks.settings import Settings
from repli.tasks.storage import drills, labels
from repli.tasks.storage.accuracy import refresh_expected_accuracy
from repli.tasks.storage.database import Database
from repli.tasks.storage.views.sample import stratified

SAMPLE = 200
MAX_LABELLED = 200
"""Items beyond the sample that people labelled for a stage, the latest ones, whose labels its drill uses again."""
RESTART_LIMIT_S = 10.0
"""Seconds to wait for a worker that died. A nanny restarts its worker sooner."""


@flow(name="drill", task_runner=task_runner(), persist_result=False)
def drill(sample: Sample = SAMPLE, pipeline: PipelineName = "") -> State[dict[str, Any]]:
    """Call every rung of every chain on a sample of the stored items, in shadow, and judge the answers.

    The parameters are described in `repli.flows.config.parameters`.
    """
    with server_may_fail():
        chosen, database = configured_run(pipeline)
        started_at = datetime.now(UTC)
        item_ids = stratified(database, sample)
        if not item_ids:
            raise RepliError(f"{database} holds no items to drill on; run `repli run SOURCE` first")
        verdict = _drill_all(database, item_ids, chosen.settings, chosen.active)
        before = next(iter(drills.latest(database, 1)), None)
        verdict = replace(verdict, proposals=propose(verdict.as_json(), before.report if before else None))
        report = verdict.as_json()
        drills.keep(database, str(flow_run.get_id()), started_at, datetime.now(UTC), report)
        refresh_expected_accuracy(database)
        return _last_state(database, verdict)


def _drill_all(database: Database, item_ids: Sequence[str], settings: Settings, pipeline: Pipeline) -> DrillVerdict:
    """Drill all stages at once, each on a worker that can run its primary, and return the verdict."""
    client = dask_client()
    primaries = {chain.stage: chain.primary.name for chain in pipeline.chains}
    routing = Routing(client, database, forced=primaries)  # breakers are ignored
    workers = max(1, len(routing.workers()))

    def submit(stage: Stage) -> StageDrill:
        with suppress(TimeoutError):  # go on with the workers that there are
            client.wait_for_workers(workers, timeout=RESTART_LIMIT_S)
        wanted = dict(routing.resources_for(stage))
        with dask.annotate(resources=wanted) if wanted else nullcontext():
            labelled = labels.latest_items(database, [stage.name], MAX_LABELLED)
            return drill_stage.submit(stage.name, item_ids, settings, labelled)

    rungs: list[RungVerdict] = []
    rules: list[RuleVerdict] = []
    questions: list[Question] = []
    problems: list[str] = []
    for stage, ended in run_stage_drills(pipeline.stages, submit):
        if not isinstance(ended, Exception):
            rungs += ended.rungs
            rules += ended.rules
            questions += ended.questions
            continue
        problems.append(f"{stage.name}: {_reason(ended)}")
        rungs += [
            RungVerdict(stage=stage.name, rung=rung, is_reached=False, reason="its stage could not be drilled")
            for rung in stage.chain.rung_names
        ]
    return DrillVerdict(sample=len(item_ids), rungs=rungs, rules=rules, problems=problems, questions=questions)


class StageDrill(Protocol):
    """A submitted drill of one stage. `result` waits for its end."""

    def result(self) -> Any: ...


def run_stage_drills(
    stages: Sequence[Stage], submit: Callable[[Stage], StageDrill]
) -> list[tuple[Stage, StageVerdict | Exception]]:
    """Return the verdict on each stage, or the error that ended its drill, in the order of the stages.

    Dask blames every stage that waited on a worker that died. Those are submitted again, one at a time with nothing
    else in flight: a death then has one possible cause.
    """
    begin_phase(f"drilling {len(stages)} stages")
    submitted = [(stage, submit(stage)) for stage in stages]
    ended: list[tuple[Stage, StageVerdict | Exception]] = []
    for stage, drill in submitted:
        ended.append((stage, _verdict(drill)))
        begin_phase(f"drilling: {len(ended)} of {len(stages)} stages done")
    return [
        (stage, _verdict(submit(stage)) if isinstance(verdict, KilledWorker) else verdict) for stage, verdict in ended
    ]


def _verdict(drill: StageDrill) -> StageVerdict | Exception:
    try:
        return cast(StageVerdict, drill.result())
    except Exception as error:  # noqa: BLE001  a drill that could not run is a drill that failed
        return error


def _reason(error: Exception) -> str:
    if isinstance(error, KilledWorker):
        return "one of its rungs killed the worker, or hung and could not be cut off"
    return f"{type(error).__name__}: {error}"


def _last_state(database: Database, verdict: DrillVerdict) -> State[dict[str, Any]]:
    """Publish the report, and return the last state: `Failed` on a bad verdict, so that automations can react."""
    page = markdown(str(verdict), drills.latest(database))
    create_markdown_artifact(page, key="drill-report", description=str(verdict))
    events.emit_drill_verdict(verdict.as_json(), verdict.failures)
    for proposal in verdict.proposals:
        events.emit_penalty_proposed(proposal)
        get_run_logger().warning(describe(proposal))
    for failure in verdict.failures:
        get_run_logger().error(failure)
    if verdict.failures:
        return Failed(message=f"{verdict}: {'; '.join(verdict.failures)}")
    return Completed(message=str(verdict), data=verdict.as_json())
