"""The demo in three acts on real data: a healthy run, a run with the GPU out of memory, and the recovery."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repli.flows.cli import run_commands, store_commands
from repli.flows.cli.demo.catalogue import build
from repli.flows.cli.output import print_note
from repli.flows.config.run_request import RetryRequest, RunRequest, parse_directives
from repli.flows.server.dask_cluster import cluster
from repli.flows.server.environment import environment
from repli.tasks.execution.run_pipeline import choose
from repli.tasks.fallback.breaker import Cause
from repli.tasks.models.cards import visible_devices
from repli.tasks.pipeline.registry import DEFAULT
from repli.tasks.reporting.retry_report import RetryReport
from repli.tasks.reporting.run_report import Report
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database

if TYPE_CHECKING:
    from rich.console import RenderableType

OUTAGE = "classify_image.gpu=oom"
PRIMARY = "classify_image.gpu"
RETRY_BELOW = "1"
"""In the demo every item below quality 1 is queued; the default is 0.8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The reports of the three acts, the manifest, and the stores."""

    home: Path
    catalogue: Path
    healthy: Report
    outage: Report
    recovery: RetryReport
    databases: Mapping[str, str]
    problem: str | None

    def as_json(self) -> dict[str, Any]:
        return {
            "catalogue": str(self.catalogue),
            "databases": dict(self.databases),
            "healthy": self.healthy.as_json(),
            "outage": self.outage.as_json(),
            "recovery": self.recovery.as_json(),
        }

    def page(self) -> RenderableType:
        from rich.console import Group
        from rich.rule import Rule
        from rich.text import Text

        from repli.flows.cli.render import retry_summary, run_summary

        return Group(
            Rule("Act 1 · a healthy run", align="left"),
            run_summary(self.healthy),
            Rule(f"Act 2 · 3 a.m.: the same items, with {OUTAGE}", align="left"),
            run_summary(self.outage),
            Rule("Act 3 · the GPU has room again: only degraded stages run again", align="left"),
            retry_summary(self.recovery),
            Rule("Next steps", align="left"),
            Text(self.next_steps(), overflow="fold"),
        )

    def next_steps(self) -> str:
        """Return the commands to try next. Each works when pasted into the shell that the demo was started from."""
        activate = _command_path().with_name("activate")
        is_on_path = shutil.which("repli") == str(_command_path())
        items = self.outage.lowest[:1]
        database = self.databases["outage"].replace(f"sqlite:///{self.home}/", "sqlite:///$REPLI_HOME/")
        lines = [
            "Each stored item has its quality and the reason for it, and its degraded",
            "stages ran again. The reports above name the items that failed, and why.",
            "Choose the demo's store in this shell:" if is_on_path else "Put `repli` on the path of this shell:",
            *([] if is_on_path else [f"  source {_shown(activate)}", "Choose the demo's store:"]),
            f"  export REPLI_HOME={_shown(self.home)}",
            f'  export REPLI_DATABASE_URL="{database}"',
            "Show one item, and the whole store:",
            *(f"  repli show {shlex.quote(item.id)}" for item in items),
            "  repli status",
            "Run the catalogue again; no finished stage runs twice:",
            f'  repli run "$REPLI_HOME/{self.catalogue.relative_to(self.home)}"',
            "Show the runs and their reports in the Prefect UI, until Ctrl-C:",
            "  repli serve",
        ]
        return "\n".join(lines)


def _command_path() -> Path:
    """Return the path of the `repli` command beside this Python."""
    return Path(sys.executable).with_name("repli")


def _shown(path: Path) -> str:
    """Return `path` quoted for the shell, relative to the working directory if it lies in it."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def run_demo(settings: Settings, *, items: int, database_url: str | None) -> Story:
    """Build a catalogue under the home and run the three acts on one cluster.

    The first act has a store of its own. The stores of an earlier demo are deleted first. Without a CUDA device the
    accelerator is emulated, and every summary says so.

    Args:
        settings: The settings of all acts, but for the store.
        items: Items in the catalogue.
        database_url: The store of the second and third act; it is not deleted. None means a new one under the home.
    """
    from rich.console import Console

    from repli.flows.cli.progress import progress_shown

    console = Console(stderr=True)
    folder = settings.home / "demo"
    catalogue = build(folder / "catalogue", items=items)
    urls = {
        "healthy": _new_store(folder / "healthy.db"),
        "outage": database_url or _new_store(folder / "outage.db"),
    }
    variables = {"REPLI_RETRY_BELOW": RETRY_BELOW}
    if not visible_devices():
        variables["REPLI_GPU_DEVICE"] = os.environ.get("REPLI_GPU_DEVICE", "cpu")
    settings = Settings.from_environment({**os.environ, **variables, "REPLI_PIPELINE": DEFAULT})
    settings = choose(settings, Database(urls["healthy"])).settings
    console.print(f"{items} items in {catalogue}" + (", accelerator emulated" if settings.is_gpu_emulated else ""))
    outcomes = {}
    with environment(variables), ExitStack() as stack:  # the flows read the variables
        with progress_shown("starting"):
            dask_address = stack.enter_context(cluster(settings))
        for act, faults in (("healthy", ()), ("outage", (OUTAGE,))):
            database = Database(urls[act])
            chosen = choose(replace(settings, database_url=urls[act]), database)
            directives = parse_directives(chosen.declared.chains, faults=faults)
            request = RunRequest(
                source=catalogue, batch_size=settings.batch_size, directives=directives, pipeline=chosen.active
            )
            database.migrate()
            console.print(f"{act} run" + (f", with {', '.join(faults)}" if faults else ""))
            with run_commands.show_progress(chosen.settings, request):
                outcomes[act] = run_commands.run_on(dask_address, chosen, request)
        retry = RetryRequest(batch_size=settings.batch_size, pipeline=chosen.active)
        console.print(f"the GPU has room again: repli breakers reset {PRIMARY}, repli reprocess")
        store_commands.override_breaker(chosen.settings, PRIMARY, Cause.RESET, print_note)
        with run_commands.show_progress(chosen.settings, retry):
            recovery = run_commands.reprocess_on(dask_address, chosen, retry)
    return Story(
        home=settings.home,
        catalogue=catalogue,
        healthy=outcomes["healthy"].report,
        outage=outcomes["outage"].report,
        recovery=recovery.report,
        databases={act: str(Database(url)) for act, url in urls.items()},
        problem=outcomes["healthy"].problem or outcomes["outage"].problem or recovery.problem,
    )


def _new_store(path: Path) -> str:
    """Delete the SQLite store at a path, if there is one, and return its URL."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return f"sqlite:///{path}"
