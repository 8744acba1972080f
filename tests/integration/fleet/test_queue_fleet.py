"""The retry queue between real processes: no item is done by two, and none is lost with a process that is killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest

from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from tests.support.claim_jobs import AT_ONCE, LONG_S, claim_all, hang, work_off
from tests.support.fleet import Fleet, lines, note
from tests.support.queue import Queue, held

IDS = [f"item {number:03}" for number in range(200)]
WITHIN_S = 200.0


@pytest.fixture
def queue(database: Database) -> Queue:
    """200 items that wait."""
    queue = Queue(database)
    queue.register(*IDS)
    queue.store(*IDS[:150])
    queue.fail(*IDS[150:])
    return queue


def test_every_item_is_claimed_once(queue: Queue) -> None:
    """Eight processes that claim until nothing is left, at the same time, have each item once among them."""
    with Fleet([{}] * 8) as fleet:
        taken = fleet.do(queue.database, claim_all, [{"holder": f"holder {number}"} for number in range(8)])
    assert sum(bool(some) for some in taken) > 1
    assert sorted(chain.from_iterable(taken)) == IDS
    assert retry_queue.tally(queue.database).states == {"claimed": 200}


def test_what_killed_processes_held_is_done_by_others(queue: Queue, tmp_path: Path) -> None:
    """Four of eight are killed, two with claims in hand for certain: when these run out, one other takes each item."""
    log = tmp_path / "log"
    hung, busy = [f"hung {number}" for number in range(2)], [f"busy {number}" for number in range(6)]
    killed = [*hung, *busy[:2]]
    with Fleet([{}] * 2) as hanging, Fleet([{}] * 6) as working:
        hanging.start(queue.database, hang, [{"holder": holder, "log": str(log)} for holder in hung])
        until(lambda: len(taken_by(log, hung)) == 2 * AT_ONCE)
        workers = working.start(queue.database, work_off, [{"holder": holder, "log": str(log)} for holder in busy])
        until(lambda: len(taken_by(log, busy)) > 40)
        for worker in [*hanging.workers, *workers[:2]]:
            worker.kill()
        lost = {item_id for holder in killed for item_id in held(queue.database, holder, IDS)}
        assert lost >= set(taken_by(log, hung))
        note(str(log), "the leases run out")
        queue.pass_time(LONG_S, killed)
        run_ids = [worker.answer() for worker in workers[2:]]

    assert queue.entries() == {}
    assert queue.stored() == dict.fromkeys(IDS, ("stored", 1.0))
    by_the_living = taken_by(log, busy[2:])
    assert len(by_the_living) == len(set(by_the_living))
    assert set(by_the_living) | set(taken_by(log, busy[:2])) == set(IDS)
    assert lost <= set(taken_by(log, busy[2:], since="the leases run out"))
    books = [item_id for run_id in run_ids for item_id in queue.books(run_id)]
    assert sorted(books) == sorted(by_the_living)


def taken_by(log: Path, holders: Sequence[str], since: str | None = None) -> list[str]:
    """The items that the holders took, by the log; since a line of it, where one is named."""
    told = lines(log)
    told = told[told.index(since) :] if since else told
    took = [line.split(" took ") for line in told if " took " in line]
    return [item_id for holder, item_id in took if holder in holders]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.005)
