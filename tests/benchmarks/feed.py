"""How well the classify stage feeds a model: its pictures a second, with a model that answers at once.

``python -m tests.benchmarks.feed`` compares the rung of the accelerator, over blobs of two megapixels, with bare pools
that read and prepare the same pictures on all processors and do nothing else: one of threads, one of processes. The
three take turns, so that a busy machine is busy for all; the median round counts. Aim: at least 0.85 of the better
pool.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from repli.tasks.fallback import Served
from repli.tasks.items import Guess, Label
from repli.tasks.models import image_classifier
from repli.tasks.models.pictures import Preparation
from repli.tasks.pipeline import StageContext
from repli.tasks.runtime.processors import processors_of_machine
from repli.tasks.settings import Settings
from repli.tasks.stages.classify_image import Picture, gpu
from repli.tasks.storage.blobs import Blobs
from repli.tasks.storage.database import Database
from tests.support import photos

AIM = 0.85


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=256, help="pictures of a round; each round has others")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    image_classifier.load = partial(AtOnce.load)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        count = arguments.pictures * arguments.rounds
        print(
            f"{count} photos of {photos.LARGE[0]} × {photos.LARGE[1]}, {processors_of_machine()} processors", flush=True
        )
        context = open_context(Path(folder, "home"))
        blobs = Blobs(context.settings.blobs)
        files = photos.write_photos(Path(folder, "photos"), count, photos.LARGE)
        hashes = [blobs.put(file.read_bytes()) for file in files]
        rounds = [hashes[start : start + arguments.pictures] for start in range(0, count, arguments.pictures)]
        report(measure(rounds, context, arguments.batch_size))


class AtOnce:
    """A model in the place of lite2: the same input, and an answer that takes no time."""

    preparation = Preparation(size=260, crop=0.89)
    answer = (
        Label(
            label=None,
            label_index=None,
            unknown=True,
            top=(Guess(label="a", label_index=0, confidence=0.1),),
            vocabulary="none",
        ),
        0.1,
    )

    @classmethod
    def load(cls, source: str, device: str) -> AtOnce:
        return cls()

    def classify(self, images: Sequence[Any]) -> list[tuple[Label, float]]:
        return [self.answer] * len(images)


def open_context(home: Path) -> StageContext:
    settings = Settings.from_environment({"REPLI_HOME": str(home)})
    models = replace(settings.models, gpu_device="cuda")
    database = Database(settings.database_url)
    return StageContext(settings=replace(settings, models=models), database=database, run_id="", now=datetime.now(UTC))


def measure(rounds: Sequence[Sequence[str]], context: StageContext, batch_size: int) -> dict[str, list[float]]:
    """The pictures a second of each way, round by round."""
    threads = processors_of_machine()
    spawn = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(threads) as pool, ProcessPoolExecutor(threads, mp_context=spawn) as processes:
        by_pool = partial(prepare_all, folder=context.settings.blobs, batch_size=batch_size)
        ways: dict[str, Callable[[Sequence[str]], None]] = {
            "bare pool of threads": partial(by_pool, pool=pool),
            "bare pool of processes": partial(by_pool, pool=processes),
            "classify stage": partial(classify_all, context=context, batch_size=batch_size),
        }
        for way in (ways["bare pool of threads"], ways["bare pool of processes"]):
            way(rounds[0])  # off the clock: imports, and the files are in the system's memory
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for hashes in rounds:
            for name, way in ways.items():
                started = time.monotonic()
                way(hashes)
                rates[name].append(len(hashes) / (time.monotonic() - started))
                print(f"{name:24} {rates[name][-1]:8.1f} pictures/s", flush=True)
    return rates


def prepare_all(hashes: Sequence[str], *, folder: Path, batch_size: int, pool: Executor) -> None:
    for start in range(0, len(hashes), batch_size):
        inputs = list(pool.map(partial(prepare, folder), hashes[start : start + batch_size]))
        assert inputs[0].shape == (260, 260, 3)


def prepare(folder: Path, sha256: str) -> Any:
    return AtOnce.preparation.prepare(Blobs(folder).read(sha256))


def classify_all(hashes: Sequence[str], *, context: StageContext, batch_size: int) -> None:
    for start in range(0, len(hashes), batch_size):
        batch = [Picture(name="", sha256=sha256) for sha256 in hashes[start : start + batch_size]]
        outcomes = gpu(batch, context)
        assert all(isinstance(outcome, Served) for outcome in outcomes)


def report(rates: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    stage = medians.pop("classify stage")
    for name, rate in medians.items():
        print(f"classify stage {stage:.1f} pictures/s: {stage / rate:.2f} of the {name} ({rate:.1f})")
    ratio = stage / max(medians.values())
    print(f"{ratio:.2f} of the better pool; the aim is {AIM}: {'reached' if ratio >= AIM else 'missed'}")


if __name__ == "__main__":
    main()
