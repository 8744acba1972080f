"""Where tasks ran: a plugin of the Dask scheduler, which sees each task end and on which worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

from distributed import Client, Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

NAME = "whereabouts"


class Whereabouts(SchedulerPlugin):
    """Remembers the stage of each task that ended well, and the tags of the worker that it ran on.

    Args:
        suspends: processes on the scheduler's machine that are stopped as soon as a task ended so.
        after: its stage and tags.
    """

    name = NAME

    def __init__(self, suspends: Sequence[int] = (), after: tuple[str, str] | None = None) -> None:
        self.seen: list[tuple[str, str]] = []
        self._suspends = list(suspends)
        self._after = after

    async def start(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if (start, finish) == ("processing", "memory"):
            spec = self._scheduler.tasks[key].run_spec
            parameters = spec.kwargs.get("parameters", {}) if spec else {}
            if "stage" in parameters:
                tags = self._scheduler.workers[kwargs["worker"]].resources
                self.seen.append((parameters["stage"], " ".join(sorted(tags))))
                while self._suspends and self.seen[-1] == self._after:
                    os.kill(self._suspends.pop(), signal.SIGSTOP)


def seen(client: Client) -> list[tuple[str, str]]:
    """What it has seen until now, in its order: stage, tags."""
    found: list[tuple[str, str]] = client.run_on_scheduler(_seen)
    return found


def _seen(dask_scheduler: Scheduler) -> list[tuple[str, str]]:
    plugin = dask_scheduler.plugins[NAME]
    assert isinstance(plugin, Whereabouts)
    return plugin.seen
