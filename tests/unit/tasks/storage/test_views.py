"""What other tools see of a store: the documented views, and the quality that each run left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.fallback import Attempt, AttemptOutcome, Status, StepError, StepResult
from repli.tasks.items import Item, Text
from repli.tasks.storage import results, runs
from repli.tasks.storage.database import Database
from tests.support import ROOT
from tests.support.stores import store_at

NIGHT = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
GONE = StepError(type="OutOfMemory", message="CUDA out of memory")
TRAIL = (
    Attempt(rung="gpu", outcome=AttemptOutcome.FAILED, error=GONE),
    Attempt(rung="cpu", outcome=AttemptOutcome.SERVED),
)


def step(item_id: str, stage: str, status: Status, **fields: Any) -> StepResult:
    return StepResult(item_id=item_id, stage=stage, status=status, run_id="run", finished_at=NIGHT, **fields)


def rows(database: Database, query: str) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(row) for row in connection.execute(sa.text(query)).mappings()]


def test_repli_items_has_a_row_an_item(database: Database, registered: Callable[..., str]) -> None:
    """The stored, the failed and the pending; what a stage left stands beside them, by its name."""
    cat = Item(id="cat", name="A cat", document="It purrs.", image="cat.png", attributes={"colour": "grey"})
    run_id = registered(cat, "gone", "new")
    results.save(
        database,
        [
            step("cat", "extract_text", Status.SUCCEEDED, rung="full", value=Text(text="It purrs.")),
            step("cat", "classify_image", Status.DEGRADED, rung="cpu", value={"label": "tabby"}),
            step("cat", "embed_text", Status.SKIPPED, rung="skip", confidence=0.0),
            step("gone", "validate", Status.FAILED, error=GONE),
        ],
    )
    store_at(database, run_id, {"cat": Decimal("0.63")})
    found = {row["id"]: row for row in rows(database, "SELECT * FROM repli_items")}
    assert found["cat"] == {
        "id": "cat",
        "name": "A cat",
        "state": "stored",
        "quality": 0.63,
        "expected_accuracy": 0.0,
        "degraded_stages": 2,
        "document": "It purrs.",
        "image": "cat.png",
        "attributes": found["cat"]["attributes"],
        "text": "It purrs.",
        "label": "tabby",
        "vector_space": None,
        "run_id": run_id,
    }
    assert "".join(found["cat"]["attributes"].split()) == '{"colour":"grey"}'
    assert [(found[id_]["state"], found[id_]["quality"]) for id_ in ("gone", "new")] == [
        ("failed", None),
        ("pending", None),
    ]


def test_repli_steps_has_a_row_an_item_and_stage(database: Database, registered: Callable[..., str]) -> None:
    """With its status, and whatever else is said of it; a stage that has not run has none."""
    registered("cat")
    degraded = {"rung": "cpu", "penalty": Decimal("0.9"), "confidence": 0.5, "error": GONE, "retryable": True}
    results.save(
        database,
        [
            step("cat", "classify_image", Status.DEGRADED, value={"label": "tabby"}, attempts=TRAIL, **degraded),
            step("cat", "fetch", Status.NOT_APPLICABLE, penalty=Decimal(1)),
        ],
    )
    classified, fetched = rows(database, "SELECT * FROM repli_steps ORDER BY stage")
    assert classified.pop("finished_at")
    assert classified == {
        "item_id": "cat",
        "stage": "classify_image",
        "status": "degraded",
        "rung": "cpu",
        "penalty": 0.9,
        "confidence": 0.5,
        "retryable": True,
        "is_stale": False,
        "rung_version": None,
        "error_type": "OutOfMemory",
        "error_message": "CUDA out of memory",
        "attempts": 2,
        "value": classified["value"],
        "run_id": "run",
    }
    assert "tabby" in classified["value"]
    assert (fetched["status"], fetched["rung"], fetched["value"], fetched["error_type"], fetched["attempts"]) == (
        "not_applicable",
        None,
        None,
        None,
        0,
    )


PAGE = (ROOT / "docs" / "reference" / "sql-views.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("view", ["repli_items", "repli_steps"])
def test_the_page_has_every_column(database: Database, view: str) -> None:
    """The tables of the page name the columns that the views have, and no others."""
    documented = PAGE.split(f"`{view}`, a row", 1)[1].split("\n\n")[1]
    names = [name for row in documented.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    with database.read() as connection:
        assert sorted(names) == sorted(connection.execute(sa.text(f"SELECT * FROM {view}")).keys())


def test_the_query_of_the_page_runs(database: Database, registered: Callable[..., str]) -> None:
    """It says what costs the most quality."""
    registered("cat", "dog", "cow")
    less = {"status": Status.DEGRADED, "error": GONE}
    results.save(database, [step(id_, "classify_image", rung="cpu", **less) for id_ in ("cat", "dog")])
    results.save(database, [step("cow", "embed_text", rung="hashed", **less)])
    query = PAGE.split("```sql\n")[1].split("```")[0]
    assert [tuple(row.values()) for row in rows(database, query)] == [
        ("classify_image", "cpu", "OutOfMemory", 2),
        ("embed_text", "hashed", "OutOfMemory", 1),
    ]


def test_a_run_leaves_the_quality_of_the_whole_store(database: Database, registered: Callable[..., str]) -> None:
    """As it was when the run ended: what a later one mends is not written back."""
    first = registered("a", "b", "c", "failed", "pending")
    results.save(database, [step("failed", "validate", Status.FAILED)])
    store_at(database, first, {"a": Decimal(1), "b": Decimal("0.72"), "c": Decimal("0.72")})
    runs.finish(database, first, NIGHT)
    second = registered("b")
    assert runs.find(database, second).quality is None
    store_at(database, second, {"b": Decimal(1)})
    runs.finish(database, second, NIGHT)
    assert runs.find(database, first).quality == {"0.72": 2, "1.0": 1}
    assert runs.find(database, second).quality == {"0.72": 1, "1.0": 2}
