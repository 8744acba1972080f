"""The best loop without Repli: a process for each processor, and in each the models as Repli runs them.

``python -m tests.benchmarks.best_loop MANIFEST [--with-pages]`` classifies the photos and embeds the texts of a
catalogue on all processors, and prints the label of each item as JSON. Photos are decoded and scaled, and models run,
by Repli's own functions, so that whatever makes Repli faster makes this faster too. Nothing is validated or stored.
With `--with-pages` each text is extracted from its page, as `repli run` does.

Run it with ``OMP_NUM_THREADS=1``: a thread for each process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dask.system import CPU_COUNT

from repli.tasks.models import image_classifier, text_embedder
from repli.tasks.settings import ModelSettings
from tests.support.catalogues import Listed, in_batches, read_catalogue

BATCH = 64
"""Items that a process gets at once: large enough for both models, small enough that all processes end together."""


def main() -> None:
    """Go through the catalogue that the command line names, and print the labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--with-pages", action="store_true", help="extract each text from its page")
    arguments = parser.parse_args()
    items = read_catalogue(arguments.manifest)
    found: dict[str, int | None] = {}
    with multiprocessing.Pool(int(CPU_COUNT)) as pool:
        enrich = partial(_enrich, with_pages=arguments.with_pages)
        for labels in pool.imap_unordered(enrich, in_batches(items, BATCH)):
            found |= labels
    print(json.dumps({"labels": found}))


def _enrich(batch: Sequence[Listed], *, with_pages: bool) -> dict[str, int | None]:
    """Classify and embed a batch, and return the best label of each item."""
    models = ModelSettings()
    classifier = image_classifier.load(models.image_cpu, "cpu")
    embedder = text_embedder.load(models.text)
    prepared = [classifier.prepare(item.photo.read_bytes()) for item in batch]
    answers = [answer.label for answer in classifier.classify(prepared)]
    texts = [_main_text(item) if with_pages else item.text() for item in batch]
    embedder.embed(
        [f"{item.name}. {answer.label}. {text}" for item, answer, text in zip(batch, answers, texts, strict=True)]
    )
    return {item.id: answer.top[0].label_index for item, answer in zip(batch, answers, strict=True)}


def _main_text(item: Listed) -> str:
    import trafilatura

    return trafilatura.extract(item.page.read_text(encoding="utf-8")) or ""


if __name__ == "__main__":
    main()
