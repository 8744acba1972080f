"""What a flow goes by: the environment, and the blocks named `default` where the Prefect server has them.

A variable that is set goes before a block, so a command line's `--database`, or a worker's environment, is obeyed. What
nobody says stays as the code declares it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar, cast

from distributed import Client
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect_dask import DaskTaskRunner
from pydantic import ValidationError

from repli.blocks import Cluster, EnrichmentPolicy, ItemStore
from repli.flows.server.dask_cluster import dask_cluster
from repli.tasks.fallback import UsageError
from repli.tasks.settings import Settings

NAME = "default"
"""The document of each block type that runs go by."""

B = TypeVar("B", bound=Block)


def configured_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a run, asked for anew each time: what is changed in the UI counts from the next run on.

    Raises:
        UsageError: a variable cannot be read, or a block cannot work; the message names it.
    """
    with get_client(sync_client=True) as client:
        store, cluster = _kept(client, ItemStore), _kept(client, Cluster)
        policy = _kept(client, EnrichmentPolicy)
    is_set = {name: value for name, value in environ.items() if value}
    settings = Settings.from_environment({**store.variables(), **cluster.variables(), **is_set})
    retry, chosen = policy.retry_policy(), policy.policy()
    if "REPLI_RETRY_BELOW" in is_set:
        retry = replace(retry, below=settings.retry.below)
    if "REPLI_DRILL_EXPECT" in is_set:
        chosen = replace(chosen, expect=settings.policy.expect)
    return replace(settings, retry=retry, policy=chosen)


@contextmanager
def _configured_cluster() -> Iterator[str]:
    with dask_cluster(configured_settings()) as address:
        yield address


def task_runner() -> Any:
    """The task runner of a flow that is not given another: on the cluster that the environment or the block names, or
    on one of the run's own. It is looked up when the run begins."""
    return DaskTaskRunner(cluster_class=cast(Any, _configured_cluster))


def dask_client() -> Client:
    """The Dask client of the flow that runs here, whose task runner is one of `task_runner`."""
    return cast(DaskTaskRunner, cast(FlowRunContext, FlowRunContext.get()).task_runner).client


def _kept(client: SyncPrefectClient, kind: type[B]) -> B:
    """The block as the server keeps it; where there is none, one with nothing set."""
    slug = kind.get_block_type_slug()
    try:
        document = client.read_block_document_by_name(NAME, slug)
    except ObjectNotFound:
        return kind()
    try:
        return kind.model_validate(document.data)
    except ValidationError as error:
        raise UsageError(
            f"the block {slug}/{NAME} cannot work: {_reasons(error)}; correct it in the Prefect UI, or delete it"
        ) from None


def _reasons(error: ValidationError) -> str:
    """What is wrong, with its place and without the values, which may be secret."""
    reasons = []
    for one in error.errors(include_input=False, include_url=False):
        place = ".".join(str(part) for part in one["loc"])
        reasons.append(f"{place}: {one['msg']}" if place else one["msg"])
    return "; ".join(reasons).replace("Value error, ", "")
