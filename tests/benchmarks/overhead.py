"""What Repli costs: items per second of `repli run` against loops, naive mapped tasks, and Daft.

``python -m tests.benchmarks.overhead`` (or ``make bench``) runs all rows one after the other, on one catalogue of
photos of two megapixels and on one of small photos, and prints their ratios. Absolute figures of a shared machine mean
little; ratios of one run mean something. Each row is timed as a whole command, its start and its end included, unless
said otherwise. Accelerators are hidden: `tests.benchmarks.card` is about them.

* `repli run`: the command as typed, all six stages. `its flow alone` leaves out the start and the end of the command.
* `torch`: `torch_loop`, one process with torch's default threads, each photo decoded whole. Models alone.
* `best`: `best_loop`, a process for each processor, with the runtime and the scaling of photos that Repli uses. Models
  alone. No aim for `best-pages`, which extracts each text from its page too, as `repli run` does.
* `naive`: `naive_flow`, a Prefect flow on Dask with one mapped task per item and stage and `retries=3`, all six stages,
  on the first items only. Its start and its end are left out, in its favour.
* `daft`: `daft_pipeline`, the same models in Daft. Models alone, and a Parquet file. Left out where Daft is missing.

Models alone means: no text extraction, no validation, no store, no fallback. The labels of each row are compared with
those of `repli run`: rows that answer differently do other work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dask.system import CPU_COUNT

from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import step_results
from tests.support.catalogues import photo_catalogue
from tests.support.command_line import command
from tests.support.photos import LARGE

ITEMS = 2000
NAIVE_ITEMS = 100
WARM_UP_ITEMS = 12
SIZES: Mapping[str, tuple[int, int] | None] = {"large": LARGE, "small": None}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A row beside `repli run`.

    Args:
        module: The benchmark that takes the catalogue through, and prints its labels or its seconds.
        aim: Items per second of `repli run`, as a multiple of this row's, at least; None where there is no aim.
        needs: The package without which the row is left out.
    """

    module: str
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str]
    aim: float | None
    needs: str | None = None


RIVALS: Mapping[str, Rival] = {
    "torch": Rival(module="torch_loop", variables={}, aim=2.5),
    "best": Rival(module="best_loop", variables=ONE_THREAD, aim=0.9),
    "best-pages": Rival(module="best_loop", arguments=("--with-pages",), variables=ONE_THREAD, aim=None),
    "naive": Rival(module="naive", variables={}, aim=15.0),
    "daft": Rival(module="daft_pipeline", variables=ONE_THREAD, aim=1.0, needs="daft"),
}
INSTALL = {"daft": "pip install daft==0.7.26"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Items per second, and the label of each item where the row tells it."""

    rate: float
    labels: Mapping[str, int | None]


def main() -> None:
    """Measure what the command line asks for, and print a table for each catalogue."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--naive-items", type=int, default=NAIVE_ITEMS)
    parser.add_argument("--photos", choices=[*SIZES, "both"], default="both")
    parser.add_argument("--only", nargs="+", choices=list(RIVALS), default=list(RIVALS), help="beside `repli run`")
    arguments = parser.parse_args()
    rivals = {name: RIVALS[name] for name in arguments.only if _is_here(name)}
    sizes = list(SIZES) if arguments.photos == "both" else [arguments.photos]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm_up = photo_catalogue(folder / "warm-up", WARM_UP_ITEMS)
        _run(command("run", warm_up, "--json"), folder / "warm-up-home")  # what is read and made once on a machine
        for size in sizes:
            manifest = photo_catalogue(folder / size, arguments.items, SIZES[size])
            compare(manifest, size, rivals, items=arguments.items, naive_items=arguments.naive_items)


def compare(manifest: Path, size: str, rivals: Mapping[str, Rival], *, items: int, naive_items: int) -> None:
    """Run all rows on one catalogue, and print their rates as they come, then the ratios."""
    print(f"\n{items} items, {size} photos, {int(CPU_COUNT)} processors", flush=True)
    home = manifest.parent / "home"
    started = time.monotonic()
    summary = json.loads(_run(command("run", manifest, "--json"), home))
    whole = Row(rate=items / (time.monotonic() - started), labels=_stored_labels(home))
    if summary["stored"] != items:
        raise SystemExit(f"repli stored {summary['stored']} of {items} items; the comparison means nothing")
    flow = Row(rate=items / summary["seconds"], labels=whole.labels)
    _print("repli run", whole)
    _print("  its flow alone", flow)
    for name, rival in rivals.items():
        row = _measure(rival, manifest, items=items, naive_items=naive_items)
        aim = "" if rival.aim is None else f", aim {rival.aim:g}"
        ratios = f"repli run {whole.rate / row.rate:.2f} x, its flow alone {flow.rate / row.rate:.2f} x{aim}"
        _print(name, row, f"{ratios}{_same_labels(row, whole)}")


def _measure(rival: Rival, manifest: Path, *, items: int, naive_items: int) -> Row:
    """Run a rival on a catalogue. One that prints its seconds goes by them, and through the first items only."""
    is_naive = rival.module == "naive"
    extra = [str(naive_items)] if is_naive else list(rival.arguments)
    words = [sys.executable, "-m", f"tests.benchmarks.{rival.module}", str(manifest), *extra]
    started = time.monotonic()
    printed = _run(words, manifest.parent / f"home-{rival.module}", rival.variables)
    seconds = time.monotonic() - started
    answer = json.loads(printed.splitlines()[-1])
    if is_naive:
        return Row(rate=min(items, naive_items) / answer["seconds"], labels={})
    if len(answer["labels"]) != items:
        raise SystemExit(f"{rival.module} labelled {len(answer['labels'])} of {items} items")
    return Row(rate=items / seconds, labels=answer["labels"])


def _stored_labels(home: Path) -> dict[str, int | None]:
    """Return the best guess of each item that a run has stored."""
    query = sa.select(step_results.c.item_id, step_results.c.value).where(step_results.c.stage == "classify_image")
    guesses: Callable[[Any], Any] = lambda value: value["top"][0]["label_index"] if value else None  # noqa: E731
    with Database(f"sqlite:///{home / 'repli.db'}").read() as connection:
        return {row.item_id: guesses(row.value) for row in connection.execute(query)}


def _same_labels(row: Row, whole: Row) -> str:
    """Say how many items have the label that Repli gave them; those that it gave none, unsure, are left out."""
    both = [(label, whole.labels[item]) for item, label in row.labels.items() if whole.labels[item] is not None]
    return f", same labels {sum(one == other for one, other in both)} of {len(both)}" if both else ""


def _is_here(name: str) -> bool:
    """Return whether what a rival needs is installed, and say how to install it where it is not."""
    needs = RIVALS[name].needs
    if needs is None or find_spec(needs):
        return True
    print(f"{name} is left out: {needs} is not installed; run: {INSTALL[needs]}")
    return False


def _print(name: str, row: Row, ratios: str = "") -> None:
    print(f"{name:18} {row.rate:8.2f} items/s   {ratios}", flush=True)


def _run(words: Sequence[str], home: Path, variables: Mapping[str, str] | None = None) -> str:
    """Return what a command prints, run in a home of its own and without an accelerator."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "REPLI_HOME": str(home)}
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environ = {**inherited, **hidden, **(variables or {})}
    return subprocess.run(words, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
