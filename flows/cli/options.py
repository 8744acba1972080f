"""Options that several commands share, and the settings that follow from them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from repli.tasks.fallback import UsageError
from repli.tasks.settings import Settings

DatabaseOption = Annotated[
    str | None, typer.Option("--database", metavar="URL", help="The store: sqlite:///FILE or postgresql://…")
]
DaskOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Use the Dask scheduler at this address; default: start one.")
]
PipelineOption = Annotated[
    str | None,
    typer.Option(metavar="MODULE:NAME", help="The pipeline; default: the store's own, else the installed one."),
]
BatchSizeOption = Annotated[int | None, typer.Option(metavar="N", help="Items per batch; default: 128 to 512.")]
FaultOption = Annotated[
    list[str] | None, typer.Option(metavar="SPEC", help=r"Inject a fault: STAGE.RUNG=KIND\[@RATE]. Repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, all else on stderr.")]


def store_options(context: typer.Context, database: str | None, as_json: bool) -> tuple[str | None, bool]:
    """Return the values of `--database` and `--json` of a sub-command, given before or after its name.

    Args:
        context: The context of the sub-command. Its parent has the options that stand before the name.
        database: The value after the name; it takes precedence.
        as_json: Whether `--json` stands after the name.
    """
    before = context.parent.params if context.parent else {}
    return database or before.get("database"), as_json or bool(before.get("as_json"))


def resolve_settings(
    database: str | None, dask: str | None = None, batch_size: int | None = None, pipeline: str | None = None
) -> Settings:
    """Return the settings; options take precedence over the environment.

    No Prefect block is consulted: commands without a server, such as `status` and `show`, could not read it and would
    use another store.

    Raises:
        UsageError: The batch size is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: a batch holds at least 1 item")
    options = {
        "REPLI_DATABASE_URL": database,
        "REPLI_DASK_ADDRESS": dask,
        "REPLI_BATCH_SIZE": str(batch_size) if batch_size else None,
        "REPLI_PIPELINE": pipeline,
    }
    return Settings.from_environment({**os.environ, **{name: value for name, value in options.items() if value}})
