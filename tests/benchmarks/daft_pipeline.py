"""The same two models in Daft, as one of its users would write it: classes with models, an error costs its row alone.

``python -m tests.benchmarks.daft_pipeline MANIFEST`` classifies the photos and embeds the texts of a catalogue in a
process for each processor, writes a Parquet file, and prints the label of each item as JSON. Photos are decoded and
scaled, and models run, by Repli's own functions. Nothing is extracted, validated or stored.

Daft is no dependency of Repli: ``pip install daft==0.7.26``. Run it with ``OMP_NUM_THREADS=1``: without it the
processes get in each other's way.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import daft
from daft import DataType, col
from dask.system import CPU_COUNT

from repli.tasks.models import image_classifier, text_embedder
from repli.tasks.settings import ModelSettings
from tests.support.catalogues import read_catalogue

BATCH = 128
DIMENSIONS = 384


@daft.cls(max_concurrency=int(CPU_COUNT), use_process=True)
class Classifier:
    """The image model; a photo that cannot be read has no label."""

    def __init__(self) -> None:
        self._model = image_classifier.load(ModelSettings().image_cpu, "cpu")

    @daft.method.batch(return_dtype=DataType.int64(), batch_size=BATCH)
    def classify(self, photos: daft.Series) -> list[int | None]:
        prepared = [self._prepared(photo) for photo in photos.to_pylist()]
        answers = iter(self._model.classify([image for image in prepared if image is not None]))
        return [None if image is None else next(answers).label.top[0].label_index for image in prepared]

    def _prepared(self, photo: bytes | None) -> Any:
        try:
            return None if photo is None else self._model.prepare(photo)
        except Exception:
            return None


@daft.cls(max_concurrency=int(CPU_COUNT), use_process=True)
class Embedder:
    """The text model."""

    def __init__(self) -> None:
        self._model = text_embedder.load(ModelSettings().text)

    @daft.method.batch(return_dtype=DataType.embedding(DataType.float32(), DIMENSIONS), batch_size=BATCH)
    def embed(self, names: daft.Series, labels: daft.Series, texts: daft.Series) -> list[Any]:
        rows = zip(names.to_pylist(), labels.to_pylist(), texts.to_pylist(), strict=True)
        return list(self._model.embed([f"{name}. {label}. {text}" for name, label, text in rows]))


def main() -> None:
    """Go through the catalogue that the command line names, and print the labels."""
    items = read_catalogue(Path(sys.argv[1]))
    frame = daft.from_pydict(
        {
            "id": [item.id for item in items],
            "name": [item.name for item in items],
            "text": [item.text() for item in items],
            "photo": [str(item.photo) for item in items],
        }
    )
    frame = frame.with_column("content", col("photo").download(on_error="null"))
    frame = frame.with_column("label", Classifier().classify(col("content"))).exclude("content")
    frame = frame.with_column("vector", Embedder().embed(col("name"), col("label"), col("text")))
    with tempfile.TemporaryDirectory() as folder:
        frame.write_parquet(folder)
        rows = daft.read_parquet(f"{folder}/*.parquet").select("id", "label").to_pydict()
    print(json.dumps({"labels": dict(zip(rows["id"], rows["label"], strict=True))}))


if __name__ == "__main__":
    main()
