"""Try a stage on a few inputs, as in a test or a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import repli
from repli.tasks.fallback import Status, UsageError
from repli.tasks.pipeline import Stage, StageContext
from repli.tasks.pipeline.trial import MAX_WIDTH, Trial
from tests.support import ROOT
from tests.support.own_pipeline import stage_by

WORDS = {"cat": "chat", "dog": "chien"}


def translate() -> Stage:
    """The stage of the design: a service that is not there, a dictionary, and skip."""
    stage = Stage("translate", input=lambda item: item.name)

    @stage.rung(time_limit_s=30, breaker=repli.Breaker(scope="fleet"))
    def service(names: list[str]) -> list[str]:
        raise repli.Unavailable("no service is configured")

    @stage.rung(penalty="0.8", time_limit_s=5, per_item=True)
    def dictionary(name: str) -> str:
        if name not in WORDS:
            raise repli.Declined(f"no translation of {name!r}")
        return WORDS[name]

    stage.skip(penalty="0.7")
    return stage


def test_it_prints_as_a_table() -> None:
    """One line for each input, in their order: what served, the value and why the best rung did not serve."""
    assert str(translate().try_on(["cat", "axolotl", None])).splitlines() == [
        "status          rung        value   confidence  penalty  reason",
        "degraded        dictionary  'chat'  1           0.8      Unavailable: no service is configured",
        "skipped         skip                0           0.7      Unavailable: no service is configured",
        "not_applicable                                  1",
    ]


def test_a_notebook_shows_the_table() -> None:
    """Its cells are those of the text, and none is taken for HTML."""
    html = stage_by("s", lambda name: "<b>&").try_on(["cat"])._repr_html_()
    cells = ["succeeded", "only", "&#x27;&lt;b&gt;&amp;&#x27;", "1", "1", ""]
    assert html.endswith(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr></tbody></table>")
    assert html.startswith("<table><thead><tr><th>status</th><th>rung</th>")


def test_the_results_are_those_of_a_run() -> None:
    """With their trail, their penalty and the time; their ids are the positions of the inputs."""
    first, second = translate().try_on(["cat", "axolotl"])
    assert (first.item_id, first.stage, first.status, first.value, first.penalty) == (
        "1",
        "translate",
        Status.DEGRADED,
        "chat",
        Decimal("0.8"),
    )
    assert [(attempt.rung, attempt.outcome.value) for attempt in second.attempts] == [
        ("service", "unavailable"),
        ("dictionary", "declined"),
        ("skip", "served"),
    ]
    assert second.finished_at
    assert datetime.now(UTC) - second.finished_at < timedelta(minutes=1)


def test_a_required_stage_fails() -> None:
    """The reason is in the table, and there is no penalty."""

    def refuse(name: str) -> str:
        raise repli.InvalidItem("it has no name")

    trial = stage_by("s", refuse, skip=None).try_on(["cat"])
    assert str(trial).splitlines()[1].split() == ["failed", "0", "InvalidItem:", "it", "has", "no", "name"]
    assert trial[0].status is Status.FAILED


def test_nothing_to_do_calls_nothing() -> None:
    """None among the inputs is not applicable, and no input at all is a table without rows."""
    stage = stage_by("s", lambda name: pytest.fail("the rung was called"))
    assert [result.status for result in stage.try_on([None, None])] == [Status.NOT_APPLICABLE] * 2
    assert stage.try_on([]) == Trial()
    assert str(stage.try_on([])) == "status  rung  value  confidence  penalty  reason"


@pytest.mark.parametrize("text", ["cat", b"cat", 5, None])
def test_one_value_is_no_list_of_inputs(text: Any) -> None:
    """The letters of a text are not what was meant."""
    with pytest.raises(
        UsageError, match=r"^try_on takes a list of inputs, one for each item; write try_on\(\[...\]\)$"
    ):
        translate().try_on(text)


def test_the_inputs_may_come_one_after_the_other() -> None:
    """A generator of inputs, or the keys of a dict, are tried too."""
    assert [result.value for result in translate().try_on(name for name in WORDS)] == ["chat", "chien"]  # type: ignore[arg-type]
    assert [result.value for result in translate().try_on(WORDS.keys())] == ["chat", "chien"]  # type: ignore[arg-type]


def test_long_values_are_cut() -> None:
    """The results have all of it; a reason is shown whole, for its end says what to do."""
    long = "x" * 500

    def fail(name: str) -> str:
        raise ValueError(long)

    trial = stage_by("s", lambda name: long).try_on(["cat"])
    assert f"'{'x' * (MAX_WIDTH - 2)}…" in str(trial)
    assert trial[0].value == long
    failed = stage_by("s", fail).try_on(["cat"])
    assert str(failed).endswith(long)
    assert failed[0].error
    assert failed[0].error.message == long


def test_a_rung_gets_a_context_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty store in a folder that is gone afterwards: the user's own is not touched."""
    monkeypatch.setenv("REPLI_HOME", str(tmp_path / "home"))
    stage = Stage("s", input=len)
    seen: list[Path] = []

    @stage.rung(time_limit_s=5)
    def by_time(names: list[str], context: StageContext) -> list[str]:
        assert context.database.is_migrated()
        assert context.now.tzinfo
        seen.append(context.settings.home)
        return [f"{name} in {context.run_id}" for name in names]

    assert [result.value for result in stage.try_on(["cat"])] == ["cat in try_on"]
    [home] = seen
    assert not home.exists()
    assert not (tmp_path / "home").exists()


def test_it_needs_no_prefect() -> None:
    """Neither Prefect nor Dask nor torch is loaded to declare a pipeline and to try its stage."""
    code = """
import json, sys
import repli
stage = repli.Stage("s", input=lambda item: item.name)
@stage.rung(time_limit_s=5)
def rung(names, context):
    return names
pipeline = repli.Pipeline([stage])
[result] = stage.try_on(["cat"])
assert result.value == "cat"
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "sqlalchemy" in loaded
    assert not loaded & {"prefect", "dask", "distributed", "torch", "timm", "pandas", "great_expectations"}
