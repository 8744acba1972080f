"""The progress of a run: how it counts, and how the store keeps it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from repli.tasks.storage import runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.runs import Progress

STAGES = {"validate": 4, "fetch": 2, "store": 0}


def test_a_beat_keeps_all_of_it(database: Database) -> None:
    """The stages stay in the pipeline's order, which is not that of the alphabet."""
    progress = Progress(items=5, finished=1, failed=1, earlier=1, quality={0.9: 1}, stages=STAGES)
    run_id = runs.start(database, str(uuid.uuid4()), "manifest.jsonl", {}, datetime.now(UTC))
    runs.beat(database, run_id, progress)
    saved = runs.find(database, run_id).progress
    assert saved is not None
    assert Progress.from_json(saved) == progress
    assert list(Progress.from_json(saved).stages) == list(STAGES)


def test_what_an_older_version_saved_is_read() -> None:
    """Its runs counted no stages."""
    old = {"items": 4, "finished": 1, "failed": 0, "quality": {"1.0": 1}}
    assert Progress.from_json(old).share == 0.25


@pytest.mark.parametrize(
    ("progress", "share"),
    [
        (Progress(items=4, stages=STAGES), 0.5),
        (Progress(items=8, earlier=4, finished=4, stages=STAGES), 0.75),
        (Progress(items=0, stages=dict.fromkeys(STAGES, 0)), 0.0),
        (Progress(items=1, stages=STAGES), 1.0),
    ],
    ids=["half", "with those of before", "nothing to do", "more than was expected"],
)
def test_the_share_is_of_the_results_of_all_stages(progress: Progress, share: float) -> None:
    """Those of items that were done before the run count as done, and it is never more than all."""
    assert progress.share == share
