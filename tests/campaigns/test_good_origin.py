"""A server that is well is read as fast beside servers that are dead, hang or are flaky as it is alone.

The server's own delay is what takes the time, not the processors of this machine: it answers 100 requests a second
at the most, whatever the number of processes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest

from repli.tasks.storage.database import Database
from tests.support.fleet import Fleet
from tests.support.origin_jobs import BREAKER, read_pages
from tests.support.origins import Origin, origins

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(300)]

REQUESTS_A_SECOND = 100
SECONDS = 8.0
LIMIT_S = 4.0
ROUNDS = 3


def seconds(fleet: Fleet, database: Database, workers: int, each: int, served: Sequence[Origin]) -> float:
    """When the last of the processes has read the last page of the first server, all begun at once."""
    pages = list(chain.from_iterable((f"{origin.url}/{number}" for origin in served) for number in range(each)))
    answers = fleet.do(database, read_pages, [{"pages": pages, "time_limit_s": LIMIT_S}] * workers)
    assert all(answer["read"][served[0].url] == each for answer in answers)
    return max(answer["ready"][served[0].url] for answer in answers)


@pytest.mark.parametrize("workers", [1, 8, 32])
def test_a_good_server_is_read_as_fast_beside_bad_ones(tmp_path: Path, workers: int) -> None:
    """The median of three rounds in turns; in each the bad servers are new, and so are their breakers."""
    delay_s = workers * BREAKER.at_once / REQUESTS_A_SECOND
    each = round(SECONDS / delay_s * BREAKER.at_once)
    database = Database(f"sqlite:///{tmp_path / 'repli.db'}")
    database.migrate()
    ratios: list[float] = []
    with Fleet([{}] * workers) as fleet:
        with origins("well") as warm_up:
            seconds(fleet, database, workers, 10, warm_up)
        for _ in range(ROUNDS):
            with origins("well", "dead", "hanging", "flaky", delay_s=delay_s) as [well, *bad]:
                alone = seconds(fleet, database, workers, each, [well])
                beside = seconds(fleet, database, workers, each, [well, *bad])
            ratios.append(alone / beside)
            print(f"{workers} workers: {alone:.2f} s alone, {beside:.2f} s beside bad ones, {ratios[-1]:.3f} of it")
    assert statistics.median(ratios) >= 0.95
