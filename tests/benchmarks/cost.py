"""Measure what an item costs beside its models: processor time of `repli run`, by process.

``python -m tests.benchmarks.cost`` runs made-up catalogues through a pipeline of the default one's shape, whose rungs
answer at once. Left are the flow, the store, Prefect and Dask. The processor time of the command, of the private
Prefect server and of the workers is read from the system while they run. What a run of a dozen items takes, the start
and the end, is subtracted, so that the figures are those of the items. The part of it that the store takes is measured
in the same processes: the time of a thread while it has a connection.

Beside it stands the same work in one process without Prefect and Dask.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sqlalchemy as sa

from repli import Embedding, Label, Pipeline, Served, Stage, Text
from repli.tasks.execution.batch_size import choose_batch_size
from repli.tasks.execution.stage_runner import RunOptions, run_stage
from repli.tasks.items import Guess
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import Settings
from repli.tasks.sources.manifest import open_manifest
from repli.tasks.storage import catalogue, runs
from repli.tasks.storage.database import Database
from tests.support.stores import fill_with

SIZES = (2_500, 10_000)
FEW = 12
SAMPLE_EVERY_S = 0.1
WORDS_A_TEXT = 90
AIM = 1.0
"""Processor seconds per 1,000 items, at most, for all but the store; models, decoding and parsing there are none."""
KINDS = ("command", "server", "workers")
STORE = "store"
STORE_SECONDS = "REPLI_BENCHMARK_STORE_SECONDS"
"""The variable with the folder in which each process of the measured run notes what its store takes."""
PIPELINE_NAME = "tests.benchmarks.cost:PIPELINE"


def _stage(name: str, rung: Callable[[list[str]], Sequence[Any]], produces: type | None = None) -> Stage:
    stage = Stage(name, input=lambda item: item.name, produces=produces)
    stage.rung(time_limit_s=60)(rung)
    return stage


def origin(names: list[str]) -> list[dict[str, Any]]:
    return [{"document": {"uri": f"{name}.html", "sha256": "0" * 64, "size": 4096}, "image": None} for name in names]


def expectations(names: list[str]) -> list[dict[str, Any]]:
    return [{"violations": []} for _ in names]


def full(names: list[str]) -> list[Text]:
    return [Text(" ".join(f"word{len(name) * place % 503}" for place in range(WORDS_A_TEXT))) for name in names]


def gpu(names: list[str]) -> list[Served[Label]]:
    top = tuple(Guess(label=f"label {place}", label_index=place, confidence=0.1) for place in range(5))
    return [Served(Label("label 0", label_index=0, top=top, vocabulary="made up"), 0.9) for _ in names]


def text_and_label(names: list[str]) -> list[Embedding]:
    return [Embedding("made-up:1", np.eye(1, 384, len(name) % 384, dtype=np.float32)[0]) for name in names]


PIPELINE = Pipeline(
    [
        _stage("fetch", origin),
        _stage("validate", expectations),
        _stage("extract_text", full, Text),
        _stage("classify_image", gpu, Label),
        _stage("embed_text", text_and_label, Embedding),
    ]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of items")
    parser.add_argument("--batch-size", type=int, help="items per batch; by default, as the run chooses")
    arguments = parser.parse_args()
    size_of_batch = arguments.batch_size
    print("| processor seconds | command | server | workers | all | of which store | per 1,000 items | without store |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="repli-cost-") as name:
        folder = Path(name)
        start = run_costs(folder, FEW, size_of_batch)
        _print_row(f"start and end: {FEW} items", start, None)
        for size in arguments.sizes:
            costs = run_costs(folder, size, size_of_batch)
            without_start = {kind: costs[kind] - start[kind] for kind in (*KINDS, STORE)}
            _print_row(f"{size:,} items, without those", without_start, size - FEW)
        for size in arguments.sizes:
            threads = os.cpu_count() or 1
            batch_size = choose_batch_size(size_of_batch, items=size, threads=threads)
            total, store = (1000 * seconds / size for seconds in costs_in_process(folder, size, batch_size))
            title = f"{size:,} items in one process, without Prefect and Dask"
            print(f"{title}: {total:.2f} s per 1,000 items, of which {store:.2f} s with a connection to the store")
    print(f"The aim is at most {AIM} s per 1,000 items for all but the store.")


def _print_row(title: str, costs: Mapping[str, float], items: int | None) -> None:
    total = sum(costs[kind] for kind in KINDS)
    figures = [*(costs[kind] for kind in KINDS), total, costs[STORE]]
    figures += [1000 * total / items, 1000 * (total - costs[STORE]) / items] if items else []
    print(f"| {title} | {' | '.join(f'{figure:.2f}' for figure in figures)} |", flush=True)


def run_costs(folder: Path, size: int, batch_size: int | None) -> dict[str, float]:
    """Run a catalogue of `size` items into a new store.

    Returns:
        The processor seconds of each kind of process, and those of the store in all of them.
    """
    home = folder / f"home-{size}"
    command = [sys.executable, "-m", "repli.flows.cli.app", "run", str(write_catalogue(folder, size))]
    command += ["--pipeline", PIPELINE_NAME, "--json"]
    command += ["--batch-size", str(batch_size)] if batch_size else []
    notes = folder / f"store-{size}"
    notes.mkdir()
    variables = {**os.environ, "REPLI_HOME": str(home), STORE_SECONDS: str(notes)}
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables) as run:
        costs = _costs_until_end(psutil.Process(run.pid), run)
        output, errors = run.communicate()
    if run.returncode or json.loads(output)["stored"] != size:
        raise SystemExit(f"the run failed, the figures mean nothing: {errors[-2000:]}")
    print(f"{size:,} items took {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    store = sum(float(line) for note in notes.iterdir() for line in note.read_text().splitlines())
    return {**costs, STORE: store}


def _costs_until_end(command: psutil.Process, run: subprocess.Popen[str]) -> dict[str, float]:
    """Sample the processor seconds of the command and of all processes below it, until it ends."""
    kinds: dict[int, str] = {}
    seconds: dict[int, float] = {}
    while run.poll() is None:
        with suppress(psutil.NoSuchProcess):
            for process in (command, *command.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    seconds[process.pid] = times.user + times.system
                    if process.pid not in kinds:
                        kinds[process.pid] = _kind(process, command)
        time.sleep(SAMPLE_EVERY_S)
    costs: dict[str, float] = defaultdict(float, dict.fromkeys(KINDS, 0.0))
    for pid, spent in seconds.items():
        costs[kinds.get(pid, "workers")] += spent
    return dict(costs)


def _kind(process: psutil.Process, command: psutil.Process) -> str:
    if process.pid == command.pid:
        return "command"
    return "server" if any("prefect" in word for word in process.cmdline()) else "workers"


def write_catalogue(folder: Path, size: int) -> Path:
    """Write a manifest of `size` made-up items, and return its path."""
    path = folder / f"{size}.jsonl"
    records = ({"id": f"item-{number:07}", "name": f"name {number}", "text": "a text"} for number in range(size))
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def costs_in_process(folder: Path, size: int, batch_size: int) -> tuple[float, float]:
    """Return the processor seconds of the stages in this process, and those of them with an open transaction."""
    url = f"sqlite:///{folder}/{size}.db"
    settings = Settings.from_environment({"REPLI_HOME": str(folder), "REPLI_DATABASE_URL": url})
    database = Database(url)
    database.migrate()
    fill_with(database, PIPELINE.described(PIPELINE_NAME))
    run_id = runs.start(database, f"run-{size}", "made up", {}, database.now())
    catalogue.register(database, run_id, open_manifest(write_catalogue(folder, size)).items())
    runtime = process_runtime(may_exit=False)
    store: list[float] = []
    measure_connections(store.append)
    began = time.thread_time()
    for ids in catalogue.batches(database, run_id, batch_size, refresh=False):
        for name in PIPELINE.names:
            run_stage(PIPELINE, name, ids, RunOptions(run_id=run_id), settings, runtime)
    total = time.thread_time() - began
    database.engine.dispose()
    return total, sum(store)


def measure_connections(tell: Callable[[float], object]) -> None:
    """Tell from now on the processor seconds of a thread that had a connection, each time one is given back."""
    began = threading.local()

    def begin(*_: object) -> None:
        began.at = time.thread_time()

    def end(*_: object) -> None:
        tell(time.thread_time() - began.at)

    sa.event.listen(sa.Pool, "checkout", begin)
    sa.event.listen(sa.Pool, "checkin", end)


def _note_connections(folder: Path) -> None:
    """Note what the store takes in this process, in a file of its own, line by line: a worker ends without a word."""
    note = os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    measure_connections(lambda seconds: os.write(note, f"{seconds:.6f}\n".encode()))


if __name__ == "__main__":
    main()
elif STORE_SECONDS in os.environ:  # a process of the measured run imports its pipeline
    _note_connections(Path(os.environ[STORE_SECONDS]))
