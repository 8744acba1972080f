"""Fresh items go first: `repli run` beside two runs of `repli reprocess`, against `repli run` alone.

``python -m tests.benchmarks.side_by_side`` does all of it on one standing Prefect server and Dask cluster and one
store, which first gets a queue of degraded items. Then the same items come as three fresh catalogues, one after the
other: alone, beside two runs of `reprocess` that begin once it works, and alone again. The throughput is that of the
flow; the commands' imports are done beforehand, as in a service that stands. It ends with an error where `repli run`
beside the others does less than `REQUIRED` of what it does alone (the mean of both times), or where the queue was
worked off too early to say.

With ``--late`` the runs of `reprocess` begin first, and work at their full width when the fresh items come. That is
told and not judged: what they have in flight then is done before the fresh items are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from repli.flows.cli.demo.catalogue import build
from repli.flows.server.dask_cluster import cluster
from repli.tasks.settings import Settings
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import runs as table
from tests.benchmarks.kill_reprocess import FORCED_DOWN
from tests.support.command_line import environment
from tests.support.preloaded import Command, Preloaded, Shop

REQUIRED = 0.9
RUNS = 2
BEGINS_WITHIN_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1500, help="fresh items a run")
    parser.add_argument("--degraded", type=int, default=1500, help="items in the queue")
    parser.add_argument("--late", action="store_true", help="the fresh items come when `reprocess` is at work")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(REPLI_HOME=str(folder / "home"), REPLI_GPU_DEVICE="cpu")
        with cluster(Settings.from_environment()) as address:
            standing = {**environment(folder), **os.environ, "REPLI_DASK_ADDRESS": address}
            with Preloaded(standing, folder) as preloaded:
                shop = Shop(preloaded, folder / "home")
                compare(shop, folder, items=arguments.items, degraded=arguments.degraded, is_late=arguments.late)


def compare(shop: Shop, folder: Path, *, items: int, degraded: int, is_late: bool) -> None:
    """Measure, print, and end with an error where the fresh items were held up."""
    count = max(items, degraded)
    catalogue = build(folder / "catalogue", items=count, broken=False, every_item_with_photo=True)
    records = [json.loads(line) for line in catalogue.read_text(encoding="utf-8").splitlines()]
    old, first, beside, last = (
        _renamed(catalogue, name, records[:number])
        for name, number in (("old", degraded), ("first", items), ("beside", items), ("last", items))
    )
    shop.json("run", _renamed(catalogue, "warm", records[:32]))  # both models of both workers, off the clock
    down = shop.json("run", old, *FORCED_DOWN)
    seconds = [shop.json("run", first)["seconds"]]
    if is_late:
        healing = _two_healing(shop)
        fresh = shop.begin("run", beside, "--json")
    else:
        fresh = shop.begin("run", beside, "--json")
        _wait_for(shop.store, runs.ENRICH, 1)
        healing = _two_healing(shop)
    beside_s = fresh.json()["seconds"]
    was_busy = all(not command.has_ended() for command in healing)
    healed = [command.json() for command in healing]
    seconds.append(shop.json("run", last)["seconds"])
    alone_s = sum(seconds) / len(seconds)
    ratio = alone_s / beside_s
    _print(items, down, seconds, beside_s, healed, ratio, is_late=is_late)
    if not was_busy:
        sys.exit("the queue was empty before the fresh items were through: ask for more with --degraded")
    if not is_late and ratio < REQUIRED:
        sys.exit(f"fresh items were held up: {ratio:.2f} < {REQUIRED}")


def _two_healing(shop: Shop) -> list[Command]:
    """Runs of `reprocess`, at work when this returns."""
    begun = [shop.begin("reprocess", "--json") for _ in range(RUNS)]
    _wait_for(shop.store, runs.REPROCESS, RUNS)
    return begun


def _wait_for(store: Database, kind: str, wanted: int) -> None:
    """Until so many runs of this kind are at work."""
    deadline = time.monotonic() + BEGINS_WITHIN_S
    while _at_work(store, kind) < wanted:
        if time.monotonic() > deadline:
            raise SystemExit(f"{wanted} runs of {kind} did not begin within {BEGINS_WITHIN_S:g} s")
        time.sleep(0.05)


def _at_work(store: Database, kind: str) -> int:
    is_one = sa.and_(table.c.kind == kind, table.c.finished_at.is_(None))
    with store.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(table).where(is_one)) or 0)


def _renamed(catalogue: Path, name: str, records: Sequence[dict[str, Any]]) -> Path:
    """The same items under ids of their own."""
    manifest = catalogue.with_name(f"{name}.jsonl")
    lines = (json.dumps({**record, "id": f"{name}-{record['id']}"}, ensure_ascii=False) for record in records)
    manifest.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return manifest


def _print(
    items: int,
    down: dict[str, Any],
    seconds: Sequence[float],
    beside_s: float,
    healed: Sequence[dict[str, Any]],
    ratio: float,
    *,
    is_late: bool,
) -> None:
    order = "reprocess first" if is_late else "fresh items first"
    print(f"{items} fresh items a run, {down['queued']} in the queue, {os.cpu_count()} cores, {order}")
    for name, taken in (("alone", seconds[0]), (f"beside {RUNS} reprocess", beside_s), ("alone again", seconds[1])):
        print(f"{name:20} {items / taken:8.2f} items/s")
    for outcome in healed:
        print(f"reprocess: {outcome['upgraded']} of {outcome['claimed']} upgraded")
    print(f"ratio {ratio:.2f}, required {REQUIRED}")


if __name__ == "__main__":
    main()
