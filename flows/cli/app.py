"""The command line `repli`: results go to stdout, progress and errors to stderr.

Commands import what they need when they are called, so that `--help` and usage errors answer at once.
"""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from repli.flows.cli.breakers_app import breakers_app
from repli.flows.cli.command_group import CommandGroup
from repli.flows.cli.errors import (
    BEGINS_AGAIN,
    CONTINUES,
    USAGE_ERROR,
    interruptible,
    one_line_errors,
    raise_problem,
    stoppable,
)
from repli.flows.cli.options import (
    BatchSizeOption,
    ColumnOption,
    DaskOption,
    DatabaseOption,
    DelimiterOption,
    EncodingOption,
    FaultOption,
    JsonOption,
    PipelineOption,
    resolve_settings,
)
from repli.flows.cli.output import print_json, print_line, print_note, print_page, reserved_stdout
from repli.flows.cli.process_end import end_process
from repli.flows.cli.queue_app import queue_app
from repli.tasks.runtime import timeline
from repli.tasks.settings import Settings

app = typer.Typer(name="repli", cls=CommandGroup, invoke_without_command=True, pretty_exceptions_enable=False)


def _print_version(is_wanted: bool) -> None:
    """Print the installed version and exit."""
    if is_wanted:
        from importlib.metadata import version

        print_line(f"repli {version('repli')}")
        raise typer.Exit


@app.callback()
def repli(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Enrich a catalogue with a pipeline that always moves: every stage succeeds, falls back, or skips."""
    if context.invoked_subcommand is None:
        print_line(context.get_help())
        raise typer.Exit(USAGE_ERROR)


@app.command()
def run(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A JSONL, CSV, TSV or Parquet file (.gz too), a directory of images, or - for JSONL on stdin.",
        ),
    ],
    limit: Annotated[int | None, typer.Option(metavar="N", help="Read only the first N items.")] = None,
    batch_size: BatchSizeOption = None,
    refresh: Annotated[bool, typer.Option(help="Process all stages again; better results are kept.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the items of SOURCE that are no longer in it from the store.")
    ] = False,
    column: ColumnOption = None,
    delimiter: DelimiterOption = None,
    encoding: EncodingOption = None,
    force: Annotated[
        list[str] | None, typer.Option(metavar="STAGE=RUNG", help="Start a stage at this rung. Repeatable.")
    ] = None,
    fault: FaultOption = None,
    pipeline: PipelineOption = None,
    change_pipeline: Annotated[
        bool,
        typer.Option(
            "--change-pipeline", help="Go on with another pipeline than the store's; stages of both keep their results."
        ),
    ] = False,
    dask: DaskOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enrich the items of SOURCE; an interrupted run continues."""
    with interruptible(CONTINUES), reserved_stdout(as_json) as stdout, ExitStack() as resources:
        from repli.flows.cli import run_commands
        from repli.flows.cli.manifest_source import open_source
        from repli.flows.config.run_request import RunRequest, parse_directives

        chosen = run_commands.choose_pipeline(resolve_settings(database, dask, batch_size, pipeline))
        path, options = resources.enter_context(
            open_source(source, chosen.settings, columns=column or (), delimiter=delimiter, encoding=encoding)
        )
        request = RunRequest(
            source=path,
            batch_size=chosen.settings.batch_size,
            limit=limit,
            refresh=refresh,
            prune=prune,
            directives=parse_directives(chosen.declared.chains, force or (), fault or ()),
            pipeline=chosen.active,
            manifest_options=options,
        )
        for note in request.manifest.notes:
            print_note(note)
        outcome = run_commands.run(chosen, request, change_pipeline=change_pipeline)
        if as_json:
            print_json(outcome.report.as_json(), stdout)
        else:
            from repli.flows.cli import render

            print_page(render.run_summary(outcome.report))
    raise_problem(outcome.problem)


@app.command()
def reprocess(
    stage: Annotated[
        str,
        typer.Argument(metavar="[STAGE]", help="With --outdated: only this stage, results of unknown version too."),
    ] = "",
    outdated: Annotated[
        bool, typer.Option("--outdated", help="Also make results by older versions of their rungs anew.")
    ] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Process at most N items.")] = None,
    batch_size: BatchSizeOption = None,
    fault: FaultOption = None,
    pipeline: PipelineOption = None,
    dask: DaskOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Process the retry queue.

    Only degraded or stale stages whose better rungs are available again run, and the stages that depend on them.
    With --outdated, results by an older version of their rung, such as another model, are queued first.
    """
    with interruptible(CONTINUES), reserved_stdout(as_json) as stdout:
        from repli.flows.cli import render, run_commands, store_commands
        from repli.flows.config.run_request import RetryRequest, parse_directives

        settings = resolve_settings(database, dask, batch_size, pipeline)
        store_commands.existing_store(settings)
        chosen = run_commands.choose_pipeline(settings)
        request = RetryRequest(
            batch_size=settings.batch_size,
            limit=limit,
            directives=parse_directives(chosen.declared.chains, faults=fault or ()),
            pipeline=chosen.active,
            outdated=outdated,
            outdated_stage=stage,
        )
        outcome = run_commands.reprocess(chosen, request)
        if as_json:
            print_json(outcome.report.as_json(), stdout)
        else:
            print_page(render.retry_summary(outcome.report))
    raise_problem(outcome.problem)


@app.command()
def drill(
    sample: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Items in the sample.")] = 200,
    questions: Annotated[
        bool, typer.Option("--questions", help="Run no drill: list the disagreements that the latest one found.")
    ] = False,
    pipeline: PipelineOption = None,
    dask: DaskOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Test every rung of every chain on a sample of stored items.

    The stored results stay unchanged. Each rung gets a verdict and its accuracy relative to the primary's.
    """
    if questions:
        _list_questions(resolve_settings(database), as_json)
        return
    with interruptible(BEGINS_AGAIN), reserved_stdout(as_json) as stdout:
        from repli.flows.cli import render, run_commands

        outcome = run_commands.drill(resolve_settings(database, dask, pipeline=pipeline), sample)
        if as_json:
            print_json(outcome.report[0].report, stdout)
        else:
            print_page(render.drill_page(outcome.report))
    raise_problem(outcome.problem)


def _list_questions(settings: Settings, as_json: bool) -> None:
    """Print the questions of the latest drill."""
    from repli.flows.cli import label_commands, render

    found = label_commands.list_questions(settings)
    if as_json:
        print_json(found.as_json(), sys.stdout)
    else:
        print_page(render.questions_page(found))


@app.command()
def label(
    item_id: Annotated[str, typer.Argument(metavar="ITEM", help="The id of the item.")],
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="The right label, or the rung that is right; none; both.")
    ],
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="The stage, if it is not the only one.")] = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a question of a drill: say what is right for an item.

    `repli drill --questions` lists the questions. The next drill uses the answers.
    """
    from repli.flows.cli import label_commands

    given = label_commands.label(resolve_settings(database), item_id, value, stage)
    if as_json:
        print_json({"item": given.item_id, "stage": given.stage, "value": given.said}, sys.stdout)
    else:
        print_line(f"{given.stage} of {given.item_id}: {given.said}; the next drill uses it")


@app.command()
def status(database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Show the store: items, statuses per stage, quality, the last run."""
    from repli.flows.cli import render, store_commands

    with reserved_stdout(as_json) as stdout:  # the module of a pipeline of one's own may print
        overview = store_commands.status(resolve_settings(database))
        if as_json:
            print_json(overview.as_json(), stdout)
            return
    print_page(
        render.overview_page(overview.database, overview.tally, overview.last_run, overview.now, overview.outdated)
    )


@app.command()
def show(
    item_id: Annotated[str, typer.Argument(metavar="ITEM_ID", help="The id of the item in its manifest.")],
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one item: the result of each stage, and its attempts."""
    from repli.flows.cli import render, store_commands

    view = store_commands.show(resolve_settings(database), item_id)
    if as_json:
        print_json(view.as_json(), sys.stdout)
    else:
        print_page(render.item_page(view))


@app.command()
def forget(
    item_ids: Annotated[list[str], typer.Argument(metavar="ID", help="The ids of the items.")],
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove items from the store, its search index, and its files."""
    from repli.flows.cli import store_commands

    forgotten = store_commands.forget_items(resolve_settings(database), item_ids)
    if as_json:
        print_json({"items": forgotten.items, "files": forgotten.blobs}, sys.stdout)
    else:
        print_line(f"{forgotten.items} items removed, and {forgotten.blobs} files that no other item has")


@app.command()
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Words, or a sentence.")],
    mode: Annotated[str, typer.Option(metavar="hybrid|keyword|vector", help="How to search.")] = "hybrid",
    limit: Annotated[int, typer.Option(metavar="N", help="Show the best N items.")] = 10,
    min_quality: Annotated[float, typer.Option(metavar="Q", help="Exclude items of a lower quality.")] = 0.0,
    rank_by: Annotated[
        str, typer.Option(metavar="quality|expected_accuracy", help="The score that weighs the relevance of an item.")
    ] = "quality",
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search stored items by keyword, vector, or both."""
    from repli.flows.cli import render, store_commands
    from repli.tasks.search import Mode, Query, RankBy

    with reserved_stdout(as_json) as stdout:
        parsed = Query(
            text=query,
            mode=Mode.parse(mode),
            limit=limit,
            min_quality=min_quality,
            rank_by=RankBy.parse(rank_by),
        )
        found = store_commands.search(resolve_settings(database), parsed)
        if as_json:
            print_json(found.as_json(), stdout)
        else:
            print_page(render.hits_page(found))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="FILE.jsonl or FILE.parquet.")],
    min_quality: Annotated[float | None, typer.Option(metavar="Q", help="Exclude items of a lower quality.")] = None,
    max_quality: Annotated[float | None, typer.Option(metavar="Q", help="Exclude items of a higher quality.")] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE|STAGE=STATUS", help="Only items of this state or status. Repeatable."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export items with all statuses to a JSONL or Parquet file."""
    from repli.flows.cli import store_commands

    count = store_commands.export(
        resolve_settings(database),
        file,
        status=status or (),
        min_quality=min_quality,
        max_quality=max_quality,
        overwrite=overwrite,
    )
    if as_json:
        print_json({"file": str(file), "items": count}, sys.stdout)
    else:
        print_line(f"{count} items in {file}")


app.add_typer(breakers_app, name="breakers")
app.add_typer(queue_app, name="queue")


@app.command()
def serve(
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="The port of the Prefect UI.")] = 4200,
    nightly: Annotated[
        Path | None, typer.Option(metavar="SOURCE", help="Enrich SOURCE every night at 01:00 UTC.")
    ] = None,
    pipeline: PipelineOption = None,
    dask: DaskOption = None,
    database: DatabaseOption = None,
) -> None:
    """Serve the Prefect UI, deployments and schedules until Ctrl-C."""
    with stoppable(), ExitStack() as start:
        from repli.flows.cli.progress import progress_shown
        from repli.flows.server import serve

        def tell(text: str) -> None:
            start.close()
            print_line(text)

        start.enter_context(progress_shown("serving"))
        serve.serve(resolve_settings(database, dask, pipeline=pipeline), port=port, nightly=nightly, tell=tell)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="The port on this machine.")] = 8501,
    database: DatabaseOption = None,
) -> None:
    """Serve a dashboard of the store until Ctrl-C. It changes nothing but the answers to a drill's questions."""
    from repli.flows.dashboard import launch

    launch.dashboard(resolve_settings(database), port)


@app.command()
def demo(
    items: Annotated[int, typer.Option(metavar="N", help="Items in the catalogue.")] = 300,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the demo on real data: a healthy run, an outage, a recovery.

    In the outage the GPU is out of memory. Then it has room again, and `reprocess` upgrades the degraded items.
    """
    with interruptible(BEGINS_AGAIN), reserved_stdout(as_json) as stdout:
        from repli.flows.cli.demo import story

        summary = story.run_demo(resolve_settings(None), items=items, database_url=database)
        if as_json:
            print_json(summary.as_json(), stdout)
        else:
            print_page(summary.page())
    raise_problem(summary.problem)


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 usage error, 130 interrupted."""
    # Ctrl-C while the interpreter ends would add a traceback to a command that is over.
    with interruptible(then=signal.SIG_IGN), one_line_errors():
        sys.exit(app(prog_name="repli", standalone_mode=False))


def script() -> None:
    """Run the command line as a process of its own, which ends without taking its modules apart."""
    timeline.begin()
    try:
        main()
    except SystemExit as ended:
        end_process(ended)


if __name__ == "__main__":
    script()
