"""`repli queue`: list the retry queue, and move items to its front."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from repli.flows.cli.command_group import CommandGroup
from repli.flows.cli.options import DatabaseOption, JsonOption, resolve_settings, store_options
from repli.flows.cli.output import print_json, print_page

queue_app = typer.Typer(cls=CommandGroup, invoke_without_command=True)


@queue_app.callback()
def queue(
    context: typer.Context,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Show the first N items.")] = 100,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the retry queue; `retry` moves items to its front."""
    if context.invoked_subcommand is not None:
        return
    from repli.flows.cli import render, store_commands

    view = store_commands.list_queue(resolve_settings(database), limit)
    if as_json:
        print_json(view.as_json(), sys.stdout)
    else:
        print_page(render.queue_page(view.tally, view.entries))


@queue_app.command()
def retry(
    context: typer.Context,
    item_ids: Annotated[list[str], typer.Argument(metavar="ID", help="The ids of the items.")],
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue items with priority HIGH, parked items too."""
    from repli.flows.cli import render, store_commands

    database, as_json = store_options(context, database, as_json)
    queued, nothing_to_do = store_commands.retry(resolve_settings(database), item_ids)
    if as_json:
        print_json({"queued": queued, "nothing_to_do": nothing_to_do}, sys.stdout)
    else:
        print_page(render.retry_answer(queued, nothing_to_do))
