"""`repli.run`: what is refused before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import repli
from repli.tasks.fallback import UsageError
from repli.tasks.pipeline import Pipeline
from tests.support.own_pipeline import stage_by


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pipeline": Pipeline([stage_by("own")])}, "pipeline: give its name, such as 'translate:pipeline'"),
        ({"pipeline": "no_such_module:pipeline"}, "pipeline 'no_such_module:pipeline': there is no module"),
        ({"force": ["fetch=gpu"]}, "fetch has no rung 'gpu'"),
        ({"force": "fetch=skip"}, "force: give a list, such as ['fetch=skip']"),
        ({"faults": "fetch.origin=oom"}, "faults: give a list, such as ['fetch.origin=oom']"),
        ({"faults": ["fetch.origin=fire"]}, "choose from oom"),
        ({"batch_size": 0}, "--batch-size 0: a batch holds at least 1 item"),
        ({"database": "mysql://here"}, "is neither sqlite:///FILE nor postgresql://"),
        ({}, "there is no "),
    ],
    ids=["a pipeline", "its name", "a rung", "one rung", "one fault", "a fault", "a size", "a database", "a source"],
)
def test_a_wrong_argument_is_refused(
    options: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the command, and no store is made."""
    monkeypatch.setenv("REPLI_HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError) as raised:
        repli.run(tmp_path / "no_such_catalogue.jsonl", **options)
    assert reason in str(raised.value)
    assert not (tmp_path / "home").exists()
