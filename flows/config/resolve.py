"""Resolve settings: environment first, then the Prefect blocks named `default`, then the declared defaults.

A variable that is set goes before a block, so that `--database` of a command, or a worker's environment, is obeyed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from distributed import Client
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect_dask import DaskTaskRunner
from pydantic import ValidationError

from repli.blocks import Cluster, ItemStore, TextModel
from repli.blocks.enrichment_policy import policy_block
from repli.flows.server.dask_cluster import dask_cluster
from repli.tasks.execution.run_pipeline import RunPipeline, choose
from repli.tasks.execution.task_runner import StageTaskRunner
from repli.tasks.fallback import RepliError, UsageError
from repli.tasks.settings import TEXT_MODEL, Settings
from repli.tasks.storage import pipelines
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import PATIENCE_S

NAME = "default"
"""The name of the block document, of each block type, that runs use."""

B = TypeVar("B", bound=Block)


def configured_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings without the policy. Blocks are read on each call: a change counts from the next run on.

    Raises:
        UsageError: A variable or a block is invalid; the message names it.
    """
    with get_client(sync_client=True) as client:
        store, cluster = _read_block(client, ItemStore), _read_block(client, Cluster)
        text_model = _read_block(client, TextModel)
    is_set = {name: value for name, value in environ.items() if value}
    model = {} if TEXT_MODEL in is_set else text_model.variables()  # its key is for its own API
    settings = Settings.from_environment({**store.variables(), **cluster.variables(), **model, **is_set})
    return replace(settings, models=replace(settings.models, is_text_of_block=bool(model.get(TEXT_MODEL))))


def configured_run(pipeline: str = "", environ: Mapping[str, str] = os.environ) -> tuple[RunPipeline, Database]:
    """Return the pipeline of a run with all settings, its policy included, and the store, which knows the pipeline.

    Args:
        pipeline: The name that the form gives; it takes precedence.

    Raises:
        UsageError: A variable, a block or the pipeline is invalid, or the store was filled by another pipeline.
        StoreError: The store cannot be reached.
    """
    settings = configured_settings(environ)
    database = Database(settings.database_url, patience_s=PATIENCE_S)
    database.migrate()
    chosen = choose(replace(settings, pipeline=pipeline or settings.pipeline), database)
    pipelines.declare(database, chosen.stored)
    return replace(chosen, settings=_with_policy(chosen, environ)), database


def _with_policy(chosen: RunPipeline, environ: Mapping[str, str]) -> Settings:
    """Return the settings with the policy of the block and the environment."""
    with get_client(sync_client=True) as client:
        policy = _read_block(client, policy_block(chosen.declared), is_of=partial(_is_policy_of, chosen.declared.names))
    settings = chosen.settings
    is_set = {name: value for name, value in environ.items() if value}
    retry, overrides = policy.retry_policy(), policy.policy()
    if "REPLI_RETRY_BELOW" in is_set:
        retry = replace(retry, below=settings.retry.below)
    if "REPLI_DRILL_EXPECT" in is_set:
        overrides = replace(overrides, expect=settings.policy.expect)
    return replace(settings, retry=retry, policy=overrides)


@contextmanager
def _configured_cluster() -> Iterator[str]:
    settings = configured_settings()
    with suppress(RepliError):  # the flow says why; without a pipeline the workers import later what they need
        settings = choose(settings, Database(settings.database_url)).settings
    with dask_cluster(settings) as address:
        yield address


def task_runner() -> Any:
    """Return the default task runner of a flow: on the configured Dask cluster, or on one of the run's own.

    The configuration is read when the run begins, not when the flow is imported.
    """
    return StageTaskRunner(cluster_class=cast(Any, _configured_cluster))


def dask_client() -> Client:
    """Return the Dask client of the flow that runs here. Its task runner must be a Dask one, as of `task_runner`."""
    return cast(DaskTaskRunner, cast(FlowRunContext, FlowRunContext.get()).task_runner).client


def _is_policy_of(stages: Sequence[str], data: Mapping[str, Any]) -> bool:
    """Return whether a policy is of a pipeline with these stages: it names one of them, or none at all."""
    named = {*(data.get("chains") or {}), *(data.get("breakers") or {})}
    return not named or not named.isdisjoint(stages)


def _read_block(
    client: SyncPrefectClient, kind: type[B], is_of: Callable[[Mapping[str, Any]], bool] = lambda data: True
) -> B:
    """Return the block that the server has; an empty one where it has none, or one of another pipeline."""
    slug = kind.get_block_type_slug()
    try:
        document = client.read_block_document_by_name(NAME, slug)
    except ObjectNotFound:
        return kind()
    if not is_of(document.data):
        return kind()
    try:
        return kind.model_validate(document.data)
    except ValidationError as error:
        raise UsageError(
            f"the block {slug}/{NAME} is invalid: {_reasons(error)}; correct it in the Prefect UI, or delete it"
        ) from None


def _reasons(error: ValidationError) -> str:
    """Return the errors with their fields, and without the values, which may be secret."""
    reasons = []
    for one in error.errors(include_input=False, include_url=False):
        field = ".".join(str(part) for part in one["loc"])
        reasons.append(f"{field}: {one['msg']}" if field else one["msg"])
    return "; ".join(reasons).replace("Value error, ", "")
