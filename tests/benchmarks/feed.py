"""How well the classify stage feeds a model: its pictures a second, with a model that answers at once.

``python -m tests.benchmarks.feed`` (or ``make bench``) compares the rung of the accelerator, over blobs of two
megapixels, with bare pools that read and prepare the same pictures on all processors and do nothing else: one of
threads, one of processes. The three take turns, batch by batch, so that a busy machine is busy for all. Aim: at least
0.85 of the better pool.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from repli.tasks.fallback import Served
from repli.tasks.items import Guess, Label
from repli.tasks.models import image_classifier
from repli.tasks.models.image_classifier import PreparedPicture
from repli.tasks.models.image_reading import Classification
from repli.tasks.models.pictures import Preparation
from repli.tasks.pipeline import StageContext
from repli.tasks.runtime.processors import processors_of_machine
from repli.tasks.settings import Settings
from repli.tasks.stages.classify_image import Picture, gpu
from repli.tasks.storage.blobs import Blobs
from repli.tasks.storage.database import Database
from tests.support import photos

STAGE = "classify stage"
AIM = 0.85


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    image_classifier.load = AtOnce.load  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        count = arguments.batches * arguments.batch_size
        width, height = photos.LARGE
        print(f"{count} photos of {width} × {height}, {processors_of_machine()} processors", flush=True)
        context = open_context(Path(folder, "home"))
        blobs = Blobs(context.settings.blobs)
        files = photos.write_photos(Path(folder, "photos"), count, photos.LARGE)
        hashes = [blobs.put(file.read_bytes()) for file in files]
        batches = [hashes[start : start + arguments.batch_size] for start in range(0, count, arguments.batch_size)]
        seconds = measure(batches, context)
    report({name: count / total for name, total in seconds.items()})


class AtOnce:
    """A model in the place of lite2: the same input, and an answer that takes no time."""

    preparation = Preparation(size=260, crop=0.89)
    master_side = preparation.master_side
    threshold = 0.0
    answer = Classification(
        Label(
            label="a",
            label_index=0,
            top=(Guess(label="a", label_index=0, confidence=0.1),),
            vocabulary="none",
        ),
        confidence=0.1,
        score=0.1,
    )

    @classmethod
    def load(cls, source: str, device: str, runtime: str) -> AtOnce:
        return cls()

    def prepare_master(self, master: npt.NDArray[np.uint8]) -> PreparedPicture:
        return PreparedPicture(self.preparation.prepare_master(master), len(master))

    def classify(self, pictures: Sequence[PreparedPicture]) -> list[Classification]:
        return [self.answer] * len(pictures)


def open_context(home: Path) -> StageContext:
    settings = Settings.from_environment({"REPLI_HOME": str(home)})
    models = replace(settings.models, gpu_device="cuda")
    database = Database(settings.database_url)
    return StageContext(settings=replace(settings, models=models), database=database, run_id="", now=datetime.now(UTC))


def measure(batches: Sequence[Sequence[str]], context: StageContext) -> dict[str, float]:
    """The seconds that each way takes for all batches."""
    threads = processors_of_machine()
    spawn = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(threads) as pool, ProcessPoolExecutor(threads, mp_context=spawn) as processes:
        ways: dict[str, Callable[[Sequence[str]], None]] = {
            "bare pool of threads": partial(prepare_all, folder=context.settings.blobs, pool=pool),
            "bare pool of processes": partial(prepare_all, folder=context.settings.blobs, pool=processes),
            STAGE: partial(classify_all, context=context),
        }
        for way in (ways["bare pool of threads"], ways["bare pool of processes"]):
            way(batches[0])  # off the clock: imports, and the files are in the system's memory
        seconds = dict.fromkeys(ways, 0.0)
        for batch in batches:
            for name, way in ways.items():
                started = time.monotonic()
                way(batch)
                seconds[name] += time.monotonic() - started
    return seconds


def prepare_all(hashes: Sequence[str], *, folder: Path, pool: Executor) -> None:
    inputs = list(pool.map(partial(prepare, folder), hashes))
    assert {one.shape for one in inputs} == {(260, 260, 3)}


def prepare(folder: Path, sha256: str) -> Any:
    return AtOnce.preparation.prepare(Blobs(folder).read(sha256))


def classify_all(hashes: Sequence[str], *, context: StageContext) -> None:
    outcomes = gpu([Picture(name="", sha256=sha256) for sha256 in hashes], context)
    assert all(isinstance(outcome, Served) for outcome in outcomes)


def report(rates: dict[str, float]) -> None:
    best = max(rate for name, rate in rates.items() if name != STAGE)
    for name, rate in rates.items():
        print(f"{name:24} {rate:8.1f} pictures/s   {rate / best:5.2f} of the better pool")
    print(f"the aim is {AIM}: {'reached' if rates[STAGE] >= AIM * best else 'missed'}")


if __name__ == "__main__":
    main()
