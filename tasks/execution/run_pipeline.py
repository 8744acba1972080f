"""The pipeline of a run: chosen once, recorded in the store, and imported by each worker."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace

from repli.tasks.execution.rung_versions import present_versions
from repli.tasks.fallback import RepliError, UsageError
from repli.tasks.pipeline import Pipeline, registry
from repli.tasks.settings import ModelSettings, Settings
from repli.tasks.storage import pipelines, runs
from repli.tasks.storage.database import HEAD, Database
from repli.tasks.storage.outdated import Versions
from repli.tasks.storage.pipelines import StoredPipeline


class PipelineMismatch(RepliError):
    """A worker has another pipeline than the run, or cannot import it. The message names the worker's host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPipeline:
    """The pipeline that a run has chosen.

    Args:
        settings: the run's settings, which name the pipeline from here on.
        declared: the pipeline as its module declares it, for the models of the settings.
    """

    settings: Settings
    declared: Pipeline

    @property
    def active(self) -> Pipeline:
        """Return the pipeline under the policy of the settings."""
        return self.declared.with_policy(self.settings.policy)

    @property
    def versions(self) -> Versions:
        """Return the present version of each rung, by stage and rung, with the models of the settings."""
        return present_versions(self.declared, self.settings.models)

    @property
    def stored(self) -> StoredPipeline:
        """Return what the store keeps of the pipeline."""
        return self.declared.described(str(self.settings.pipeline))


def choose(settings: Settings, database: Database) -> RunPipeline:
    """Return the pipeline that the settings name; else the store's own; else the installed or the default one.

    Args:
        database: the store, which need not exist yet.

    Raises:
        UsageError: there is no such pipeline, or it cannot be imported.
    """
    name = settings.pipeline
    if name is None:
        stored = _stored(database)
        name = stored.name if stored else registry.installed_pipeline()
    pipeline = registry.load(name, settings.pipeline_folder).with_models(settings.models)
    named = replace(settings, pipeline=name, pipeline_version=pipeline.version)
    return RunPipeline(settings=named, declared=pipeline)


def store_pipeline(settings: Settings, database: Database) -> StoredPipeline:
    """Return the store's own pipeline; before its first run, the one that a run would choose.

    Raises:
        UsageError: the store has none, and there is none to choose.
    """
    return _stored(database) or pipelines.as_stored(choose(settings, database).stored)


def _stored(database: Database) -> StoredPipeline | None:
    version = database.version()
    if version is None:
        return None
    if version < HEAD and not database.is_read_only:
        database.migrate()
    return pipelines.read(database)


def store_versions(settings: Settings, database: Database) -> Versions:
    """Return the versions of the rungs of the store's pipeline; none where it cannot be imported here.

    A text model that a Prefect block has named for the last run is that of the next one, too.
    """
    models = settings.models
    if models.text == ModelSettings().text and (of_block := runs.text_model_of_block(database)):
        models = replace(models, text=of_block)
    try:
        return choose(replace(settings, pipeline=None, models=models), database).versions
    except UsageError:
        return {}


def pipeline_of(settings: Settings) -> Pipeline:
    """Return the run's pipeline in a worker, under the run's policy.

    Raises:
        PipelineMismatch: this worker cannot import it, or has another version of it.
    """
    if settings.pipeline is None:
        raise AssertionError("no pipeline was chosen")
    try:
        pipeline = registry.load(settings.pipeline, settings.pipeline_folder).with_models(settings.models)
    except UsageError as error:
        raise PipelineMismatch(f"the worker on {socket.gethostname()} cannot import the pipeline: {error}") from None
    if pipeline.version != settings.pipeline_version:
        raise PipelineMismatch(
            f"the worker on {socket.gethostname()} has another version of the pipeline {settings.pipeline} than the "
            "run; restart it"
        )
    return pipeline.with_policy(settings.policy)
