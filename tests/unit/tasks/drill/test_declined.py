"""A rung that declines has answered: a drill remarks on it, and does not fail it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from repli.tasks.drill.judge import judge_stage
from repli.tasks.drill.verdict import RungVerdict
from repli.tasks.fallback import Declined, ItemError
from repli.tasks.items import Label
from repli.tasks.pipeline import Pipeline, Stage
from repli.tasks.settings import Settings
from tests.support.in_process import enrich, fresh_runtime

ITEMS = 12
KNOWN = {"0", "1", "2"}
Answer = Callable[[str], str]


def knows_all(name: str) -> str:
    return f"label {name}"


def knows_three(name: str) -> str:
    if name not in KNOWN:
        raise Declined(f"no word for {name}")
    return knows_all(name)


def knows_none(name: str) -> str:
    raise Declined(f"no word for {name}")


def fails_but_for_three(name: str) -> str:
    if name not in KNOWN:
        raise ItemError(f"cannot read {name}")
    return knows_all(name)


def judged(folder: Path, first: Answer, second: Answer) -> dict[str, RungVerdict]:
    """The verdicts on a stage of these two rungs, by the names of their functions."""
    stage = Stage("label", input=lambda item: item.name, produces=Label)
    stage.rung(time_limit_s=5, per_item=True)(first)
    stage.rung(penalty="0.8", time_limit_s=5, per_item=True)(second)
    stage.skip(penalty="0.5")
    (folder / "items.jsonl").write_text(
        "\n".join(json.dumps({"id": str(number), "name": str(number)}) for number in range(ITEMS))
    )
    settings = Settings.from_environment({"REPLI_HOME": str(folder / "home")})
    pipeline = Pipeline([stage])
    ids = list(enrich(settings, folder / "items.jsonl", forced={}, stages=pipeline.stages))
    verdicts, *_ = judge_stage(pipeline, "label", ids, settings, fresh_runtime())
    return {verdict.rung: verdict for verdict in verdicts}


@pytest.mark.parametrize(("fallback", "declined"), [(knows_three, 9), (knows_none, 12)])
def test_a_rung_that_declines_most_items_passes(fallback: Answer, declined: int, tmp_path: Path) -> None:
    """It is reached, and the note says how many items it declined and why."""
    verdict = judged(tmp_path, knows_all, fallback)[fallback.__name__]
    assert (verdict.verdict, verdict.is_reached, verdict.items) == ("passed", True, ITEMS - declined)
    assert verdict.note == f"it declined {declined} of 12 items: Declined: no word for {12 - declined}"


def test_a_primary_that_declines_all_items_passes(tmp_path: Path) -> None:
    """There is nothing to compare the fallback with."""
    verdicts = judged(tmp_path, knows_none, knows_all)
    assert {verdict.verdict for verdict in verdicts.values()} == {"passed"}
    assert verdicts["knows_all"].agreement is None


def test_a_rung_that_fails_on_most_items_still_fails(tmp_path: Path) -> None:
    """A failure is no answer."""
    verdict = judged(tmp_path, knows_all, fails_but_for_three)["fails_but_for_three"]
    assert verdict.verdict == "failed"
    assert verdict.reason == (
        "it served or declined 3 of the 12 items that the primary serves: ItemError: cannot read 3"
    )
