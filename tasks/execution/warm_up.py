"""Prepare a worker ahead of its first run, while the Prefect server starts: load the suite, begin with the models."""

from __future__ import annotations

from repli.tasks.execution.run_pipeline import pipeline_of
from repli.tasks.fallback import RepliError
from repli.tasks.runtime.timeline import timed, worker
from repli.tasks.settings import Settings


def warm_up(settings: Settings) -> None:
    """Load what the stages of the run's pipeline need, in their order, and begin with its models.

    A model that hangs while it is loaded must not keep this thread, in which the first stage is to run. What cannot be
    loaded is no error here: its rung reports it for each item. Without a chosen pipeline, nothing is loaded.
    """
    if settings.pipeline is None:
        return
    try:
        for stage in pipeline_of(settings).stages:
            with timed(worker(), f"warm up {stage.name}"):
                stage.hooks.warm_up(settings)
    except RepliError:
        return
