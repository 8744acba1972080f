"""The store beside a model of it: whatever runs do to the same items, and in whatever order, what is stored is true."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from repli.tasks.execution.stage_runner import RunOptions, Upgrade, run_stage
from repli.tasks.fallback import (
    Chain,
    Failed,
    InvalidItem,
    ItemError,
    Outcome,
    Rule,
    Rung,
    RungError,
    Served,
    Skip,
    Status,
    StepError,
    StepResult,
)
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.items import Item, ItemState, Stored
from repli.tasks.pipeline import EnrichedItem, Pipeline, StageContext, StageHooks, store
from repli.tasks.settings import Settings
from repli.tasks.storage import catalogue, results, runs
from repli.tasks.storage.database import Database, database_time
from repli.tasks.storage.results import Basis
from repli.tasks.storage.retry import claims, retry_queue
from repli.tasks.storage.retry.claims import Claim
from repli.tasks.storage.retry.needs import RetryTarget, decode
from repli.tasks.storage.retry.retry_queue import Priority
from repli.tasks.storage.schema import items
from repli.tasks.storage.schema import retry_queue as queue_table
from repli.tasks.storage.schema import runs as runs_table
from tests.support.fakes import ManualClock, runtime
from tests.support.stages import stage_of
from tests.support.stores import emptied

IDS = ("a", "b", "c")
ENRICHERS, REPROCESSORS = ("enrich 1", "enrich 2"), ("reprocess 1", "reprocess 2")
POLICY = RetryPolicy(below=0.8, tries=2, delay_s=300, lease_s=600)
LONG = timedelta(days=1)
RULE = Rule("look", {"fair"}, forbids="read.best", because="it was seen otherwise")
BY_STAGE = {
    "look": RetryTarget(stage="look", rungs=(None, "fair", "skip"), include_stale=True),
    "read": RetryTarget(
        stage="read", rungs=(None, "fair"), excluded_by=[("look", frozenset({"fair"}))], include_stale=True
    ),
    "read, at any look": RetryTarget(stage="read", rungs=(None,)),
    "store": RetryTarget(stage="store", rungs=(None,), include_stale=True),
}
EVERY_STAGE = range(3)
RANGES = st.sampled_from([range(first, last) for first in EVERY_STAGE for last in range(first + 1, 4)] + [EVERY_STAGE])
SOME = st.sets(st.sampled_from(IDS), min_size=1)
ANSWERS = st.sampled_from(
    [{"look": look, "read": read} for look in ("best", "fair", "none") for read in ("best", "fair", "none")]
)


@dataclass(slots=True)
class Model:
    """One item: its record, the best result of each stage for that record, whether it is stored, and its place in the
    queue."""

    record: str
    revision: int = 1
    steps: dict[str, StepResult] = field(default_factory=dict)
    state: str = "pending"
    quality: float | None = None
    priority: Priority | None = None
    holder: str | None = None

    def save(self, new: StepResult, discard: Collection[StepResult]) -> bool:
        """Keep the better of two results; return whether the new one counts, as it is of the present record."""
        if new.revision != self.revision:
            return False
        old = self.steps.get(new.stage)
        if old is None or new.rank >= old.rank or any(old.finished_at == one.finished_at for one in discard):
            self.steps[new.stage] = new
            if new.stage != "store" and "store" in self.steps:
                self.steps["store"] = replace(self.steps["store"], is_stale=True)
        elif new.input_hash != old.input_hash:
            self.steps[new.stage] = replace(old, is_stale=True)
        if any(one.status is Status.FAILED for one in self.steps.values()):
            self.state, self.quality = "failed", None
        return True

    def store(self, new: StepResult, discard: Collection[StepResult]) -> None:
        """Store the item at the quality of its results as they are now, or as failed where they cannot be merged."""
        others = {stage: one for stage, one in self.steps.items() if stage != "store"}
        if new.revision == self.revision and new.status is Status.SUCCEEDED:
            try:
                new = replace(new, value=Stored(quality=float(store.merge(PIPELINE.rules, others))))
            except RungError as error:
                new = new.failed(StepError.of(error))
                self.steps.pop("store", None)
        if self.save(new, discard) and new.status is Status.SUCCEEDED:
            self.state, self.quality = "stored", new.value.quality

    @property
    def is_store_stale(self) -> bool:
        return "store" in self.steps and self.steps["store"].is_stale

    @property
    def is_unfinished(self) -> bool:
        """Whether a stage has no result, and none has failed: `enrich` or `reprocess` has to go on with it."""
        return self.state != "stored" and not any(one.status is Status.FAILED for one in self.steps.values())

    @property
    def is_wanted(self) -> bool:
        """Whether the item belongs in the queue."""
        steps = self.steps.values()
        if self.state != "stored":
            return any(one.status is Status.FAILED and one.retryable for one in steps)
        is_low = self.quality is not None and self.quality < POLICY.below
        is_asked_for = self.priority is Priority.HIGH
        return any(one.is_stale or (one.retryable and (is_low or is_asked_for)) for one in steps)

    @property
    def needs(self) -> str:
        def marks(one: StepResult) -> str:
            failed = "!" if one.status is Status.FAILED else ""
            return f"{failed}{'?' if one.retryable else ''}{'~' if one.is_stale else ''}"

        return ";".join(f"{stage}={one.rung or ''}{marks(one)}" for stage, one in sorted(self.steps.items()))


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """Results of a stage that a run has computed, and not saved yet, and what `look` had seen of each item then."""

    stage: str
    context: StageContext
    results: Sequence[StepResult]
    discard: Sequence[StepResult]
    basis: Basis
    seen: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Actor:
    """One run: what it has computed and not saved, and the claims that it believes to hold."""

    run_id: str
    computed: list[Computed] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)


class Stages:
    """`look`, which gives up with `skip`; `read`, which is required, and reads what `look` has seen; and `store`.

    `answers` says which rung of a stage answers, or none. Results are kept in `computed`: a machine saves them when it
    likes.
    """

    def __init__(self) -> None:
        self.answers: Mapping[str, str] = {}
        self.computed: list[Computed] = []
        look = Chain("look", self.rung("look", "best", "1"), self.rung("look", "fair", "0.97"), Skip(penalty="0.83"))
        read = Chain("read", self.rung("read", "best", "1"), self.rung("read", "fair", "0.79"))
        stages = [
            stage_of(look, lambda state: [state.item.name], hooks=StageHooks(save=partial(self.keep, "look"))),
            stage_of(
                read,
                lambda state: [state.item.name, state.value("look")],
                hooks=StageHooks(save=partial(self.keep, "read")),
            ),
            stage_of(
                store.STAGE.chain,
                lambda state: store.STAGE.input(EnrichedItem(state, {})),
                hooks=replace(store.STAGE.hooks, save=partial(self.keep, "store")),
            ),
        ]
        self.pipeline = Pipeline(stages, [RULE])

    def rung(self, stage: str, name: str, penalty: str) -> Rung[list[Any], list[Any], StageContext]:
        def call(inputs: Sequence[list[Any]], context: StageContext) -> Sequence[Outcome[list[Any]]]:
            return [self.answer(stage, name, one) for one in inputs]

        return Rung(name, call, penalty=penalty, time_limit_s=60)

    def answer(self, stage: str, name: str, made_from: list[Any]) -> Outcome[list[Any]]:
        match self.answers[stage]:
            case "best" | "fair" as best if name in {best, "fair"}:
                return Served([name, *made_from])
            case "none for good":
                return Failed.because(InvalidItem("it is wrong in itself"))
            case _:
                return Failed.because(ItemError(f"{name} has no answer"))

    def keep(
        self, stage: str, context: StageContext, new: Sequence[StepResult], discard: Sequence[StepResult], basis: Basis
    ) -> Sequence[StepResult]:
        self.computed.append(Computed(stage, context, new, discard, basis))
        return new


STAGES = Stages()
PIPELINE = STAGES.pipeline


class StoreBesideModel(RuleBasedStateMachine):
    """Three items, two runs of `enrich` and two of `reprocess`."""

    def __init__(self, database: Database, home: Path) -> None:
        super().__init__()
        self.database = emptied(database)
        url = database.url.render_as_string(hide_password=False)
        self.settings = Settings(home=home, database_url=url, retry=POLICY)
        self.clock = ManualClock()
        self.changes = 0
        self.actors: dict[str, Actor] = {}
        self.models = {id_: Model(record=f"{id_} 0") for id_ in IDS}
        for name in (*ENRICHERS, *REPROCESSORS):
            self.start(name)
        self.register(ENRICHERS[0])

    def start(self, name: str) -> None:
        """Begin a new run in the place of one that is over."""
        kind = runs.ENRICH if name in ENRICHERS else runs.REPROCESS
        self.actors[name] = Actor(runs.start(self.database, str(uuid.uuid4()), name, {}, datetime.now(UTC), kind=kind))

    def register(self, name: str) -> None:
        records = [Item(id=id_, name=model.record) for id_, model in self.models.items()]
        catalogue.register(self.database, self.actors[name].run_id, records)

    # What runs do.

    @initialize(answers=ANSWERS, stages=RANGES)
    def first_run(self, answers: Mapping[str, str], stages: range) -> None:
        """Take all items through the first stages."""
        self.through(ENRICHERS[0], IDS, answers, range(stages.stop))

    @rule(name=st.sampled_from(ENRICHERS), ids=SOME)
    def change_records(self, name: str, ids: set[str]) -> None:
        self.changes += 1
        for id_ in ids:
            self.models[id_] = Model(record=f"{id_} {self.changes}", revision=self.models[id_].revision + 1)
        self.register(name)

    @rule(name=st.sampled_from(ENRICHERS), ids=SOME, answers=ANSWERS, stages=RANGES, is_late=st.booleans())
    def enrich(self, name: str, ids: set[str], answers: Mapping[str, str], stages: range, is_late: bool) -> None:
        """Take items through some stages, each saved at once, or the last of them late."""
        self.through(name, ids, answers, stages, is_late=is_late)

    @rule(name=st.sampled_from(ENRICHERS), ids=SOME, answers=ANSWERS, stages=RANGES, is_late=st.booleans())
    def refresh(self, name: str, ids: set[str], answers: Mapping[str, str], stages: range, is_late: bool) -> None:
        """Take items through some stages, those too that have a result of another run."""
        self.through(name, ids, answers, stages, is_late=is_late, refresh=True)

    @precondition(lambda self: any(self.actors[name].claims for name in REPROCESSORS))
    @rule(name=st.sampled_from(REPROCESSORS), answers=ANSWERS, stages=RANGES, is_late=st.booleans())
    def reprocess(self, name: str, answers: Mapping[str, str], stages: range, is_late: bool) -> None:
        """Take claimed items through some stages, each saved at once, or the last of them late."""
        self.through(name, [claim.item_id for claim in self.actors[name].claims], answers, stages, is_late=is_late)

    @precondition(lambda self: any(actor.computed for actor in self.actors.values()))
    @rule(which=st.integers(0, 5))
    def save_late(self, which: int) -> None:
        """Save what a run has computed, whatever the others have saved since."""
        late = [(actor, one) for actor in self.actors.values() for one in actor.computed]
        actor, computed = late[which % len(late)]
        actor.computed.remove(computed)
        self.save(computed)

    @precondition(lambda self: any(model.priority for model in self.models.values()))
    @rule(
        name=st.sampled_from(REPROCESSORS), limit=st.integers(1, 3), stages=st.sets(st.sampled_from(sorted(BY_STAGE)))
    )
    def claim(self, name: str, limit: int, stages: set[str]) -> None:
        """Claim what the targets match, of that what nobody holds and what is due; the model says who holds what."""
        holder = self.actors[name].run_id
        now = self.database.now()
        wanted = [BY_STAGE[one] for one in sorted(stages)]
        waiting = [
            entry.item_id
            for entry in retry_queue.entries(self.database, len(IDS))
            if entry.state == "queued" and entry.not_before <= now and self.models[entry.item_id].holder is None
        ]
        needs = self.in_queue()
        matching = [id_ for id_ in waiting if any(one.matches(decode(needs[id_][2])) for one in wanted)]
        claimed = claims.claim(self.database, holder, wanted, limit, POLICY.lease_s)
        assert [one.item_id for one in claimed] == matching[:limit]
        for one in claimed:
            assert one.quality == self.models[one.item_id].quality
            self.models[one.item_id].holder = holder
        fresh = {one.item_id for one in claimed}
        kept = [one for one in self.actors[name].claims if one.item_id not in fresh]
        self.actors[name].claims = [*kept, *claimed]

    @precondition(lambda self: any(self.actors[name].claims for name in REPROCESSORS))
    @rule(name=st.sampled_from(REPROCESSORS), tried=st.booleans())
    def settle(self, name: str, tried: bool) -> None:
        actor = self.actors[name]
        ids = [claim.item_id for claim in actor.claims]
        claims.settle(self.database, actor.run_id, actor.run_id, actor.claims, ids if tried else [], POLICY)
        actor.claims = []
        for id_ in ids:
            if self.models[id_].holder == actor.run_id:
                self.models[id_].holder = None
        self.review()

    # What happens to runs.

    @precondition(lambda self: any(actor.computed or actor.claims for actor in self.actors.values()))
    @rule(name=st.sampled_from((*ENRICHERS, *REPROCESSORS)))
    def crash(self, name: str) -> None:
        """Kill a run; another is started in its place. Its claims stay, and it has no heartbeat any more."""
        died = self.actors[name].run_id
        with self.database.write() as connection:
            long_ago = database_time(connection) - LONG
            connection.execute(sa.update(runs_table).where(runs_table.c.id == died).values(alive_at=long_ago))
        self.start(name)
        if name in ENRICHERS:
            self.register(name)
            runs.prune(self.database, keep=2)

    @precondition(lambda self: any(model.priority for model in self.models.values()))
    @rule(name=st.none() | st.sampled_from(REPROCESSORS))
    def time_passes(self, name: str | None) -> None:
        """The claims of one run expire; or those of all, and every delay ends."""
        holder = name and self.actors[name].run_id
        is_meant = queue_table.c.holder == holder if holder else queue_table.c.due_at.is_not(None)
        with self.database.write() as connection:
            long_ago = database_time(connection) - LONG
            connection.execute(sa.update(queue_table).where(is_meant).values(due_at=long_ago))
        for model in self.models.values():
            if holder in {None, model.holder}:
                model.holder = None

    @rule(ids=SOME)
    def ask_for(self, ids: set[str]) -> None:
        """An operator does `queue retry`."""
        retry_queue.enqueue_by_operator(self.database, sorted(ids))
        for id_ in ids:
            model = self.models[id_]
            for stage, one in model.steps.items():
                below_best = one.status in {Status.DEGRADED, Status.SKIPPED, Status.FAILED}
                model.steps[stage] = replace(one, retryable=below_best)
            if not model.is_unfinished and any(one.retryable or one.is_stale for one in model.steps.values()):
                model.priority = Priority.HIGH
        self.review()

    # What must hold.

    @invariant()
    def every_result_is_the_best_of_its_record(self) -> None:
        """No result is of an older record, none was replaced by a worse one, and `retryable` and stale are as told."""

        def told(one: StepResult) -> tuple[object, ...]:
            return one.status, one.rung, one.penalty, one.retryable, one.is_stale, one.revision, one.finished_at

        for state in self.states():
            model = self.models[state.item.id]
            assert (state.revision, state.item.name) == (model.revision, model.record)
            assert {stage: told(one) for stage, one in state.results.items()} == {
                stage: told(one) for stage, one in model.steps.items()
            }
            for stage, one in state.results.items():
                assert not (one.status is Status.SUCCEEDED and one.retryable)
                if stage != "store" and one.value is not None:
                    assert one.value[1] == model.record

    @invariant()
    def every_quality_is_the_product_of_the_penalties(self) -> None:
        """Of a stored item whose `store` is not stale, exactly; and who was not stored has none."""
        with self.database.read() as connection:
            rows = {row.id: row for row in connection.execute(sa.select(items.c.id, items.c.state, items.c.quality))}
        for state in self.states():
            row, model, steps = rows[state.item.id], self.models[state.item.id], state.results
            assert model.is_unfinished or row.state == model.state
            assert row.quality == model.quality
            if row.state == "stored" and not steps["store"].is_stale:
                penalties = [one.penalty for one in steps.values()]
                assert row.quality == float(prod(one for one in penalties if one is not None))
                assert steps["store"].value == {"quality": row.quality}

    @invariant()
    def the_queue_is_what_the_results_need(self) -> None:
        found = self.in_queue()
        for id_, model in self.models.items():
            if model.is_wanted:
                assert found.get(id_) == (model.priority, model.quality, model.needs)
            elif not model.is_unfinished:
                assert id_ not in found

    @invariant()
    def every_claimed_item_has_one_holder(self) -> None:
        held = {id_: model.holder for id_, model in self.models.items() if model.holder}
        assert claims.holders(self.database, IDS) == held

    @invariant()
    def what_is_unfinished_is_found(self) -> None:
        """By the next run of `enrich`, or by `reprocess`, now or when it is due."""
        unfinished = {id_ for id_, model in self.models.items() if model.is_unfinished}
        run_id = self.actors[ENRICHERS[0]].run_id
        found = {id_ for ids in catalogue.batches(self.database, run_id, 2, refresh=False) for id_ in ids}
        assert unfinished <= found
        assert not any(self.models[id_].state == "stored" for id_ in found)

    @invariant()
    def what_is_to_be_stored_again_is_not_parked(self) -> None:
        """Its quality is not that of its results until then: nobody should have to ask for that."""
        entries = retry_queue.entries(self.database, len(IDS))
        parked = {entry.item_id for entry in entries if entry.state == "parked"}
        assert not [id_ for id_ in parked if self.models[id_].is_store_stale]

    def teardown(self) -> None:
        """Once all rungs answer, new runs bring every item to its end."""
        best = {"look": "best", "read": "best"}
        first, again = ENRICHERS[0], REPROCESSORS[0]
        self.crash(first)
        self.crash(again)
        for ids in catalogue.batches(self.database, self.actors[first].run_id, 2, refresh=False):
            self.through(first, ids, best, EVERY_STAGE)
        self.time_passes(None)
        while claimed := claims.claim(
            self.database, self.actors[again].run_id, list(BY_STAGE.values()), 2, POLICY.lease_s
        ):
            for one in claimed:
                self.models[one.item_id].holder = self.actors[again].run_id
            self.actors[again].claims = claimed
            self.reprocess(again, best, EVERY_STAGE, is_late=False)
            self.settle(again, tried=True)
            self.time_passes(None)
        self.check()
        assert {model.state for model in self.models.values()} == {"stored"}
        assert not any(one.is_stale for model in self.models.values() for one in model.steps.values())

    def check(self) -> None:
        """Check all invariants."""
        self.every_result_is_the_best_of_its_record()
        self.every_quality_is_the_product_of_the_penalties()
        self.the_queue_is_what_the_results_need()
        self.every_claimed_item_has_one_holder()
        self.what_is_unfinished_is_found()
        self.what_is_to_be_stored_again_is_not_parked()

    # How it is done.

    def through(
        self,
        name: str,
        ids: Collection[str],
        answers: Mapping[str, str],
        stages: range,
        *,
        is_late: bool = False,
        refresh: bool = False,
    ) -> None:
        for position in stages:
            computed = self.compute(name, PIPELINE.names[position], ids, answers, refresh=refresh)
            if is_late and position == stages[-1]:
                self.actors[name].computed += computed
            else:
                for one in computed:
                    self.save(one)

    def compute(
        self, name: str, stage: str, ids: Collection[str], answers: Mapping[str, str], *, refresh: bool
    ) -> list[Computed]:
        """Compute one stage of these items, as the run does it, but for the save."""
        actor = self.actors[name]
        upgrade = Upgrade(holder=actor.run_id, stages=frozenset(PIPELINE.names)) if name in REPROCESSORS else None
        options = RunOptions(run_id=actor.run_id, refresh=refresh, upgrade=upgrade)
        self.clock.advance(1)
        STAGES.answers = answers
        STAGES.computed.clear()
        run_stage(PIPELINE, stage, sorted(ids), options, self.settings, runtime(clock=self.clock))
        return [replace(one, seen=self.seen()) for one in STAGES.computed if one.results]

    def seen(self) -> dict[str, Any]:
        """What `look` has seen of each item, which is what `read` reads."""
        return {id_: "look" in model.steps and model.steps["look"].value for id_, model in self.models.items()}

    def save(self, one: Computed) -> None:
        """Save results as the stage does, in the store and in the model."""
        if one.stage == "store":
            store.save(one.context, one.results, one.discard, one.basis)
        else:
            results.save(self.database, one.results, discard=one.discard, basis=one.basis)
        seen = self.seen()
        for result in one.results:
            model = self.models[result.item_id]
            discarded = [old for old in one.discard if (old.item_id, old.stage) == (result.item_id, result.stage)]
            if one.stage == "store":
                model.store(result, discarded)
            elif one.stage == "look" or one.seen[result.item_id] == seen[result.item_id]:
                model.save(result, discarded)
        self.review()

    def review(self) -> None:
        """Bring the model's queue up to date: an item enters at its priority, which only rises, and leaves with its
        claim. Where an unfinished item stands is not the model's to say."""
        found = self.in_queue()
        for id_, model in self.models.items():
            if model.is_wanted:
                natural = Priority.NORMAL if model.state == "failed" else Priority.LOW
                model.priority = min(natural, model.priority or natural)
            elif model.is_unfinished and id_ in found:
                model.priority = Priority(found[id_][0])
            else:
                model.priority = model.holder = None

    def states(self) -> list[ItemState]:
        return results.load(self.database, IDS)

    def in_queue(self) -> dict[str, tuple[int, float | None, str]]:
        """The queued items with their priorities, qualities and needs."""
        c = queue_table.c
        with self.database.read() as connection:
            rows = connection.execute(sa.select(c.item_id, c.priority, c.quality, c.needs)).all()
        return {row.item_id: (row.priority, row.quality, row.needs) for row in rows}


BEST, FAIR = {"look": "best", "read": "best"}, {"look": "fair", "read": "fair"}
LOOK, READ, UNSTORED = range(1), range(1, 2), range(2)
Step = tuple[str, dict[str, Any]]


def enriched(name: str, answers: Mapping[str, str], stages: range = EVERY_STAGE, *, is_late: bool = False) -> Step:
    return "enrich", {"name": name, "ids": {"a"}, "answers": answers, "stages": stages, "is_late": is_late}


def refreshed(name: str, answers: Mapping[str, str], stages: range = EVERY_STAGE, *, is_late: bool = False) -> Step:
    return "refresh", enriched(name, answers, stages, is_late=is_late)[1]


def claimed(name: str) -> Step:
    return "claim", {"name": name, "limit": 3, "stages": set(BY_STAGE)}


def settled(name: str) -> Step:
    return "settle", {"name": name, "tried": True}


LATE: Step = ("save_late", {"which": 0})
LATER: Step = ("time_passes", {"name": None})
UNREAD = {"look": "best", "read": "none"}
ONE, TWO = ENRICHERS
PARKED = [claimed("reprocess 1"), settled("reprocess 1"), LATER, claimed("reprocess 1"), settled("reprocess 1")]
ORDERS: Mapping[str, Sequence[Step]] = {
    "stored from results that were improved meanwhile": [
        enriched(ONE, FAIR, is_late=True),
        refreshed(TWO, BEST, UNSTORED),
        LATE,
    ],
    "a worse result of a new input": [
        enriched(ONE, {"look": "none", "read": "best"}),
        refreshed(TWO, {"look": "best", "read": "fair"}),
    ],
    "a forbidden result that was replaced meanwhile": [
        enriched(ONE, {"look": "none", "read": "best"}),
        refreshed(TWO, FAIR, LOOK),
        enriched(TWO, FAIR, READ, is_late=True),
        refreshed(ONE, BEST, LOOK),
        refreshed(ONE, BEST, READ),
        ("crash", {"name": ONE}),
        refreshed(ONE, BEST, READ),
        LATE,
    ],
    "two results that must not meet": [
        enriched(ONE, {"look": "none", "read": "best"}, UNSTORED),
        enriched(ONE, BEST, is_late=True),
        refreshed(TWO, FAIR, LOOK),
        LATE,
    ],
    "a late result of an old record": [
        enriched(ONE, FAIR),
        refreshed(TWO, BEST, LOOK, is_late=True),
        ("change_records", {"name": ONE, "ids": {"a"}}),
        LATE,
    ],
    "a claim that another run has taken over": [
        enriched(ONE, FAIR),
        claimed("reprocess 1"),
        LATER,
        claimed("reprocess 2"),
        settled("reprocess 1"),
    ],
    "a failed stage that was done, and not stored": [
        enriched(ONE, UNREAD),
        claimed("reprocess 1"),
        enriched(TWO, BEST, UNSTORED),
        settled("reprocess 1"),
    ],
    "a parked item that was improved, and not stored": [enriched(ONE, FAIR), *PARKED, refreshed(TWO, BEST, UNSTORED)],
    "an item that was improved, not stored, and then settled": [
        enriched(ONE, FAIR),
        *PARKED[:-1],
        refreshed(TWO, BEST, UNSTORED),
        settled("reprocess 1"),
    ],
    "a failed item of which another stage was improved": [
        enriched(ONE, {"look": "none", "read": "none"}),
        refreshed(TWO, BEST, LOOK),
    ],
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_store_is_the_one_in_the_model_in_this_order(database: Database, tmp_path: Path, order: str) -> None:
    """Orders of events that few of the random ones meet."""
    machine = StoreBesideModel(database, tmp_path)
    for name, options in ORDERS[order]:
        getattr(machine, name)(**options)
        machine.check()
    machine.teardown()


def test_the_store_is_the_one_in_the_model(database: Database, tmp_path: Path) -> None:
    """Whatever runs do to the same items: best results of the present records, true qualities, a queue that fits."""
    examples = 20 if database.is_sqlite else 10
    run_state_machine_as_test(
        lambda: StoreBesideModel(database, tmp_path),
        settings=settings(derandomize=True, deadline=None, max_examples=examples, stateful_step_count=25),
    )
