"""Step results in and out of the store."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from repli.tasks.fallback import Attempt, AttemptOutcome, Status, StepError, StepResult, quality
from repli.tasks.items import Embedding, Item, Stored, Text
from repli.tasks.storage import catalogue, counts, results, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.results import Basis
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.schema import items, step_results
from repli.tasks.storage.views import lookup
from tests.support.default_pipeline import STORED
from tests.support.stores import mark_stored, store_at

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
        Attempt(rung="gpu", outcome=AttemptOutcome.FAILED, error=error, seconds=0.25, where="node7/cuda:0"),
        Attempt(rung="cpu", outcome=AttemptOutcome.SERVED, seconds=0.5, where="node7/cpu"),
    )
    saved = step(**ENDS[1], value={"label": "cat"}, error=error, attempts=attempts)
    results.save(database, [saved])
    assert kept(database)["classify_image"] == replace(saved, revision=1)


def test_a_trail_of_an_older_repli_has_no_places(database: Database, registered: Callable[..., str]) -> None:
    """A result that was stored before attempts named their place is read without one."""
    registered("a")
    results.save(
        database, [step(**ENDS[0], attempts=(Attempt(rung="gpu", outcome=AttemptOutcome.SERVED, where="n/0"),))]
    )
    with database.write() as connection:
        [[attempts]] = connection.execute(sa.select(step_results.c.attempts))
        old = [{key: value for key, value in attempt.items() if key != "where"} for attempt in attempts]
        connection.execute(sa.update(step_results).values(attempts=old))
    assert kept(database)["classify_image"].attempts == (Attempt(rung="gpu", outcome=AttemptOutcome.SERVED),)


def test_results_can_be_read_without_their_trails(database: Database, registered: Callable[..., str]) -> None:
    """Everything else is as it was saved: the value, the rung, the penalty, the hash of the input."""
    registered("a")
    error = StepError(type="OutOfMemory", message="no room")
    attempts = (Attempt(rung="cpu", outcome=AttemptOutcome.SERVED),)
    saved = step(**ENDS[1], value={"label": "cat"}, error=error, attempts=attempts, input_hash="1f")
    results.save(database, [saved])
    [state] = results.load(database, ["a"], with_trail=False)
    assert state.results == {"classify_image": replace(saved, revision=1, error=None, attempts=())}


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
        assert list(catalogue.batches(database, run_id, 10, refresh=False)) == [("b", "a")]
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
        assert list(catalogue.batches(database, again, 10, refresh=False)) == [("retryable", "fresh")]
        assert list(catalogue.batches(database, again, 3, refresh=True)) == [
            ("stored", "hopeless", "retryable"),
            ("fresh",),
        ]

    def test_registering_counts_what_is_done(self, database: Database, registered: Callable[..., str]) -> None:
        """Stored items count by quality, and those that failed for good; what may be tried again is work left."""
        run_id = registered("stored", "hopeless", "retryable", "fresh")
        store_at(database, run_id, {"stored": Decimal("0.9")})
        results.save(database, [step("hopeless", "validate", status=Status.FAILED)])
        results.save(database, [step("retryable", "validate", status=Status.FAILED, retryable=True)])
        again = runs.start(database, str(uuid.uuid4()), "manifest", {}, NOW)
        lines = [Item(id=id_, name=id_) for id_ in ("stored", "hopeless", "retryable", "fresh", "fresh")]
        found = catalogue.register(database, again, lines)
        assert (found.items, found.duplicates, found.failed, found.stored) == (4, 1, 1, {0.9: 1})


class TestRevisions:
    """A result belongs to the record that it was computed from."""

    def test_a_changed_record_has_a_new_revision(self, database: Database, registered: Callable[..., str]) -> None:
        """An unchanged one keeps its revision."""
        for name in ("one", "two", "two"):
            registered(Item(id="a", name=name))
        assert results.load(database, ["a"])[0].revision == 2

    def test_a_late_result_of_an_old_record_is_dropped(
        self, database: Database, registered: Callable[..., str]
    ) -> None:
        """Whatever its rank, and whether or not the new record has a result yet."""
        registered(Item(id="a", name="old"))
        late = step(**ENDS[0], value="of the old", revision=1)
        registered(Item(id="a", name="new"))
        assert results.save(database, [late]) == []
        assert kept(database) == {}
        results.save(database, [step(**ENDS[2], value="of the new", revision=2)])
        results.save(database, [late])
        assert kept(database)["classify_image"].value == "of the new"

    def test_a_dropped_result_discards_nothing(self, database: Database, registered: Callable[..., str]) -> None:
        """What it was to replace stays; its neighbours are written."""
        registered("a", "b")
        kept_one = step("a", **ENDS[1], value="kept")
        results.save(database, [kept_one, step("a", "embed_text", **ENDS[0], input_hash="old")])
        basis = Basis(
            states={state.item.id: state for state in results.load(database, ["a", "b"])},
            earlier=["embed_text"],
            input_hash=lambda state: str(state.value("embed_text")),
        )
        results.save(database, [replace(step("a", "embed_text", **ENDS[0], value="new"), run_id="another")])
        late = [step(id_, **ENDS[2], value="late", input_hash="None") for id_ in "ab"]
        saved = results.save(database, late, discard=[kept(database)["classify_image"]], basis=basis)
        assert [one.item_id for one in saved] == ["b"]
        assert kept(database)["classify_image"].value == "kept"

    def test_an_item_is_not_stored_for_an_old_record(self, database: Database, registered: Callable[..., str]) -> None:
        """The results of the new record decide when it is stored."""
        run_id = registered(Item(id="a", name="old"))
        late = step(stage="store", **ENDS[0], value=Stored(quality=1.0), revision=1)
        registered(Item(id="a", name="new"))
        merge = partial(pytest.fail, "an item of another record was merged")
        assert results.store(database, [late], merge=merge, retry_below=0.8) == []
        assert list(catalogue.batches(database, run_id, 10, refresh=False)) == [("a",)]


def test_a_tally_counts_every_item_once_a_stage(database: Database, registered: Callable[..., str]) -> None:
    """Items without a result are pending; quality and rungs are counted; other runs' items are not."""
    registered("elsewhere")
    run_id = registered("a", "b", "c")
    results.save(database, [step("a", **ENDS[0]), step("b", **ENDS[1])])
    store_at(database, run_id, {"a": Decimal(1), "b": Decimal("0.9")})
    tally = counts.tally(database, ["classify_image"], run_id)
    assert tally.stages["classify_image"] == {"succeeded": 1, "degraded": 1, "pending": 1}
    assert tally.rungs["classify_image"] == {"gpu": 1, "cpu": 1}
    assert (tally.items, tally.stored, tally.degraded, tally.pending) == (3, 2, 1, 1)
    assert tally.as_json()["quality"] == {"1.0": 1, "0.9": 1}
    assert tally.mean_quality == 0.95


def test_what_a_failed_item_did_not_reach_is_not_waited_for(database: Database, registered: Callable[..., str]) -> None:
    """Tables show it apart from what is pending, so that no stage has more pending items than there are."""
    registered("elsewhere")
    run_id = registered("a", "b", "c")
    stages = ["fetch", "validate", "store"]
    results.save(database, [step("elsewhere", "validate", **ENDS[4])])
    results.save(database, [step(id_, "fetch", **ENDS[0]) for id_ in ("a", "b")])
    results.save(database, [step("a", "validate", **ENDS[4])])
    tally = counts.tally(database, stages, run_id)
    assert (tally.failed, tally.pending) == (1, 2)
    assert tally.stages["store"] == {"pending": 3}, "the outside contract: the stages of a failed item stay pending"
    assert tally.as_json()["not_reached"] == {"store": 1}
    assert tally.shown_stages == {
        "fetch": {"succeeded": 2, "pending": 1},
        "validate": {"failed": 1, "pending": 2},
        "store": {"pending": 2, "not_reached": 1},
    }
    assert counts.tally(database, stages).shown_stages["store"] == {"pending": 2, "not_reached": 2}


def test_rules_in_trails_are_counted_by_item(database: Database, registered: Callable[..., str]) -> None:
    """In their own words; other runs' items are not counted."""
    registered("elsewhere")
    run_id = registered("a", "b", "c")
    barred = StepError(type="Incompatible", message='a "guess" is no label')
    trail = (Attempt(rung="gpu", outcome=AttemptOutcome.INCOMPATIBLE, error=barred),)
    fallen = [step(id_, **ENDS[1], attempts=trail) for id_ in ("elsewhere", "a", "b")]
    results.save(database, [*fallen, step("c", **ENDS[1])])
    assert counts.incompatibility_counts(database, run_id) == {'a "guess" is no label': 2}


def test_a_rung_that_served_a_part_is_not_said_to_have_served_the_rest(
    database: Database, registered: Callable[..., str]
) -> None:
    """The list of the lowest names the part beside the rung; the reason is about the other."""
    run_id = registered("a")
    gone = StepError(type="ItemError", message="image: there is no file gone.png")
    attempts = (
        Attempt(rung="origin", outcome=AttemptOutcome.FAILED, error=gone),
        Attempt(
            rung="cached",
            outcome=AttemptOutcome.SERVED,
            error=StepError(type="Incomplete", message="only the document"),
        ),
    )
    fields = {"rung": "cached", "penalty": Decimal("0.95"), "confidence": 0.5, "error": gone, "attempts": attempts}
    results.save(database, [step("a", "fetch", status=Status.DEGRADED, **fields)])
    store_at(database, run_id, {"a": Decimal("0.95")})
    [found] = lookup.lowest(database, run_id, 10)
    assert found.reasons == ("fetch → cached (only the document): image: there is no file gone.png",)


def test_an_item_is_shown_with_every_stage(database: Database, registered: Callable[..., str]) -> None:
    """A stage that has not run is shown as pending, never as nothing."""
    registered("a")
    results.save(database, [step(**ENDS[1])])
    view = lookup.view(database, "a", STORED)
    assert view is not None
    assert view.degraded == ["classify_image"]
    assert view.as_json()["stages"]["embed_text"]["status"] == "pending"
    assert lookup.view(database, "nobody", STORED) is None
    assert lookup.view(database, "no\0body", STORED) is None


def store(database: Database, item_id: str = "a", run_id: str = "run") -> None:
    """Store an item at the quality of its results."""
    mark_stored(database, run_id, [item_id], merge=lambda steps: Decimal(repr(float(quality(steps.values()) or 0))))


class TestStale:
    """A stale result was computed from an input that has changed since."""

    def test_a_better_result_makes_the_stored_item_stale(
        self, database: Database, registered: Callable[..., str]
    ) -> None:
        """Until it is stored again; a worse one, which is not kept, does not. A stale item is queued at once: its run
        may be killed before it stores it."""
        registered("a", "b")
        for item_id in "ab":
            results.save(database, [step(item_id, **ENDS[2], input_hash="same")])
            store(database, item_id)
        later = {"run_id": "later", "input_hash": "same"}
        better, worse = replace(step("a", **ENDS[0]), **later), replace(step("b", **ENDS[3]), **later)
        results.save(database, [better, worse])
        assert [kept(database, id_)["store"].is_stale for id_ in "ab"] == [True, False]
        assert [entry.item_id for entry in retry_queue.entries(database, 10)] == ["a"]
        store(database)
        assert not kept(database)["store"].is_stale
        assert retry_queue.entries(database, 10) == []

    @pytest.mark.parametrize("better", [0, 1])
    def test_a_better_result_of_another_input_stays_and_is_stale(
        self, database: Database, registered: Callable[..., str], better: int
    ) -> None:
        """Until an equal one of the new input replaces it. One of the same or of an unknown input is not stale."""
        registered("a", "b", "c")
        old = [step(id_, **ENDS[better], value=id_, input_hash="old") for id_ in "ab"] + [step("c", **ENDS[better])]
        results.save(database, old)
        results.save(database, [step(id_, **ENDS[2], input_hash="old" if id_ == "b" else "new") for id_ in "abc"])
        assert [kept(database, id_)["classify_image"].is_stale for id_ in "abc"] == [True, False, False]
        assert kept(database)["classify_image"] == replace(old[0], is_stale=True, revision=1)
        results.save(database, [step(**ENDS[better], value="new", input_hash="new")])
        assert not kept(database)["classify_image"].is_stale

    def test_a_stale_result_is_for_reprocess(self, database: Database, registered: Callable[..., str]) -> None:
        """A run over the manifest leaves stored items alone; the stale one is in the queue, at any quality."""
        registered("a", "b")
        results.save(database, [step(id_, **ENDS[0], input_hash="old") for id_ in "ab"])
        for item_id in "ab":
            store(database, item_id)
        results.save(database, [step(**ENDS[1], input_hash="new")])
        run_id = registered("a", "b")
        assert list(catalogue.batches(database, run_id, 10, refresh=False)) == []
        store(database)
        assert [(entry.item_id, entry.quality) for entry in retry_queue.entries(database, 10)] == [("a", 1.0)]
