"""Runs with trouble at a random moment: a worker dies, stops for a while, is poisoned, or an item hangs.

``python -m tests.benchmarks.trouble`` takes 100 items through a pipeline of three stages, 60 times, on 2 to 6 Dask
workers with nannies, some with the tag `GPU`. After each run every item has to be as after an undisturbed run, or to
say truly why it is not: the item that hangs is skipped at its time limit, and so may an item be whose worker was
stopped for longer than that. It prints the seconds of each run, and how many more they are than those of an undisturbed
one on the same workers. `tests/campaigns/test_trouble.py` does the same with fewer runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from repli.tasks.storage.schema import items as items_table
from repli.tasks.storage.schema import step_results
from tests.support.command_line import environment
from tests.support.preloaded import Preloaded, Shop
from tests.support.servers import standing_cluster
from tests.support.topology import Topology, topology

RUNS = 60
ITEMS = 100
BATCH = 10
RUNS_PER_CLUSTER = 5
STOPPED_FOR_S = 20.0
MOMENT_S = 3.0
"""The trouble comes within so many seconds after the first result."""
SKIPPED = 0.7
"""Quality of an item whose first stage is cut off at its limit, and skipped."""
MODULE = """
import os, time
import repli

first = repli.Stage("first", input=lambda item: item.name)


@first.rung(time_limit_s=6, per_item=True)
def one(name):
    time.sleep(600 if name.endswith("hangs") else 0.01)
    return name.upper()


first.skip(penalty="0.7")
second = repli.Stage("second", input=lambda item: item.name)


@second.rung(time_limit_s=60, breaker=repli.Breaker(scope="host"), resources={"GPU": 1})
def device(names):
    time.sleep(0.2)
    try:
        poisoned = open(os.environ["POISONED"]).read()
    except OSError:
        poisoned = ""
    if poisoned == str(os.getpid()):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return [name[::-1] for name in names]


@second.rung(penalty="0.9", time_limit_s=60)
def plain(names):
    return [name[::-1] for name in names]


third = repli.Stage("third", input=lambda item: [item.value("first"), item.value("second")])


@third.rung(time_limit_s=60)
def joined(pairs):
    time.sleep(0.1)
    return [list(map(str, pair)) for pair in pairs]


pipeline = repli.Pipeline([first, second, third])
"""


class Trouble(StrEnum):
    """What happens during a run."""

    NONE = "nothing"
    DEATH = "a worker is killed"
    STOP = f"a worker is stopped for {STOPPED_FOR_S:g} s"
    HANG = "an item hangs"
    POISON = "a worker process is poisoned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run: what happened in it, and how its items ended.

    Args:
        wrong: A line for each item that is not as it has to be.
    """

    trouble: Trouble
    workers: int
    seconds: float
    wrong: tuple[str, ...]


def campaign(folder: Path, server: Mapping[str, str], *, runs: int, seed: int) -> Iterator[Outcome]:
    """Yield the outcome of each run: on each cluster one that nothing disturbs, then `RUNS_PER_CLUSTER` in trouble."""
    chance = random.Random(seed)
    troubles = [kind for kind in Trouble if kind is not Trouble.NONE]
    (folder / "trouble.py").write_text(MODULE, encoding="utf-8")
    env = {**environment(folder / "home"), **server, "POISONED": str(folder / "poisoned"), "PYTHONPATH": str(folder)}
    with Preloaded(env, folder) as preloaded:
        for start in range(0, runs, RUNS_PER_CLUSTER):
            workers = chance.randint(2, 6)
            place = folder / f"cluster-{start}"
            place.mkdir()
            with topology(place, env) as cluster:
                for number in range(workers):
                    has_tag = number == 0 or chance.random() < 0.5
                    tags = ("--resources", "GPU=1") if has_tag else ()
                    cluster.add_worker(*tags, place=str(number), nanny=True)
                for number in range(start - 1, min(start + RUNS_PER_CLUSTER, runs)):
                    trouble = Trouble.NONE if number < start else chance.choice(troubles)
                    shop = Shop(preloaded, folder / f"home-{start}-{number}", cwd=folder)
                    yield _run(shop, cluster, trouble, workers, chance)


def _run(shop: Shop, cluster: Topology, trouble: Trouble, workers: int, chance: random.Random) -> Outcome:
    hangs = chance.randrange(ITEMS) if trouble is Trouble.HANG else None
    names = [f"thing {number}{' hangs' if number == hangs else ''}" for number in range(ITEMS)]
    manifest = shop.home.with_suffix(".jsonl")
    manifest.write_text("".join(json.dumps({"id": str(n), "name": name}) + "\n" for n, name in enumerate(names)))
    pids = sorted(cluster.client.run(os.getpid, on_error="ignore").values())
    moment, victim = chance.uniform(0, MOMENT_S), chance.choice(pids)
    started = time.monotonic()
    arguments = ("run", manifest, "--pipeline", "trouble:pipeline", "--batch-size", str(BATCH), "--json")
    command = shop.begin(*arguments, "--dask", cluster.address)
    while not (_done(shop) or command.has_ended()):
        time.sleep(0.02)
    happening = threading.Timer(moment, _happen, (trouble, victim, Path(shop.home.parent) / "poisoned"))
    happening.start()
    done = command.done()
    seconds = time.monotonic() - started
    happening.join()
    if done.returncode == 0:
        wrong = [f"{trouble}: {line}" for line in _wrong(shop, trouble, hangs)]
    else:
        wrong = [f"exit status {done.returncode}: {done.stderr[-1000:]}"]
    return Outcome(trouble=trouble, workers=workers, seconds=seconds, wrong=tuple(wrong))


def _happen(trouble: Trouble, victim: int, poisoned: Path) -> None:
    with suppress(ProcessLookupError):
        if trouble is Trouble.DEATH:
            os.kill(victim, signal.SIGKILL)
        elif trouble is Trouble.POISON:
            poisoned.write_text(str(victim))
        elif trouble is Trouble.STOP:
            os.kill(victim, signal.SIGSTOP)
            time.sleep(STOPPED_FOR_S)
            os.kill(victim, signal.SIGCONT)


def _done(shop: Shop) -> bool:
    if not shop.store.is_migrated():
        return False
    with shop.store.read() as connection:
        return connection.execute(sa.select(step_results.c.item_id).limit(1)).first() is not None


def _wrong(shop: Shop, trouble: Trouble, hangs: int | None) -> Iterator[str]:
    """Yield a line for each item that is not as after an undisturbed run, but for the one that hangs."""
    with shop.store.read() as connection:
        found = {row.id: row for row in connection.execute(sa.select(items_table))}
        steps = connection.execute(sa.select(step_results)).all()
    errors = {(row.item_id, row.stage): row.error["type"] for row in steps if row.error}
    for number in range(ITEMS):
        row = found.get(str(number))
        is_late = trouble is Trouble.STOP and errors.get((str(number), "first")) == "TimedOut"
        wanted = SKIPPED if number == hangs or is_late else 1.0
        if row is None or (row.state, row.quality) != ("stored", wanted):
            yield f"item {number}: {row and (row.state, row.quality)}, not stored at {wanted:g}"
        elif number == hangs and errors.get((str(number), "first")) != "TimedOut":
            yield f"item {number} hangs, and says {errors.get((str(number), 'first'))}"


def main() -> None:
    """Run the campaign, print a table, and end with an error where an item is not as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    extra: dict[Trouble, list[float]] = {}
    undisturbed, wrong = 0.0, list[str]()
    with tempfile.TemporaryDirectory() as name, standing_cluster(Path(name) / "server") as variables:
        server = {key: value for key, value in variables.items() if key.startswith("PREFECT_")}
        for number, outcome in enumerate(campaign(Path(name), server, runs=options.runs, seed=options.seed)):
            undisturbed = outcome.seconds if outcome.trouble is Trouble.NONE else undisturbed
            extra.setdefault(outcome.trouble, []).append(outcome.seconds - undisturbed)
            wrong += outcome.wrong
            print(f"{number:3} {outcome.workers} workers {outcome.seconds:6.1f} s  {outcome.trouble}", flush=True)
            for line in outcome.wrong:
                print(f"    {line}", flush=True)
    for trouble, seconds in extra.items():
        spread = f"{statistics.median(seconds):+.1f} s (at most {max(seconds):+.1f} s)"
        print(f"{trouble}: {len(seconds)} runs, {spread} against an undisturbed run")
    if wrong:
        sys.exit(f"{len(wrong)} things are wrong")


if __name__ == "__main__":
    main()
