"""One rung over one batch: what is split, what is isolated, what is given up, and what that costs."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repli.tasks.fallback import (
    Breaker,
    ChainInput,
    Failed,
    ItemError,
    Outcome,
    OutOfMemory,
    Served,
    StoreError,
    TimedOut,
    Unavailable,
    WorkingSizes,
)
from repli.tasks.fallback.breaker import CallEnded, Decision, Event, Verdict
from repli.tasks.fallback.breaker_client import BreakerClient, NoBreaker, Permit
from repli.tasks.fallback.errors import BadAnswer
from repli.tasks.fallback.splitting import FAILURES_PER_HALVING, GIVE_UP_AFTER, GROW_AFTER, RungResult, call_rung
from tests.support.fakes import Does, LocalGate, ManualClock, ScriptedRung, works

BATCH = works(128)


def call(
    rung: ScriptedRung,
    batch: Sequence[ChainInput[str]] = BATCH,
    *,
    sizes: WorkingSizes | None = None,
    per_item: bool = False,
    free_memory: Callable[[], None] = lambda: None,
    breaker: BreakerClient = NoBreaker(),
) -> RungResult[str]:
    """The rung over the batch, as the runner calls it."""
    return call_rung(
        rung.name,
        batch,
        lambda chunk, permit, running: rung.on(chunk, permit),
        per_item=per_item,
        sizes=sizes or WorkingSizes(),
        free_memory=free_memory,
        timer=rung.clock.timer,
        breaker=breaker,
    )


def not_served(replies: RungResult[str]) -> list[str]:
    """The items without a value, in the order of the batch."""
    return sorted((item for item, outcome in replies.outcomes.items() if isinstance(outcome, Failed)), key=int)


def error_type(outcome: Outcome[str]) -> str:
    assert isinstance(outcome, Failed)
    return outcome.error.type


def breaking(*items: int) -> ScriptedRung:
    """A rung that some items break."""
    return ScriptedRung("gpu", script={str(item): Does.BREAK for item in items})


def test_healthy_batch_is_one_call() -> None:
    """Nothing is split that does not fail."""
    rung = ScriptedRung("gpu")
    assert not not_served(call(rung))
    assert rung.sizes == [128]


@pytest.mark.parametrize("poison", [0, 1, 63, 64, 127])
def test_one_poison_of_128_leaves_127_on_the_rung(poison: int) -> None:
    """One bad item never sinks its batch, wherever it sits, and costs one failed call a halving, and one of a single
    item that tells it from a broken rung."""
    rung = breaking(poison)
    replies = call(rung)
    assert not_served(replies) == [str(poison)]
    assert error_type(replies.outcomes[str(poison)]) == "RuntimeError"
    assert len(rung.calls) - len(rung.answered) <= 8  # of 128, 64, 32, 16, 8, 4, 2 and 1 items
    assert len(rung.calls) <= 16


@pytest.mark.parametrize(
    "poisons",
    [(0, 127), (0, 32, 64), (0, 32, 64, 96), (31, 63, 95, 127), (0, 1, 2, 3), (124, 125, 126, 127), (0, 16, 64, 80)],
)
def test_four_poisons_are_found_wherever_they_sit(poisons: tuple[int, ...]) -> None:
    """Up to four bad items leave 124 on the rung, even where they break every half and every quarter."""
    assert not_served(call(breaking(*poisons))) == [str(poison) for poison in poisons]


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.integers(1, 200), st.sets(st.integers(0, 199), max_size=3), st.none() | st.integers(1, 100), st.booleans())
def test_three_poisons_are_found_in_any_batch(
    count: int, poisons: set[int], fits: int | None, others_fail: bool
) -> None:
    """The budget is enough for three bad items in a batch of any size, split for memory or not, served or not."""
    batch = works(count)
    broken = {str(poison) for poison in poisons if poison < count}
    script = {work.item_id: Does.FAIL for work in batch if others_fail} | dict.fromkeys(broken, Does.BREAK)
    rung = ScriptedRung("gpu", script, fits={work.item_id: fits for work in batch} if fits else {})
    outcomes = call(rung, batch).outcomes
    errors = {item: outcome.error.type for item, outcome in outcomes.items() if isinstance(outcome, Failed)}
    others = {work.item_id: "ItemError" for work in batch if others_fail}
    assert errors == others | dict.fromkeys(broken, "RuntimeError")


def test_broken_rung_costs_a_few_calls() -> None:
    """A rung that always raises is given up after five calls, four of them with single items from all over the batch;
    nobody is called alone twice, and the others have the last of its errors."""
    rung = ScriptedRung("gpu", always=RuntimeError("no driver"))
    replies = call(rung)
    assert rung.sizes == [128, 1, 1, 1, 1]
    assert rung.calls[1:] == [["103"], ["15"], ["118"], ["30"]]
    assert len(not_served(replies)) == 128
    assert {error_type(outcome) for outcome in replies.outcomes.values()} == {"RuntimeError"}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_broken_rung_costs_a_small_batch_less(count: int) -> None:
    """A small batch has fewer single items: no call is made twice."""
    rung = ScriptedRung("gpu", always=RuntimeError("no driver"))
    call(rung, works(count))
    assert len(rung.calls) == min(count + (count > 1), GIVE_UP_AFTER)


def test_one_by_one_a_rung_that_serves_is_not_given_up() -> None:
    """Where each call carries one item, an error is that item's once another is served: thirty bad ones do not decide
    for the others."""
    rung = breaking(*range(1, 31))
    replies = call(rung, per_item=True)
    assert not_served(replies) == [str(number) for number in range(1, 31)]
    assert rung.sizes == [1] * 128


def test_one_by_one_a_rung_that_serves_nothing_is_given_up() -> None:
    """After five failed calls; an item's own error in between proves nothing, because it may be found before the call
    of what the rung depends on. The next items are from all over the batch, away from their bad neighbours."""
    rung = ScriptedRung("api", {work.item_id: Does.BREAK for work in BATCH} | {"0": Does.FAIL, "31": Does.FAIL})
    replies = call(rung, per_item=True)
    assert rung.calls == [["0"], ["1"], ["79"], ["31"], ["32"], ["110"], ["61"]]
    assert error_type(replies.outcomes["127"]) == "RuntimeError"


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (OutOfMemory("full"), 2 * GIVE_UP_AFTER),
        (RuntimeError("no driver"), 2 * GIVE_UP_AFTER),
        (BadAnswer("nonsense"), 2 * GIVE_UP_AFTER),
        (TimedOut("cut off"), 2),
        (Unavailable("no CUDA device"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("works_for", [1, 3])
@pytest.mark.parametrize("size", [1, 8])
def test_a_rung_that_breaks_in_the_midst_of_a_batch_is_given_up(
    error: Exception, calls: int, works_for: int, size: int
) -> None:
    """After twice as many failed calls in a row, whatever was served before; what was served stays."""
    sizes = WorkingSizes()
    sizes.record_out_of_memory("gpu", 2 * size)
    rung = ScriptedRung("gpu", always=error, works_for=works_for)
    replies = call(rung, sizes=sizes, per_item=size == 1)
    halvings = [8, 4, 2] if size > 1 and isinstance(error, OutOfMemory) else []
    assert rung.sizes[: works_for + len(halvings)] == [*[size] * works_for, *halvings]
    assert len(rung.calls) == works_for + len(halvings) + calls
    assert sum(isinstance(outcome, Served) for outcome in replies.outcomes.values()) == works_for * size
    assert replies.outcomes.keys() == {work.item_id for work in BATCH}
    assert {error_type(one) for one in replies.outcomes.values() if isinstance(one, Failed)} == {type(error).__name__}


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    bad=st.sets(st.integers(0, 127), max_size=24),
    first=st.integers(0, 104),
    together=st.booleans(),
    does=st.sampled_from([Does.BREAK, Does.FAIL]),
)
def test_bad_items_do_not_give_a_rung_up(bad: set[int], first: int, together: bool, does: Does) -> None:
    """A fifth of the batch may be bad, neighbours or not, and every other item is served, one by one."""
    bad = set(range(first, first + len(bad))) if together else bad
    replies = call(ScriptedRung("api", {str(item): does for item in bad}), per_item=True)
    assert not_served(replies) == [str(item) for item in sorted(bad)]


def test_a_rung_that_hangs_for_single_items_is_given_up_sooner() -> None:
    """Each of its calls costs the whole limit: two of them are enough."""
    assert call(rung := ScriptedRung("api", always=TimedOut("cut off")), per_item=True).outcomes.keys() == {
        work.item_id for work in BATCH
    }
    assert len(rung.calls) == 2


def test_a_rung_that_answers_nonsense_for_single_items_is_given_up() -> None:
    """Answers that are failures of the rung are no sign of life."""

    def on(batch: Sequence[ChainInput[str]], permit: object, running: object) -> Sequence[Outcome[str]]:
        calls.append(batch[0].item_id)
        return [Failed.because(BadAnswer("nonsense"))]

    calls: list[str] = []
    replies = call_rung(
        "api",
        works(20),
        on,
        per_item=True,
        sizes=WorkingSizes(),
        free_memory=lambda: None,
        timer=ManualClock().timer,
    )
    assert len(calls) == GIVE_UP_AFTER
    assert {error_type(outcome) for outcome in replies.outcomes.values()} == {"BadAnswer"}


def test_isolation_stops_at_its_budget() -> None:
    """Where a quarter of the items are bad the budget ends the search, and the rest still have their one call."""
    rung = breaking(*range(96, 128))
    replies = call(rung)
    failed_calls = len(rung.calls) - len(rung.answered)
    assert set(map(str, range(96))) <= replies.outcomes.keys() - set(not_served(replies))
    assert len(not_served(replies)) == 32
    assert failed_calls <= FAILURES_PER_HALVING * 7 + 32  # what already waits when the budget ends is called once
    assert all(rung.calls.count(call) == 1 for call in rung.calls)


def test_every_second_item_bad_leaves_some_on_the_rung() -> None:
    """Single items show that the rung works, and the search for the bad ones ends at its budget."""
    rung = breaking(*range(0, 128, 2))
    missed = not_served(call(rung))
    assert 64 < len(missed) < 128
    assert {error_type(outcome) for outcome in call(rung).outcomes.values() if isinstance(outcome, Failed)} == {
        "RuntimeError"
    }


def test_answered_items_are_not_called_again() -> None:
    """Isolation calls each item until it is answered, and no further."""
    rung = breaking(5, 77)
    call(rung)
    answered = [item for items in rung.answered for item in items]
    assert len(answered) == len(set(answered)) == 126


def test_out_of_memory_halves_until_it_fits() -> None:
    """A batch of 128 on a device that takes 40 is served by calls of 32, at the cost of two failed ones."""
    freed: list[None] = []
    rung = ScriptedRung("gpu", fits={work.item_id: 40 for work in BATCH})
    assert not not_served(call(rung, free_memory=lambda: freed.append(None)))
    assert rung.sizes[:3] == [128, 64, 32]
    assert sum(len(items) for items in rung.answered) == 128
    assert len(freed) == len(rung.calls) - len(rung.answered)


def test_only_the_item_that_does_not_fit_alone_goes_on() -> None:
    """Splitting goes down to one item; the one that is too large by itself is given up, its neighbours are served."""
    rung = ScriptedRung("gpu", fits={"77": 0})
    replies = call(rung)
    assert not_served(replies) == ["77"]
    assert error_type(replies.outcomes["77"]) == "OutOfMemory"
    assert rung.calls.count(["77"]) == 1


def test_memory_is_freed_before_a_smaller_try_only() -> None:
    """Freeing takes time: it is done once for each call that is split, and not where nothing is tried again."""
    freed: list[None] = []
    rung = ScriptedRung("gpu", fits={work.item_id: 0 for work in BATCH})
    call(rung, works(8), free_memory=lambda: freed.append(None))
    assert len(freed) == sum(size > 1 for size in rung.sizes) > 0


def test_a_card_without_memory_is_given_up() -> None:
    """Where no item fits, halving goes down to one, and five single items are enough: the others have that reason."""
    rung = ScriptedRung("gpu", fits={work.item_id: 0 for work in BATCH})
    replies = call(rung)
    assert len(not_served(replies)) == 128
    assert rung.sizes == [128, 64, 32, 16, 8, 4, 2, 1, 1, 1, 1, 1]
    assert {error_type(outcome) for outcome in replies.outcomes.values()} == {"OutOfMemory"}


def test_memory_error_is_out_of_memory() -> None:
    """Python's own exception is split like the device's."""

    def on(batch: Sequence[ChainInput[str]], permit: object, running: object) -> Sequence[Outcome[str]]:
        if len(batch) > 1:
            raise MemoryError
        return [Served(batch[0].input)]

    replies = call_rung(
        "cpu",
        works(16),
        on,
        per_item=False,
        sizes=WorkingSizes(),
        free_memory=lambda: None,
        timer=ManualClock().timer,
    )
    assert not not_served(replies)


def test_working_size_is_remembered() -> None:
    """The next batch starts at the size that fitted; other rungs are not concerned."""
    sizes = WorkingSizes()
    fits = {work.item_id: 16 for work in BATCH}
    call(ScriptedRung("gpu", fits=fits), works(32), sizes=sizes)
    again, other = ScriptedRung("gpu", fits=fits), ScriptedRung("cpu")
    call(again, works(48), sizes=sizes)
    call(other, works(48), sizes=sizes)
    assert again.sizes == [16, 16, 16]
    assert other.sizes == [48]


def test_working_size_grows_back() -> None:
    """After four calls that filled it the size doubles, and again, until a whole batch is one call."""
    sizes = WorkingSizes()
    call(ScriptedRung("gpu", fits={"0": 16}), works(32), sizes=sizes)  # 16 items fitted, twice
    relieved = ScriptedRung("gpu")
    for _ in range(5):
        call(relieved, sizes=sizes)
    assert relieved.sizes == [*(16, 16, 32, 32, 32), *(32, 64, 32), *(64, 64), *(64, 64), 128]


def test_working_size_step_by_step() -> None:
    """Four calls of the working size double it; smaller ones prove nothing, and a failure starts the count again."""
    sizes = WorkingSizes()
    assert sizes.limit("gpu", 128) == 128
    sizes.record_fit("gpu", 128)
    sizes.record_out_of_memory("gpu", 128)
    assert (sizes.limit("gpu", 128), sizes.limit("gpu", 10), sizes.limit("cpu", 128)) == (64, 10, 128)
    for _ in range(GROW_AFTER - 1):
        sizes.record_fit("gpu", 64)
    for _ in range(GROW_AFTER):
        sizes.record_fit("gpu", 63)
    assert sizes.limit("gpu", 128) == 64
    sizes.record_fit("gpu", 64)
    assert sizes.limit("gpu", 1000) == 128
    for _ in range(GROW_AFTER - 1):
        sizes.record_fit("gpu", 128)
    sizes.record_out_of_memory("gpu", 128)
    sizes.record_fit("gpu", 64)
    assert sizes.limit("gpu", 1000) == 64
    sizes.record_out_of_memory("gpu", 1)
    assert sizes.limit("gpu", 1000) == 1


class Tensor:
    """Something large on a device."""


@pytest.mark.parametrize("chaining", ["none", "from", "during", "itself"])
def test_memory_of_the_failed_call_is_let_go_before_it_is_freed(chaining: str) -> None:
    """What a call had allocated is gone when memory is freed, whatever exceptions hold its frames."""
    tensors: list[weakref.ref[Tensor]] = []
    alive_when_freed: list[int] = []

    def allocate() -> None:
        tensor = Tensor()
        tensors.append(weakref.ref(tensor))
        raise RuntimeError("CUDA out of memory")

    def on(batch: Sequence[ChainInput[str]], permit: object, running: object) -> Sequence[Outcome[str]]:
        tensor = Tensor()
        tensors.append(weakref.ref(tensor))
        try:
            allocate()
        except RuntimeError as error:
            if chaining == "from":
                raise OutOfMemory("it does not fit") from error
            if chaining == "during":
                raise OutOfMemory("it does not fit")  # noqa: B904  the other way to chain
            if chaining == "itself":
                out_of_memory = OutOfMemory("it does not fit")
                raise out_of_memory from out_of_memory
        raise OutOfMemory("it does not fit")

    call_rung(
        "gpu",
        works(2),
        on,
        per_item=False,
        sizes=WorkingSizes(),
        free_memory=lambda: alive_when_freed.append(sum(tensor() is not None for tensor in tensors)),
        timer=ManualClock().timer,
    )
    assert alive_when_freed == [0]


def test_time_out_is_not_split() -> None:
    """A call that was cut off would only wait again: its items go on after one call."""
    rung = ScriptedRung("gpu", always=TimedOut("cut off"))
    replies = call(rung)
    assert rung.sizes == [128]
    assert len(not_served(replies)) == 128
    assert not replies.unavailable


def test_time_out_takes_only_its_own_call() -> None:
    """Where calls carry one item, one that hangs takes no other with it."""

    def on(batch: Sequence[ChainInput[str]], permit: object, running: object) -> Sequence[Outcome[str]]:
        if batch[0].item_id == "3":
            raise TimedOut("cut off")
        return [Served(batch[0].input)]

    replies = call_rung(
        "full",
        works(20),
        on,
        per_item=True,
        sizes=WorkingSizes(),
        free_memory=lambda: None,
        timer=ManualClock().timer,
    )
    assert not_served(replies) == ["3"]


@pytest.mark.parametrize("per_item", [False, True])
def test_unavailable_is_called_once(per_item: bool) -> None:
    """A missing device costs one call, whatever the batch, and every item says so."""
    rung = ScriptedRung("gpu", always=Unavailable("no CUDA device"))
    replies = call(rung, per_item=per_item)
    assert len(rung.calls) == 1
    assert len(not_served(replies)) == 128
    assert replies.unavailable == {work.item_id for work in BATCH}
    assert replies.unavailable == {work.item_id for work in BATCH}


def test_device_lost_midway_keeps_what_was_answered() -> None:
    """Answers that came before the device was lost stand, failures included."""
    sizes = WorkingSizes()
    sizes.record_out_of_memory("gpu", 4)

    def on(batch: Sequence[ChainInput[str]], permit: object, running: object) -> Sequence[Outcome[str]]:
        if batch[0].item_id != "0":
            raise Unavailable("the device fell off the bus")
        return [Served("0"), Failed.because(ItemError("it is no image"))]

    replies = call_rung(
        "gpu", works(6), on, per_item=False, sizes=sizes, free_memory=lambda: None, timer=ManualClock().timer
    )
    assert replies.outcomes["0"] == Served("0")
    assert error_type(replies.outcomes["1"]) == "ItemError"
    assert replies.unavailable == {"2", "3", "4", "5"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_what_is_no_exception_passes_through(error: BaseException) -> None:
    """An interrupt is for the process, not for the next rung."""
    with pytest.raises(type(error)):
        call(ScriptedRung("gpu", always=error))


def test_an_outage_of_the_store_is_no_failure_of_the_rung() -> None:
    """The stage fails as a whole, and runs again: nothing is stored degraded because of it, and no breaker opens."""
    rung = ScriptedRung("gpu", always=StoreError("away"))
    gate = LocalGate("stage.gpu", Breaker(scope="fleet", failures=1), rung.clock)
    with pytest.raises(StoreError):
        call(rung, breaker=gate)
    assert gate.ends == [("1", Verdict.INCONCLUSIVE)]
    assert gate.state.failures == ()


@pytest.mark.parametrize("part", ["timer", "free_memory"])
def test_bug_in_the_chain_itself_is_not_swallowed(part: str) -> None:
    """Only what a rung raises becomes a degradation; a broken clock, or a broken clean-up, is raised."""

    def bug() -> float:
        raise LookupError("a bug in the engine's own parts")

    rung = ScriptedRung("gpu", fits={"0": 0})
    with pytest.raises(LookupError, match="engine's own parts"):
        call_rung(
            rung.name,
            works(4),
            lambda chunk, permit, running: rung.on(chunk, permit),
            per_item=False,
            sizes=WorkingSizes(),
            free_memory=bug if part == "free_memory" else lambda: None,  # type: ignore[arg-type]
            timer=bug if part == "timer" else rung.clock.timer,
        )


def test_seconds_are_shared_among_the_items_of_a_call() -> None:
    """Each item's seconds are its share of the calls that carried it, failed ones included."""
    rung = ScriptedRung("gpu", fits={work.item_id: 2 for work in BATCH}, call_takes_s=8)
    replies = call(rung, works(4))
    assert rung.sizes == [4, 2, 2]
    assert replies.seconds == dict.fromkeys("0123", 2.0 + 4.0)
    assert sum(replies.seconds.values()) == rung.clock.seconds


class SlowGate(LocalGate):
    """A breaker that takes its time whatever it is asked or told."""

    def happens(self, event: Event) -> Decision:
        self.clock.advance(100)
        return super().happens(event)


@pytest.mark.parametrize(
    "always", [None, RuntimeError("no driver"), TimedOut("cut off")], ids=["served", "failed", "timed out"]
)
def test_seconds_are_those_of_the_calls(always: Exception | None) -> None:
    """What the breaker takes, and the check of the answers, is nobody's: a served item is not slow for its gate's
    sake, nor is one whose call failed."""
    rung = ScriptedRung("gpu", always=always, call_takes_s=8)

    def accept(outcome: Outcome[str]) -> Outcome[str]:
        rung.clock.advance(100)
        return outcome

    replies = call_rung(
        rung.name,
        works(1),
        lambda chunk, permit, running: rung.on(chunk, permit),
        per_item=False,
        sizes=WorkingSizes(),
        free_memory=lambda: None,
        timer=rung.clock.timer,
        breaker=SlowGate("gpu", Breaker(scope="host"), rung.clock),
        accept=accept,
    )
    assert replies.seconds == {"0": 8.0}
    assert rung.clock.seconds == 208.0 + (100.0 if always is None else 0.0)


def test_items_that_were_never_called_took_no_time() -> None:
    """An item given up without a call has 0 seconds, not none."""
    rung = ScriptedRung("gpu", always=Unavailable("no CUDA device"), call_takes_s=8)
    replies = call(rung, works(3), per_item=True)
    assert replies.seconds == {"0": 8.0, "1": 0.0, "2": 0.0}


def test_refusal_ends_the_calls() -> None:
    """Who was in a call has its outcome; who still waits when others have opened the breaker is refused, and took no
    time."""
    gate = LocalGate("gpu", Breaker(scope="host", failures=1), ManualClock())
    sizes = WorkingSizes()
    sizes.record_out_of_memory("gpu", 6)
    rung = ScriptedRung("gpu", {"1": Does.FAIL}, call_takes_s=6)

    def on(batch: Sequence[ChainInput[str]], permit: Permit, running: object) -> Sequence[Outcome[str]]:
        if batch[0].item_id == "3":
            gate.happens(CallEnded("another worker's", Verdict.FAILED))
        return rung.on(batch)

    replies = call_rung(
        "gpu",
        works(9),
        on,
        per_item=False,
        sizes=sizes,
        free_memory=lambda: None,
        timer=rung.clock.timer,
        breaker=gate,
    )
    assert rung.calls == [["0", "1", "2"], ["3", "4", "5"]]
    assert replies.refused == {"6", "7", "8"}
    assert [error_type(replies.outcomes[str(item)]) for item in (1, 6, 7, 8)] == ["ItemError", *["BreakerOpen"] * 3]
    assert replies.seconds == {str(item): 2.0 if item < 6 else 0.0 for item in range(9)}
    assert gate.ends == [("1", Verdict.SERVED)]


def test_without_a_refusal_nobody_is_refused() -> None:
    """A breaker that stays closed leaves no mark on the replies."""
    gate = LocalGate("gpu", Breaker(scope="host"), ManualClock())
    rung = breaking(77)
    assert call(rung, breaker=gate) == call(breaking(77))
    assert len(gate.permits) == len(rung.calls)


@dataclass
class ProbeOnly:
    """A gate of which every permit is a probe, but the first so many, with the tokens that it is given."""

    tokens: Iterator[str]
    calls_first: int = 0

    def acquire(self) -> Permit:
        self.calls_first -= 1
        decision = Decision.CALL if self.calls_first >= 0 else Decision.PROBE
        return Permit(token=next(self.tokens), decision=decision)

    def refusal(self) -> str | None:
        return None

    def record(self, permit: Permit, verdict: Verdict, why: str = "", *, retry_after_s: float | None = None) -> None:
        pass

    def take_back(self, permit: Permit) -> None:
        pass

    def refusal_elsewhere(self) -> str | None:
        return None


def test_each_probe_carries_one_item_and_nobody_is_called_twice() -> None:
    """However long the probes go on, every item of the batch has its one call."""
    rung = ScriptedRung("gpu")
    call(rung, works(20), breaker=ProbeOnly(map(str, count())))
    assert sorted(rung.calls, key=lambda items: int(items[0])) == [[str(item)] for item in range(20)]


@pytest.mark.parametrize("items", [1, 2, 3, 8, 20])
def test_probe_is_drawn_by_its_token(items: int) -> None:
    """Every item of the chunk may be the one, none much oftener than another, and the same token draws the same."""
    draws: Counter[str] = Counter()
    for number in range(items * 50):
        probes = [ScriptedRung("gpu", always=Unavailable("no CUDA device")) for _ in range(2)]
        for rung in probes:
            call(rung, works(items), breaker=ProbeOnly(iter([f"token {number}"])))
        assert probes[0].calls == probes[1].calls
        draws.update(probes[0].calls[0])
    assert draws.keys() == {work.item_id for work in works(items)}
    assert max(draws.values()) < 100


def test_probe_is_of_the_next_chunk_whatever_fits() -> None:
    """It is one of all that come next, not only of those that the next call could carry."""
    drawn = set()
    for number in range(100):
        sizes = WorkingSizes()
        sizes.record_out_of_memory("gpu", 4)
        rung = ScriptedRung("gpu", always=Unavailable("no CUDA device"))
        call(rung, works(8), sizes=sizes, breaker=ProbeOnly(iter([f"token {number}"])))
        drawn.add(rung.calls[0][0])
    assert drawn == set(map(str, range(8)))


def test_the_same_token_draws_the_same_in_any_process() -> None:
    """A draw can be told again from the token that a store or a log has kept."""
    drawn = []
    for token in ("one", "two", "three"):
        rung = ScriptedRung("gpu", always=Unavailable("no CUDA device"))
        call(rung, breaker=ProbeOnly(iter([token])))
        drawn += rung.calls
    assert drawn == [["113"], ["102"], ["117"]]


def test_probes_in_the_middle_of_a_batch_keep_its_order() -> None:
    """The chunk that comes next gives its items, one after the other, before another chunk does."""
    rung = breaking(7)
    call(rung, works(8), breaker=ProbeOnly(map(str, count()), calls_first=1))
    assert rung.sizes == [8] + [1] * 8
    probes = [item for (item,) in rung.calls[1:]]
    assert (set(probes[:4]), set(probes[4:])) == (set("0123"), set("4567"))
