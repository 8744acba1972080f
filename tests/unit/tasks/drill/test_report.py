"""What people read of a drill, beside one that was held before `not_covered` existed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

from rich.console import Console

from repli.flows.cli.render import drill_page
from repli.tasks.drill.relative_accuracy import Basis, Estimate, Measurement
from repli.tasks.drill.report import explain_penalties, markdown
from repli.tasks.drill.verdict import DrillVerdict, RungVerdict
from repli.tasks.storage import drills
from repli.tasks.storage.database import Database

GONE = "there is no CUDA device here"
NOTE = "it declined 12 of 12 items: Declined: no word"
NOW = datetime(2026, 1, 4, 4, tzinfo=UTC)
GPU = RungVerdict(stage="classify_image", rung="gpu", is_reached=False, not_covered=GONE)
RULES = RungVerdict(stage="classify_image", rung="rules", items=12, note=NOTE, penalty=0.8)
LAST = DrillVerdict(sample=12, rungs=[GPU, RULES], rules=[])
HEADLINE = "passed: 1 of 2 rungs reached on 12 items, not covered: classify_image.gpu"


def old_report() -> dict[str, Any]:
    """The report of a Repli that failed what it could not cover."""
    rungs = [replace(GPU, reason=f"it is unavailable: {GONE}"), RULES]
    report = DrillVerdict(sample=12, rungs=rungs, rules=[]).as_json()
    del report["not_covered"]
    for rung in report["rungs"]:
        del rung["note"]
    return report


def held(database: Database) -> list[drills.Drill]:
    """Two drills, as the store has them: the last one first."""
    week = timedelta(days=7)
    drills.keep(database, "old", NOW - week, NOW - week, old_report())
    drills.keep(database, "new", NOW, NOW, LAST.as_json())
    return drills.latest(database)


def test_an_old_report_is_read_with_what_it_lacks(database: Database) -> None:
    """It covered everything, and had no notes; a new one is read as it was kept."""
    last, old = held(database)
    assert last.report == LAST.as_json()
    assert (old.verdict, old.report["not_covered"]) == ("failed", [])
    assert [rung["note"] for rung in old.report["rungs"]] == ["", ""]
    assert drills.of_flow_run(database, "old") == old


def test_the_same_words_everywhere(database: Database) -> None:
    """The page of the terminal and that of Prefect say what is not covered and why, what is noted, and how it was."""
    both = held(database)
    assert str(LAST) == HEADLINE
    page = markdown(str(LAST), both)
    console = Console(width=240, file=StringIO())
    with console.capture() as shown:
        console.print(drill_page(both))
    terminal = shown.get()
    for text in (page, terminal):
        assert HEADLINE in text.replace("\\", "")
        assert "not covered, was failed" in text
        assert GONE in text
        assert "it declined 12 of 12 items" in text
        assert "not_covered" not in text


def measured(rung: str, basis: Basis, justified: float, penalty: float = 0.8) -> RungVerdict:
    """A rung that was measured, and what that justifies."""
    relative = Estimate(value=justified, low=justified, high=justified)
    found = Measurement(basis=basis, relative=relative)
    return replace(RULES, rung=rung, penalty=penalty, penalty_justified=justified, measured=found)


def test_a_justified_penalty_below_the_declared_one_is_explained(database: Database) -> None:
    """By what it rests on, with the rungs and what to do; in the terminal and in Prefect."""
    rungs = [
        measured("primary", Basis.AGREEMENT, 1.0, penalty=1.0),
        measured("hashed", Basis.AGREEMENT, 0.14),
        measured("cpu", Basis.CONFIDENCES, 0.7),
        measured("rules", Basis.ANSWERS, 0.5),
        measured("better", Basis.ANSWERS, 0.95),
    ]
    report = DrillVerdict(sample=12, rungs=rungs, rules=[])
    _, agreement, confidences, answers = explain_penalties(report.as_json())
    assert "which is no accuracy" in agreement and agreement.endswith("(classify_image.hashed)")
    assert "confidences of the models" in confidences and confidences.endswith("(classify_image.cpu)")
    assert "a second drill" in answers and answers.endswith("(classify_image.rules)")
    drills.keep(database, "new", NOW, NOW, report.as_json())
    page = markdown(str(report), drills.latest(database))
    console = Console(width=400, file=StringIO())
    with console.capture() as shown:
        console.print(drill_page(drills.latest(database)))
    for text in (page.replace("\\", ""), shown.get()):
        assert "Nothing changes by itself" in text
        assert "by the mere agreement with the primary, which is no accuracy" in text


def test_without_a_lower_measurement_nothing_is_explained() -> None:
    """A rung as good as declared, or not measured, raises no question."""
    rungs = [measured("hashed", Basis.ANSWERS, 0.8), replace(RULES, penalty_justified=None)]
    assert explain_penalties(DrillVerdict(sample=12, rungs=rungs, rules=[]).as_json()) == []
