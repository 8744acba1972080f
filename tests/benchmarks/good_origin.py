"""Whether a server that is well is read as fast beside servers that are dead, hang or are flaky as it is alone.

``python -m tests.benchmarks.good_origin`` reads it with 1, 8 and 32 processes, three times each, alone and beside the
others in turns, and ends with an error where a ratio is below `AIM`. The server's own delay is what takes the time,
not the processors of this machine: it answers 100 requests a second at the most, whatever the number of processes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from repli.tasks.storage.database import Database
from tests.support.fleet import Fleet
from tests.support.origin_jobs import BREAKER, read_pages
from tests.support.origins import Origin, origins

FLEETS = (1, 8, 32)
AIM = 0.95
REQUESTS_A_SECOND = 100
SECONDS = 8.0
LIMIT_S = 4.0
ROUNDS = 3


def main() -> None:
    """Measure all fleets."""
    ratios = {workers: measure(workers) for workers in FLEETS}
    for workers, ratio in ratios.items():
        print(f"{workers} processes: {ratio:.3f} of the throughput alone, aim {AIM}")
    if min(ratios.values()) < AIM:
        raise SystemExit("the good server was read more slowly")


def measure(workers: int, rounds: int = ROUNDS, enough: float = math.inf) -> float:
    """Return the ratio of throughput, from the shortest time of each kind: what else the machine does only adds to it.

    In each round the bad servers are new, and so are their breakers. A ratio of `enough` needs no further round.
    """
    delay_s = workers * BREAKER.at_once / REQUESTS_A_SECOND
    each = round(SECONDS / delay_s * BREAKER.at_once)
    alone, beside = math.inf, math.inf
    with tempfile.TemporaryDirectory() as folder, Fleet([{}] * workers) as fleet:
        database = Database(f"sqlite:///{Path(folder) / 'repli.db'}")
        database.migrate()
        with origins("well") as warm_up:
            seconds(fleet, database, workers, 10, warm_up)
        for _ in range(rounds):
            with origins("well", "dead", "hanging", "flaky", delay_s=delay_s) as [well, *bad]:
                alone = min(alone, seconds(fleet, database, workers, each, [well]))
                beside = min(beside, seconds(fleet, database, workers, each, [well, *bad]))
            print(f"{workers} processes: {alone:.2f} s alone, {beside:.2f} s beside bad ones", flush=True)
            if alone / beside >= enough:
                break
        database.engine.dispose()
    return alone / beside


def seconds(fleet: Fleet, database: Database, workers: int, each: int, served: Sequence[Origin]) -> float:
    """Return when the last process has read the last page of the first server, all begun at once."""
    pages = list(chain.from_iterable((f"{origin.url}/{number}" for origin in served) for number in range(each)))
    answers = fleet.do(database, read_pages, [{"pages": pages, "time_limit_s": LIMIT_S}] * workers)
    if any(answer["read"][served[0].url] != each for answer in answers):
        raise SystemExit("the good server was not read to the end")
    ready: list[float] = [answer["ready"][served[0].url] for answer in answers]
    return max(ready)


if __name__ == "__main__":
    main()
