"""Step results in and out of the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from repli.tasks.fallback import Attempt, AttemptOutcome, Status, StepError, StepResult
from repli.tasks.items import Embedding, Item, Text
from repli.tasks.storage import catalogue, counts, results, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items, step_results
from repli.tasks.storage.views import lookup
from tests.support.stores import store_at

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
ENDS: list[dict[str, Any]] = [
    {"status": Status.SUCCEEDED, "rung": "gpu", "penalty": Decimal(1), "confidence": 0.9},
    {"status": Status.DEGRADED, "rung": "cpu", "penalty": Decimal("0.9"), "confidence": 0.8, "retryable": True},
    {"status": Status.DEGRADED, "rung": "rules", "penalty": Decimal("0.8"), "confidence": 0.5, "retryable": True},
    {"status": Status.SKIPPED, "rung": "skip", "penalty": Decimal("0.7"), "confidence": 0.0, "retryable": True},
    {"status": Status.FAILED, "rung": "skip", "confidence": 0.0, "retryable": True},
]


def step(item_id: str = "a", stage: str = "classify_image", **fields: Any) -> StepResult:
    """A finished step."""
    return StepResult(item_id=item_id, stage=stage, run_id="run", finished_at=NOW, **fields)


def kept(database: Database, item_id: str = "a") -> dict[str, StepResult]:
    """What the store has of an item."""
    return dict(results.load(database, [item_id])[0].results)


def test_a_result_comes_back_as_it_went_in(database: Database, registered: Callable[..., str]) -> None:
    """Nothing of a result is lost on the way: trail, error, exact penalty, time."""
    registered("a")
    error = StepError(type="OutOfMemory", message="no room", retryable=True)
    attempts = (
        Attempt(rung="gpu", outcome=AttemptOutcome.FAILED, error=error, seconds=0.25),
        Attempt(rung="cpu", outcome=AttemptOutcome.SERVED, seconds=0.5),
    )
    saved = step(**ENDS[1], value={"label": "cat"}, error=error, attempts=attempts)
    results.save(database, [saved])
    assert kept(database)["classify_image"] == saved


def test_a_vector_lies_beside_its_value(database: Database, registered: Callable[..., str]) -> None:
    """An embedding's value names its space; the vector is kept as float32 bytes."""
    registered("a")
    vector = np.linspace(0, 1, 8, dtype=np.float32)
    embedding = Embedding(space="s", vector=vector)
    results.save(database, [step(stage="embed_text", **ENDS[0], value=embedding)])
    assert kept(database)["embed_text"].value == {"space": "s", "dimensions": 8}
    with database.read() as connection:
        stored = connection.scalar(sa.select(step_results.c.vector))
    assert np.array_equal(np.frombuffer(stored, dtype=np.float32), vector)


@pytest.mark.parametrize("first", range(len(ENDS)))
@pytest.mark.parametrize("second", range(len(ENDS)))
def test_nothing_is_replaced_by_anything_worse(
    database: Database, registered: Callable[..., str], first: int, second: int
) -> None:
    """Of two results in either order the better stays, and of equals the later."""
    registered("a")
    results.save(database, [step(**ENDS[first], value={"n": 1})])
    results.save(database, [step(**ENDS[second], value={"n": 2})])
    stays = kept(database)["classify_image"]
    better = ENDS[min(first, second)]
    assert (stays.status, stays.rung, stays.penalty) == (better["status"], better["rung"], better.get("penalty"))
    assert stays.value == {"n": 2 if second <= first else 1}


def test_a_failure_that_is_not_kept_marks_nothing(database: Database, registered: Callable[..., str]) -> None:
    """An item whose better result stays is not marked failed."""
    run_id = registered("a")
    results.save(database, [step(**ENDS[0])])
    store_at(database, run_id, {"a": Decimal("0.72")})
    results.save(database, [step(**ENDS[4])])
    with database.read() as connection:
        assert connection.execute(sa.select(items.c.state, items.c.quality)).one() == ("stored", 0.72)


def test_a_failure_marks_its_item(database: Database, registered: Callable[..., str]) -> None:
    """A failed item is seen as such, without a quality."""
    registered("a", "b")
    results.save(database, [step(stage="validate", **ENDS[4])])
    with database.read() as connection:
        assert dict(connection.execute(sa.select(items.c.id, items.c.state)).all()) == {
            "a": "failed",
            "b": "pending",
        }


def test_items_come_in_the_order_asked(database: Database, registered: Callable[..., str]) -> None:
    """Loading follows the ids, and leaves out those that are not there."""
    registered("a", "b", "c")
    assert [state.item.id for state in results.load(database, ["c", "nobody", "a"])] == ["c", "a"]


def test_awkward_text_is_kept(database: Database, registered: Callable[..., str]) -> None:
    """Quotes, emoji and a text of 5 MB come back as they were."""
    registered("a")
    text = "\"'; DROP TABLE items; -- 🦜\n" * 200_000
    results.save(database, [step(stage="extract_text", **ENDS[0], value=Text(text=text))])
    assert kept(database)["extract_text"].value["text"] == text


class TestCatalogue:
    """Items into the store."""

    def test_of_two_lines_with_one_id_the_later_counts(
        self, database: Database, registered: Callable[..., str]
    ) -> None:
        """The run has one item, with the later record, in the later line's place, and says how many it dropped."""
        run_id = registered(Item(id="a", name="old"), Item(id="b", name="b"), Item(id="a", name="new"))
        assert results.load(database, ["a"])[0].item.name == "new"
        assert list(catalogue.batches(database, run_id, 10, refresh=False, lease_s=60)) == [("b", "a")]
        assert runs.find(database, run_id).duplicates == 1

    def test_duplicates_far_apart_do_not_undo_each_other(
        self, database: Database, registered: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A second run of a manifest with one id twice keeps the results, across transactions."""
        monkeypatch.setattr(catalogue, "LINES_PER_TRANSACTION", 1)
        lines = (Item(id="a", name="old"), Item(id="a", name="new"))
        registered(*lines)
        results.save(database, [step(**ENDS[0])])
        registered(*lines)
        assert "classify_image" in kept(database)

    def test_a_changed_record_begins_again(self, database: Database, registered: Callable[..., str]) -> None:
        """Results of an earlier record answer another question, and go; those of other items stay."""
        registered(Item(id="a", name="one"), Item(id="b", name="b"))
        results.save(database, [step(**ENDS[0]), step("b", **ENDS[0])])
        registered(Item(id="a", name="two"), Item(id="b", name="b"))
        assert kept(database) == {}
        assert "classify_image" in kept(database, "b")

    def test_batches_hold_what_is_left(self, database: Database, registered: Callable[..., str]) -> None:
        """Stored items and those failed for good are not sent again; a retryable failure is."""
        run_id = registered("stored", "hopeless", "retryable", "fresh")
        store_at(database, run_id, {"stored": Decimal(1)})
        results.save(database, [step("hopeless", "validate", status=Status.FAILED, retryable=False)])
        results.save(database, [step("retryable", "validate", status=Status.FAILED, retryable=True)])
        again = registered("stored", "hopeless", "retryable", "fresh")
        assert list(catalogue.batches(database, again, 10, refresh=False, lease_s=60)) == [("retryable", "fresh")]
        assert list(catalogue.batches(database, again, 3, refresh=True, lease_s=60)) == [
            ("stored", "hopeless", "retryable"),
            ("fresh",),
        ]

    def test_progress_counts_what_is_done(self, database: Database, registered: Callable[..., str]) -> None:
        """Stored and failed items are done; the quality mix is of the stored."""
        run_id = registered("stored", "hopeless", "fresh")
        store_at(database, run_id, {"stored": Decimal("0.9")})
        results.save(database, [step("hopeless", "validate", status=Status.FAILED)])
        progress = counts.progress(database, run_id, refresh=False)
        assert (progress.items, progress.finished, progress.failed, progress.quality) == (3, 2, 1, {0.9: 1})


def test_a_tally_counts_every_item_once_a_stage(database: Database, registered: Callable[..., str]) -> None:
    """Items without a result are pending; quality and rungs are counted; other runs' items are not."""
    registered("elsewhere")
    run_id = registered("a", "b", "c")
    results.save(database, [step("a", **ENDS[0]), step("b", **ENDS[1])])
    store_at(database, run_id, {"a": Decimal(1), "b": Decimal("0.9")})
    tally = counts.tally(database, ["classify_image"], run_id)
    assert tally.stages == {"classify_image": {"succeeded": 1, "degraded": 1, "pending": 1}}
    assert tally.rungs == {"classify_image": {"gpu": 1, "cpu": 1}}
    assert (tally.items, tally.stored, tally.degraded, tally.pending) == (3, 2, 1, 1)
    assert tally.as_json()["quality"] == {"1.0": 1, "0.9": 1}
    assert tally.mean_quality == 0.95


def test_rules_in_trails_are_counted_by_item(database: Database, registered: Callable[..., str]) -> None:
    """In their own words; other runs' items are not counted."""
    registered("elsewhere")
    run_id = registered("a", "b", "c")
    barred = StepError(type="Incompatible", message='a "guess" is no label')
    trail = (Attempt(rung="gpu", outcome=AttemptOutcome.INCOMPATIBLE, error=barred),)
    fallen = [step(id_, **ENDS[1], attempts=trail) for id_ in ("elsewhere", "a", "b")]
    results.save(database, [*fallen, step("c", **ENDS[1])])
    assert counts.incompatibility_counts(database, run_id) == {'a "guess" is no label': 2}


def test_an_item_is_shown_with_every_stage(database: Database, registered: Callable[..., str]) -> None:
    """A stage that has not run is shown as pending, never as nothing."""
    registered("a")
    results.save(database, [step(**ENDS[1])])
    view = lookup.view(database, "a", ["classify_image", "embed_text"])
    assert view is not None
    assert view.degraded == ["classify_image"]
    assert view.as_json()["stages"]["embed_text"]["status"] == "pending"
    assert lookup.view(database, "nobody", []) is None
    assert lookup.view(database, "no\0body", []) is None


def test_what_changed_since_it_was_stored_is_owed_to_the_store(
    database: Database, registered: Callable[..., str]
) -> None:
    """Who is killed between a better result and its store leaves a sign of that; nothing worse leaves one."""
    registered("a", "b")

    def stored(item_id: str, quality: str) -> None:
        store_at(database, "run", {item_id: Decimal(quality)})
        results.save(database, [step(item_id, "store", **ENDS[0])])

    def owed() -> set[str]:
        return {id_ for id_ in "ab" if kept(database, id_)["store"].retryable}

    for item_id in "ab":
        results.save(database, [step(item_id, **ENDS[2])])
        stored(item_id, "0.8")
    later = {"run_id": "later", "finished_at": NOW}
    results.save(database, [replace(step("a", **ENDS[0]), **later), replace(step("b", **ENDS[3]), **later)])
    assert owed() == {"a"}
    stored("a", "1.0")
    assert owed() == set()


def test_a_better_answer_to_another_input_stands_and_is_owed_anew(
    database: Database, registered: Callable[..., str]
) -> None:
    """Nothing worse takes its place, and it does not pass for the answer to what is there now; one to the same input,
    or that does not say to which, is as it was."""
    registered("a", "b", "c", "d")
    old = [replace(step(id_, **ENDS[0], value=id_), input_hash="old") for id_ in "ab"] + [step("c", **ENDS[0])]
    results.save(database, old)
    results.save(database, [replace(step("d", **{**ENDS[1], "retryable": False}), input_hash="old")])
    worse = [replace(step(id_, **ENDS[2]), input_hash="old" if id_ == "b" else "new") for id_ in "abcd"]
    results.save(database, worse)
    assert [kept(database, id_)["classify_image"].retryable for id_ in "abcd"] == [True, False, False, False]
    assert kept(database)["classify_image"] == replace(old[0], retryable=True)
    results.save(database, [replace(step(**ENDS[0], value="new"), input_hash="new")])
    assert kept(database)["classify_image"].retryable is False


def test_a_plain_run_does_again_what_answers_to_another_input(
    database: Database, registered: Callable[..., str]
) -> None:
    """Though the item is stored, and whoever waits to do it; another stored one is left alone."""
    registered("a", "b")
    whole = [replace(step(id_, **ENDS[0]), input_hash="old") for id_ in "ab"]
    results.save(database, whole)
    results.save(database, [replace(step(**ENDS[1]), input_hash="new")])
    run_id = registered("a", "b")
    store_at(database, run_id, {"a": Decimal(1), "b": Decimal(1)})
    assert list(catalogue.batches(database, run_id, 10, refresh=False, lease_s=60)) == [("a",)]
    assert counts.progress(database, run_id, refresh=False).finished == 1


def test_who_was_stored_while_it_got_better_is_stored_again(database: Database, registered: Callable[..., str]) -> None:
    """A better result that comes between the mark and the result of `store` itself is not forgotten by that."""
    registered("a")
    results.save(database, [step(**ENDS[2])])
    store_at(database, "run", {"a": Decimal("0.8")})
    results.save(database, [step(stage="store", **ENDS[0])])
    assert kept(database)["store"].retryable is False
    store_at(database, "run", {"a": Decimal("0.8")})
    results.save(database, [replace(step(**ENDS[0]), run_id="another")])
    results.save(database, [step(stage="store", **ENDS[0])])
    assert kept(database)["store"].retryable is True
