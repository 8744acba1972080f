"""What Repli costs: items per second of `repli run` against a bare loop, and against one mapped task per item.

``python -m tests.benchmarks.overhead`` (or ``make bench``) runs the three in one go on one catalogue and prints
their ratios. Absolute figures of a shared machine mean little; ratios of one run mean something.

* bare loop: one process, torch's default threads, reading files and making the same model calls (efficientnet_lite0
  and MiniLM) in the same batch sizes. No validation, no text extraction, no store.
* `repli run`: the whole command as typed, all six stages, its start and its end included.
* naive: a Prefect flow on Dask with one mapped task per item and stage and `retries=3`, on the first items only;
  its start-up is left out, in its favour.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--naive-items", type=int, default=100)
    parser.add_argument("--part", choices=["bare", "naive"], help=argparse.SUPPRESS)
    parser.add_argument("--manifest", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part == "bare":
        bare_loop(arguments.manifest)
    elif arguments.part == "naive":
        naive(arguments.manifest, arguments.naive_items)
    else:
        compare(arguments.items, arguments.naive_items)


def compare(items: int, naive_items: int) -> None:
    from repli.flows.cli.demo.catalogue import build

    with tempfile.TemporaryDirectory() as folder:
        manifest = build(Path(folder, "catalogue"), items=items, broken=False, every_item_with_photo=True)
        home = str(Path(folder, "home"))
        rates = {}
        started = time.monotonic()
        _run([sys.executable, "-m", "tests.benchmarks.overhead", "--part", "bare", "--manifest", str(manifest)], home)
        rates["bare loop"] = items / (time.monotonic() - started)
        started = time.monotonic()
        summary = json.loads(_run([sys.executable, "-m", "repli.flows.cli.app", "run", str(manifest), "--json"], home))
        rates["repli run"] = items / (time.monotonic() - started)
        rates["repli run, its flow alone"] = items / summary["seconds"]
        naive_part = ["--part", "naive", "--manifest", str(manifest), "--naive-items", str(naive_items)]
        seconds = float(_run([sys.executable, "-m", "tests.benchmarks.overhead", *naive_part], home).split()[-1])
        rates["naive mapped tasks"] = naive_items / seconds
    if summary["stored"] != items:
        raise SystemExit(f"repli stored {summary['stored']} of {items} items; the comparison means nothing")
    print(f"{items} items, batches of {BATCH}, {os.cpu_count()} cores")
    for name, rate in rates.items():
        print(f"{name:28} {rate:8.2f} items/s   {rate / rates['bare loop']:6.2f} of the bare loop")
    print(f"repli run is {rates['repli run'] / rates['naive mapped tasks']:.1f} times the naive form")


def _run(command: list[str], home: str) -> str:
    environ = {**os.environ, "REPLI_HOME": home}
    environ.pop("PREFECT_API_URL", None)
    return subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout


def bare_loop(manifest: Path) -> None:
    """The same model calls, by hand."""
    from repli.tasks.models import image_classifier, text_embedder
    from repli.tasks.settings import ModelSettings
    from repli.tasks.stages.embed_text import Passage

    models = ModelSettings()
    classifier = image_classifier.load(models.image_cpu, "cpu")
    embedder = text_embedder.load(models.text)
    for batch in _batches(manifest):
        prepared = [classifier.prepare((manifest.parent / record["image"]).read_bytes()) for record in batch]
        labels = [answer.label for answer, _ in classifier.classify(prepared)]
        passages = [
            Passage(name=record["name"], text=_text(manifest, record), label=label)
            for record, label in zip(batch, labels, strict=True)
        ]
        embedder.embed([passage.words(with_label=True) for passage in passages])


def _batches(manifest: Path) -> Iterator[list[dict[str, Any]]]:
    records = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    for start in range(0, len(records), BATCH):
        yield records[start : start + BATCH]


def _text(manifest: Path, record: dict[str, Any]) -> str:
    """The article's text, found in a microsecond: where it stands in the page is known here."""
    page = (manifest.parent / record["document"]).read_text(encoding="utf-8")
    return page.partition("<p>")[2].partition("</p>")[0]


def naive(manifest: Path, items: int) -> None:
    """One mapped Prefect task per item and stage, as a first version would have it. Prints its seconds."""
    from repli.flows.server.dask_cluster import cluster
    from repli.tasks.settings import Settings

    records = next(_batches(manifest))[:items]
    settings = Settings.from_environment()
    with cluster(settings) as address:
        from prefect_dask import DaskTaskRunner

        from tests.benchmarks.naive_flow import naive_flow

        runner = DaskTaskRunner(address=address)
        flow = naive_flow.with_options(task_runner=runner)
        flow(str(manifest.parent), records[:4])  # the workers import and load here, off the clock
        started = time.monotonic()
        flow(str(manifest.parent), records)
        print(time.monotonic() - started)


if __name__ == "__main__":
    main()
