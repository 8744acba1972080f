"""Where tasks ran: a plugin of the Dask scheduler, which sees each task end and on which worker."""

from __future__ import annotations

from typing import Any

from distributed import Client, Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

NAME = "whereabouts"


class Whereabouts(SchedulerPlugin):
    """Remembers the stage of each task that ended well, and the tags of the worker that it ran on."""

    name = NAME

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    async def start(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if (start, finish) == ("processing", "memory"):
            spec = self._scheduler.tasks[key].run_spec
            parameters = spec.kwargs.get("parameters", {}) if spec else {}
            if "stage" in parameters:
                tags = self._scheduler.workers[kwargs["worker"]].resources
                self.seen.append((parameters["stage"], " ".join(sorted(tags))))


def seen(client: Client) -> list[tuple[str, str]]:
    """What it has seen until now, in its order: stage, tags."""
    found: list[tuple[str, str]] = client.run_on_scheduler(_seen)
    return found


def _seen(dask_scheduler: Scheduler) -> list[tuple[str, str]]:
    plugin = dask_scheduler.plugins[NAME]
    assert isinstance(plugin, Whereabouts)
    return plugin.seen
