"""`repli breakers`: list the circuit breakers, and override one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from repli.flows.cli.command_group import CommandGroup
from repli.flows.cli.options import DatabaseOption, JsonOption, resolve_settings, store_options
from repli.flows.cli.output import print_json, print_note, print_page
from repli.tasks.fallback.breaker import Cause

if TYPE_CHECKING:
    from repli.tasks.fallback.breaker import Override
    from repli.tasks.storage.breakers import BreakerView

breakers_app = typer.Typer(cls=CommandGroup, invoke_without_command=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="STAGE.RUNG, or STAGE.RUNG@KEY for one of its keys.")]
KeyOption = Annotated[str, typer.Option("--key", help="One key, such as an origin, or one device.")]
AllOption = Annotated[bool, typer.Option("--all", help="List the closed ones of single keys too.")]


@breakers_app.callback()
def breakers(
    context: typer.Context,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
    show_all: AllOption = False,
) -> None:
    """List circuit breakers; `open`, `close` and `reset` override one."""
    if context.invoked_subcommand is None:
        from repli.flows.cli import store_commands

        _show(store_commands.list_breakers(resolve_settings(database)), as_json, show_all=show_all)


@breakers_app.command("open")
def open_breaker(
    context: typer.Context,
    name: NameArgument,
    key: KeyOption = "",
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Force a breaker open: its rung is not called until `close` or `reset`."""
    _override(context, name, key, Cause.FORCED_OPEN, database, as_json)


@breakers_app.command("close")
def close_breaker(
    context: typer.Context,
    name: NameArgument,
    key: KeyOption = "",
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Force a breaker closed: its rung is called, however often it fails."""
    _override(context, name, key, Cause.FORCED_CLOSED, database, as_json)


@breakers_app.command("reset")
def reset_breaker(
    context: typer.Context,
    name: NameArgument,
    key: KeyOption = "",
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the override of a breaker and clear its failure window."""
    _override(context, name, key, Cause.RESET, database, as_json)


def _override(
    context: typer.Context, name: str, key: str, cause: Override, database: str | None, as_json: bool
) -> None:
    """Override one breaker, then show all."""
    from repli.flows.cli import store_commands

    database, as_json = store_options(context, database, as_json)
    named = f"{name}@{key}" if key else name
    _show(store_commands.override_breaker(resolve_settings(database), named, cause, print_note), as_json)


def _show(views: Sequence[BreakerView], as_json: bool, *, show_all: bool = False) -> None:
    """Print breakers as a table, the open ones first, or as JSON."""
    from repli.flows.cli import render

    if as_json:
        print_json([view.as_json() for view in views], sys.stdout)
    else:
        print_page(render.breakers_page(views, show_all=show_all))
