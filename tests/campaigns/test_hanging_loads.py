"""`repli run` with models on a disk that does not answer: real workers, and the real limit of a load."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.models.loading import LOAD_LIMIT_S
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import step_results
from tests.support.command_line import command, environment, write_manifest
from tests.support.own_models import hanging_image_model, hanging_text_model

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]

ITEMS = 12


def test_items_are_fetched_at_once_and_stored_with_fallbacks(tmp_path: Path) -> None:
    """Nothing waits for a load but the stage that needs it, and that no longer than the load's limit."""
    home = tmp_path / "home"
    (image, _), (text, _) = hanging_image_model(tmp_path / "image"), hanging_text_model(tmp_path / "text")
    manifest = write_manifest(tmp_path / "items", ITEMS)
    models = {"REPLI_IMAGE_MODEL_GPU": image, "REPLI_IMAGE_MODEL_CPU": image, "REPLI_TEXT_MODEL": text}
    run = subprocess.run(
        command("run", manifest, "--json"),
        env={**environment(home), **models},
        capture_output=True,
        text=True,
        timeout=800,
        check=True,
    )
    report = json.loads(run.stdout)
    assert (report["stored"], report["failed"]) == (ITEMS, 0)
    assert report["rungs"]["embed_text"] == {"hashed": ITEMS}
    assert sum(report["rungs"]["classify_image"].get(rung, 0) for rung in ("rules", "skip")) == ITEMS
    limit = timedelta(seconds=LOAD_LIMIT_S)
    assert finished(home, "fetch") < finished(home, "classify_image") - limit / 2, "no fetch waits for a load"
    assert finished(home, "embed_text") < finished(home, "classify_image") + limit / 2, "both load at the same time"
    shown = subprocess.run(
        command("show", "item-0", "--json"), env=environment(home), capture_output=True, text=True, check=True
    )
    stages: dict[str, Any] = json.loads(shown.stdout)["stages"]
    for stage, source in (("classify_image", image), ("embed_text", text)):
        told = [attempt["error"]["message"] for attempt in stages[stage]["attempts"] if attempt["outcome"] == "failed"]
        assert any(f"model {source!r} has been loading since" in message for message in told), told
        assert any("for more than 120 s; check that its disk or server answers" in message for message in told)


def finished(home: Path, stage: str) -> datetime:
    """The time at which the last item had this stage."""
    store = Database(f"sqlite:///{home / 'repli.db'}")
    with store.read() as connection:
        time = connection.scalar(
            sa.select(sa.func.max(step_results.c.finished_at)).where(step_results.c.stage == stage)
        )
    store.engine.dispose()
    assert isinstance(time, datetime)
    return time
