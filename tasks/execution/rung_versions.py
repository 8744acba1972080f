"""The versions of rungs: of those that this process runs, and of those that a run would call now."""

from __future__ import annotations

from functools import partial
from typing import Any

from repli.tasks.fallback import RepliError
from repli.tasks.items import STORE
from repli.tasks.pipeline import Pipeline, Stage
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import ModelSettings
from repli.tasks.storage.outdated import Versions

LIMIT_S = 20.0
"""Seconds for the version of one rung: a disk or a server that hangs makes it unknown."""

_known: dict[tuple[Any, ...], str] = {}


def version_in_use(pipeline: Pipeline, stage: Stage, rung: str, models: ModelSettings) -> str | None:
    """Return the version of a rung that has served in this process, as the process has found it first.

    A process keeps a model that it has loaded: a file that is replaced while it works has no part in its results.
    """
    key = (pipeline.version, stage.name, stage.hooks.version, rung, models)
    if key not in _known and (found := stage.version_of(rung, models)):
        _known[key] = found
    return _known.get(key)


def present_versions(pipeline: Pipeline, models: ModelSettings) -> Versions:
    """Return the version of each rung now, by stage and rung; None for one that cannot be known here.

    Without those of `store`, which makes no value.
    """
    return {
        stage.name: {rung.name: _within_limit(stage, rung.name, models) for rung in stage.chain.rungs}
        for stage in pipeline.stages
        if stage.name != STORE
    }


def _within_limit(stage: Stage, rung: str, models: ModelSettings) -> str | None:
    find, name = partial(stage.version_of, rung, models), f"the version of {stage.name}.{rung}"
    try:
        found: str | None = process_runtime(may_exit=False).call_within(find, LIMIT_S, name)
    except RepliError:
        return None
    return found
