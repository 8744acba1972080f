"""Claims on queued items: who gets which, for how long, and what it comes to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.fallback import Attempt, AttemptOutcome, Breaker, Status, StepError, StepResult
from repli.tasks.fallback.breaker import CallEnded, Cause, Verdict
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.storage import breakers, results
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.retry import claims, retries
from repli.tasks.storage.retry.claims import Claim
from repli.tasks.storage.retry.needs import RetryTarget, digest
from repli.tasks.storage.retry.retry_queue import Priority
from repli.tasks.storage.schema import retry_queue as retry_queue_table
from tests.support import stores
from tests.support.queue import POLICY, STAGE, Queue, end, held
from tests.unit.tasks.storage.retry.test_retry_queue import assert_free_while_waiting

LEASE_S = POLICY.lease_s


class TestTurns:
    """Which items come first."""

    def test_priority_then_quality_then_age(self, queue: Queue) -> None:
        """The names run against the order; a failed item is the lowest in quality of its priority."""
        queue.store("g", at="0.9")
        queue.fail("f")
        queue.enqueue_by_operator("g", "f")
        queue.fail("d")
        queue.store("d", at="0.2")
        queue.fail("e")
        queue.store("b", at="0.5")
        queue.pass_time(1)
        queue.store("c", at="0.3")
        queue.store("a", at="0.5")
        order = ["f", "g", "e", "d", "c", "b", "a"]
        assert list(queue.entries()) == order
        per_item = [item_id for holder in order for item_id in queue.claimed(holder, limit=1)]
        assert per_item == order
        for holder in order:
            claims.release(queue.database, holder)
        assert queue.claimed("first", limit=5) == order[:5]
        assert queue.claimed("second", limit=5) == order[5:]

    def test_a_claim_knows_the_quality(self, queue: Queue) -> None:
        """None where the item failed."""
        queue.store("a", at="0.5")
        queue.fail("b")
        assert queue.claim("first") == [Claim(item_id="b", quality=None), Claim(item_id="a", quality=0.5)]

    def test_nothing_wanted_is_nothing_claimed(self, queue: Queue) -> None:
        """No items, or no rung of any stage."""
        queue.store("a")
        nothing: list[list[RetryTarget]] = [[], [RetryTarget(stage=STAGE, rungs=[])]]
        assert [queue.claim("first", gaps=gaps) for gaps in nothing] == [[], []]
        assert queue.claim("first", limit=0) == []
        assert queue.claim("first", limit=-1) == []

    @pytest.mark.parametrize(
        ("missing", "expected"),
        [
            ({STAGE: ["cpu"]}, "ab"),
            ({STAGE: ["rules"]}, "c"),
            ({STAGE: ["cpu", "rules"]}, "abc"),
            ({STAGE: [None]}, "d"),
            ({STAGE: [None, "rules"]}, "cd"),
            ({"embed_text": ["hashed"]}, "b"),
            ({"embed_text": ["cpu", None]}, ""),
            ({"embed_text": ["hashed"], STAGE: ["rules"]}, "bc"),
            ({"embed_text": [], STAGE: ["rules"]}, "c"),
            ({"fetch": ["cached"]}, "e"),
        ],
    )
    def test_only_what_owes_a_missing_rung(
        self, queue: Queue, missing: Mapping[str, Collection[str | None]], expected: str
    ) -> None:
        """Items that a rung of the stages served, or that failed there, and that may be mended at that very stage."""
        queue.store("a", "b", at="0.5")
        queue.store("b", at="0.9", stage="embed_text", rung="hashed")
        queue.store("c", at="0.4", rung="rules")
        queue.fail("d")
        results.save(queue.database, [end("e", Status.DEGRADED, rung="cpu")])  # for good
        results.save(queue.database, [end("e", Status.FAILED, stage="embed_text")])
        queue.store("e", at="0.9", stage="embed_text", rung="hashed", retryable=False)
        queue.store("e", at="0.5", stage="fetch", rung="cached")
        queue.store("f", at="0.9")
        gaps = [RetryTarget(stage=stage, rungs=served) for stage, served in missing.items()]
        assert sorted(queue.claimed("first", gaps=gaps)) == list(expected)

    def test_nothing_that_is_barred_from_what_is_better(self, queue: Queue) -> None:
        """Beside a label by `rules` no better vector may be had, so the item waits; another way to gain takes it."""
        queue.store("a", "b", at="0.9", stage="embed_text", rung="text_only")
        queue.store("a", at="0.5", rung="rules")
        queue.store("b", at="0.5", rung="cpu")
        vector = RetryTarget(stage="embed_text", rungs=["text_only"], excluded_by=[(STAGE, {"rules", "skip"})])
        assert queue.claimed("first", gaps=[vector]) == ["b"]
        assert queue.claimed("first", gaps=[vector, RetryTarget(stage=STAGE, rungs=["rules"])]) == ["a"]

    @pytest.mark.parametrize("outcome", [AttemptOutcome.REFUSED, AttemptOutcome.FAILED])
    def test_what_waits_for_a_key_is_left_while_its_breaker_is_open(
        self, queue: Queue, outcome: AttemptOutcome
    ) -> None:
        """Items of other keys, and of none, are taken; those of several wait for all of them."""
        queue.wait_for("dead.example", "a", "b", outcome=outcome)
        queue.wait_for("well.example", "c", outcome=outcome)
        queue.store("d")
        assert {id_: entry.waits_for for id_, entry in queue.entries().items()} == {
            **dict.fromkeys("ab", (f"{STAGE}.gpu@dead.example",)),
            "c": (f"{STAGE}.gpu@well.example",),
            "d": (),
        }
        is_dead = RetryTarget(stage=STAGE, rungs=["cpu"], refused=frozenset({digest(f"{STAGE}.gpu@dead.example")}))
        assert sorted(queue.claimed("first", gaps=[is_dead])) == ["c", "d"]
        assert queue.claimed("second", gaps=[is_dead]) == []
        assert sorted(queue.claimed("third")) == ["a", "b"]

    def test_what_it_waits_for_is_as_the_last_try_found_it(self, queue: Queue) -> None:
        """One key is back and another is not: the item waits for that one, though its result is as it was."""
        queue.wait_for("one.example", "a")
        taken = queue.claim("first")
        error = StepError(type="BreakerOpen", message="it is open", keys=("other.example",))
        tried = Attempt(rung="gpu", outcome=AttemptOutcome.REFUSED, error=error)
        results.note_waits(queue.database, [replace(StepResult.pending("a", STAGE), attempts=(tried,))])
        queue.settle("first", taken, tried=[], refused=["a"])
        gaps = [
            RetryTarget(stage=STAGE, rungs=["cpu"], refused=frozenset({digest(f"{STAGE}.gpu@{name}.example")}))
            for name in ("other", "one")
        ]
        assert queue.claimed("second", gaps=gaps[:1]) == []
        assert queue.claimed("second", gaps=gaps[1:]) == ["a"]

    def test_what_is_whole_is_taken_where_it_is_to_be_made_anew(self, queue: Queue) -> None:
        """Whichever rung made it; a degraded one by the same rung has nothing to gain from it."""
        queue.outdate("a")
        queue.store("b", at="0.5", rung="gpu")
        assert queue.claimed("first", gaps=[RetryTarget(stage=STAGE, rungs=[None])]) == []
        assert queue.claimed("first", gaps=[RetryTarget(stage=STAGE, rungs=[None], include_stale=True)]) == ["a"]

    def test_not_before_its_time_and_never_when_parked(self, queue: Queue) -> None:
        """A try in vain is followed by five minutes of rest, the last one by rest for good."""
        queue.store("a", "b", at="0.5")
        queue.park("b")
        queue.settle("first", queue.claim("first"))
        assert queue.claim("second") == []
        queue.pass_time(POLICY.delay_s - 100)
        assert queue.claim("second") == []
        queue.pass_time(100)
        assert queue.claimed("second") == ["a"]
        queue.pass_time(1_000_000)
        assert queue.claimed("third") == ["a"]
        assert queue.states() == {"a": "claimed", "b": "parked"}


class TestLeases:
    """How long a claim holds."""

    def test_what_is_held_is_nobody_elses(self, queue: Queue) -> None:
        """Nor claimed a second time by its holder."""
        queue.store("a", "b")
        assert queue.claimed("first", limit=1) == ["a"]
        assert queue.claimed("second") == ["b"]
        assert queue.claim("first") == queue.claim("second") == queue.claim("third") == []
        assert [held(queue.database, holder, ["a", "b"]) for holder in ("first", "second", "third")] == [
            {"a"},
            {"b"},
            set(),
        ]

    def test_a_lease_runs_out(self, queue: Queue) -> None:
        """What a killed process held is free again by itself, not sooner; from then on it holds it no more."""
        queue.store("a")
        queue.claim("first")
        queue.pass_time(LEASE_S - 60)
        assert queue.claim("second") == []
        assert held(queue.database, "first", ["a"]) == {"a"}
        queue.pass_time(60)
        assert held(queue.database, "first", ["a"]) == set()
        assert queue.states() == {"a": "queued"}
        assert queue.claimed("second") == ["a"]
        assert held(queue.database, "second", ["a"]) == {"a"}

    def test_who_is_alive_holds_on(self, queue: Queue) -> None:
        """All of the holder's claims, and nobody else's."""
        queue.store("a", "b", "c")
        queue.claim("first", limit=2)
        queue.claim("second", limit=1)
        for _ in range(3):
            queue.pass_time(LEASE_S - 60)
            claims.renew(queue.database, "first", LEASE_S)
        assert queue.claimed("third") == ["c"]
        assert held(queue.database, "first", ["a", "b", "c"]) == {"a", "b"}
        queue.pass_time(LEASE_S)
        assert queue.claimed("third") == ["a", "b", "c"]

    def test_what_was_lost_is_not_renewed(self, queue: Queue) -> None:
        """Who comes back after his lease finds it with another, and leaves it there."""
        queue.store("a")
        queue.claim("first")
        queue.pass_time(LEASE_S)
        queue.claim("second")
        claims.renew(queue.database, "first", 10_000)
        assert held(queue.database, "first", ["a"]) == set()
        queue.pass_time(LEASE_S)
        assert queue.claimed("third") == ["a"]

    def test_claims_are_given_back(self, queue: Queue) -> None:
        """All of them, and never another's. They are as they were."""
        queue.store("a", "b", "c", "d")
        before = queue.entries()
        queue.claim("first", limit=3)
        queue.claim("second", limit=1)
        claims.release(queue.database, "first")
        assert queue.states() == {"a": "queued", "b": "queued", "c": "queued", "d": "claimed"}
        claims.release(queue.database, "second")
        assert queue.entries() == before

    def test_only_what_was_asked_about_is_told(self, queue: Queue) -> None:
        """Of all that a run holds, a stage asks about its batch."""
        queue.store("a", "b", "c")
        queue.claim("first")
        assert held(queue.database, "first", ["b", "nobody"]) == {"b"}
        assert held(queue.database, "first", []) == set()

    @pytest.mark.parametrize("kept_database", ["postgresql"], indirect=True)  # on SQLite writers take turns
    @pytest.mark.parametrize("act", ["renew", "release", "settle"])
    def test_holders_wait_for_others_in_one_order(self, queue: Queue, act: str) -> None:
        """The heartbeat renews while batches are settled: neither may wait for what the other holds."""
        queue.store("c", "b", "a")
        queue.store("f", "e", "d")
        taken = queue.claim("first")
        queue.store("c", "e", "f", at="1")  # these leave the queue, so they are not seen by those that come after
        queue.store("c", "e", "f", at="1")

        def wait() -> None:
            if act == "renew":
                claims.renew(queue.database, "first", LEASE_S)
            elif act == "release":
                claims.release(queue.database, "first")
            else:
                queue.settle("first", taken)

        assert_free_while_waiting(queue.database, wait, "b", "d")


class TestSettling:
    """What a claim came to, and when the item is to be tried again."""

    def test_whole_items_are_upgraded(self, queue: Queue) -> None:
        """From low quality, or failure, to well enough: they are out of the queue."""
        queue.store("a")
        queue.fail("b")
        taken = queue.claim("first")
        run_id = queue.begin_run()
        queue.store("a", "b", at="0.9", run_id=run_id)
        queue.settle("first", taken, run_id=run_id)
        assert queue.outcomes(run_id) == {"a": "upgraded", "b": "upgraded"}
        books = queue.books(run_id)
        assert [(books[item]["quality_before"], books[item]["quality_after"]) for item in "ab"] == [
            (0.5, 0.9),
            (None, 0.9),
        ]
        assert queue.entries() == {}

    def test_a_gain_that_is_not_enough_begins_the_tries_anew(self, queue: Queue) -> None:
        """Better, but still wanted: it waits the first delay, as if never tried, and nobody holds it."""
        queue.store("a")
        queue.fail("b")
        for _ in range(2):
            queue.settle("first", queue.claim("first"))
            queue.pass_time(10_000)
        taken = queue.claim("first")
        assert [entry.tries for entry in queue.entries().values()] == [2, 2]
        queue.store("a", at="0.6")
        queue.store("b", at="0.3")
        run_id = queue.settle("first", taken)
        assert queue.outcomes(run_id) == {"a": "upgraded", "b": "upgraded"}
        assert [(entry.state, entry.tries) for entry in queue.entries().values()] == [("queued", 0)] * 2
        assert [waits_s(queue, run_id, item) for item in "ab"] == [POLICY.delay_s] * 2
        assert held(queue.database, "first", ["a", "b"]) == set()

    def test_delays_double_and_the_fifth_try_parks(self, queue: Queue) -> None:
        """5, 10, 20 and 40 minutes after tries in vain; then only a person brings it back."""
        queue.store("a")
        waits: list[float] = []
        outcomes: list[str] = []
        for _ in range(5):
            run_id = queue.settle("first", queue.claim("first"))
            waits.append(waits_s(queue, run_id, "a"))
            outcomes.append(queue.outcomes(run_id)["a"])
            queue.pass_time(waits[-1])
        assert waits[:4] == [300, 600, 1200, 2400]
        assert outcomes == ["unchanged"] * 4 + ["parked"]
        assert (queue.entry("a").state, queue.entry("a").tries) == ("parked", 5)
        assert queue.claim("first") == []

    def test_the_policy_is_the_callers(self, queue: Queue) -> None:
        """How often, and how long."""
        policy = RetryPolicy(tries=2, delay_s=1000)
        queue.store("a")
        run_id = queue.settle("first", queue.claim("first"), policy=policy)
        assert waits_s(queue, run_id, "a") == 1000
        queue.pass_time(1000)
        assert queue.outcomes(queue.settle("first", queue.claim("first"), policy=policy)) == {"a": "parked"}

    def test_what_was_refused_for_its_key_waits_for_that_alone(self, queue: Queue) -> None:
        """Without a delay, and without a try, however often; one that was tried as well waits as others do."""
        queue.wait_for("dead.example", "a", "b")
        for _ in range(POLICY.tries):
            queue.settle("first", queue.claim("first"), tried=[], refused=["a", "b"])
        assert {entry.tries for entry in queue.entries().values()} == {0}
        queue.settle("first", queue.claim("first"), tried=["b"], refused=["a", "b"])
        assert queue.claimed("second") == ["a"]

    def test_what_waits_for_a_key_that_is_down_is_not_parked(self, queue: Queue) -> None:
        """A server that is away for days is not its item's fault. Once it answers others, the item's own tries count.

        Its breaker has the name of the rung that could not be called.
        """
        queue.wait_for("https://dead.example", "a", outcome=AttemptOutcome.FAILED)
        breaker, key = Breaker(scope="key", failures=1), Key(f"{STAGE}.gpu", "https://dead.example")
        breakers.apply(queue.database, breaker, key, CallEnded("one", Verdict.FAILED, "it answered 503"))
        for _ in range(POLICY.tries + 2):
            run_id = queue.settle("first", queue.claim("first"))
            queue.pass_time(10_000)
        assert queue.outcomes(run_id) == {"a": "unchanged"}
        assert queue.entry("a").tries == POLICY.tries + 2
        breakers.override(queue.database, breaker, key, Cause.RESET)
        assert queue.outcomes(queue.settle("first", queue.claim("first"))) == {"a": "parked"}

    def test_what_was_not_tried_waits_without_a_try(self, queue: Queue) -> None:
        """A breaker refused it: it waits as long as it would have, and is never parked for that."""
        queue.store("a", "b")
        run_id = queue.settle("first", queue.claim("first"), tried=["b"])
        assert [queue.entry(item).tries for item in "ab"] == [0, 1]
        assert [waits_s(queue, run_id, item) for item in "ab"] == [300, 300]
        for _ in range(3):
            queue.pass_time(10_000)
            queue.settle("first", queue.claim("first"))
        for _ in range(3):
            queue.pass_time(10_000)
            run_id = queue.settle("first", queue.claim("first"), tried=[])
        assert [queue.entry(item).tries for item in "ab"] == [3, 4]
        assert [waits_s(queue, run_id, item) for item in "ab"] == [1200, 2400]
        assert queue.outcomes(run_id) == {"a": "unchanged", "b": "unchanged"}

    def test_a_try_that_only_went_wrong_otherwise_is_unchanged(self, queue: Queue) -> None:
        """Failed again, for good or not, or worse by a rule: one more try, or none to come."""
        queue.fail("a", "b")
        taken = queue.claim("first")
        queue.fail("a")
        queue.fail("b", retryable=False)
        run_id = queue.settle("first", taken)
        assert queue.outcomes(run_id) == {"a": "unchanged", "b": "unchanged"}
        assert {item: entry.tries for item, entry in queue.entries().items()} == {"a": 1}
        assert queue.books(run_id)["a"]["quality_after"] is None

    def test_what_entered_while_it_was_done_is_seen(self, queue: Queue) -> None:
        """A record that changed meanwhile is out of the queue, and was not gained."""
        queue.store("a", "b")
        taken = queue.claim("first")
        queue.register("a", name="another")
        run_id = queue.settle("first", taken)
        assert queue.outcomes(run_id) == {"a": "unchanged", "b": "unchanged"}
        assert list(queue.entries()) == ["b"]

    @pytest.mark.parametrize("next_holder", ["holds it", "gave it back"])
    def test_who_lost_the_claim_settles_nothing(self, queue: Queue, next_holder: str) -> None:
        """It is the next one's to settle, or nobody's: no try is counted, nothing is noted."""
        queue.store("a", "b")
        taken = queue.claim("first")
        queue.pass_time(LEASE_S)
        queue.claim("second", limit=1)
        if next_holder == "gave it back":
            claims.release(queue.database, "second")
        before = queue.entry("a")
        run_id = queue.settle("first", taken)
        assert queue.entry("a") == before
        assert queue.outcomes(run_id) == {"b": "unchanged"}  # late, but nobody else came

    def test_what_another_mended_is_upgraded_once(self, queue: Queue) -> None:
        """The lease ended, and the next holder did it: it is out of the queue, and in his books alone."""
        queue.store("a")
        late = queue.claim("first")
        queue.pass_time(LEASE_S)
        taken = queue.claim("second")
        mending = queue.begin_run()
        queue.store("a", at="1", run_id=mending)
        queue.settle("second", taken, run_id=mending)
        assert queue.outcomes(queue.settle("first", late)) == {}
        assert queue.outcomes(mending) == {"a": "upgraded"}

    def test_an_item_that_no_retry_can_help_is_unchanged(self, queue: Queue) -> None:
        """A better rung declined it: it leaves the queue as it was, and is counted all the same."""
        queue.store("a")
        taken = queue.claim("first")
        queue.store("a", retryable=False)
        assert queue.outcomes(queue.settle("first", taken)) == {"a": "unchanged"}
        assert queue.entries() == {}

    def test_what_is_whole_again_is_upgraded(self, queue: Queue) -> None:
        """At the quality that it had, which was not the truth about it; tries in vain count as others do."""
        queue.outdate("a", "b")
        taken = queue.claim("first", gaps=[RetryTarget(stage=STAGE, rungs=[None], include_stale=True)])
        assert taken == [Claim(item_id="a", quality=1.0), Claim(item_id="b", quality=1.0)]
        run_id = queue.begin_run()
        queue.store("a", at="1", rung="gpu", run_id=run_id)
        queue.settle("first", taken, run_id=run_id)
        assert queue.outcomes(run_id) == {"a": "upgraded", "b": "unchanged"}
        assert {item: entry.tries for item, entry in queue.entries().items()} == {"b": 1}

    def test_books_and_queue_are_kept_together(self, queue: Queue) -> None:
        """A process that dies before its transaction ends leaves the claim to run out, and nothing noted."""
        queue.store("a")
        taken = queue.claim("first")
        before = queue.entries()
        run_id = queue.begin_run()
        with stores.commits_fail(queue.database):
            claims.settle(queue.database, "first", run_id, taken, ["a"], POLICY)
        assert queue.entries() == before
        assert queue.books(run_id) == {}

    def test_a_run_that_comes_back_to_an_item_notes_its_gain(self, queue: Queue) -> None:
        """In a long run an item may come twice: it counts once, from before the first to after the last gain."""
        queue.store("a", "b", "c")
        run_id = queue.begin_run()
        gains = [("b", "0.6"), ("a", "0.9"), ("b", "0.6")]
        for gaining, quality in gains:
            taken = queue.claim("first")
            queue.store(gaining, at=quality, run_id=run_id)
            claims.settle(queue.database, "first", run_id, taken, ["a", "b", "c"], POLICY)
            queue.pass_time(10_000)
        assert queue.outcomes(run_id) == {"a": "upgraded", "b": "upgraded", "c": "unchanged"}
        tally = retries.tally(queue.database, run_id)
        assert (tally.claimed, tally.before, tally.after) == (3, {0.5: 3}, {0.9: 1, 0.6: 1, 0.5: 1})
        for _ in range(2):
            claims.settle(queue.database, "first", run_id, queue.claim("first"), ["b", "c"], POLICY)
            queue.pass_time(10_000)
        assert queue.outcomes(run_id) == {"a": "upgraded", "b": "upgraded", "c": "parked"}

    def test_settling_is_low_priority_again_only_for_what_was_low(self, queue: Queue) -> None:
        """What failed, or was asked for, keeps its place in the line through tries in vain."""
        queue.store("a", "b")
        queue.fail("c")
        queue.enqueue_by_operator("b")
        queue.settle("first", queue.claim("first"))
        assert {item: entry.priority for item, entry in queue.entries().items()} == {
            "b": Priority.HIGH,
            "c": Priority.NORMAL,
            "a": Priority.LOW,
        }

    def test_nothing_is_settled_for_nobody(self, queue: Queue) -> None:
        """No claims, no books."""
        queue.store("a")
        before = queue.entries()
        assert queue.books(queue.settle("first", [])) == {}
        assert queue.entries() == before


def waits_s(queue: Queue, run_id: str, item_id: str) -> float:
    """How long an item waits, from when the run settled it."""
    waits: timedelta = queue.entry(item_id).not_before - queue.books(run_id)[item_id]["at"]
    return waits.total_seconds()


@pytest.mark.parametrize("kept_database", ["sqlite"], indirect=True)  # where a claim holds up all who write
def test_who_claims_a_few_does_not_sort_them_all(queue: Queue) -> None:
    """A long queue is read in the order of its index: twenty times as many wait, and it takes no more steps."""
    few, many = 50, 1000
    ids = [f"{number:04}" for number in range(many)]
    queue.register(*ids)
    queue.store(*ids[:few])
    before = steps_of(queue, "first")
    for start in range(few, many, few):
        queue.store(*ids[start : start + few])
    assert steps_of(queue, "second") < 2 * before


def steps_of(queue: Queue, holder: str) -> int:
    """How many tens of steps SQLite takes to find the next item for this holder to claim."""
    queries: list[tuple[str, Any]] = []

    def hear(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: object) -> None:
        if "ORDER BY" in statement and statement.startswith("SELECT"):
            queries.append((statement, parameters))

    sa.event.listen(queue.database.engine, "before_cursor_execute", hear)
    assert len(queue.claimed(holder, limit=1)) == 1
    sa.event.remove(queue.database.engine, "before_cursor_execute", hear)
    claims.release(queue.database, holder)
    steps: list[None] = []
    with queue.database.read() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: steps.append(None), 10)
        for statement, parameters in queries:
            connection.exec_driver_sql(statement, parameters).all()
        driver.set_progress_handler(None, 0)
    return len(steps)


def test_nobody_is_held_up_where_nothing_is_to_be_had(queue: Queue) -> None:
    """That nothing can be claimed is found without the right to write, which on SQLite one has at a time."""
    queue.store("a")
    with queue.database.write() as connection:
        connection.execute(sa.update(retry_queue_table).values(tries=1))
        assert queue.claim("first", gaps=[RetryTarget(stage="fetch", rungs=["cached"])]) == []
