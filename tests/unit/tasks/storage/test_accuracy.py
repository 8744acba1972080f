"""The expected accuracy of stored items, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.drill.relative_accuracy import Estimate
from repli.tasks.drill.verdict import DrillVerdict, RungVerdict
from repli.tasks.fallback import Rate, Status, StepResult
from repli.tasks.items import Item
from repli.tasks.storage import accuracy, counts, drills, pipelines, results
from repli.tasks.storage.accuracy import rates, refresh_expected_accuracy
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items
from repli.tasks.storage.schema import rates as rates_table
from tests.support.default_pipeline import STORED
from tests.support.stores import store_at

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
SURE: dict[str, Any] = {"status": Status.SUCCEEDED, "rung": "gpu", "penalty": Decimal(1), "confidence": 0.8}
LESS: dict[str, Any] = {"status": Status.DEGRADED, "rung": "cpu", "penalty": Decimal("0.9"), "confidence": 0.5}
NONE: dict[str, Any] = {"status": Status.SKIPPED, "rung": "skip", "penalty": Decimal("0.7"), "confidence": 0.0}


def save(database: Database, item_id: str, stage: str = "classify_image", **fields: Any) -> None:
    results.save(database, [StepResult(item_id=item_id, stage=stage, run_id="run", finished_at=NOW, **fields)])


def accuracies(database: Database) -> dict[str, float | None]:
    with database.read() as connection:
        return dict(connection.execute(sa.select(items.c.id, items.c.expected_accuracy)).tuples().all())


def keep_drill(database: Database, days: int, **rungs: Mapping[str, Any]) -> None:
    """A drill that ended so many days after the first, with what it has measured of some rungs of classify_image."""
    ended = NOW + timedelta(days=days)
    report = {
        "verdict": "passed",
        "rungs": [{"stage": "classify_image", "rung": name, **measured} for name, measured in rungs.items()],
    }
    drills.keep(database, None, ended, ended, report)


def measured(value: float | None, mean_confidence: float | None, answered: int = 20) -> dict[str, Any]:
    interval = [0.3, 0.5] if value is not None else None
    return {
        "accuracy": value,
        "accuracy_interval": interval,
        "mean_confidence": mean_confidence,
        "answered": answered,
    }


@pytest.fixture
def filled(database: Database, registered: Callable[..., str]) -> str:
    """Three stored items, by `gpu`, by `cpu`, and without a label, and one that is pending. The id of their run."""
    run_id = registered("sure", "less", "none", "pending")
    for item_id, fields in {"sure": SURE, "less": LESS, "none": NONE, "pending": SURE}.items():
        save(database, item_id, "extract_text", **{**SURE, "rung": "full", "confidence": 0.9})
        save(database, item_id, **fields)
    store_at(database, run_id, {"sure": Decimal(1), "less": Decimal("0.9"), "none": Decimal("0.7")})
    return run_id


def test_it_is_written_with_the_quality(database: Database, filled: str) -> None:
    """In the transaction that stores the item; a pending item has none."""
    assert accuracies(database) == {"sure": 0.72, "less": 0.45, "none": 0.0, "pending": None}
    tally = counts.tally(database, ["classify_image"])
    assert tally.expected_accuracy == {0.7: 1, 0.4: 1, 0.0: 1}
    assert tally.mean_expected_accuracy == tally.as_json()["mean_expected_accuracy"] == 0.39


def test_an_item_that_fails_later_has_none(database: Database, filled: str) -> None:
    """As it has no quality."""
    save(database, "sure", "translate", status=Status.FAILED, confidence=0.0)
    assert accuracies(database)["sure"] is None


def test_an_item_that_could_not_be_stored_before_has_one(database: Database, registered: Callable[..., str]) -> None:
    """What its results come to: that `store` had failed says nothing about them."""
    run_id = registered("sure")
    save(database, "sure", **SURE)
    save(database, "sure", "store", status=Status.FAILED, confidence=0.0)
    store_at(database, run_id, {"sure": Decimal(1)})
    assert accuracies(database) == {"sure": 0.8}


def test_an_item_whose_record_changed_has_none(database: Database, filled: str, registered: Callable[..., str]) -> None:
    """Until it is stored again."""
    registered(Item(id="sure", name="Another"))
    assert accuracies(database) == {"sure": None, "less": 0.45, "none": 0.0, "pending": None}


def test_items_that_another_pipeline_takes_up_have_none(database: Database, filled: str) -> None:
    """Their results of other stages are gone."""
    pipelines.change(database, replace(STORED, chains=STORED.chains[:2]))
    assert set(accuracies(database).values()) == {None}


def test_a_drill_replaces_the_rates(database: Database, filled: str) -> None:
    """Of the rungs of whose answers people know the truth; items that are stored and that will be go by it."""
    assert rates(database) == {}
    keep_drill(database, 0, gpu=measured(0.4, 0.8), cpu=measured(0.1, 0.5, answered=0))
    assert refresh_expected_accuracy(database) == 1
    assert accuracies(database) == {"sure": 0.36, "less": 0.45, "none": 0.0, "pending": None}
    store_at(database, filled, {"pending": Decimal(1)})
    assert accuracies(database)["pending"] == 0.36
    source = "the drill of 2026-11-23 03:00 UTC"
    gpu = Rate(value=0.4, interval=(0.3, 0.5), items=20, source=source, mean_confidence=0.8)
    assert rates(database) == {"classify_image.gpu": gpu}


def test_the_report_of_a_drill_is_read(database: Database, filled: str) -> None:
    """As `repli drill --json` has it."""
    accuracy = Estimate(value=0.4, low=0.3, high=0.5)
    gpu = RungVerdict(stage="classify_image", rung="gpu", accuracy=accuracy, mean_confidence=0.8, answered=20)
    cpu = RungVerdict(stage="classify_image", rung="cpu", mean_confidence=0.6)
    report = DrillVerdict(sample=200, rungs=[gpu, cpu], rules=[], problems=[]).as_json()
    drills.keep(database, None, NOW, NOW, report)
    refresh_expected_accuracy(database)
    assert accuracies(database) == {"sure": 0.36, "less": 0.45, "none": 0.0, "pending": None}
    assert rates(database)["classify_image.gpu"].interval == (0.3, 0.5)


def test_the_latest_drill_counts(database: Database, filled: str) -> None:
    """One without answers brings back the confidences as they are."""
    keep_drill(database, 0, gpu=measured(0.4, 0.8))
    refresh_expected_accuracy(database)
    keep_drill(database, 7, gpu=measured(None, 0.8, answered=0))
    assert refresh_expected_accuracy(database) == 1
    assert accuracies(database)["sure"] == 0.72


def test_reports_of_an_older_repli_have_no_rates(database: Database, filled: str) -> None:
    """Nor does a rung that served nothing."""
    keep_drill(database, 0, gpu={"agreement": 0.9}, cpu=measured(0.0, None))
    assert refresh_expected_accuracy(database) == 0
    assert rates(database) == {}


def test_nothing_is_done_where_no_rate_has_changed(database: Database, filled: str) -> None:
    """Not even a look at the items: a wrong number stays."""
    keep_drill(database, 0, gpu=measured(0.4, 0.8))
    refresh_expected_accuracy(database)
    with database.write() as connection:
        connection.execute(sa.update(items).where(items.c.id == "sure").values(expected_accuracy=0.123))
    keep_drill(database, 7, gpu=measured(0.4, 0.8))
    assert refresh_expected_accuracy(database) == 0
    assert accuracies(database)["sure"] == 0.123


def test_items_of_an_older_repli_get_theirs(database: Database, filled: str) -> None:
    """Where the store has not noted any rates yet."""
    with database.write() as connection:
        connection.execute(sa.update(items).values(expected_accuracy=None))
        connection.execute(sa.delete(rates_table))
    assert refresh_expected_accuracy(database) == 3
    assert accuracies(database) == {"sure": 0.72, "less": 0.45, "none": 0.0, "pending": None}
    assert refresh_expected_accuracy(database) == 0


def test_an_interrupted_refresh_is_made_up_for(
    database: Database, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rates are in force, and not all items go by them: the next call does not take it for done."""
    refresh_expected_accuracy(database)
    keep_drill(database, 0, gpu=measured(0.4, 0.8))
    monkeypatch.setattr(accuracy, "ITEMS_PER_WRITE", 1)
    with monkeypatch.context() as patched:
        stop_at = iter([False, True])
        refresh = accuracy._refresh_next

        def refresh_or_die(store: Database, last: str) -> tuple[str, int] | None:
            if next(stop_at):
                raise KeyboardInterrupt
            return refresh(store, last)

        patched.setattr(accuracy, "_refresh_next", refresh_or_die)
        with pytest.raises(KeyboardInterrupt):
            refresh_expected_accuracy(database)
    assert accuracies(database)["sure"] == 0.72
    assert refresh_expected_accuracy(database) == 1
    assert accuracies(database)["sure"] == 0.36


def test_a_large_store_is_refreshed_in_portions(
    database: Database, registered: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every item once, whatever the size of a portion."""
    monkeypatch.setattr(accuracy, "ITEMS_PER_WRITE", 3)
    names = [f"{number:02}" for number in range(10)]
    run_id = registered(*names)
    for name in names:
        save(database, name, **SURE)
    store_at(database, run_id, dict.fromkeys(names, Decimal(1)))
    keep_drill(database, 0, gpu=measured(0.4, 0.8))
    assert refresh_expected_accuracy(database) == 10
    assert set(accuracies(database).values()) == {0.4}
