"""Origins between real processes: what a fleet costs a server that is down, and what that costs the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from repli.tasks.fallback import Position
from repli.tasks.storage import breakers
from repli.tasks.storage.database import Database
from tests.support.fleet import Fleet
from tests.support.origin_jobs import BREAKER, NAME, read_pages
from tests.support.origins import Origin, origins
from tests.support.stopwatch import Stopwatch

EACH = 20
LIMIT_S = 6.0
TRIES = 2
"""Further tries of a transient error, which one request of an origin in each process makes."""
BUSY_MACHINE_S = 10.0
"""What 32 processes on two cores take for their own work."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """32 workers, for one test after the other."""
    with Fleet([{}] * 32) as fleet:
        yield fleet


def read(fleet: Fleet, database: Database, workers: int, served: Sequence[Origin]) -> list[dict[str, Any]]:
    """What each process made of as many pages of each server, all begun at once."""
    pages = [f"{origin.url}/{number}" for number in range(EACH) for origin in served]
    return fleet.do(database, read_pages, [{"pages": pages, "time_limit_s": LIMIT_S}] * workers)


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.campaign), 8, pytest.param(32, marks=pytest.mark.campaign)]
)
def test_servers_that_are_down_are_asked_a_bounded_number_of_times(
    database: Database, fleet: Fleet, workers: int
) -> None:
    """Dead, hanging, flaky and well at once. Without a scheduler that counts its slots, each process has four calls of
    a server in flight; the two that are down cost N calls, those in flight, and each process the tries of one request.
    """
    with origins("dead", "hanging", "flaky", "well") as (dead, hanging, flaky, well):
        with Stopwatch() as stopwatch:
            answers = read(fleet, database, workers, (dead, hanging, flaky, well))
        asked = {origin.kind: origin.requests for origin in (dead, hanging, flaky, well)}
        ready = {
            origin.kind: max(answer["ready"][origin.url] for answer in answers)
            for origin in (dead, hanging, flaky, well)
        }
        print(f"{workers} workers: requests {asked}, ready after {ready}")
        in_flight = workers * BREAKER.at_once
        assert dead.requests <= BREAKER.failures - 1 + in_flight + workers * TRIES
        assert hanging.requests <= BREAKER.failures - 1 + in_flight
        assert well.requests == workers * EACH
        assert all(answer["read"][well.url] == EACH for answer in answers)
        assert not any(answer["read"][origin.url] for answer in answers for origin in (dead, hanging))
        assert stopwatch.seconds <= 2 * LIMIT_S + BUSY_MACHINE_S
        positions = {
            view.key.place: view.state.position
            for view in breakers.views(database, {NAME: BREAKER})
            if not view.is_closed
        }
        down = {dead.url: Position.OPEN, hanging.url: Position.OPEN}
        assert positions.items() >= down.items()
        assert well.url not in positions
        # It stays in use, unless so many calls are in flight as no fleet has that counts its slots.
        assert flaky.url not in positions or workers == 32
        before = {origin.url: origin.requests for origin in (dead, hanging)}
        read(fleet, database, workers, (dead, hanging))
        assert {origin.url: origin.requests for origin in (dead, hanging)} == before, "an open breaker was passed"
