"""Models of one's own through the whole pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repli.tasks.fallback import Status
from repli.tasks.settings import Settings
from tests.support import files
from tests.support.in_process import enrich
from tests.support.own_models import ARCHITECTURE, classifier, save_checkpoint, save_word_vectors, softmax


def test_their_answers_are_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label, index, vocabulary and confidence are the checkpoint's, and the vector is in the folder's space."""
    monkeypatch.chdir(tmp_path)
    logits, options = (0.5, 2.0, 1.0), '{"vocabulary": "my pets", "temperature": 0.5}'
    save_checkpoint(classifier(logits), Path("pets.safetensors"), labels="cat\nguinea pig\ndog\n", options=options)
    save_word_vectors(Path("words"))
    (tmp_path / "boat.png").write_bytes(files.png())
    record = {"id": "boat", "name": "a red boat", "document": "the sea", "image": "boat.png"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(record))
    settings = Settings.from_environment(
        {
            "REPLI_HOME": "home",
            "REPLI_GPU_DEVICE": "cpu",
            "REPLI_IMAGE_MODEL_GPU": f"timm:{ARCHITECTURE}@pets.safetensors",
            "REPLI_TEXT_MODEL": "words",
        }
    )
    monkeypatch.chdir("/")  # as a worker elsewhere
    boat = enrich(settings, tmp_path / "manifest.jsonl", forced={})["boat"]
    image, text = (boat.stages[stage] for stage in ("classify_image", "embed_text"))
    assert (image.status, image.rung) == (Status.SUCCEEDED, "gpu")
    confidence = pytest.approx(max(softmax(logits, 0.5)), abs=2e-4)
    assert (image.value["label"], image.value["label_index"]) == ("guinea pig", 1)
    assert image.value["vocabulary"] == "my pets"
    assert image.value["top"][0] == {"label": "guinea pig", "label_index": 1, "confidence": confidence}
    assert image.confidence == confidence
    assert (text.status, text.rung, text.value["space"].split(":")[0]) == (Status.SUCCEEDED, "text_and_label", "words")
