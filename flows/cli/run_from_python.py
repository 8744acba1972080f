"""Run a pipeline from Python, as `repli run` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repli.flows.cli import run_commands
from repli.flows.cli.options import resolve_settings
from repli.flows.config.run_request import RunRequest, parse_directives
from repli.tasks.fallback import RepliError, UsageError

if TYPE_CHECKING:
    from repli.tasks.reporting.run_report import Report


def run(
    source: str | Path,
    *,
    pipeline: str | None = None,
    database: str | None = None,
    dask: str | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    refresh: bool = False,
    force: Sequence[str] = (),
    faults: Sequence[str] = (),
    change_pipeline: bool = False,
) -> Report:
    """Enrich the items of a source, as `repli run` does, and return the run's report.

    In a script, call it under ``if __name__ == "__main__":``, because the workers import the pipeline's module.

    Args:
        source: a manifest, or a directory of images.
        pipeline: `MODULE:NAME`, or an installed pipeline; by default, the store's own, else the default one.
        database: the URL of the store; by default, as the environment says.
        dask: the address of a Dask scheduler; by default, a local cluster is started.
        limit: the number of items to read.
        batch_size: items per batch; by default, as many as suit the run.
        refresh: process all stages again; better results are kept.
        force: rungs to begin with, as `STAGE=RUNG`.
        faults: failures to inject, as `STAGE.RUNG=KIND[@RATE]`.
        change_pipeline: go on with another pipeline than the store's; results of stages that both have are kept.

    Returns:
        The report; its `as_json` is what `repli run --json` prints.

    Raises:
        UsageError: an argument cannot be used.
        RepliError: the run failed; what it stored before stays, and another run goes on from there.

    Example:
        >>> run("catalogue.jsonl", pipeline="translate:pipeline").as_json()["mean_quality"]
        0.94
    """
    if not (pipeline is None or isinstance(pipeline, str)):
        raise UsageError("pipeline: give its name, such as 'translate:pipeline': the workers import it by that")
    for name, specs in (("force", force), ("faults", faults)):
        if isinstance(specs, str):
            raise UsageError(f"{name}: give a list, such as [{specs!r}]")
    settings = resolve_settings(database, dask, batch_size, pipeline)
    chosen = run_commands.choose_pipeline(settings)
    request = RunRequest(
        source=Path(source).absolute(),
        batch_size=settings.batch_size,
        limit=limit,
        refresh=refresh,
        directives=parse_directives(chosen.declared.chains, force, faults),
        pipeline=chosen.active,
    )
    outcome = run_commands.run(chosen, request, change_pipeline=change_pipeline)
    if outcome.problem:
        raise RepliError(outcome.problem)
    return outcome.report
