"""The models on one thread of a processor, by torch and by OpenVINO: time, agreement, and the time to load them.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.runtimes

Pictures: the 20 ImageNet photos of foolbox and the photos of scikit-image of at least 300 pixels. Texts: 200 Wikipedia
introductions. Times are the best of `--repeats`, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from repli.flows.cli.demo.catalogue import package_data, read_articles
from repli.tasks.models import image_classifier, text_embedder
from repli.tasks.settings import ModelSettings

MIN_PIXELS = 300
TEXTS = 200
RUNTIMES = ("torch", "openvino")


def main() -> None:
    """Print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    models = ModelSettings()
    for source in (models.image_cpu, models.image_gpu):
        print_classifier(source, repeats)
    print_embedder(models.text, repeats)
    for source in (models.image_cpu, models.image_gpu, models.text):
        print(f"{source}: {seconds_to_load(source):.2f} s to load what is kept, in a new process, imports included")


def print_classifier(source: str, repeats: int) -> None:
    """Print the time per picture of each runtime, and how many labels are the same."""
    by_torch, by_openvino = (image_classifier.load(source, "cpu", runtime) for runtime in RUNTIMES)
    images = [by_torch.prepare(photo) for photo in photos()]
    wanted, found = by_torch.classify(images), by_openvino.classify(images)
    same = sum(one.label.label == other.label.label for one, other in zip(wanted, found, strict=True))
    difference = max(abs(one.confidence - other.confidence) for one, other in zip(wanted, found, strict=True))
    times = " · ".join(
        f"{name} {best_ms(lambda model=model: model.classify(images), len(images), repeats):.1f} ms"  # type: ignore[misc]
        for name, model in zip(RUNTIMES, (by_torch, by_openvino), strict=True)
    )
    print(f"{source}: {times}; the same label for {same} of {len(images)}, confidences within {difference:.4f}")


def print_embedder(source: str, repeats: int) -> None:
    """Print the time per text of each runtime, and how alike the vectors are."""
    by_torch, by_openvino = (text_embedder.load(source, "cpu", runtime) for runtime in RUNTIMES)
    texts = [f"{article.title}. {article.text}" for article in read_articles()[:TEXTS]]
    cosines = (by_torch.embed(texts) * by_openvino.embed(texts)).sum(-1)
    times = " · ".join(
        f"{name} {best_ms(lambda model=model: model.embed(texts), len(texts), repeats):.1f} ms"  # type: ignore[misc]
        for name, model in zip(RUNTIMES, (by_torch, by_openvino), strict=True)
    )
    words = np.mean([len(text.split()) for text in texts])
    print(f"{source}: {times}, {words:.0f} words a text; least cosine {cosines.min():.5f}")


def best_ms(call: Callable[[], object], items: int, repeats: int) -> float:
    """Return the milliseconds per item of the fastest call."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds) / items * 1000


def photos() -> Sequence[bytes]:
    """Return the photos of the packages that are large enough."""
    files = [
        *sorted(package_data("foolbox").glob("imagenet_*")),
        *(file for file in sorted(package_data("skimage").iterdir()) if file.suffix in {".png", ".jpg"}),
    ]
    return [file.read_bytes() for file in files if min(Image.open(file).size) >= MIN_PIXELS]


def seconds_to_load(source: str) -> float:
    """Return the seconds that a new process takes until it has the model that is kept."""
    module = "text_embedder" if source == ModelSettings().text else "image_classifier"
    program = (
        f"import time; started = time.perf_counter(); source = {source!r}; "
        f"from repli.tasks.models import {module}; {module}.load(source, 'cpu'); print(time.perf_counter() - started); "
        "import sys; assert 'torch' not in sys.modules"
    )
    folder = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
