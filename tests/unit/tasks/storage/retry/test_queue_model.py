"""The retry queue beside a model of it: whatever happens, nothing wanted is lost and nothing is held twice."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.storage.retry import claims, retries, retry_queue
from repli.tasks.storage.retry.claims import Claim
from repli.tasks.storage.retry.needs import RetryTarget
from repli.tasks.storage.retry.retry_queue import Priority
from tests.support.queue import STAGE, Queue, held

HOLDERS = ["first", "second", "third"]
QUALITIES = ["0.3", "0.5", "0.7", "0.8", "0.9", "1"]
STEP_S = 100.0
POLICY = RetryPolicy(tries=3, delay_s=150, lease_s=250)  # times of both clocks differ by far less than 50 s
POSITIONS = st.integers(0, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One item's place in the queue; times in seconds of the model's clock."""

    priority: Priority
    quality: float | None
    enqueued_at: datetime
    not_before: float
    tries: int = 0
    is_parked: bool = False
    holder: str | None = None
    until: float = 0.0


@dataclass(slots=True)
class One:
    """One item as the model knows it. `quality` is None where it failed; `place` where it is not queued. `stored_by` is
    the run that stored it last."""

    is_pending: bool = True
    quality: float | None = None
    retryable: bool = False
    place: Place | None = None
    stored_by: str | None = None

    @property
    def owes(self) -> str | None:
        """The rung to be improved on."""
        return f"at {self.quality}" if self.quality is not None else None

    @property
    def is_whole(self) -> bool:
        return self.quality == 1

    def is_wanted(self) -> bool:
        if self.is_pending or not self.retryable:
            return False
        is_asked_for = self.place is not None and self.place.priority is Priority.HIGH
        return self.quality is None or self.quality < POLICY.below or is_asked_for


@dataclass(slots=True)
class Run:
    """What a holder believes that it has in hand, and what its books say: quality before and after, and outcome."""

    id: str
    in_hand: list[Claim] = field(default_factory=list)
    books: dict[str, tuple[float | None, float | None, str]] = field(default_factory=dict)


class QueueBesideModel(RuleBasedStateMachine):
    """Four items and three holders."""

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self.queue = queue
        for item_id in queue.entries():
            queue.store(item_id, at="1")  # the last example's
        name = uuid.uuid4().hex
        self.items = {f"{name}-{letter}": One() for letter in "abcd"}
        self.ids = list(self.items)
        queue.register(*self.ids)
        self.runs = {holder: Run(queue.begin_run()) for holder in HOLDERS}
        self.now = 0.0
        self.turn = 0

    # What happens to items.

    @rule(
        holder=st.sampled_from(HOLDERS),
        positions=st.sets(POSITIONS, min_size=1),
        at=st.sampled_from(QUALITIES),
        retryable=st.booleans(),
    )
    def store(self, holder: str, positions: set[int], at: str, retryable: bool) -> None:
        ids, run_id = self.named(positions), self.runs[holder].id
        self.queue.store(*ids, at=at, rung=f"at {float(at)}", retryable=retryable, below=POLICY.below, run_id=run_id)
        for item_id in ids:
            one = self.items[item_id]
            one.stored_by = run_id
            if one.is_pending or one.quality is None or one.quality <= float(at):
                one.quality, one.retryable = float(at), retryable and at != "1"
            one.is_pending = False
        self.review(ids)

    @rule(positions=st.sets(POSITIONS, min_size=1), retryable=st.booleans())
    def fail(self, positions: set[int], retryable: bool) -> None:
        ids = self.named(positions)
        self.queue.fail(*ids, retryable=retryable)
        for item_id in ids:
            one = self.items[item_id]
            if one.is_pending or one.quality is None:
                one.is_pending, one.retryable = False, retryable
        self.review([item_id for item_id in ids if self.items[item_id].quality is None])

    @rule(positions=st.sets(POSITIONS, min_size=1))
    def enqueue_by_operator(self, positions: set[int]) -> None:
        ids = self.named(positions)
        useful = [item_id for item_id in ids if not (self.items[item_id].is_pending or self.items[item_id].is_whole)]
        assert self.queue.enqueue_by_operator(*ids) == (useful, [item_id for item_id in ids if item_id not in useful])
        for item_id in useful:
            one = self.items[item_id]
            one.retryable = True
            place = one.place or self.new_place(item_id, Priority.HIGH)
            one.place = replace(place, priority=Priority.HIGH, not_before=self.now, tries=0, is_parked=False)

    @rule(position=POSITIONS)
    def change_record(self, position: int) -> None:
        self.queue.register(self.ids[position], name=uuid.uuid4().hex)
        self.items[self.ids[position]] = One()

    # What holders do.

    @rule(
        holder=st.sampled_from(HOLDERS),
        limit=st.integers(1, 4),
        rungs=st.sets(st.sampled_from([None, *(f"at {float(one)}" for one in QUALITIES[:-1])]), min_size=3),
    )
    def claim(self, holder: str, limit: int, rungs: set[str | None]) -> None:
        expected = [
            (item_id, place)
            for item_id, place in self.line()
            if not place.is_parked
            and place.not_before <= self.now
            and self.holder_of(item_id) is None
            and self.items[item_id].retryable
            and self.items[item_id].owes in rungs
        ][:limit]
        taken = claims.claim(
            self.queue.database, holder, [RetryTarget(stage=STAGE, rungs=rungs)], limit, POLICY.lease_s
        )
        assert taken == [Claim(item_id=item_id, quality=place.quality) for item_id, place in expected]
        self.gets(holder, taken)

    @rule(holder=st.sampled_from(HOLDERS))
    def renew(self, holder: str) -> None:
        claims.renew(self.queue.database, holder, POLICY.lease_s)
        for one in self.items.values():
            if one.place and one.place.holder == holder:
                one.place = replace(one.place, until=self.now + POLICY.lease_s)

    @rule(holder=st.sampled_from(HOLDERS))
    def release(self, holder: str) -> None:
        claims.release(self.queue.database, holder)
        for one in self.items.values():
            if one.place and one.place.holder == holder:
                one.place = replace(one.place, holder=None)

    @rule(holder=st.sampled_from(HOLDERS), tried=st.sets(POSITIONS))
    def settle(self, holder: str, tried: set[int]) -> None:
        run = self.runs[holder]
        taken, run.in_hand = run.in_hand, []
        claims.settle(self.queue.database, holder, run.id, taken, self.named(tried), POLICY)
        self.review([claim.item_id for claim in taken])
        for claim in taken:
            one = self.items[claim.item_id]
            is_mended = one.quality is not None and not one.place
            if (one.place and one.place.holder != holder) or (is_mended and one.stored_by != run.id):
                continue
            is_gain = one.quality is not None and (claim.quality is None or one.quality > claim.quality)
            is_better = is_mended or is_gain
            outcome = "upgraded" if is_better else "unchanged"
            if one.place:
                tries = 0 if is_better else one.place.tries + (claim.item_id in self.named(tried))
                outcome = "parked" if tries >= POLICY.tries else outcome
                one.place = replace(
                    one.place,
                    tries=tries,
                    is_parked=tries >= POLICY.tries,
                    not_before=self.now + POLICY.delay_s * 2 ** max(0, tries - 1),
                    holder=None,
                )
            if outcome != "unchanged" or claim.item_id not in run.books:
                before = run.books.get(claim.item_id, (claim.quality,))[0]
                run.books[claim.item_id] = before, one.quality, outcome

    @rule(steps=st.integers(1, 10))
    def time_passes(self, steps: int) -> None:
        self.queue.pass_time(STEP_S * steps)
        self.now += STEP_S * steps
        for one in self.items.values():
            if one.place:
                one.place = replace(one.place, enqueued_at=one.place.enqueued_at - timedelta(seconds=STEP_S * steps))

    # What must hold.

    @invariant()
    def every_item_is_in_one_place(self) -> None:
        """Not queued, or one of queued, claimed and parked, as the model has it; and no wanted item is not queued."""
        assert [item_id for item_id, one in self.items.items() if one.is_wanted()] == sorted(dict(self.line()))
        entries = retry_queue.entries(self.queue.database, 10)
        assert [entry.item_id for entry in entries] == [item_id for item_id, _ in self.line()]
        for entry in entries:
            place = self.place(entry.item_id)
            state = "parked" if place.is_parked else "claimed" if self.holder_of(entry.item_id) else "queued"
            assert (entry.state, entry.priority, entry.quality, entry.tries, entry.enqueued_at) == (
                state,
                place.priority,
                place.quality,
                place.tries,
                place.enqueued_at,
            )
        states = Counter(entry.state for entry in entries)
        assert retry_queue.tally(self.queue.database).states == states

    @invariant()
    def every_item_has_one_holder(self) -> None:
        """And that is the model's: one holder is asked at a time, in turns."""
        self.turn += 1
        holder = HOLDERS[self.turn % len(HOLDERS)]
        mine = {item_id for item_id in self.ids if self.holder_of(item_id) == holder}
        assert held(self.queue.database, holder, self.ids) == mine

    def teardown(self) -> None:
        """In the end all that may be tried is to be had, and the books are as they were kept."""
        for holder, run in self.runs.items():
            outcomes = self.queue.books(run.id).values()
            assert {
                row["item_id"]: (row["quality_before"], row["quality_after"], row["outcome"]) for row in outcomes
            } == (run.books), holder
            tally = retries.tally(self.queue.database, run.id)
            assert tally.claimed == len(run.books)
            assert sum(tally.before.values()) == sum(before is not None for before, *_ in run.books.values())
        self.time_passes(1000)
        everything = [None, *(f"at {float(one)}" for one in QUALITIES)]
        due = [item_id for item_id, place in self.line() if not place.is_parked]
        assert self.queue.claimed("at last", gaps=[RetryTarget(stage=STAGE, rungs=everything)]) == due

    # The model.

    def named(self, positions: Collection[int]) -> list[str]:
        return [self.ids[position] for position in sorted(positions)]

    def place(self, item_id: str) -> Place:
        place = self.items[item_id].place
        assert place is not None
        return place

    def holder_of(self, item_id: str) -> str | None:
        """Who has the item in hand now."""
        place = self.items[item_id].place
        return place.holder if place and place.until > self.now else None

    def line(self) -> list[tuple[str, Place]]:
        """The queue in its order."""
        queued = [(item_id, one.place) for item_id, one in self.items.items() if one.place]
        return sorted(
            queued, key=lambda pair: (pair[1].is_parked, pair[1].priority, pair[1].quality or 0.0, pair[1].enqueued_at)
        )

    def gets(self, holder: str, taken: Sequence[Claim]) -> None:
        run = self.runs[holder]
        fresh = {claim.item_id for claim in taken}
        run.in_hand = [claim for claim in run.in_hand if claim.item_id not in fresh] + list(taken)
        for item_id in fresh:
            self.items[item_id].place = replace(self.place(item_id), holder=holder, until=self.now + POLICY.lease_s)

    def review(self, ids: Sequence[str]) -> None:
        for item_id in ids:
            one = self.items[item_id]
            if not one.is_wanted():
                one.place = None
                continue
            priority = Priority.NORMAL if one.quality is None else Priority.LOW
            place = one.place or self.new_place(item_id, priority)
            one.place = replace(place, priority=min(priority, place.priority), quality=one.quality)

    def new_place(self, item_id: str, priority: Priority) -> Place:
        """At the end of the line; when that was, the store knows to the millisecond."""
        return Place(
            priority=priority,
            quality=self.items[item_id].quality,
            enqueued_at=self.queue.entry(item_id).enqueued_at,
            not_before=self.now,
        )


def test_the_queue_is_the_one_in_the_model(queue: Queue) -> None:
    """Whatever happens to items and holders, in whatever order: same places, same claims, same books."""
    examples = 20 if queue.database.is_sqlite else 10
    run_state_machine_as_test(
        lambda: QueueBesideModel(queue),
        settings=settings(derandomize=True, deadline=None, max_examples=examples, stateful_step_count=20),
    )
