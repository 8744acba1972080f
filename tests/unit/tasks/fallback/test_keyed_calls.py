"""Breakers of many keys: what is called, refused and let go of a batch, and calls whose key the rung names itself."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repli.tasks.fallback import (
    AttemptOutcome,
    Breaker,
    Chain,
    ChainInput,
    Declined,
    Outcome,
    Position,
    Rung,
    Served,
    Skip,
    StepResult,
    TimedOut,
    Unavailable,
    run_chain,
)
from repli.tasks.fallback.breaker import CallEnded, Verdict
from repli.tasks.fallback.errors import BreakerOpen, keys_of
from repli.tasks.fallback.keyed_calls import KeyedCalls
from repli.tasks.runtime.call_slots import CallSlots
from repli.tasks.runtime.time_limit import TimeLimiter
from tests.support.fakes import RUN_ID, LocalGates, ManualClock, at_once, runtime, works

BY_LETTER = Breaker(scope="key", key=lambda text: text[0], failures=2)
SERVED, FAILED, INCONCLUSIVE = Verdict.SERVED, Verdict.FAILED, Verdict.INCONCLUSIVE


class Api:
    """A rung over inputs such as `a1`, whose first letter is their key; some keys are down."""

    def __init__(self, down: str = "", breaker: Breaker = BY_LETTER) -> None:
        self.down = down
        self.calls: list[list[str]] = []
        self.gates = LocalGates(ManualClock())
        self.within: Callable[..., Any] = at_once
        self.chain: Chain[str, str, None] = Chain(
            "stage", Rung("api", self, time_limit_s=60, breaker=breaker), Skip(penalty="0.7")
        )

    def __call__(self, inputs: Sequence[str], context: None) -> Sequence[Outcome[str]]:
        self.calls.append(list(inputs))
        if inputs[0][0] in self.down:
            raise Unavailable(f"{inputs[0][0]} is down")
        return [Served(text) for text in inputs]

    def run(self, *inputs: str) -> list[StepResult]:
        batch = [ChainInput(text, text) for text in inputs]
        parts = runtime(breaker_of=self.gates.of, call_within=self.within)
        return run_chain(self.chain, batch, None, run_id=RUN_ID, runtime=parts)

    def outcomes(self, *inputs: str) -> list[str]:
        return [result.attempts[0].outcome.value for result in self.run(*inputs)]


def test_a_batch_is_called_group_by_group() -> None:
    """Each group has its key, and each key its breaker; results come in the order of the batch."""
    api = Api()
    assert [result.item_id for result in api.run("a1", "b1", "a2", "c1")] == ["a1", "b1", "a2", "c1"]
    assert api.calls == [["a1", "a2"], ["b1"], ["c1"]]
    assert {name: gate.verdicts for name, gate in api.gates.by_name.items()} == {
        f"stage.api@{key}": [SERVED] for key in "abc"
    }


def test_a_dead_key_costs_its_own_items() -> None:
    """It is called in two batches, then refused in the same call in which the others are served."""
    api = Api(down="b")
    assert api.outcomes("a1", "b1", "b2") == ["served", "unavailable", "unavailable"]
    assert api.outcomes("b3", "a2") == ["unavailable", "served"]
    api.calls.clear()
    assert api.outcomes("b4", "a3", "b5", "c1") == ["refused", "served", "refused", "served"]
    assert api.calls == [["a3"], ["c1"]]


@pytest.mark.parametrize("tries", [1, 3], ids=["failed", "refused"])
def test_a_result_says_which_key_it_waits_for(tries: int) -> None:
    """Whether its call failed or was refused; it is no failure of the rung, which serves other keys."""
    api = Api(down="b")
    for number in range(tries):
        served, waits = api.run(f"a{number}", f"b{number}")
    assert (served.waits_for, waits.waits_for) == ((), ("stage.api@b",))
    assert waits.is_refused_by_key is (tries == 3)
    assert not waits.is_failed_by_rung


def test_an_input_without_a_key_fails_alone() -> None:
    """The function of the key may not expect it; the breaker of no key hears of it."""
    api = Api()
    first, second = api.run("a1", "")
    assert first.rung == "api"
    assert second.attempts[0].error
    assert "its breaker's key cannot be told (IndexError" in second.attempts[0].error.message
    assert list(api.gates.by_name) == ["stage.api@a"]


def _exits(text: str) -> str:
    sys.exit(3)


class _Unreadable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (lambda text: _Unreadable(), "RuntimeError: no text"),
        (_exits, "SystemExit: 3"),
    ],
)
def test_a_key_that_cannot_be_told_fails_its_item(key: Callable[[str], Any], why: str) -> None:
    """No function of a key ends a worker."""
    api = Api(breaker=replace(BY_LETTER, key=lambda text: text[0] if text[0] == "a" else key(text)))
    first, second = api.run("a1", "b1")
    assert first.rung == "api"
    assert second.attempts[0].error
    assert "its breaker's key cannot be told" in second.attempts[0].error.message
    assert why in second.attempts[0].error.message


def test_a_key_that_takes_too_long_fails_its_item() -> None:
    """The limit is that of the rung; the items whose keys are told by then are called."""
    api = Api(breaker=replace(BY_LETTER, key=lambda text: text[0] if text[0] == "a" else time.sleep(20)))
    api.chain = api.chain.with_rungs(replace(api.chain.rungs[0], time_limit_s=0.5))
    api.within = TimeLimiter()
    first, second = api.run("a1", "b1")
    assert first.rung == "api"
    assert second.attempts[0].error
    assert "its breaker's key was cut off at its time limit" in second.attempts[0].error.message


@pytest.mark.parametrize(
    "key", [7, 1.5, None, "", " \n", "a\0\udcff", "k" * 1_000_000, "https://bob:hunter2@shop.example/x"]
)
def test_any_key_is_kept_as_a_text_that_every_store_takes(key: object) -> None:
    """Of a rung that names it, and of one whose breaker does: short, printable, and without a password."""
    api = Api(breaker=replace(BY_LETTER, key=lambda text: key))
    assert api.outcomes("a1") == ["served"]
    [kept] = api.gates.by_name
    assert kept.isprintable()
    assert not kept.endswith("@"), "that would be the breaker of all keys"
    assert kept.encode()
    assert len(kept) < 300
    assert "hunter2" not in kept
    gates = LocalGates(ManualClock())
    with KeyedCalls(name="stage.api", breaker=BY_LETTER, breaker_of=gates.of)(key):  # type: ignore[arg-type]
        assert list(gates.by_name) == [kept]


def test_what_waits_behind_a_slow_key_is_let_go() -> None:
    """The items of the other keys go on, and their rung is not called for them again."""
    let_go: list[str] = []
    calls: list[list[str]] = []
    clock = ManualClock()

    def api(inputs: Sequence[str], context: None) -> Sequence[Outcome[str]]:
        calls.append(list(inputs))
        return [Served(text) for text in inputs]

    def slow(function, limit_s, name, *, while_waiting):  # type: ignore[no-untyped-def]
        for _ in range(3):
            while_waiting()
            clock.advance(5)
        return function()

    chain: Chain[str, str, None] = Chain("stage", Rung("api", api, time_limit_s=60, breaker=BY_LETTER))
    results = run_chain(
        chain,
        [ChainInput(text, text) for text in ("a1", "b1", "b2", "c1")],
        None,
        run_id=RUN_ID,
        runtime=runtime(clock=clock, call_within=slow, breaker_of=LocalGates(clock).of),
        let_go=lambda finished, untouched: let_go.extend(untouched),
    )
    assert let_go == ["b1", "b2", "c1"]
    assert calls == [["a1"]]
    assert [result.item_id for result in results] == ["a1"]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=8, unique=True), max_size=9
    ),
    down=st.sets(st.sampled_from("abcd")),
    failures=st.integers(1, 3),
)
def test_keys_do_not_concern_each_other(batches: list[list[tuple[str, int]]], down: set[str], failures: int) -> None:
    """Over any batches, each key fares as it would with a pipeline of its own."""
    breaker = replace(BY_LETTER, failures=failures)
    together = Api(down="".join(down), breaker=breaker)
    alone = {key: Api(down="".join(down), breaker=breaker) for key in "abcd"}
    for batch in batches:
        texts = [f"{key}{number}" for key, number in batch]
        found = {result.item_id: result.attempts[0].outcome for result in together.run(*texts)}
        for key, api in alone.items():
            mine = [text for text in texts if text[0] == key]
            assert {text: found[text] for text in mine} == {
                result.item_id: result.attempts[0].outcome for result in api.run(*mine)
            }
    for key, api in alone.items():
        assert [call for call in together.calls if call[0][0] == key] == api.calls
        assert len(api.calls) <= failures or key not in down


# Calls whose key the rung names


def calls(gates: LocalGates, at_once: int = 4) -> KeyedCalls:
    breaker = Breaker(scope="key", failures=2, at_once=at_once)
    return KeyedCalls(name="fetch.origin", breaker=breaker, breaker_of=gates.of, slot_of=CallSlots().of)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, SERVED),
        (Unavailable("503"), FAILED),
        (TimedOut("cut off"), FAILED),
        (OSError("reset by peer"), FAILED),
        (Declined("it is no page"), INCONCLUSIVE),
        (KeyboardInterrupt(), INCONCLUSIVE),
    ],
    ids=repr,
)
def test_how_a_call_ends_is_recorded(error: BaseException | None, verdict: Verdict) -> None:
    """The error is raised as it is; only those that no item caused count."""
    gates = LocalGates()
    try:
        with calls(gates)("shop.example"):
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    assert gates.by_name["fetch.origin@shop.example"].verdicts == [verdict]
    assert error is None or keys_of(error) == (("shop.example",) if verdict is FAILED else ())


def test_a_refused_key_raises_and_others_go_on() -> None:
    """The body of the statement does not run."""
    gates = LocalGates()
    call = calls(gates)
    for _ in range(2):
        with pytest.raises(Unavailable), call("dead.example"):
            raise Unavailable("503")
    with pytest.raises(BreakerOpen) as refusal, call("dead.example"):
        raise AssertionError("it was called")
    assert keys_of(refusal.value) == ("dead.example",)
    with call("good.example"):
        pass


def fail(call: KeyedCalls, key: str, error: Exception | None = None) -> None:
    """A call that is let through, and fails."""
    error = error or Unavailable("503")
    with pytest.raises(type(error)) as raised, call(key):
        raise error
    assert raised.value is error


def test_a_served_call_takes_back_a_failure_of_its_key() -> None:
    """One for one: a key that fails more often than it is served is refused in the end."""
    gates = LocalGates()
    call = calls(gates)  # two failures open it
    for _ in range(20):
        fail(call, "flaky.example")
        with call("other.example"), call("flaky.example"):
            pass
    gate = gates.by_name["fetch.origin@flaky.example"]
    assert len(gate.taken_back) == 20
    assert gate.state.failures == ()
    fail(call, "flaky.example")
    fail(call, "flaky.example")
    assert gate.state.position is Position.OPEN


@pytest.mark.parametrize(
    "error", [TimedOut("cut off"), Unavailable("429", retry_after_s=0.001)], ids=["no answer", "asked to wait"]
)
def test_what_cost_the_whole_limit_or_asked_to_wait_stays(error: Exception) -> None:
    """However many calls are served between: a page in ten that hangs would make a night of it."""
    gates = LocalGates()
    call = calls(gates)
    fail(call, "slow.example", error)
    gate = gates.by_name["fetch.origin@slow.example"]
    gate.clock.advance(61)
    for _ in range(3):
        with call("slow.example"):
            pass
    assert gate.taken_back == []
    assert len(gate.state.failures) == (1 if isinstance(error, TimedOut) else 0), "a probe that is served clears all"


class Threads:
    """Calls of one key in threads of their own: each ends as it is told to."""

    def __init__(self, call: KeyedCalls) -> None:
        self.call = call
        self.inside: dict[str, threading.Event] = {}
        self._ends: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}

    def begin(self, name: str, error: Exception | None = None) -> None:
        inside, ends = self.inside[name], self._ends[name] = threading.Event(), threading.Event()

        def run() -> None:
            with suppress(Unavailable, BreakerOpen), self.call("one.example"):
                inside.set()
                ends.wait(20)
                if error:
                    raise error

        self._threads[name] = threading.Thread(target=run)
        self._threads[name].start()

    def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            self._threads[name].join(20)


def test_calls_that_were_under_way_at_a_failure_are_no_failures_of_their_own() -> None:
    """Nor does one that is served then take it back: it began before. After that the key is called one at a time."""
    gates = LocalGates()
    threads = Threads(calls(gates))
    down = Unavailable("503")
    for name in ("one", "two", "three"):
        threads.begin(name, down)
    threads.begin("four")
    assert all(inside.wait(20) for inside in threads.inside.values())
    threads.end("one", "two")
    threads.begin("five", down)
    threads.begin("six", down)
    threads.end("three", "four")
    gate = gates.by_name["fetch.origin@one.example"]
    assert gate.verdicts == [FAILED, INCONCLUSIVE, INCONCLUSIVE, SERVED]
    assert gate.taken_back == []
    first, second = ("five", "six") if _is_set_soon(threads.inside["five"], threads.inside["six"]) else ("six", "five")
    assert not threads.inside[second].wait(0.3), "it is called one at a time"
    threads.end(first)
    assert gate.state.position is Position.OPEN
    threads.end(second)
    assert not threads.inside[second].is_set(), "and refused once its breaker is open"


def test_what_is_served_while_another_call_fails_shows_that_the_key_is_up() -> None:
    """The call that fails had begun before: it is no failure."""
    gates = LocalGates()
    threads = Threads(calls(gates))
    for name, error in (("one", Unavailable("503")), ("two", None)):
        threads.begin(name, error)
        assert threads.inside[name].wait(20)
    threads.end("two", "one")
    assert gates.by_name["fetch.origin@one.example"].verdicts == [SERVED, INCONCLUSIVE]


def _is_set_soon(one: threading.Event, other: threading.Event) -> bool:
    """Wait for one of two events. Return whether it is the first."""
    deadline = time.monotonic() + 20
    while not (one.is_set() or other.is_set()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return one.is_set()


def test_what_asks_to_wait_is_left_alone_at_once() -> None:
    """One answer is enough."""
    gates = LocalGates()
    with pytest.raises(Unavailable), calls(gates)("busy.example"):
        raise Unavailable("429", retry_after_s=7200)
    gates.clock.advance(7199)
    with pytest.raises(BreakerOpen), calls(gates)("busy.example"):
        raise AssertionError("it was called")
    gates.clock.advance(1)
    with calls(gates)("busy.example"):
        pass


def test_so_many_calls_of_a_key_run_at_once_and_what_opens_is_not_waited_for() -> None:
    """Threads that wait for a slot are refused as soon as the breaker opens; another key has slots of its own."""
    gates = LocalGates()
    call = calls(gates, at_once=1)
    inside, leave = threading.Event(), threading.Event()
    refused: list[BaseException] = []

    def hold() -> None:
        with call("slow.example"):
            inside.set()
            leave.wait(20)

    def wait() -> None:
        try:
            with call("slow.example"):
                raise AssertionError("it was called")
        except BreakerOpen as error:
            refused.append(error)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(20)
    waiters = [threading.Thread(target=wait) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    with call("other.example"):
        for token in "xy":
            gates.by_name["fetch.origin@slow.example"].happens(CallEnded(token, FAILED, "503"))
    for waiter in waiters:
        waiter.join(20)
    assert len(refused) == 3
    leave.set()
    holder.join(20)


@pytest.mark.timeout(60)
def test_what_opens_while_a_batch_waits_for_its_turn_is_not_called() -> None:
    """A key that hangs costs its first call, however many batches wait for one of its slots."""
    breaker = replace(BY_LETTER, failures=1, at_once=1)
    gates, calls, may_end = LocalGates(ManualClock()), [], threading.Event()

    def hangs(inputs: Sequence[str], context: None) -> Sequence[Outcome[str]]:
        calls.append(list(inputs))
        may_end.wait(30)
        raise TimedOut("it was cut off")

    chain: Chain[str, str, None] = Chain("stage", Rung("api", hangs, time_limit_s=60, breaker=breaker))
    parts = replace(runtime(breaker_of=gates.of), slot_of=CallSlots().of)
    results: list[StepResult] = []

    def run(text: str) -> None:
        results.extend(run_chain(chain, [ChainInput(text, text)], None, run_id=RUN_ID, runtime=parts))

    threads = [threading.Thread(target=run, args=(f"a{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.6)  # all but one wait for the slot
    may_end.set()
    for thread in threads:
        thread.join()
    assert len(calls) <= 2, "the slot may be taken before the waiting ones look again"
    outcomes = [result.attempts[0].outcome.value for result in results]
    assert outcomes.count("refused") >= 2


def test_without_a_breaker_every_call_is_made() -> None:
    """As where an operator forced the rung."""
    with KeyedCalls()("shop.example"):
        pass


def test_a_forced_rung_names_keys_in_vain() -> None:
    """Its context asks no breaker; another's asks that of the key."""
    gates = LocalGates()
    seen: list[KeyedCalls] = []

    def rung(inputs: Sequence[str], context: KeyedCalls) -> Sequence[Outcome[str]]:
        seen.append(context)
        return [Served(text) for text in inputs]

    chain: Chain[str, str, KeyedCalls] = Chain("stage", Rung("api", rung, time_limit_s=9, breaker=Breaker(scope="key")))
    within = replace(runtime(breaker_of=gates.of), with_calls=lambda context, calls: calls)
    [result] = run_chain(chain, works(1), KeyedCalls(), run_id=RUN_ID, runtime=within)
    assert result.attempts[0].outcome is AttemptOutcome.SERVED
    assert seen[0].breaker == Breaker(scope="key")
