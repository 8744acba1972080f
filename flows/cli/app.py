"""The command line: `repli`. Results go to stdout, progress and errors to stderr; imports are lazy, for speed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from repli.tasks.fallback import RepliError, UsageError
from repli.tasks.settings import Settings

app = typer.Typer(
    name="repli",
    help="Enrich a catalogue with a pipeline that always moves: every stage succeeds, falls back, or skips.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DatabaseOption = Annotated[
    str | None, typer.Option("--database", metavar="URL", help="The store: sqlite:///FILE or postgresql://…")
]
DaskOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="A standing Dask scheduler, instead of one of its own.")
]
BatchSizeOption = Annotated[int | None, typer.Option(metavar="N", help="Items that travel together; 128 unless set.")]
FaultOption = Annotated[list[str] | None, typer.Option(metavar="SPEC", help=r"A fault: STAGE.RUNG=KIND\[@RATE].")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; all else goes to stderr.")]


@app.command()
def run(
    source: Annotated[Path, typer.Argument(help="A JSONL, CSV or Parquet file, or a directory of images.")],
    limit: Annotated[int | None, typer.Option(metavar="N", help="Take only the first N lines.")] = None,
    batch_size: BatchSizeOption = None,
    refresh: Annotated[bool, typer.Option(help="Do everything again, keeping what is better already.")] = False,
    force: Annotated[list[str] | None, typer.Option(metavar="STAGE=RUNG", help="Begin a stage at this rung.")] = None,
    fault: FaultOption = None,
    dask: DaskOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enrich the items of SOURCE. What an earlier run finished is not done again."""
    from repli.flows.cli import render, run_commands
    from repli.flows.config.run_request import RunRequest

    with _interruptible(), _stdout_kept(as_json) as stdout:
        settings = _settings(database, dask, batch_size)
        request = RunRequest(
            source=source.absolute(),
            batch_size=settings.batch_size,
            limit=limit,
            refresh=refresh,
            force=tuple(force or ()),
            faults=tuple(fault or ()),
        )
        outcome = run_commands.run(settings, request)
        if as_json:
            _print_json(outcome.report.as_json(), stdout)
        else:
            _print(render.run_summary(outcome.report))
    if outcome.problem:
        raise RepliError(outcome.problem)


@app.command()
def status(database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """What is in the store: items, statuses per stage, quality, and the last run."""
    from repli.flows.cli import render, store_commands

    overview = store_commands.status(_settings(database))
    if as_json:
        _print_json(overview.as_json(), sys.stdout)
    else:
        _print(render.overview_page(overview.database, overview.tally, overview.last_run, overview.now))


@app.command()
def show(item_id: str, database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """One item: each stage's result, and how it came to it."""
    from repli.flows.cli import render, store_commands

    view = store_commands.show(_settings(database), item_id)
    if as_json:
        _print_json(view.as_json(), sys.stdout)
    else:
        _print(render.item_page(view))


@app.command()
def breakers(
    order: Annotated[str | None, typer.Argument(metavar="open|close|reset", help="Force it, or let it go.")] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="STAGE.RUNG, or STAGE.RUNG@PLACE.")] = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every breaker: where it stands, its failures, its next probe. `open`, `close` and `reset` are a person's word."""
    from repli.flows.cli import render, store_commands

    settings = _settings(database)
    if order and not name:
        raise UsageError(f"`repli breakers {order[:40]}` needs the breaker's name, such as classify_image.gpu")
    views = (
        store_commands.order_breaker(settings, order, name)
        if order and name
        else store_commands.list_breakers(settings)
    )
    if as_json:
        _print_json([view.as_json() for view in views], sys.stdout)
    else:
        _print(render.breakers_page(views))


@app.command()
def reprocess(
    limit: Annotated[int | None, typer.Option(metavar="N", help="Take at most N items.")] = None,
    batch_size: BatchSizeOption = None,
    fault: FaultOption = None,
    dask: DaskOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do again what waits in the retry queue: only the stages that were degraded, where they may succeed now."""
    from repli.flows.cli import render, run_commands
    from repli.flows.config.run_request import RetryRequest

    with _interruptible(), _stdout_kept(as_json) as stdout:
        settings = _settings(database, dask, batch_size)
        request = RetryRequest(batch_size=settings.batch_size, limit=limit, faults=tuple(fault or ()))
        outcome = run_commands.reprocess(settings, request)
        if as_json:
            _print_json(outcome.report.as_json(), stdout)
        else:
            _print(render.retry_summary(outcome.report))
    if outcome.problem:
        raise RepliError(outcome.problem)


@app.command()
def queue(
    verb: Annotated[str | None, typer.Argument(metavar="retry", help="Put items first in line.")] = None,
    item_ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Their ids.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Show the first N.")] = 100,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """What waits to be done again, in its order. `retry ID…` puts items first in line, parked ones too."""
    from repli.flows.cli import render, store_commands

    settings = _settings(database)
    if verb not in {None, "retry"}:
        raise UsageError(f"`repli queue {verb[:40]}`: there is no such order; the one there is is `retry ID…`")
    if verb and not item_ids:
        raise UsageError("`repli queue retry` needs the ids of items, such as `repli status` or `repli queue` name")
    if verb and item_ids:
        queued, whole = store_commands.retry(settings, item_ids)
        if as_json:
            _print_json({"queued": queued, "nothing_to_do": whole}, sys.stdout)
        else:
            _print(render.retry_answer(queued, whole))
        return
    view = store_commands.list_queue(settings, limit)
    if as_json:
        _print_json(view.as_json(), sys.stdout)
    else:
        _print(render.queue_page(view.tally, view.entries))


@app.command()
def drill(
    sample: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Items to drill on.")] = 200,
    dask: DaskOption = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call every rung of every chain on a sample, in shadow, and judge what they answer."""
    from repli.flows.cli import render, run_commands

    with _interruptible(), _stdout_kept(as_json) as stdout:
        outcome = run_commands.drill(_settings(database, dask), sample)
        if as_json:
            _print_json(outcome.drills[0].report, stdout)
        else:
            _print(render.drill_page(outcome.drills))
    if outcome.problem:
        raise RepliError(outcome.problem)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Words, or a sentence.")],
    mode: Annotated[str, typer.Option(metavar="hybrid|keyword|vector", help="What is looked at.")] = "hybrid",
    limit: Annotated[int, typer.Option(metavar="N", help="Show the best N.")] = 10,
    min_quality: Annotated[float, typer.Option(metavar="Q", help="Leave out what is of a lower quality.")] = 0.0,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """The items that go best with QUERY, by words and by meaning, those of full quality first among equals."""
    from repli.flows.cli import render, store_commands
    from repli.tasks.search import Mode, Query

    with _interruptible(), _stdout_kept(as_json) as stdout:
        asked = Query(text=query, mode=Mode.parse(mode), limit=limit, min_quality=min_quality)
        found = store_commands.search(_settings(database), asked)
        if as_json:
            _print_json(found.as_json(), stdout)
        else:
            _print(render.hits_page(found))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="FILE.jsonl or FILE.parquet.")],
    min_quality: Annotated[
        float | None, typer.Option(metavar="Q", help="Only what is stored at least so well.")
    ] = None,
    max_quality: Annotated[float | None, typer.Option(metavar="Q", help="Only what is stored at most so well.")] = None,
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATE|STAGE=STATUS", help="Only items of this state or status.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there.")] = False,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every item, with every status, as a file for other tools."""
    from repli.flows.cli import store_commands
    from repli.tasks.stages.default import STAGE_NAMES
    from repli.tasks.storage.views.browse import Selection

    with _interruptible():
        selection = Selection.parse(status or (), STAGE_NAMES, min_quality, max_quality)
        count = store_commands.export(_settings(database), file, selection, overwrite=overwrite)
    if as_json:
        _print_json({"file": str(file), "items": count}, sys.stdout)
    else:
        _tell(f"{count} items in {file}")


@app.command()
def serve(
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="The port of the Prefect UI.")] = 4200,
    nightly: Annotated[
        Path | None, typer.Option(metavar="SOURCE", help="Enrich this every night, at 01:00 UTC.")
    ] = None,
    dask: DaskOption = None,
    database: DatabaseOption = None,
) -> None:
    """The Prefect UI, deployments and schedules on this machine, until Ctrl-C."""
    from repli.flows.server import serve

    serve.serve(_settings(database, dask), port=port, nightly=nightly, tell=_tell)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Its port on this machine.")] = 8501,
    database: DatabaseOption = None,
) -> None:
    """The store in the browser: quality, stages, breakers, queue, drills, search and each item. It reads only."""
    from repli.flows.dashboard import launch

    launch.dashboard(_settings(database), port)


@app.command()
def demo(
    items: Annotated[int, typer.Option(metavar="N", help="Items in the catalogue.")] = 300,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """The whole story on real data: a healthy run, the GPU that runs out of memory at 3 a.m., and the morning after."""
    from repli.flows.cli.demo import story as story

    with _interruptible(), _stdout_kept(as_json) as stdout:
        summary = story.run_demo(_settings(None), items=items, database_url=database)
        if as_json:
            _print_json(summary.as_json(), stdout)
        else:
            _print(summary.page())
    if summary.problem:
        raise RepliError(summary.problem)


def main() -> None:
    """The entry point. An error is one line that says what to do; exit status 1 failed, 2 usage."""
    try:
        app(standalone_mode=True)
    except UsageError as error:
        _end(error, 2)
    except Interrupted as error:
        _end(error, 130)
    except RepliError as error:
        _end(error, 1)
    except Exception as error:
        if os.environ.get("REPLI_DEBUG"):
            raise
        _end(f"unexpected {type(error).__name__}: {error}; set REPLI_DEBUG=1 for the traceback, and report it", 1)


class Interrupted(RepliError):
    """A person stopped a run."""


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("stopped; run the same command again, it goes on from here") from None


def _end(message: object, status: int) -> None:
    line = "".join(character if character.isprintable() else " " for character in str(message))
    sys.stderr.write(f"repli: {' '.join(line.split())}\n")
    sys.exit(status)


def _settings(database: str | None, dask: str | None = None, batch_size: int | None = None) -> Settings:
    """The settings, options before environment. The workers and the flow read the same environment.

    A command's store is what these say and no block's, which `status` and `show` would not know of.
    """
    if database:
        os.environ["REPLI_DATABASE_URL"] = database
    if dask:
        os.environ["REPLI_DASK_ADDRESS"] = dask
    if batch_size is not None:
        if batch_size < 1:
            raise UsageError(f"--batch-size {batch_size}: a batch holds at least 1 item")
        os.environ["REPLI_BATCH_SIZE"] = str(batch_size)
    settings = Settings.from_environment()
    os.environ["REPLI_HOME"], os.environ["REPLI_DATABASE_URL"] = str(settings.home), settings.database_url
    return settings


@contextmanager
def _stdout_kept(wanted: bool) -> Iterator[Any]:
    """Keeps stdout for the one JSON document: whatever else writes there, workers included, is sent to stderr."""
    if not wanted:
        yield sys.stdout
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as kept:
        os.dup2(2, 1)
        yield kept


def _print(page: Any) -> None:
    from rich.console import Console

    Console().print(page)


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _print_json(document: Any, stream: Any) -> None:
    stream.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
