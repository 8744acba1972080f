"""Results by older versions: counted, queued after items of lower quality, and made anew once."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import sqlalchemy as sa

from repli.tasks.fallback import Status
from repli.tasks.storage import outdated, results
from repli.tasks.storage.retry.needs import RetryTarget, decode, encode
from repli.tasks.storage.schema import step_results
from tests.support import stores
from tests.support.queue import POLICY, STAGE, Queue, end, merged
from tests.support.stores import commits_fail

PRESENT = {STAGE: {"gpu": "2", "cpu": "lite0 b", "rules": None}, "embed_text": {"text_only": "1"}}
OUTDATED = [RetryTarget(stage=STAGE, rungs=[None], outdated=("gpu", "cpu"))]


def serve(
    queue: Queue,
    *item_ids: str,
    rung: str = "gpu",
    version: str | None = "1",
    at: str = "1",
    stage: str = STAGE,
    run_id: str = "run",
) -> None:
    """A rung of this version serves the items, and a run stores them."""
    status = Status.SUCCEEDED if at == "1" else Status.DEGRADED
    served = {"rung": rung, "penalty": Decimal(at), "rung_version": version}
    results.save(queue.database, [end(item_id, status, stage=stage, **served) for item_id in item_ids])
    stores.mark_stored(queue.database, run_id, item_ids, merge=merged, retry_below=POLICY.below)


def enqueue(queue: Queue, *stages: str, include_unknown: bool = False) -> int:
    chosen = {stage: PRESENT[stage] for stage in stages or PRESENT}
    return outdated.enqueue(queue.database, chosen, include_unknown=include_unknown)


def marked(queue: Queue) -> Sequence[str]:
    with queue.database.read() as connection:
        query = sa.select(step_results.c.item_id).where(step_results.c.is_outdated).order_by(step_results.c.item_id)
        return connection.scalars(query).all()


class TestTally:
    """Only what is known to be by another version counts."""

    def test_it_counts_by_stage_rung_and_version(self, queue: Queue) -> None:
        """The present version is none of them, nor a rung that the pipeline does not have."""
        serve(queue, "a", "b", version="1")
        serve(queue, "c", version="0")
        serve(queue, "d", version="2")
        serve(queue, "e", rung="cpu", version="lite0 a", at="0.9")
        serve(queue, "f", rung="of old", version="1")
        found = outdated.tally(queue.database, PRESENT)
        assert [(one.stage, one.rung, one.version, one.items) for one in found.older] == [
            (STAGE, "gpu", "0", 1),
            (STAGE, "gpu", "1", 2),
            (STAGE, "cpu", "lite0 a", 1),
        ]
        assert (found.by_stage, found.unknown_by_stage) == ({STAGE: 4}, {})

    def test_an_unknown_version_is_no_older_one(self, queue: Queue) -> None:
        """A store that an older Repli has filled is not said to be outdated."""
        serve(queue, "a", "b", version=None)
        found = outdated.tally(queue.database, PRESENT)
        assert (found.by_stage, found.unknown_by_stage, found.notes) == ({}, {STAGE: 2}, [])

    def test_a_version_that_is_not_known_here_outdates_nothing(self, queue: Queue) -> None:
        """The model is not installed on this machine."""
        serve(queue, "a", rung="rules", version="1", at="0.8")
        serve(queue, "b", rung="rules", version=None, at="0.8")
        found = outdated.tally(queue.database, PRESENT)
        assert (found.by_stage, found.unknown_by_stage) == ({}, {})

    def test_the_note_names_both_and_the_way_out(self, queue: Queue) -> None:
        """One line, however many versions there are."""
        assert outdated.tally(queue.database, PRESENT).notes == []
        serve(queue, "a", "b", version="1")
        [note] = outdated.tally(queue.database, PRESENT).notes
        assert f"2 of {STAGE}.gpu, by 1, now 2; " in note
        assert "`repli reprocess --outdated`" in note
        for number, item_id in enumerate("abcdefg"):
            serve(queue, item_id, version=f"0.{number}")
        [note] = outdated.tally(queue.database, PRESENT).notes
        assert "and 2 more" in note


class TestQueue:
    """The queue has them, in its order."""

    def test_items_of_lower_quality_come_first(self, queue: Queue) -> None:
        """Their priority is LOW; the bounds of the queue are those of all."""
        serve(queue, "a", "b")
        queue.store("c", at="0.5")
        serve(queue, "d", rung="cpu", version="lite0 a", at="0.9")
        assert enqueue(queue) == 3
        assert [(id_, entry.priority.name) for id_, entry in queue.entries().items()] == [
            ("c", "LOW"),
            ("d", "LOW"),
            ("a", "LOW"),
            ("b", "LOW"),
        ]
        assert queue.claimed("me", gaps=OUTDATED) == ["d", "a", "b"]
        assert [entry.as_json()["outdated"] for entry in queue.entries().values()] == [[], [STAGE], [STAGE], [STAGE]]

    def test_only_the_stage_that_is_named(self, queue: Queue) -> None:
        """With the results whose version is not known, which are left alone otherwise."""
        serve(queue, "a", stage="embed_text", rung="text_only", version="0")
        serve(queue, "b", version=None)
        assert (enqueue(queue), marked(queue)) == (1, ["a"])
        assert (enqueue(queue, STAGE, include_unknown=True), marked(queue)) == (1, ["a", "b"])

    def test_a_result_by_the_present_version_ends_it(self, queue: Queue) -> None:
        """The item leaves the queue, and a second order finds nothing."""
        serve(queue, "a")
        enqueue(queue)
        run_id = queue.begin_run()
        taken = queue.claim(run_id, gaps=OUTDATED)
        serve(queue, "a", version="2", run_id=run_id)
        queue.settle(run_id, taken, run_id=run_id)
        assert (queue.entries(), queue.outcomes(run_id), marked(queue)) == ({}, {"a": "upgraded"}, [])
        assert enqueue(queue) == 0

    def test_what_the_new_version_fails_at_keeps_its_result(self, queue: Queue) -> None:
        """It stays served and waits; parked in the end, it is tried again when it is asked for again."""
        serve(queue, "a")
        enqueue(queue)
        results.save(queue.database, [end("a", Status.SKIPPED, rung="skip", penalty=Decimal("0.7"))])
        kept = results.load(queue.database, ["a"])[0].results[STAGE]
        assert (kept.rung, kept.rung_version, kept.is_outdated) == ("gpu", "1", True)
        assert queue.stored()["a"] == ("stored", 1.0)
        queue.park("a")
        assert queue.states() == {"a": "parked"}
        assert enqueue(queue) == 1
        assert (queue.states(), queue.entry("a").tries) == ({"a": "queued"}, 0)

    def test_a_claimed_item_stays_claimed(self, queue: Queue) -> None:
        """A second order does not take it from the run that works on it."""
        serve(queue, "a")
        enqueue(queue)
        assert queue.claimed("me", gaps=OUTDATED) == ["a"]
        assert enqueue(queue) == 1
        assert queue.claimed("another", gaps=OUTDATED) == []

    def test_an_order_that_is_killed_is_repeated(self, queue: Queue) -> None:
        """Nothing is marked that is not queued."""
        serve(queue, "a", "b")
        with commits_fail(queue.database):
            enqueue(queue)
        assert (marked(queue), queue.entries()) == ([], {})
        assert enqueue(queue) == 2
        assert [*queue.entries()] == ["a", "b"]

    def test_a_return_to_the_version_withdraws_the_order(self, queue: Queue) -> None:
        """Nothing is paid for twice; what is queued for another reason, or by another version, stays."""
        serve(queue, "a", "b")
        queue.store("c", at="0.5")
        serve(queue, "d", rung="cpu", version="lite0 a", at="0.9")
        enqueue(queue)
        assert marked(queue) == ["a", "b", "d"]
        before = {STAGE: {**PRESENT[STAGE], "gpu": "1"}}
        outdated.withdraw(queue.database, before, POLICY.below)
        assert (marked(queue), [*queue.entries()]) == (["d"], ["c", "d"])
        outdated.withdraw(queue.database, {STAGE: {"cpu": None}}, POLICY.below)
        assert marked(queue) == ["d"]

    def test_a_failed_item_is_not_stored_for_it(self, queue: Queue) -> None:
        """It waits for what has failed; once it is stored, its older result is made anew."""
        serve(queue, "a", stage="embed_text", rung="text_only", version="0")
        queue.fail("a", retryable=False)
        enqueue(queue)
        assert queue.entries() == {}
        serve(queue, "a", version="2")
        assert [*queue.entries()] == ["a"]

    def test_an_operator_may_put_it_first(self, queue: Queue) -> None:
        """`repli queue retry` knows it as something to do."""
        serve(queue, "a")
        assert queue.enqueue_by_operator("a") == ([], ["a"])
        enqueue(queue)
        assert queue.enqueue_by_operator("a") == (["a"], [])
        assert queue.entry("a").priority.name == "HIGH"


def test_needs_carry_it() -> None:
    """As text, beside all other marks."""
    text = "classify_image=gpu^;embed_text=hashed?~^@12ab"
    needs = decode(text)
    assert (needs["classify_image"].is_outdated, needs["classify_image"].is_retryable) == (True, False)
    assert (needs["embed_text"].is_outdated, needs["embed_text"].rung) == (True, "hashed")
    assert encode(needs) == text


def test_a_target_takes_it_only_where_the_rung_may_be_called() -> None:
    """An older result of a rung that is out of reach waits, since a fallback would not replace it."""
    gpu, cpu = decode("classify_image=gpu^"), decode("classify_image=cpu^")
    both = RetryTarget(stage=STAGE, rungs=[None], outdated=("gpu", "cpu"))
    of_cpu = RetryTarget(stage=STAGE, rungs=[None], outdated=("cpu",))
    assert [one.matches(needs) for one in (both, of_cpu) for needs in (gpu, cpu)] == [True, True, False, True]
    assert not both.matches(decode("classify_image=gpu"))
