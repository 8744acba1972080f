"""The story on real data, in three acts: a healthy night; the night on which the GPU ran out of memory at 3 a.m.; and
the morning after, when it has room again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repli.flows.cli import run_commands, store_commands
from repli.flows.cli.demo.catalogue import build
from repli.flows.config.run_request import RetryRequest, RunRequest
from repli.flows.server.dask_cluster import cluster, visible_devices
from repli.tasks.reporting.retry_report import RetryReport
from repli.tasks.reporting.run_report import Report
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database

if TYPE_CHECKING:
    from rich.console import RenderableType

OUTAGE = "classify_image.gpu=oom"
PRIMARY = "classify_image.gpu"
RETRY_BELOW = "1"
"""Everything that is less than whole is queued here; without it a run queues what is below 0.8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """How the acts ended, and where their items lie."""

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

        example = next((item.id for item in self.outage.lowest), "ID")
        database = self.databases["outage"]
        return Group(
            Rule("Act 1 · a healthy night", align="left"),
            run_summary(self.healthy),
            Rule(f"Act 2 · 3 a.m.: the same items with {OUTAGE}", align="left"),
            run_summary(self.outage),
            Rule("Act 3 · the GPU has room again: what was degraded is done again, and nothing else", align="left"),
            retry_summary(self.recovery),
            Rule("What to try next", align="left"),
            Text(
                "Nothing was frozen and nothing is lost: each item was stored with its quality and the reason, and is "
                "whole again; what could not be stored says why.\n"
                f"  repli show {example} --database {database}\n"
                f"  repli status --database {database}\n"
                f"  repli run {self.catalogue} --database {database}      (nothing done is done twice)\n"
                "  make serve      (both runs in the Prefect UI, with their reports)",
                overflow="fold",
            ),
        )


def run_demo(settings: Settings, *, items: int, database_url: str | None) -> Story:
    """Build a catalogue under the home, and run the acts on one cluster, the first into a store of its own.

    The stores of an earlier demo are begun anew, except a `database_url` that is given: that is the second act's.
    Without a CUDA device the accelerator is emulated, and every summary says so.
    """
    from rich.console import Console

    console = Console(stderr=True)
    folder = settings.home / "demo"
    catalogue = build(folder / "catalogue", items=items)
    urls = {
        "healthy": _new_store(folder / "healthy.db"),
        "outage": database_url or _new_store(folder / "outage.db"),
    }
    if not visible_devices():
        os.environ.setdefault("REPLI_GPU_DEVICE", "cpu")
    settings = Settings.from_environment()
    console.print(f"{items} items in {catalogue}" + (", accelerator emulated" if settings.is_gpu_emulated else ""))
    outcomes = {}
    os.environ["REPLI_RETRY_BELOW"] = RETRY_BELOW
    with cluster(settings) as dask_address:
        for act, faults in (("healthy", ()), ("outage", (OUTAGE,))):
            request = RunRequest(source=catalogue, batch_size=settings.batch_size, faults=faults)
            os.environ["REPLI_DATABASE_URL"] = urls[act]
            here = Settings.from_environment()
            Database(here.database_url).migrate()
            console.print(f"{act} run" + (f", with {', '.join(faults)}" if faults else ""))
            with run_commands.show_progress(here, request):
                outcomes[act] = run_commands.run_on(dask_address, here, request)
        again = RetryRequest(batch_size=settings.batch_size)
        console.print(f"the GPU has room again: repli breakers reset {PRIMARY}, repli reprocess")
        store_commands.order_breaker(here, "reset", PRIMARY)
        with run_commands.show_progress(here, again):
            recovery = run_commands.reprocess_on(dask_address, here, again)
    return Story(
        catalogue=catalogue,
        healthy=outcomes["healthy"].report,
        outage=outcomes["outage"].report,
        recovery=recovery.report,
        databases={act: str(Database(url)) for act, url in urls.items()},
        problem=outcomes["healthy"].problem or outcomes["outage"].problem or recovery.problem,
    )


def _new_store(path: Path) -> str:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return f"sqlite:///{path}"
