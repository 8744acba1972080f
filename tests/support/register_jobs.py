"""Jobs of a fleet whose processes register manifests that have items in common."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence

from repli.tasks.execution.shared_breakers import BreakerRegistry
from repli.tasks.items import Item
from repli.tasks.storage import catalogue, runs
from tests.support.fleet import Job


def register_overlapping(registry: BreakerRegistry, number: int, rounds: int, items: int) -> Job:
    """Register new items in each round, most of which the other processes register too; how many there were."""

    def ids(turn: int) -> Sequence[str]:
        return [f"{turn}-{n:05}" for n in range(number * items // 20, number * items // 20 + items)]

    return _register(registry, rounds, ids)


def register_sample(registry: BreakerRegistry, number: int, rounds: int, items: int) -> Job:
    """Register a sample in each round, in no order, of which some are new and the others change."""
    draw = random.Random(number)

    def ids(turn: int) -> Sequence[str]:
        return [f"{turn // 3}-{n:05}" for n in draw.sample(range(4 * items), items)]

    return _register(registry, rounds, ids)


def _register(registry: BreakerRegistry, rounds: int, ids: Callable[[int], Sequence[str]]) -> Job:
    def job() -> list[int]:
        counts = []
        for turn in range(rounds):
            run_id = runs.start(registry.database, str(uuid.uuid4()), "manifest.jsonl", {}, registry.database.now())
            records = [Item(id=id_, name=f"name {uuid.uuid4()}") for id_ in ids(turn)]
            counts.append(catalogue.register(registry.database, run_id, records).items)
        return counts

    return job
