"""A Typer command group whose error for an unknown command is one line."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from repli.tasks.fallback import UsageError


class CommandGroup(TyperGroup):
    """A group of commands that names its commands when an unknown one is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that `args` names.

        Raises:
            UsageError: There is no such command.
        """
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            known = ", ".join(self.commands)
            raise UsageError(f"`{ctx.command_path}` has no command {name[:40]!r}; choose from {known}")
        return super().resolve_command(ctx, args)
