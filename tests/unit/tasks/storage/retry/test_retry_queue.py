"""The retry queue: who enters it, who leaves it, and how it stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.fallback import Status
from repli.tasks.storage import counts, results
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.retry.claims import RetryTarget
from repli.tasks.storage.retry.retry_queue import Priority
from tests.support import stores
from tests.support.queue import OWED, STAGE, Queue, end, merged

WAITS_AT_MOST_S = 60.0


class TestEntering:
    """Items enter the queue with the result that put them there."""

    @pytest.mark.parametrize(("quality", "is_queued"), [("0.3", True), ("0.79", True), ("0.8", False), ("1", False)])
    def test_low_quality_is_queued(self, queue: Queue, quality: str, is_queued: bool) -> None:
        """Below 0.8, which itself is not below: last in line, never tried, at once."""
        queue.store("a", at=quality)
        assert queue.stored()["a"] == ("stored", float(quality))
        assert list(queue.entries()) == ["a"][:is_queued]
        if is_queued:
            entry = queue.entry("a")
            assert (entry.priority, entry.quality, entry.tries) == (Priority.LOW, float(quality), 0)
            assert (entry.state, entry.claimed_until) == ("queued", None)
            assert entry.not_before == entry.enqueued_at
            with queue.database.read() as connection:
                assert timedelta(0) <= database_time(connection) - entry.enqueued_at < timedelta(seconds=5)

    def test_the_threshold_is_the_callers(self, queue: Queue) -> None:
        """Who asks for more finds more to do again."""
        queue.store("a", at="0.8", below=0.9)
        queue.store("b", at="0.9", below=0.9)
        assert list(queue.entries()) == ["a"]

    def test_what_nothing_can_mend_is_not_queued(self, queue: Queue) -> None:
        """Low quality that no later try can help stays out, unless another stage of the item may be mended."""
        queue.store("a", at="0.5", retryable=False)
        queue.store("b", at="0.5", retryable=False)
        queue.store("b", at="0.9", stage="extract_text")
        assert list(queue.entries()) == ["b"]

    def test_what_answers_to_another_input_is_queued_at_any_quality(self, queue: Queue) -> None:
        """Last in line, until what is there now is answered as well."""
        queue.outdate("a", at="1")
        queue.outdate("b", at="0.9")
        queue.store("c", at="0.3")
        assert list(queue.entries()) == ["c", "b", "a"]
        assert (queue.entry("a").priority, queue.entry("a").quality) == (Priority.LOW, 1.0)
        queue.store("a", at="1")
        assert list(queue.entries()) == ["c", "b"]

    def test_a_failure_is_queued_before_low_quality(self, queue: Queue) -> None:
        """A retryable one, without a quality."""
        queue.store("a", at="0.3")
        queue.fail("b")
        assert list(queue.entries()) == ["b", "a"]
        assert (queue.entry("b").priority, queue.entry("b").quality) == (Priority.NORMAL, None)

    def test_a_failure_for_good_is_not_queued(self, queue: Queue) -> None:
        """Nor where an earlier stage of the item could be done better."""
        results.save(queue.database, [end("a", Status.DEGRADED, stage="extract_text", rung="ocr", retryable=True)])
        queue.fail("a", retryable=False)
        assert queue.stored()["a"] == ("failed", None)
        assert queue.entries() == {}

    def test_a_failure_that_is_not_kept_queues_nothing(self, queue: Queue) -> None:
        """The better result stands, and so does the item."""
        queue.store("a", at="0.9")
        queue.fail("a")
        assert queue.stored()["a"] == ("stored", 0.9)
        assert queue.entries() == {}

    def test_one_item_does_not_bring_in_another(self, queue: Queue) -> None:
        """Of a batch, those enter that belong there."""
        results.save(
            queue.database,
            [
                end("a", Status.FAILED, retryable=True),
                end("b", Status.FAILED),
                end("c", Status.DEGRADED, retryable=True),
            ],
        )
        assert list(queue.entries()) == ["a"]

    def test_an_item_and_its_place_in_the_queue_are_kept_together(self, queue: Queue) -> None:
        """A process that dies before its transaction ends leaves neither."""
        results.save(queue.database, [end("a", Status.DEGRADED, rung="cpu", retryable=True)])
        with stores.commits_fail(queue.database):
            stores.mark_stored(queue.database, "run", ["a"], merge=merged, retry_below=2)
        with stores.commits_fail(queue.database):
            queue.fail("b")
        assert queue.entries() == {}
        assert queue.stored()["a"] == queue.stored()["b"] == ("pending", None)
        assert results.load(queue.database, ["b"])[0].results == {}

    def test_many_are_queued_in_portions(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        """More items than a statement takes."""
        monkeypatch.setattr(retry_queue, "IDS_PER_STATEMENT", 2)
        queue.fail("e", "d", "c", "b", "a")
        assert list(queue.entries()) == ["a", "b", "c", "d", "e"]
        queue.store("a", "b", "c", "d", "e", at="1")
        assert queue.entries() == {}


class TestStaying:
    """Items that are in the queue already."""

    def test_a_second_reason_raises_the_priority(self, queue: Queue) -> None:
        """An item of low quality that fails is one entry, further in front, as old as before."""
        queue.store("a")
        before = queue.entry("a")
        queue.pass_time(60)
        queue.fail("a", stage="embed_text")
        after = queue.entry("a")
        assert (after.priority, after.quality) == (Priority.NORMAL, None)
        assert after.enqueued_at == before.enqueued_at - timedelta(seconds=60)
        assert after.not_before == before.not_before - timedelta(seconds=60)

    def test_a_lesser_reason_does_not_lower_it(self, queue: Queue) -> None:
        """Neither that of a failed item which is stored, nor a person's word by anything else."""
        queue.fail("a")
        queue.store("a")
        assert (queue.entry("a").priority, queue.entry("a").quality) == (Priority.NORMAL, 0.5)
        queue.enqueue_by_operator("a")
        queue.store("a", at="0.6")
        assert (queue.entry("a").priority, queue.entry("a").quality) == (Priority.HIGH, 0.6)
        queue.fail("a", stage="embed_text")
        assert (queue.entry("a").priority, queue.entry("a").quality) == (Priority.HIGH, None)

    def test_tries_waits_and_claims_stay(self, queue: Queue) -> None:
        """What is stored, or fails again, while somebody works on it is his still, and was tried as often."""
        queue.store("a", at="0.5")
        queue.fail("b")
        queue.settle("first", queue.claim("first"))
        queue.hold("second", "a", "b")
        before = queue.entries()
        assert [entry.tries for entry in before.values()] == [1, 1]
        queue.store("a", at="0.5")
        queue.fail("b")
        assert queue.entries() == before
        assert queue.states() == {"b": "claimed", "a": "claimed"}

    def test_parked_items_stay_parked(self, queue: Queue) -> None:
        """A failure of the same kind is no reason to begin again; a new result of an item is, and for one more try."""
        queue.store("a", at="0.5")
        queue.fail("b")
        queue.park("a", "b")
        queue.store("a", at="0.6")
        queue.fail("b")
        assert queue.states() == {"b": "parked", "a": "queued"}
        assert (queue.entry("a").quality, queue.entry("a").tries) == (0.6, 1)


class TestLeaving:
    """Items for which nothing is to be done again."""

    @pytest.mark.parametrize("quality", ["0.8", "1"])
    @pytest.mark.parametrize("is_parked", [False, True])
    def test_good_items_leave(self, queue: Queue, quality: str, is_parked: bool) -> None:
        """What is stored whole, or well enough, is out of the queue, parked or not; the others stay."""
        queue.store("a", "b", at="0.5")
        queue.fail("c")
        if is_parked:
            queue.park("a", "b", "c")
        queue.store("a", "c", at=quality)
        assert list(queue.entries()) == ["b"]

    def test_a_failure_for_good_leaves(self, queue: Queue) -> None:
        """The next try showed that no other can help."""
        queue.fail("a", "b")
        queue.fail("a", retryable=False)
        assert list(queue.entries()) == ["b"]

    def test_a_mended_failure_leaves_no_trace_of_it(self, queue: Queue) -> None:
        """Stored well enough, although not whole, it is not wanted any more."""
        queue.fail("a")
        queue.store("a", at="0.9")
        assert queue.entries() == {}

    @pytest.mark.parametrize("is_parked", [False, True])
    def test_a_changed_record_leaves(self, queue: Queue, is_parked: bool) -> None:
        """It begins anew, whoever asked for the old one; a record that came again unchanged stays where it is."""
        queue.store("a", "b", at="0.5")
        queue.enqueue_by_operator("a")
        if is_parked:
            queue.park("a", "b")
        before = queue.entry("b")
        queue.register("a", name="another")
        queue.register("b")
        assert queue.entries() == {"b": before}
        assert queue.stored()["a"] == ("pending", None)


class TestAskedFor:
    """What a person queues by hand."""

    def test_they_go_first(self, queue: Queue) -> None:
        """Before failed ones; of any quality below whole, in the queue already or not."""
        queue.store("a", at="0.5")
        queue.store("b", at="0.9")
        queue.fail("c", "d")
        old = queue.entry("a").enqueued_at
        assert queue.enqueue_by_operator("b", "a", "d") == (["b", "a", "d"], [])
        priorities = [(item_id, entry.priority.name, entry.quality) for item_id, entry in queue.entries().items()]
        assert priorities == [("d", "HIGH", None), ("a", "HIGH", 0.5), ("b", "HIGH", 0.9), ("c", "NORMAL", None)]
        assert queue.entry("a").enqueued_at == old

    def test_they_begin_again(self, queue: Queue) -> None:
        """Parked or waiting, they are claimed at once, with all tries before them."""
        queue.store("a", "b", at="0.5")
        queue.settle("first", queue.claim("first"))
        queue.park("a")
        assert queue.claim("second") == []
        queue.enqueue_by_operator("a", "b")
        assert [(entry.state, entry.tries) for entry in queue.entries().values()] == [("queued", 0)] * 2
        assert queue.claimed("second") == ["a", "b"]

    def test_what_was_given_up_may_be_tried_again(self, queue: Queue) -> None:
        """A stage less than whole, whatever ended it; one that is whole stays so, and so does another item's."""
        queue.store("a", "b", at="0.5", retryable=False)
        queue.store("a", at="1", stage="fetch")
        queue.fail("c", retryable=False)
        results.save(queue.database, [end("d", Status.SKIPPED, rung="skip")])
        queue.store("d", at="1", stage="fetch")
        assert queue.enqueue_by_operator("a", "c", "d") == (["a", "c", "d"], [])
        assert [queue.is_retryable(item_id) for item_id in "abcd"] == [True, False, True, True]
        assert not queue.is_retryable("a", "fetch")
        assert queue.claimed("first") == ["c", "a"]
        assert queue.claimed("first", gaps=[RetryTarget(stage=STAGE, rungs=["skip"])]) == ["d"]

    def test_what_cannot_be_done_again_is_told_apart(self, queue: Queue) -> None:
        """Whole items, and those that were never through: in their order."""
        queue.store("a", "b", at="1")
        queue.store("c")
        results.save(queue.database, [end("b", Status.NOT_APPLICABLE, stage="fetch")])
        results.save(queue.database, [end("f", Status.DEGRADED, rung="cpu", retryable=True)])  # on its way, not stored
        stores.mark_stored(queue.database, "run", ["b"], merge=merged)
        assert queue.enqueue_by_operator("f", "e", "c", "b", "a", "nobody") == (["c"], ["f", "e", "b", "a", "nobody"])
        assert list(queue.entries()) == ["c"]

    def test_who_has_it_in_hand_keeps_it(self, queue: Queue) -> None:
        """Nobody else begins beside him; if he does no better, it is first in line."""
        queue.store("a", "b", at="0.5")
        taken = queue.claim("first")
        queue.enqueue_by_operator("b")
        assert queue.states() == {"b": "claimed", "a": "claimed"}
        assert queue.claim("second") == []
        queue.settle("first", taken)
        assert [(entry.priority.name, entry.tries) for entry in queue.entries().values()] == [("HIGH", 1), ("LOW", 1)]

    def test_they_stay_until_they_are_whole(self, queue: Queue) -> None:
        """What a person asked for is not well enough at 0.8."""
        queue.store("a", at="0.8")
        queue.enqueue_by_operator("a")
        queue.store("a", at="0.9")
        assert queue.entry("a").priority is Priority.HIGH
        queue.store("a", at="1")
        assert queue.entries() == {}

    def test_many_are_asked_for_in_portions(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        """More items than a statement takes, of which a whole portion is of no use."""
        monkeypatch.setattr(retry_queue, "IDS_PER_STATEMENT", 2)
        queue.store("c", "e", at="0.5", retryable=False)
        assert queue.enqueue_by_operator("a", "b", "c", "d", "e") == (["c", "e"], ["a", "b", "d"])
        assert list(queue.entries()) == ["c", "e"]

    def test_unknown_items_are_named(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the order asked."""
        monkeypatch.setattr(retry_queue, "IDS_PER_STATEMENT", 2)
        assert retry_queue.unknown(queue.database, ["y", "a", "b", "x", "c"]) == ["y", "x"]


class TestLookingOn:
    """The queue as a person sees it."""

    def test_a_tally_counts_every_item_once(self, queue: Queue) -> None:
        """By state, and those that are tried again by themselves by priority; a lease that ran out counts no more."""
        queue.store("a", "b", "c", at="0.5")
        queue.fail("d", "e")
        queue.park("a", "d")
        queue.enqueue_by_operator("b")
        queue.hold("first", "c", "e")
        tally = retry_queue.tally(queue.database)
        assert tally.as_json() == {
            "queued": 1,
            "claimed": 2,
            "parked": 2,
            "priorities": {"HIGH": 1, "NORMAL": 1, "LOW": 1},
        }
        assert tally.waiting == 3
        queue.pass_time(1000)
        assert retry_queue.tally(queue.database).states == {"queued": 3, "parked": 2}

    def test_a_tally_of_some_items_leaves_out_the_others(self, queue: Queue) -> None:
        """Those of one run, whatever states its items are in, and others' are."""
        queue.store("a", "b", "c", at="0.5")
        queue.fail("d", "e", "f")
        queue.park("a", "d")
        queue.hold("first", "b", "e")
        run_id = queue.register("a", "b", "d", "e", "f")
        tally = retry_queue.tally(queue.database, counts.of_run(run_id))
        assert tally.states == {"claimed": 2, "parked": 2, "queued": 1}
        assert tally.priorities == {Priority.NORMAL: 2, Priority.LOW: 1}

    def test_an_empty_queue_is_told_in_full(self, queue: Queue) -> None:
        """Every state and priority, at 0."""
        nothing = {"queued": 0, "claimed": 0, "parked": 0, "priorities": {"HIGH": 0, "NORMAL": 0, "LOW": 0}}
        assert retry_queue.tally(queue.database).as_json() == nothing
        assert retry_queue.tally(queue.database).waiting == 0

    def test_entries_come_in_the_order_of_their_turn(self, queue: Queue) -> None:
        """The order in which they are claimed, parked ones at the end; so many as were asked for."""
        queue.store("a", at="0.7")
        queue.store("b", "c", at="0.3")
        queue.fail("d", "e")
        queue.enqueue_by_operator("f", "a", "e")
        queue.park("e", "b")
        order = [entry.item_id for entry in retry_queue.entries(queue.database, 10)]
        assert order == ["a", "d", "c", "e", "b"]
        assert [entry.item_id for entry in retry_queue.entries(queue.database, 2)] == order[:2]
        assert queue.claimed("first", gaps=OWED) == order[:3]

    def test_an_entry_is_told_in_full(self, queue: Queue) -> None:
        """In plain words and times with their zone."""
        queue.store("a", at="0.5")
        queue.hold("first", "a")
        entry = queue.entry("a")
        assert entry.claimed_until is not None
        assert entry.as_json() == {
            "id": "a",
            "priority": "LOW",
            "quality": 0.5,
            "state": "claimed",
            "tries": 0,
            "enqueued_at": entry.enqueued_at.isoformat(),
            "not_before": entry.not_before.isoformat(),
            "claimed_until": entry.claimed_until.isoformat(),
            "waits_for": [],
            "outdated": [],
        }
        assert entry.as_json()["not_before"].endswith("+00:00")


@pytest.mark.parametrize("kept_database", ["postgresql"], indirect=True)  # on SQLite writers take turns
class TestAtTheSameMoment:
    """Transactions that overlap."""

    def test_a_persons_word_is_not_lost(self, queue: Queue) -> None:
        """An item that leaves the queue as good enough, just when a person asks for it, stays."""
        queue.store("a", at="0.5")
        with meanwhile(queue.database, lambda: queue.enqueue_by_operator("a")):
            queue.store("a", at="0.9")
        assert queue.entry("a").priority is Priority.HIGH

    def test_reviews_wait_for_each_other_in_one_order(self, queue: Queue) -> None:
        """So that none waits for one that waits for it: a row that comes later in the order is not held meanwhile."""
        queue.store("c", "b", "a", at="0.5")
        queue.fail("f", "e", "d")

        def review() -> None:
            with queue.database.write() as connection:
                retry_queue.review(queue.database, connection, ["f", "e", "d", "c", "b", "a"], 0.8)

        for waited_for, free in (("b", "cdef"), ("e", "f")):
            assert_free_while_waiting(queue.database, review, waited_for, free)

    def test_changed_records_wait_for_others_in_one_order(self, queue: Queue) -> None:
        """A manifest that comes in while results are kept: it takes items first, then their places, as all do."""
        queue.store("c", "b", "a", at="0.5")

        def register() -> None:
            queue.register("c", "b", "a", name="another")

        assert_free_while_waiting(queue.database, register, "b", "c")
        queue.store("c", "b", "a", at="0.5")
        thread = threading.Thread(target=lambda: queue.register("c", "b", "a", name="a third"))
        with queue.database.write() as connection:
            connection.execute(sa.text("SELECT 1 FROM items WHERE id = 'b' FOR NO KEY UPDATE"))
            thread.start()
            wait_until_one_waits(queue.database)
            places = sa.text("SELECT item_id FROM retry_queue ORDER BY item_id FOR UPDATE SKIP LOCKED")
            with queue.database.write() as looking:
                free = list(looking.scalars(places))
        thread.join()
        assert free == ["a", "b", "c"]


@contextmanager
def meanwhile(database: Database, other: Any) -> Iterator[None]:
    """Another transaction is about to be committed, and is as soon as ours waits for it."""
    about_to, may = threading.Event(), threading.Event()

    def hold(connection: sa.Connection) -> None:
        if threading.current_thread() is thread:
            about_to.set()
            assert may.wait(WAITS_AT_MOST_S)

    def let_go() -> None:
        wait_until_one_waits(database)
        may.set()

    thread = threading.Thread(target=other)
    sa.event.listen(database.engine, "commit", hold)
    thread.start()
    assert about_to.wait(WAITS_AT_MOST_S)
    letting_go = threading.Thread(target=let_go)
    letting_go.start()
    try:
        yield
    finally:
        may.set()
        thread.join()
        letting_go.join()
        sa.event.remove(database.engine, "commit", hold)


def assert_free_while_waiting(database: Database, waiting: Any, item_id: str, free: str) -> None:
    """While `waiting` waits for one item's place in the queue, it holds none of those that are `free`."""
    thread = threading.Thread(target=waiting)
    with database.write() as connection:
        connection.execute(sa.text("SELECT 1 FROM retry_queue WHERE item_id = :id FOR UPDATE"), {"id": item_id})
        thread.start()
        wait_until_one_waits(database)
        not_held = sa.text("SELECT item_id FROM retry_queue ORDER BY item_id FOR UPDATE SKIP LOCKED")
        with database.write() as looking:
            found = [name for name in looking.scalars(not_held) if name in free]
    thread.join()
    assert found == sorted(free)


def wait_until_one_waits(database: Database) -> None:
    """Until some transaction of the database waits for a lock."""
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + WAITS_AT_MOST_S
    while time.monotonic() < deadline:
        with database.read() as connection:
            if connection.scalar(query):
                return
        time.sleep(0.005)
    raise AssertionError("nobody waits")
