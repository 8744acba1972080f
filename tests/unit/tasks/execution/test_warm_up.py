"""What a worker does ahead of its first stage."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from repli.tasks.execution.warm_up import warm_up
from repli.tasks.models.loading import LOAD_LIMIT_S
from repli.tasks.settings import Settings
from tests.support.default_pipeline import PIPELINE
from tests.support.own_models import hanging_image_model, hanging_text_model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Great Expectations imports it
def test_a_worker_waits_for_no_model(tmp_path: Path, settings: Settings) -> None:
    """Both models are on a disk that does not answer: they are begun, and the worker is free for its first stage."""
    image, labels = hanging_image_model(tmp_path / "image")
    text, config = hanging_text_model(tmp_path / "text")
    models = replace(settings.models, image_cpu=image, text=text)
    chosen = {"pipeline": "repli:default_pipeline", "pipeline_version": PIPELINE.version}
    started = time.monotonic()
    warm_up(replace(settings, models=models, **chosen))
    assert time.monotonic() - started < LOAD_LIMIT_S / 2
    assert wait_for_reader(labels)
    assert wait_for_reader(config)


def wait_for_reader(pipe: Path) -> bool:
    """Whether something reads the pipe, within a minute; what it reads is nothing, so that it ends."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            return True
        time.sleep(0.05)
    return False
