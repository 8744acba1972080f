"""`kill -9` of `repli reprocess`, again and again on one store: nothing is lost, nothing is done twice.

``python -m tests.benchmarks.kill_reprocess`` degrades some items, begins `repli reprocess` twenty times, and kills its
process group at a random moment of its work each time: before it has settled anything, and after so many items, evenly
spread. After each kill every item has to be whole, or queued, or
claimed with a lease; what was whole before has to be the same result still. Then the leases are made to run out, as
they would by themselves in two minutes. At the end one run that nobody disturbs has to lift all that is left. It ends
with an error where that is not so, or where too many runs were over before they were killed.

`tests/flows/test_reprocess_killed.py` does the same with fewer kills.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from distributed import Client

from repli.flows.server.dask_cluster import cluster
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.settings import Settings
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.retry.retry_queue import CLAIMED, PARKED, READY
from repli.tasks.storage.schema import items, retries, retry_queue, step_results
from tests.support.command_line import environment, write_manifest
from tests.support.preloaded import Preloaded, Shop

FORCED_DOWN = ("--force", "classify_image=cpu", "--force", "embed_text=hashed")
"""What brings items to 0.72 and moves no breaker."""
ITEMS_PER_KILL = 16
"""What a run settles, and has in flight when it is killed, comes to fewer."""
SETTLED_AT_MOST = 8
"""A run is killed when it has settled so many items, or fewer, and at most `WITHIN_S` after that."""
WITHIN_S = 0.5
KILLED_AT_WORK = 0.9
"""Of the kills, at least this part has to fall while the run is at work."""
BATCH = 2
PATIENCE_S = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Where every item of a store is, seen at one moment, and when each whole result came to be."""

    done: frozenset[str]
    queued: frozenset[str]
    claimed: frozenset[str]
    whole: Mapping[tuple[str, str], datetime]

    @classmethod
    def of(cls, store: Database) -> Census:
        """Raises AssertionError for an item that is nowhere, in two places, or held without an end."""
        done, queued, claimed = set[str](), set[str](), set[str]()
        with store.read() as connection:
            now = database_time(connection)
            queued_as = retry_queue.c.item_id, retry_queue.c.state.label("queued_as"), retry_queue.c.due_at
            everybody = sa.select(items.c.id, items.c.state, items.c.quality, *queued_as)
            for row in connection.execute(everybody.join_from(items, retry_queue, isouter=True)):
                assert row.state == "stored", f"{row.id} is {row.state}"
                if row.item_id is None:
                    assert row.quality == 1, f"{row.id} is lost at {row.quality}"
                    done.add(row.id)
                    continue
                assert row.quality < 1, f"{row.id} is whole, and still queued"
                assert row.queued_as != PARKED, f"{row.id} is parked"
                assert (row.queued_as == READY) == (row.due_at is None), f"{row.id} is held for ever"
                is_claimed = row.queued_as == CLAIMED and row.due_at > now
                (claimed if is_claimed else queued).add(row.id)
                if is_claimed:
                    assert row.due_at <= now + timedelta(seconds=RetryPolicy().lease_s)
            columns = step_results.c.item_id, step_results.c.stage, step_results.c.finished_at
            is_whole = sa.and_(step_results.c.status == "succeeded", step_results.c.stage != "store")
            whole = {(row[0], row[1]): row[2] for row in connection.execute(sa.select(*columns).where(is_whole))}
            twice = sa.select(retries.c.item_id).where(retries.c.outcome == "upgraded")
            twice = twice.group_by(retries.c.item_id).having(sa.func.count() > 1)
            assert not connection.execute(twice).all(), "an item was lifted twice"
        return cls(done=frozenset(done), queued=frozenset(queued), claimed=frozenset(claimed), whole=whole)

    def check_follows(self, earlier: Census) -> None:
        """Raise AssertionError where something whole was lost, or done again."""
        assert self.done >= earlier.done
        assert self.done | self.queued | self.claimed == earlier.done | earlier.queued | earlier.claimed
        for key, finished_at in earlier.whole.items():
            assert self.whole.get(key) == finished_at, f"{key} was whole, and was done again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What it came to: the census after each kill, how many runs lived until then, the last run's answer, and how many
    items were left to it."""

    censuses: tuple[Census, ...]
    killed_at_work: int
    last: Any
    left: int


def campaign(shop: Shop, folder: Path, address: str, *, kills: int, seed: int) -> Campaign:
    """Kill `repli reprocess` so many times, and then let it be. Raises AssertionError where a promise is broken."""
    draw = random.Random(seed)
    manifest = write_manifest(folder, ITEMS_PER_KILL * kills)
    shop.json("run", manifest, *FORCED_DOWN)
    censuses, killed_at_work = [Census.of(shop.store)], 0
    assert len(censuses[0].queued) == ITEMS_PER_KILL * kills
    with Client(address, set_as_default=False) as client:
        for settled in _spread(kills, draw):
            killed_at_work += _killed_at_work(shop, settled, draw.uniform(0, WITHIN_S))
            censuses.append(Census.of(shop.store))
            censuses[-1].check_follows(censuses[-2])
            _let_the_leases_run_out(shop.store, client)
    left = len(Census.of(shop.store).queued)  # what the workers still had in hand is over
    last = shop.json("reprocess")
    censuses.append(Census.of(shop.store))
    censuses[-1].check_follows(censuses[-2])
    return Campaign(censuses=tuple(censuses), killed_at_work=killed_at_work, last=last, left=left)


def _spread(kills: int, draw: random.Random) -> list[int]:
    """How many items each run may settle before it is killed: from none to `SETTLED_AT_MOST`, evenly, shuffled."""
    settled = [round(SETTLED_AT_MOST * number / max(1, kills - 1)) for number in range(kills)]
    draw.shuffle(settled)
    return settled


def _killed_at_work(shop: Shop, settled: int, after_s: float) -> bool:
    """Begin a run, and kill it so long after it has settled so many items; whether it was still at work."""
    earlier = runs.latest(shop.store, runs.REPROCESS)
    command = shop.begin("reprocess", "--batch-size", str(BATCH))

    def has_come_so_far() -> bool:
        run = runs.latest(shop.store, runs.REPROCESS)
        if run is None or (earlier is not None and run.id == earlier.id):
            return False
        with shop.store.read() as connection:
            count = sa.select(sa.func.count()).select_from(retries).where(retries.c.run_id == run.id)
            return int(connection.scalar(count) or 0) >= settled

    _wait_until(lambda: has_come_so_far() or command.has_ended(), "no run comes so far")
    if command.has_ended(after_s):
        done = command.done()
        assert done.returncode == 0, done.stderr
        return False
    command.kill()
    return True


def _let_the_leases_run_out(store: Database, client: Client) -> None:
    """As if two minutes had passed: what the workers still had in hand is over, and so are the claims."""
    _wait_until(lambda: not any(client.run(_busy_threads).values()), "the workers are still busy")
    with store.write() as connection:
        over = database_time(connection) - timedelta(seconds=1)
        connection.execute(sa.update(retry_queue).where(retry_queue.c.state == CLAIMED).values(due_at=over))


def _busy_threads(dask_worker: Any) -> int:
    """How many tasks a worker runs, those that nobody waits for any more among them."""
    return len(dask_worker.active_threads)


def _wait_until(is_so: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(REPLI_HOME=str(folder / "home"), REPLI_GPU_DEVICE="cpu")
        with cluster(Settings.from_environment()) as address:
            standing = {**environment(folder), **os.environ, "REPLI_DASK_ADDRESS": address}
            with Preloaded(standing, folder) as preloaded:
                shop = Shop(preloaded, folder / "home")
                outcome = campaign(shop, folder / "items", address, kills=arguments.kills, seed=arguments.seed)
    print("| kill | done | queued | claimed with a lease |\n|---:|---:|---:|---:|")
    for number, census in enumerate(outcome.censuses[1:-1], 1):
        print(f"| {number} | {len(census.done)} | {len(census.queued)} | {len(census.claimed)} |")
    print(f"\n{outcome.killed_at_work} of {arguments.kills} runs were killed at work; the last one: {outcome.last}")
    if outcome.killed_at_work < KILLED_AT_WORK * arguments.kills:
        sys.exit("too many runs were over before they were killed: that says little")
    if outcome.censuses[-1].queued or outcome.censuses[-1].claimed:
        sys.exit("the last run did not lift all that was left")


if __name__ == "__main__":
    main()
