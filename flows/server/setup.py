"""Register everything on the Prefect server of `repli serve`: ``python -m repli.flows.server.setup [NIGHTLY_SOURCE]``.

Blocks, work pool, deployments and automations are registered once for each version of the package: a change in the UI
is kept until the next version. The state of a schedule, on or off, and its parameters are kept for good.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.utilities.processutils import command_to_string
from prefect.variables import Variable
from prefect.workers.process import ProcessWorker

from repli.blocks import Cluster, ItemStore, TextModel
from repli.blocks.enrichment_policy import policy_block
from repli.deployments import AUTOMATIONS, DEPLOYMENTS, WORK_POOL
from repli.flows.server.rung_choices import with_choices
from repli.tasks.execution.run_pipeline import choose
from repli.tasks.pipeline import Pipeline
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database

PACKAGES = ("blocks", "deployments", "flows", "tasks")
REGISTERED_VERSION = "repli_declared"
"""The variable of the server with the version of the package that was registered."""
SCHEDULES = "repli_schedules"
"""The variable of the server that keeps the old schedules during a deploy."""


async def set_up(nightly: str | None) -> None:
    """Register the package on the server, where its version is new, and switch the nightly schedule on."""
    settings = Settings.from_environment()
    pipeline = choose(settings, Database(settings.database_url)).declared
    async with get_client() as client:
        version = package_version() + pipeline.version
        if await Variable.aget(REGISTERED_VERSION) != version:
            await _register_blocks(client, pipeline)
            await _create_work_pool(client)
            await _deploy(client)
            await _move_source_to_deployment(client)
            await _list_rungs(client, pipeline)
            await _create_automations(client)
            await Variable.aset(REGISTERED_VERSION, version, overwrite=True)
        if nightly:
            await _schedule_nightly(client, nightly)


def package_version() -> str:
    """Return a digest of the packages and the path of this Python: a change of either needs a new registration."""
    digest = hashlib.sha256(sys.executable.encode())
    root = Path(DEPLOYMENTS).parents[1]
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.[py][ya]*")):  # .py and .yaml
            if path.suffix in {".py", ".yaml"}:
                digest.update(path.read_bytes())
    return digest.hexdigest()


async def _register_blocks(client: PrefectClient, pipeline: Pipeline) -> None:
    """Register the block types, as ``prefect block register -m repli.blocks`` does."""
    for block in (ItemStore, Cluster, TextModel, policy_block(pipeline)):
        await block.aregister_type_and_schema(client=client)


async def _create_work_pool(client: PrefectClient) -> None:
    """Create or update the work pool, whose flow runs are processes of this Python."""
    template: dict[str, Any] = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["command"]["default"] = command_to_string(
        [sys.executable, "-m", "prefect.engine"]
    )
    try:
        await client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=template))
    else:
        await client.update_work_pool(WORK_POOL, WorkPoolUpdate(base_job_template=template))


async def _deploy(client: PrefectClient) -> None:
    """Deploy prefect.yaml, and restore the parameters of deployments and the state of schedules.

    Prefect replaces them on deploy. The old ones are kept in a variable until they are restored, so an interrupted
    deploy loses none.
    """
    interrupted = cast(dict[str, Any] | None, await Variable.aget(SCHEDULES))
    kept = interrupted or {
        **{deployment.name: {"parameters": deployment.parameters} for deployment in await client.read_deployments()},
        **{
            f"{deployment}/{slug}": {"active": schedule.active, "parameters": schedule.parameters}
            for (deployment, slug), (_, schedule) in (await _schedules(client)).items()
        },
    }
    await Variable.aset(SCHEDULES, kept, overwrite=True)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"prefect deploy failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    for deployed in await client.read_deployments():
        if before := kept.get(deployed.name):
            await client.update_deployment(deployed.id, DeploymentUpdate(parameters=before["parameters"]))
    for (deployment, slug), (deployment_id, schedule) in (await _schedules(client)).items():
        if before := kept.get(f"{deployment}/{slug}"):
            await client.update_deployment_schedule(deployment_id, schedule.id, **before)
    await Variable.aunset(SCHEDULES)


async def _move_source_to_deployment(client: PrefectClient) -> None:
    """Give the deployment `enrich` the source that versions before kept in its schedule, where Prefect may drop it."""
    nightly = (await _schedules(client)).get(("enrich", "nightly"))
    if nightly and (source := nightly[1].parameters.get("source")):
        deployment = await client.read_deployment(nightly[0])
        parameters = {"source": source, **deployment.parameters}
        await client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))


async def _list_rungs(client: PrefectClient, pipeline: Pipeline) -> None:
    """List the pipeline's rungs in the forms of the deployments."""
    for deployment in await client.read_deployments():
        schema = with_choices(deployment.parameter_openapi_schema, pipeline.chains)
        await client.update_deployment(deployment.id, DeploymentUpdate(parameter_openapi_schema=schema))


async def _schedules(client: PrefectClient) -> dict[tuple[str, str | None], tuple[UUID, DeploymentSchedule]]:
    """Return the schedules by deployment and slug, each with the deployment's id."""
    return {
        (deployment.name, schedule.slug): (deployment.id, schedule)
        for deployment in await client.read_deployments()
        for schedule in deployment.schedules
    }


async def _create_automations(client: PrefectClient) -> None:
    """Create the automations that do not exist yet. Existing ones may have been edited, and stay."""
    for declared in yaml.safe_load(AUTOMATIONS.read_text(encoding="utf-8"))["automations"]:
        if not await client.read_automations_by_name(declared["name"]):
            await client.create_automation(AutomationCore.model_validate(declared))


async def _schedule_nightly(client: PrefectClient, source: str) -> None:
    """Switch the nightly schedule on.

    The source becomes a parameter of the deployment: Prefect drops the parameters of a schedule whenever the schedule
    is switched off and on.
    """
    nightly = (await _schedules(client)).get(("enrich", "nightly"))
    if nightly is None:
        raise SystemExit("the deployment `enrich` has no schedule `nightly`; add one in the UI")
    deployment_id, schedule = nightly
    deployment = await client.read_deployment(deployment_id)
    parameters = {**deployment.parameters, "source": source}
    await client.update_deployment(deployment_id, DeploymentUpdate(parameters=parameters))
    await client.update_deployment_schedule(deployment_id, schedule.id, active=True)


if __name__ == "__main__":
    asyncio.run(set_up(sys.argv[1] if len(sys.argv) > 1 else None))
