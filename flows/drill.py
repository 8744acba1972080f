"""The weekly drill: every rung of every chain on a sample, in shadow. No fallback runs for the first time at 3 a.m."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
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

from repli.flows.config.parameters import Sample
from repli.flows.config.resolve import configured_settings, dask_client, task_runner
from repli.flows.dispatch.routing import Routing
from repli.tasks.drill.report import markdown
from repli.tasks.drill.task import StageVerdict, drill_stage
from repli.tasks.drill.verdict import DrillVerdict, RuleVerdict, RungVerdict
from repli.tasks.fallback import RepliError
from repli.tasks.pipeline import AnyStage, Pipeline
from repli.tasks.reporting import events
from repli.tasks.settings import Settings
from repli.tasks.stages.default import PIPELINE
from repli.tasks.storage import drills
from repli.tasks.storage.database import Database
from repli.tasks.storage.views.sample import stratified

SAMPLE = 200
BACK_WITHIN_S = 10.0
"""A worker that its nanny restarts is back earlier."""


@flow(name="drill", task_runner=task_runner(), persist_result=False)
def drill(sample: Sample = SAMPLE) -> State[dict[str, Any]]:
    """Call every rung of every chain on a sample of the stored items, in shadow, and judge what they answer.

    The parameters are those of `repli.flows.config.parameters`.
    """
    settings = configured_settings()
    pipeline = PIPELINE.with_policy(settings.policy)
    database = Database(settings.database_url)
    database.migrate()
    started_at = datetime.now(UTC)
    item_ids = stratified(database, sample)
    if not item_ids:
        raise RepliError(f"there is nothing in {database} to drill on; run `repli run SOURCE` first")
    verdict = _drill_stages(database, item_ids, settings, pipeline)
    report = verdict.as_json()
    drills.keep(database, str(flow_run.get_id()), started_at, datetime.now(UTC), report)
    return _ending(database, verdict)


def _drill_stages(database: Database, item_ids: Sequence[str], settings: Settings, pipeline: Pipeline) -> DrillVerdict:
    """Every stage on a worker that its primary can run on; the stages beside each other."""
    client = dask_client()
    primaries = {chain.stage: chain.primary.name for chain in pipeline.chains}
    routing = Routing(client, database, forced=primaries)  # whatever the breakers say
    workers = max(1, len(routing.workers()))

    def begin(stage: AnyStage) -> Drilling:
        with suppress(TimeoutError):  # one that died is soon back
            client.wait_for_workers(workers, timeout=BACK_WITHIN_S)
        wanted = dict(routing.resources_for(stage))
        with dask.annotate(resources=wanted) if wanted else nullcontext():
            return drill_stage.submit(stage.name, item_ids, settings)

    rungs: list[RungVerdict] = []
    rules: list[RuleVerdict] = []
    problems: list[str] = []
    for stage, ended in drilled(pipeline.stages, begin):
        if not isinstance(ended, Exception):
            rungs += ended[0]
            rules += ended[1]
            continue
        problems.append(f"{stage.name}: {_why(ended)}")
        rungs += [
            RungVerdict(stage=stage.name, rung=rung, is_reached=False, reason="its stage could not be drilled")
            for rung in stage.chain.rung_names
        ]
    return DrillVerdict(sample=len(item_ids), rungs=rungs, rules=rules, problems=problems)


class Drilling(Protocol):
    """The drill of one stage, somewhere. `result` waits for its end."""

    def result(self) -> Any: ...


def drilled(
    stages: Sequence[AnyStage], begin: Callable[[AnyStage], Drilling]
) -> list[tuple[AnyStage, StageVerdict | Exception]]:
    """How the drill of each stage ended, in the order of the stages.

    Dask blames every stage that waited on a worker that died. Those are begun again, one at a time with nothing else
    beside it: what dies then did it itself.
    """
    begun = [(stage, begin(stage)) for stage in stages]
    ended = [(stage, _ended(drilling)) for stage, drilling in begun]
    return [(stage, _ended(begin(stage)) if isinstance(verdict, KilledWorker) else verdict) for stage, verdict in ended]


def _ended(drilling: Drilling) -> StageVerdict | Exception:
    try:
        return cast(StageVerdict, drilling.result())
    except Exception as error:  # noqa: BLE001  a drill that cannot be held is a drill that failed
        return error


def _why(error: Exception) -> str:
    if isinstance(error, KilledWorker):
        return "a rung of it killed its worker, or hung where nothing could cut it off"
    return f"{type(error).__name__}: {error}"


def _ending(database: Database, verdict: DrillVerdict) -> State[dict[str, Any]]:
    """The flow's last state: failed where the verdict is bad, so that an automation can wake somebody."""
    page = markdown(str(verdict), drills.latest(database))
    create_markdown_artifact(page, key="drill-report", description=str(verdict))
    events.drill_ended(verdict.as_json(), verdict.failures)
    for failure in verdict.failures:
        get_run_logger().error(failure)
    if verdict.failures:
        return Failed(message=f"{verdict}: {'; '.join(verdict.failures)}")
    return Completed(message=str(verdict), data=verdict.as_json())
