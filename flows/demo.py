"""The story on real data, in two acts: a healthy night, and the night on which the GPU ran out of memory at 3 a.m."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import commands
from flows.cluster import cluster, visible_devices
from flows.demo_catalogue import build
from flows.run_request import RunRequest
from tasks.report import Report
from tasks.settings import Settings
from tasks.storage.database import Database

if TYPE_CHECKING:
    from rich.console import RenderableType

OUTAGE = "classify_image.gpu=oom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """How both acts ended, and where their items lie."""

    catalogue: Path
    healthy: Report
    outage: Report
    databases: Mapping[str, str]
    problem: str | None

    def as_json(self) -> dict[str, Any]:
        return {
            "catalogue": str(self.catalogue),
            "databases": dict(self.databases),
            "healthy": self.healthy.as_json(),
            "outage": self.outage.as_json(),
        }

    def page(self) -> RenderableType:
        from rich.console import Group
        from rich.rule import Rule
        from rich.text import Text

        from flows.terminal import run_summary

        example = next((item.id for item in self.outage.lowest), "ID")
        database = self.databases["outage"]
        return Group(
            Rule("Act 1 · a healthy night", align="left"),
            run_summary(self.healthy),
            Rule(f"Act 2 · 3 a.m.: the same items with {OUTAGE}", align="left"),
            run_summary(self.outage),
            Rule("What to try next", align="left"),
            Text(
                "Nothing is frozen and nothing is lost: what could be stored is, each item with its quality and the "
                "reason; what could not says why.\n"
                f"  repli show {example} --database {database}\n"
                f"  repli status --database {database}\n"
                f"  repli run {self.catalogue} --database {database}      (nothing done is done twice)\n"
                "  make serve      (both runs in the Prefect UI, with their reports)",
                overflow="fold",
            ),
        )


def tell(settings: Settings, *, items: int, database_url: str | None) -> Story:
    """Build a catalogue under the home, run both acts on one cluster, each into a store of its own.

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
    with cluster(settings) as dask_address:
        for act, faults in (("healthy", ()), ("outage", (OUTAGE,))):
            request = RunRequest(source=catalogue, batch_size=settings.batch_size, faults=faults)
            os.environ["REPLI_DATABASE_URL"] = urls[act]
            here = replace(settings, database_url=urls[act])
            Database(here.database_url).migrate()
            console.print(f"{act} run" + (f", with {', '.join(faults)}" if faults else ""))
            with commands.progress_of(here, request):
                outcomes[act] = commands.run_on(dask_address, here, request)
    return Story(
        catalogue=catalogue,
        healthy=outcomes["healthy"].report,
        outage=outcomes["outage"].report,
        databases={act: str(Database(url)) for act, url in urls.items()},
        problem=outcomes["healthy"].problem or outcomes["outage"].problem,
    )


def _new_store(path: Path) -> str:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return f"sqlite:///{path}"
