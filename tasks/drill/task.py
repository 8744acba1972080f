"""One stage of a drill as a Prefect task, which runs on a worker with the stage's resources."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from repli.tasks.drill.judge import judge_stage
from repli.tasks.drill.verdict import StageVerdict, readable
from repli.tasks.execution import dask_worker
from repli.tasks.execution.run_pipeline import pipeline_of
from repli.tasks.execution.stage_task import as_subtask
from repli.tasks.fallback import ProcessPoisoned
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import Settings


@task(task_run_name="drill {stage}", cache_policy=NO_CACHE, persist_result=False)
def drill_stage(
    stage: str, item_ids: Sequence[str], settings: Settings, labelled: Sequence[str] = ()
) -> State[StageVerdict]:
    """Exercise and judge every rung of one stage, in shadow; see `repli.tasks.drill.judge`.

    The state is completed also if a rung failed; its name and message say so, its data is the verdicts.
    """
    runtime = process_runtime(may_exit=True, around_fallback=as_subtask)
    try:
        verdict = judge_stage(pipeline_of(settings), stage, item_ids, settings, runtime, labelled)
    except ProcessPoisoned:
        dask_worker.end_process()
        raise
    rungs, rules, _ = verdict
    for rung in rungs:
        why = rung.why or rung.note
        get_run_logger().info("%s: %s on %s items %s", rung.name, readable(rung.verdict), rung.items, why)
    failed = [f"{rung.rung}: {rung.reason}" for rung in rungs if rung.reason] + [r.reason for r in rules if r.reason]
    if failed:
        return Completed(name="Failed the drill", message="; ".join(failed), data=verdict)
    missing = [f"{rung.rung} is not covered: {rung.not_covered}" for rung in rungs if rung.not_covered]
    return Completed(message="; ".join([f"{len(rungs) - len(missing)} rungs passed", *missing]), data=verdict)
