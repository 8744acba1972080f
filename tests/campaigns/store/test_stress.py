"""Runs of `enrich --refresh` and `reprocess` over the same items, whose claims expire while they work.

A stress like this one once left items at a quality that was not the product of their steps. `store` made two commits
then: it marked the item stored, and it saved its own result. A late result of another run, whose claim had expired,
came between the two for an item that had no result of `store` yet, so there was nothing to mark stale. The other run
did not store the item either, as it had lost the claim.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from repli.tasks.items import Item
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from tests.support import stress_jobs
from tests.support.fleet import GO, READY, Fleet
from tests.support.stress_jobs import Work

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(600)]

IDS = tuple(f"item {number:02}" for number in range(30))
SECONDS = 12.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet([{}] * 7) as fleet:
        yield fleet


def test_every_quality_is_true_whoever_is_late(database: Database, fleet: Fleet, tmp_path: Path) -> None:
    """At every moment: stored at the product of its results, or marked to be stored again; and in the end all are."""
    stress_jobs.register(database, [Item(id=id_, name=id_) for id_ in IDS])
    work = Work(ids=IDS, home=str(tmp_path), failing=0.5, seconds=SECONDS)
    jobs = [stress_jobs.watch, *[stress_jobs.refresh] * 3, *[stress_jobs.reprocess] * 3]
    workers = fleet.workers[: len(jobs)]
    for seed, (worker, job) in enumerate(zip(workers, jobs, strict=True)):
        worker.orders.send((job, database.url.render_as_string(hide_password=False), {"work": work, "seed": seed}))
    assert {worker.answer() for worker in workers} == {READY}
    for worker in workers:
        worker.orders.send(GO)
    (wrong, stored), *counts = [worker.answer() for worker in workers]
    assert not wrong, "\n".join(wrong)
    assert stored and all(counts), "some did nothing"

    calm = Work(ids=IDS, home=str(tmp_path), failing=0.0, seconds=0.0)
    retry_queue.enqueue_by_operator(database, IDS)
    fleet.do(database, stress_jobs.finish, [{"work": calm, "seed": 0}])
    assert stress_jobs.look(database, IDS) == ([], len(IDS))
