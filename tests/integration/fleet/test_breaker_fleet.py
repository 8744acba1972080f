"""Breakers between real processes: what a fleet costs a rung that is down, and what a dead worker costs the fleet."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from repli.tasks.fallback import Breaker, Position
from repli.tasks.fallback.breaker import CallEnded, Cause, Verdict
from repli.tasks.fallback.splitting import GIVE_UP_AFTER
from repli.tasks.storage import breakers
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database
from tests.support.fleet import PRIMARY, Fleet, fail, first, lines, serve, take_a_probe, until_refused
from tests.support.stopwatch import Stopwatch

EVER = datetime(2000, 1, 1, tzinfo=UTC)
SHARED = Breaker(scope="fleet", failures=5, open_for_s=600, open_for_at_most_s=600)
BUSY_MACHINE_S = 1.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """32 workers, for one test after the other."""
    with Fleet([{}] * 32) as fleet:
        yield fleet


def position(database: Database, breaker: Breaker, key: Key) -> Position:
    return breakers.read(database, breaker, [key])[0][key].position


def openings(database: Database) -> int:
    """How often a breaker of the store went from closed to open."""
    moves = breakers.moves_since(database, EVER)
    return sum((move.old, move.new) == (Position.CLOSED, Position.OPEN) for move in moves)


def test_a_worker_that_only_keeps_breakers_is_light(database: Database) -> None:
    """BreakerRegistry and their store bring neither models nor Prefect nor migrations along."""
    heavy = ["torch", "prefect", "dask", "distributed", "numpy", "pandas", "alembic", "repli.tasks.stages.default"]
    url = database.url.render_as_string(hide_password=False)
    code = "import sys; from tests.support.fleet import modules; print(modules(*sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, url, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("workers", "items"), [(1, 1), (1, 8), (8, 1), (8, 8), (32, 1), (32, 8)])
def test_a_dead_primary_is_called_a_bounded_number_of_times(
    database: Database, fleet: Fleet, tmp_path: Path, workers: int, items: int
) -> None:
    """However many workers there are: in as many batches as open the breaker, and in those already in flight."""
    log = tmp_path / "calls"
    options = {"breaker": SHARED, "log": str(log), "items": items, "failing": 1.0}
    fleet.do(database, until_refused, [{**options, "seed": seed} for seed in range(workers)])
    calls = len(lines(log))
    print(f"{workers} workers, {items} items: {calls} calls")
    calls_a_batch = min(items + (items > 1), GIVE_UP_AFTER)
    assert SHARED.failures <= calls <= (SHARED.failures + workers - 1) * calls_a_batch
    assert position(database, SHARED, Key(PRIMARY)) is Position.OPEN
    assert openings(database) == 1


@pytest.mark.parametrize("workers", [1, 8, 32])
def test_a_primary_that_dies_at_work_is_called_a_bounded_number_of_times(
    database: Database, fleet: Fleet, tmp_path: Path, workers: int
) -> None:
    """Five calls tell a dead rung from a bad item in a batch; nobody makes more."""
    log = tmp_path / "calls"
    options = {"breaker": SHARED, "log": str(log), "items": 8, "failing": 1.0, "dies_after": 1}
    fleet.do(database, until_refused, [{**options, "seed": seed} for seed in range(workers)])
    calls = Counter(lines(log))
    print(f"{workers} workers: {dict(calls)}")
    assert calls["served"] == workers
    assert SHARED.failures <= calls["failed"] <= (SHARED.failures + workers - 1) * GIVE_UP_AFTER
    assert openings(database) == 1


@pytest.mark.parametrize("workers", [1, 8, 32])
def test_a_shaky_primary_fails_a_bounded_number_of_times(
    database: Database, fleet: Fleet, tmp_path: Path, workers: int
) -> None:
    """Served calls in between neither hide the failed ones nor add to them."""
    log = tmp_path / "calls"
    options = {"breaker": SHARED, "log": str(log), "items": 1, "failing": 0.5}
    fleet.do(database, until_refused, [{**options, "seed": seed} for seed in range(workers)])
    calls = Counter(lines(log))
    print(f"{workers} workers: {dict(calls)}")
    assert SHARED.failures <= calls["failed"] <= SHARED.failures + workers - 1
    assert openings(database) == 1


def test_no_failure_of_any_process_is_lost(database: Database, fleet: Fleet) -> None:
    """Eight processes that fail at the same time: every failure is kept, and the last one of all opens the breaker."""
    breaker = Breaker(scope="fleet", failures=8 * 10)
    moves = fleet.do(database, fail, [{"breaker": breaker, "times": 10, "seed": seed} for seed in range(8)])
    states, _ = breakers.read(database, breaker, [Key(PRIMARY)])
    assert len(states[Key(PRIMARY)].failures) == breaker.failures
    assert sorted(moves) == [0] * 7 + [1]
    (move,) = breakers.moves_since(database, EVER)
    assert (move.new, move.cause, move.number) == (Position.OPEN, Cause.TOO_MANY_FAILURES, breaker.failures)


def test_a_worker_that_dies_while_it_probes_does_not_wedge_the_breaker(database: Database) -> None:
    """After `kill -9` the next probe is another worker's: not before the lease is over, and one cool-down later."""
    breaker = Breaker(scope="fleet", failures=1, open_for_s=0.5, lease_s=1.0)
    breakers.apply(database, breaker, Key(PRIMARY), CallEnded("before", Verdict.FAILED, "down"))
    with Fleet([{}] * 3) as fleet:
        workers = fleet.start(database, take_a_probe, [{"breaker": breaker}] * 3)
        with Stopwatch() as stopwatch:
            holder, _ = first(workers)
            holder.kill()
            first(worker for worker in workers if worker is not holder)
    moves = breakers.moves_since(database, EVER)[:4]  # the third worker may have asked once more
    assert [move.cause for move in moves] == [
        Cause.TOO_MANY_FAILURES,
        Cause.PROBE_DUE,
        Cause.PROBE_LOST,
        Cause.PROBE_DUE,
    ]
    _, begun, lost, again = (move.at for move in moves)
    print(f"the lease was over after {lost - begun}, the next probe came after {again - begun}")
    assert lost - begun >= timedelta(seconds=breaker.lease_s)
    assert again - begun >= timedelta(seconds=breaker.lease_s + breaker.open_for_s)
    assert stopwatch.seconds <= breaker.lease_s + 2 * breaker.open_for_s + BUSY_MACHINE_S


def test_a_device_without_memory_benches_only_its_own_worker(database: Database) -> None:
    """The worker whose device always runs out of memory opens its own breaker; the others stay on the primary."""
    breaker = Breaker(scope="host", failures=5)
    options = {"breaker": breaker, "batches": 10, "out_of_memory_on": "2"}
    with Fleet([{"CUDA_VISIBLE_DEVICES": str(device)} for device in range(4)]) as fleet:
        at_first, later = (fleet.do(database, serve, [options] * 4) for _ in range(2))
    sick = Key(PRIMARY, at_first[2]["place"])
    assert [view.key for view in breakers.views(database, {PRIMARY: breaker})] == [sick]
    assert position(database, breaker, sick) is Position.OPEN
    for answers in (at_first, later):
        assert len({answer["place"] for answer in answers}) == 4
        served = [answer["statuses"] for answer in answers]
        assert served == [{"succeeded": 40}, {"succeeded": 40}, {"degraded": 40}, {"succeeded": 40}]
    assert at_first[2]["calls"] == 6 * breaker.failures  # a batch of four: whole, one half, and each item
    assert later[2]["calls"] == 0
