"""The breaker machine: what always holds, for any events, and for any number of callers that come, end and die."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from repli.tasks.fallback import Breaker, Position
from repli.tasks.fallback.breaker import (
    MOVES,
    BreakerState,
    CallEnded,
    Cause,
    Decision,
    Event,
    FailureTakenBack,
    Overridden,
    PermitRequested,
    Verdict,
    step,
)
from tests.support.fakes import NIGHT, ManualClock

SERVED, FAILED, INCONCLUSIVE = Verdict.SERVED, Verdict.FAILED, Verdict.INCONCLUSIVE
CALL, PROBE, REFUSE, NOTED = Decision.CALL, Decision.PROBE, Decision.REFUSE, Decision.NOTED
ORDERS = (Overridden(Cause.FORCED_OPEN), Overridden(Cause.FORCED_CLOSED), Overridden(Cause.RESET))

breakers = st.builds(
    Breaker,
    scope=st.sampled_from(["host", "fleet"]),
    failures=st.integers(1, 4),
    within_s=st.sampled_from([5.0, 100.0, 1e4]),
    open_for_s=st.sampled_from([1.0, 10.0]),
    open_for_at_most_s=st.sampled_from([10.0, 35.0, 1e5]),
    lease_s=st.sampled_from([1.0, 20.0]),
)
tokens = st.sampled_from("abcdef")
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(PermitRequested, tokens),
    st.builds(CallEnded, tokens, st.sampled_from(Verdict), st.text(max_size=3)),
    st.builds(CallEnded, tokens, st.just(FAILED)),
    st.builds(CallEnded, tokens, st.just(FAILED), st.just("busy"), st.sampled_from([0.5, 7.0, 1e6])),
    st.builds(FailureTakenBack, tokens),
    st.sampled_from(ORDERS),
)
jumps = st.sampled_from([0.0, 0.0, 0.0, 1.0, 10.0, 20.0, 1e3, 1e8, -5.0, -1e4])


def check_form(breaker: Breaker, state: BreakerState) -> None:
    """What a state may look like, whatever happened."""
    known = [failure.token for failure in state.failures]
    assert len(known) == len(set(known))
    assert (state.probe_at is not None) is (state.position is Position.OPEN)
    assert state.lease is None or state.position is Position.HALF_OPEN
    match state.position:
        case Position.CLOSED:
            assert len(state.failures) < breaker.failures
            assert state == BreakerState(failures=state.failures, cause=state.cause)
        case Position.FORCED_CLOSED | Position.FORCED_OPEN:
            assert (state.failed_probes, state.why) == (0, "")
            assert (state.opened_at is not None) is (state.position is Position.FORCED_OPEN)
        case _:
            assert state.opened_at is not None


def check_move(before: BreakerState, after: BreakerState) -> None:
    """A change of position is one move of the table, and its cause is said."""
    if after.position is not before.position:
        assert MOVES[before.position, after.cause] is after.position


@settings(derandomize=True, deadline=None, max_examples=300)
@given(breakers, st.lists(st.tuples(events, jumps), max_size=60))
def test_no_sequence_of_events_breaks_it(breaker: Breaker, happened: list[tuple[Event, float]]) -> None:
    """Whatever happens, in whatever order, on a clock that may even be put back: it never raises, every move is in
    the table, every state is well formed, and only who asks is given an answer."""
    state, clock = BreakerState(), ManualClock()
    for event, seconds in happened:
        clock.advance(seconds)
        before = state
        state, decision = step(breaker, before, event, clock.now())
        assert (decision is NOTED) is not isinstance(event, PermitRequested)
        check_form(breaker, state)
        check_move(before, state)


@dataclass(slots=True)
class Oracle:
    """What the breaker should do, told in other words: seconds, and no half-open.

    It is shut while `probe_from`, the time from which a probe may begin, is set. `word` is a person's.
    """

    breaker: Breaker
    word: str = ""
    failed: dict[str, float] = field(default_factory=dict)
    probe_from: float | None = None
    waits: list[float] = field(default_factory=list)
    holder: tuple[str, float] | None = None

    def __post_init__(self) -> None:
        self.anew()

    def anew(self) -> None:
        longest = self.breaker.open_for_at_most_s
        self.word, self.failed, self.probe_from, self.holder = "", {}, None, None
        self.waits = [min(longest, self.breaker.open_for_s * factor) for factor in (1, 2, 4, 8, 16, 32, 64)]

    def asked(self, token: str, now: float) -> Decision:
        if self.word or self.probe_from is None:
            return REFUSE if self.word == "open" else CALL
        if self.holder:
            if now >= self.holder[1]:
                self.probe_from = self.holder[1] + self.waits[0]
                self.holder = None
            return REFUSE
        if now < self.probe_from:
            return REFUSE
        self.holder = (token, now + self.breaker.lease_s)
        return PROBE

    def ended(self, token: str, verdict: Verdict, now: float) -> None:
        if self.holder and self.holder[0] == token:
            self.holder = None
            if verdict is SERVED:
                self.anew()
            elif verdict is INCONCLUSIVE:
                self.probe_from = -inf
            else:
                self.waits = self.waits[1:] or self.waits
                self.probe_from = now + self.waits[0]
        elif verdict is FAILED and not self.word:
            self.forget(now)
            self.failed.setdefault(token, now)
            if self.probe_from is None and len(self.failed) >= self.breaker.failures:
                self.probe_from = now + self.waits[0]

    def taken_back(self, token: str) -> None:
        if self.position == "closed":
            self.failed.pop(token, None)

    def forget(self, now: float) -> None:
        self.failed = {token: at for token, at in self.failed.items() if at > now - self.breaker.within_s}

    @property
    def position(self) -> str:
        if self.word:
            return f"forced_{self.word}"
        if self.probe_from is None:
            return "closed"
        return "half_open" if self.holder or self.probe_from == -inf else "open"


class ManyCallers(RuleBasedStateMachine):
    """Callers that ask, call, end, end twice, or die, on one breaker, while time creeps and leaps."""

    @initialize(breaker=breakers.filter(lambda breaker: breaker.open_for_at_most_s <= 35))
    def declare(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.clock = ManualClock()
        self.state = BreakerState()
        self.oracle = Oracle(breaker)
        self.asks = 0
        self.calls: list[str] = []  # under way, probes too
        self.over: list[str] = []
        self.probes: dict[str, float] = {}  # not known to be over, and until when they are believed

    @property
    def now(self) -> float:
        return self.clock.seconds

    def happens(self, event: Event) -> Decision:
        before = self.state
        self.state, decision = step(self.breaker, before, event, self.clock.now())
        check_move(before, self.state)
        return decision

    def ask(self) -> Decision:
        self.asks += 1
        token = str(self.asks)
        before = self.state.position
        expected = self.oracle.asked(token, self.now)
        decision = self.happens(PermitRequested(token))
        assert decision is expected
        if decision is CALL:
            assert before in (Position.CLOSED, Position.FORCED_CLOSED)
        if decision is PROBE:
            assert before in (Position.OPEN, Position.HALF_OPEN)
            assert not [until for until in self.probes.values() if self.now < until]
            self.probes = {token: self.now + self.breaker.lease_s}
        if decision is not REFUSE:
            self.calls.append(token)
        return decision

    def end(self, token: str, verdict: Verdict) -> None:
        self.oracle.ended(token, verdict, self.now)
        assert self.happens(CallEnded(token, verdict, "why")) is NOTED
        self.probes.pop(token, None)

    @rule()
    def somebody_asks(self) -> None:
        self.ask()

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), verdict=st.sampled_from([SERVED, FAILED, FAILED, FAILED, INCONCLUSIVE]))
    def call_ends(self, data: st.DataObject, verdict: Verdict) -> None:
        token = data.draw(st.sampled_from(self.calls))
        self.calls.remove(token)
        self.over.append(token)
        self.end(token, verdict)

    @rule(verdicts=st.lists(st.sampled_from([FAILED, SERVED]), min_size=1, max_size=4))
    def somebody_calls_and_ends(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            if self.ask() is not REFUSE:
                self.over.append(self.calls.pop())
                self.end(self.over[-1], verdict)

    @precondition(lambda self: self.over)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def end_is_told_again(self, data: st.DataObject, verdict: Verdict) -> None:
        self.end(data.draw(st.sampled_from(self.over)), verdict)

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def failure_is_taken_back(self, data: st.DataObject) -> None:
        """Whatever became of it: a failure, a service, or one that opened the breaker."""
        token = data.draw(st.sampled_from(self.over))
        self.oracle.taken_back(token)
        assert self.happens(FailureTakenBack(token)) is NOTED

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def caller_dies(self, data: st.DataObject) -> None:
        self.calls.remove(data.draw(st.sampled_from(self.calls)))

    @rule(order=st.sampled_from([*ORDERS, ORDERS[-1]]), is_meant=st.integers(0, 3))
    def person_orders(self, order: Overridden, is_meant: int) -> None:
        if is_meant:  # three of four times not, or there would be little else
            return
        word = order.cause.value.removeprefix("forced ").replace("reset", "")
        if not word or word != self.oracle.word:
            self.oracle.anew()
            self.oracle.word = word
            self.probes.clear()
        self.happens(order)

    @rule(seconds=st.sampled_from([0.5, 1, 5, 10, 20, 35, 1000, 1e8]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.state.position in (Position.OPEN, Position.HALF_OPEN))
    @rule()
    def who_waits_long_enough_may_probe(self) -> None:
        """Whoever died: after the lease and the longest cool-down one of the next two to ask is let through."""
        self.clock.advance(self.breaker.lease_s + self.breaker.open_for_at_most_s)
        assert PROBE in (self.ask(), self.ask())

    @invariant()
    def stands_where_it_should(self) -> None:
        self.oracle.forget(self.now)
        state = self.state
        assert state.position.value == self.oracle.position
        check_form(self.breaker, state)
        assert all(older.at <= newer.at for older, newer in pairwise(state.failures))

    @invariant()
    def no_failure_of_the_window_is_lost(self) -> None:
        """Each failure since it was last closed or ordered, that is young enough and not taken back, is in the state;
        while it is forced there is none."""
        found = {failure.token: (failure.at - NIGHT).total_seconds() for failure in self.state.failures}
        self.oracle.forget(self.now)
        assert {token: at for token, at in found.items() if at > self.now - self.breaker.within_s} == (
            self.oracle.failed
        )


TestManyCallers = ManyCallers.TestCase
TestManyCallers.settings = settings(derandomize=True, deadline=None, max_examples=150, stateful_step_count=40)
