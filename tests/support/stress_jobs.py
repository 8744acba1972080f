"""Jobs of a fleet that enriches and reprocesses the same items at the same time, and is late with its results."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from repli.tasks.execution.shared_breakers import BreakerRegistry
from repli.tasks.execution.stage_runner import RunOptions, Upgrade, run_stage
from repli.tasks.fallback import SKIP, Failed, ItemError, Outcome, Served
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.items import Item
from repli.tasks.pipeline import Pipeline, store
from repli.tasks.settings import Settings
from repli.tasks.storage import catalogue, results, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims
from repli.tasks.storage.retry.needs import RetryTarget
from repli.tasks.storage.schema import items
from tests.support.fakes import runtime
from tests.support.fleet import Job
from tests.support.writers import ON_WHAT_IS_BETTER, PENALTIES, stages

POLICY = RetryPolicy(tries=1000, delay_s=0.01, lease_s=0.3)
SLOWEST_S = 3 * POLICY.lease_s
TARGETS = [
    *(RetryTarget(stage=stage, rungs=(None, "fair", "poor", SKIP), include_stale=True) for stage in PENALTIES),
    RetryTarget(stage="store", rungs=(None,), include_stale=True),
]
BATCH_SIZE = 5
Through = Callable[[Sequence[str], RunOptions], None]
CHANGED = 0.2
"""The share of records that have changed when a run registers them."""


@dataclass(frozen=True)
class Work:
    """What the processes of one stress share: the items, a folder, how often rungs fail, and for how long to go on."""

    ids: Sequence[str]
    home: str
    failing: float
    seconds: float

    def pipeline(self, draw: random.Random) -> Pipeline:
        """Three stages and `store`, on rungs of which some calls take longer than a lease."""

        def call(name: str, inputs: Sequence[Any]) -> Sequence[Outcome[str]]:
            if self.failing:
                time.sleep(draw.random() * (SLOWEST_S if draw.random() < 0.2 else SLOWEST_S / 20))
            sorry = Failed.because(ItemError(f"{name} has no answer"))
            return [sorry if draw.random() < self.failing else Served(name) for _ in inputs]

        return Pipeline([*stages(call), store.STAGE], ON_WHAT_IS_BETTER)

    def through(self, database: Database, seed: int) -> Through:
        """A function that takes items through all stages, as a run of these options."""
        pipeline = self.pipeline(random.Random(seed))
        url = database.url.render_as_string(hide_password=False)
        settings = Settings(home=Path(self.home), database_url=url, retry=POLICY)
        within = replace(runtime(), now=lambda: datetime.now(UTC))

        def through(ids: Sequence[str], options: RunOptions) -> None:
            for name in pipeline.names:
                run_stage(pipeline, name, ids, options, settings, within)

        return through


def begin(database: Database, kind: str) -> str:
    return runs.start(database, str(uuid.uuid4()), "manifest.jsonl", {}, datetime.now(UTC), kind=kind)


def register(database: Database, records: Sequence[Item]) -> str:
    """Register these records as those of a new run; its id."""
    run_id = begin(database, runs.ENRICH)
    catalogue.register(database, run_id, records)
    return run_id


def refresh(registry: BreakerRegistry, work: Work, seed: int) -> Job:
    """One `enrich --refresh` after the other, each over records of which some have changed; how many there were."""
    draw, database, through = random.Random(seed), registry.database, work.through(registry.database, seed)

    def job() -> int:
        until, count = time.monotonic() + work.seconds, 0
        while time.monotonic() < until:
            count += 1
            names = {id_: id_ if draw.random() >= CHANGED else f"{id_} {draw.random()}" for id_ in work.ids}
            run_id = register(database, [Item(id=id_, name=name) for id_, name in names.items()])
            for batch in catalogue.batches(database, run_id, BATCH_SIZE, refresh=True):
                through(draw.sample(batch, len(batch)), RunOptions(run_id=run_id, refresh=True))
                if time.monotonic() >= until:
                    break
        return count

    return job


def reprocess(registry: BreakerRegistry, work: Work, seed: int) -> Job:
    """A `reprocess` that never renews its claims, so that many expire while it works; how many items it claimed."""
    database, through = registry.database, work.through(registry.database, seed)

    def job() -> int:
        until, count = time.monotonic() + work.seconds, 0
        run_id = begin(database, runs.REPROCESS)
        options = RunOptions(run_id=run_id, upgrade=Upgrade(holder=run_id, stages=frozenset(PENALTIES)))
        while time.monotonic() < until:
            claimed = claims.claim(database, run_id, TARGETS, BATCH_SIZE, POLICY.lease_s)
            ids = [claim.item_id for claim in claimed]
            through(ids, options)
            claims.settle(database, run_id, run_id, claimed, ids, POLICY)
            count += len(claimed)
            if not claimed:
                time.sleep(0.02)
        return count

    return job


def finish(registry: BreakerRegistry, work: Work, seed: int) -> Job:
    """One `enrich`, and then `reprocess` until nothing is left to claim."""
    database, through = registry.database, work.through(registry.database, seed)

    def job() -> None:
        with database.read() as connection:
            names = dict(connection.execute(sa.select(items.c.id, items.c.name)).tuples().all())
        run_id = register(database, [Item(id=id_, name=names[id_]) for id_ in work.ids])
        for batch in catalogue.batches(database, run_id, BATCH_SIZE, refresh=False):
            through(batch, RunOptions(run_id=run_id))
        run_id = begin(database, runs.REPROCESS)
        options = RunOptions(run_id=run_id, upgrade=Upgrade(holder=run_id, stages=frozenset(PENALTIES)))
        while claimed := claims.claim(database, run_id, TARGETS, BATCH_SIZE, 600):
            ids = [claim.item_id for claim in claimed]
            through(ids, options)
            claims.settle(database, run_id, run_id, claimed, ids, POLICY)

    return job


def watch(registry: BreakerRegistry, work: Work, seed: int) -> Job:
    """Look at all items again and again; what was wrong with them, and how many were seen stored."""

    def job() -> tuple[list[str], int]:
        until, wrong, stored = time.monotonic() + work.seconds, list[str](), 0
        while time.monotonic() < until:
            found, count = look(registry.database, work.ids)
            wrong += found
            stored += count
            time.sleep(0.02)
        return wrong, stored

    return job


def look(database: Database, ids: Sequence[str]) -> tuple[list[str], int]:
    """What is wrong with stored items in one snapshot of the store, and how many are stored at their true quality.

    A stale `store` says that the quality is one of earlier results.
    """
    wrong, count = [], 0
    with database.read() as connection:
        columns = items.c.id, items.c.state, items.c.quality
        rows = {row.id: row for row in connection.execute(sa.select(*columns))}
        states = results.load_with(connection, ids)
    for state in states:
        id_, steps, row = state.item.id, state.results, rows[state.item.id]
        if any(one.revision != state.revision for one in steps.values()):
            wrong.append(f"{id_} has a result of an old record")
        if row.state != "stored" or (store.STAGE.name in steps and steps["store"].is_stale):
            continue
        if [stage for stage in (*PENALTIES, "store") if stage not in steps]:
            wrong.append(f"{id_} is stored, with results of {sorted(steps)} only")
            continue
        penalties = [steps[stage].penalty or 0 for stage in PENALTIES]
        if not row.quality == steps["store"].value["quality"] == float(prod(penalties)):
            wrong.append(f"{id_} is stored at {row.quality}, and its steps come to {float(prod(penalties))}")
        count += 1
    return wrong, count
