"""The breaker machine, move by move and refusal by refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, replace
from datetime import timedelta
from itertools import product
from math import inf, nan
from typing import Any

import pytest

from repli.tasks.fallback import Breaker, Position
from repli.tasks.fallback.breaker import (
    MOVES,
    BreakerState,
    CallEnded,
    Cause,
    Decision,
    Event,
    Failure,
    FailureTakenBack,
    Lease,
    Overridden,
    Override,
    PermitRequested,
    Verdict,
    destination,
    step,
)
from repli.tasks.fallback.errors import IllegalMove
from tests.support.fakes import NIGHT, ManualClock

BREAKER = Breaker(scope="fleet")  # 5 failures in 600 s; 60 s, doubling to 900 s; a lease of 60 s
SERVED, FAILED, INCONCLUSIVE = Verdict.SERVED, Verdict.FAILED, Verdict.INCONCLUSIVE
CALL, PROBE, REFUSE, NOTED = Decision.CALL, Decision.PROBE, Decision.REFUSE, Decision.NOTED
ORDERS = (Overridden(Cause.FORCED_OPEN), Overridden(Cause.FORCED_CLOSED), Overridden(Cause.RESET))


@dataclass(slots=True)
class Play:
    """One breaker, to which things happen on a manual clock."""

    breaker: Breaker = BREAKER
    clock: ManualClock = field(default_factory=ManualClock)
    state: BreakerState = field(default_factory=BreakerState)

    def happens(self, event: Event) -> Decision:
        self.state, decision = step(self.breaker, self.state, event, self.clock.now())
        return decision

    def asked(self, token: str = "") -> Decision:
        return self.happens(PermitRequested(token))

    def ended(self, token: str, verdict: Verdict, why: str = "") -> None:
        assert self.happens(CallEnded(token, verdict, why)) is NOTED

    def fails(self, *tokens: str, why: str = "RuntimeError: no driver") -> None:
        for token in tokens:
            self.ended(token, FAILED, why)

    @property
    def position(self) -> Position:
        return self.state.position

    @property
    def tokens(self) -> list[str]:
        return [failure.token for failure in self.state.failures]


def closed() -> Play:
    """Closed, with two failures in its window."""
    play = Play()
    play.fails("one", "two")
    return play


def opened() -> Play:
    """Open since 0 s, with a first probe due at 60 s."""
    play = Play()
    play.fails("one", "two", "three", "four", "five")
    return play


def probing() -> Play:
    """Half-open since 60 s: "prober" has the lease until 120 s."""
    play = opened()
    play.clock.advance(60)
    assert play.asked("prober") is PROBE
    return play


def forced(cause: Override) -> Callable[[], Play]:
    """Put somewhere by a person, from half-open."""

    def play() -> Play:
        play = probing()
        play.happens(Overridden(cause))
        return play

    return play


STANDING_AT: dict[Position, Callable[[], Play]] = {
    Position.CLOSED: closed,
    Position.OPEN: opened,
    Position.HALF_OPEN: probing,
    Position.FORCED_OPEN: forced(Cause.FORCED_OPEN),
    Position.FORCED_CLOSED: forced(Cause.FORCED_CLOSED),
}


def somebody_asks_a_minute_later(play: Play) -> None:
    play.clock.advance(60)
    play.asked("prober")


def person_orders(cause: Override) -> Callable[[Play], object]:
    return lambda play: play.happens(Overridden(cause))


HAPPENS: dict[Cause, Callable[[Play], object]] = {
    Cause.TOO_MANY_FAILURES: lambda play: play.fails("three", "four", "five"),
    Cause.ASKED_TO_WAIT: lambda play: play.happens(CallEnded("three", FAILED, "429", 3600.0)),
    Cause.PROBE_DUE: somebody_asks_a_minute_later,
    Cause.PROBE_SERVED: lambda play: play.ended("prober", SERVED),
    Cause.PROBE_FAILED: lambda play: play.ended("prober", FAILED),
    Cause.PROBE_LOST: somebody_asks_a_minute_later,
    **{order.cause: person_orders(order.cause) for order in ORDERS},
}

BY_ITSELF = {
    ("closed", "too many failures"): "open",
    ("closed", "asked to wait"): "open",
    ("open", "probe due"): "half_open",
    ("half_open", "probe served"): "closed",
    ("half_open", "probe failed"): "open",
    ("half_open", "probe lost"): "open",
}
BY_A_PERSON = {"forced open": "forced_open", "forced closed": "forced_closed", "reset": "closed"}


# Its moves


def test_table_of_moves() -> None:
    """Six moves of its own, and a person's three from anywhere; no others."""
    ordered = {(position.value, cause): to for position in Position for cause, to in BY_A_PERSON.items()}
    assert dict(MOVES) == BY_ITSELF | ordered


@pytest.mark.parametrize(("position", "cause"), MOVES, ids=lambda value: value.value)
def test_every_move_happens(position: Position, cause: Cause) -> None:
    """What the table says follows from events, and the state says where it stands and why."""
    play = STANDING_AT[position]()
    assert play.position is position
    HAPPENS[cause](play)
    assert play.position is MOVES[position, cause]
    if position.is_forced and play.position is position:
        return  # forced where it was forced already: nothing happened
    assert play.state.cause is cause


@pytest.mark.parametrize(
    ("position", "cause"),
    [pair for pair in product(Position, Cause) if pair not in MOVES],
    ids=lambda value: value.value,
)
def test_illegal_move_raises_and_changes_nothing(position: Position, cause: Cause) -> None:
    """Where the table has no move, asking for it is an error that says so; the state is as it was."""
    play = STANDING_AT[position]()
    before = replace(play.state)
    message = f"a breaker that is {position.value} has no move for: {cause.value}"
    with pytest.raises(IllegalMove, match=message):
        destination(position, cause)
    with pytest.raises(IllegalMove, match=message):
        play.happens(Overridden(cause))  # type: ignore[arg-type]  # no person can order it
    assert play.state == before


def test_state_is_a_value() -> None:
    """A step gives a new state and leaves the old one as it was."""
    play = closed()
    before, copy = play.state, replace(play.state)
    play.fails("three")
    assert before == copy != play.state
    with pytest.raises(FrozenInstanceError):
        before.position = Position.OPEN  # type: ignore[misc]


def test_forced_positions_are_two() -> None:
    """Only what a person ordered is forced."""
    assert [position for position in Position if position.is_forced] == [Position.FORCED_OPEN, Position.FORCED_CLOSED]


# Closed


def test_new_breaker_lets_calls_through() -> None:
    """Whoever asks may call, several at a time, and nothing is remembered of that."""
    play = Play()
    assert [play.asked("a"), play.asked("b"), play.asked("a")] == [CALL] * 3
    for token, verdict in (("a", SERVED), ("b", INCONCLUSIVE)):
        play.ended(token, verdict)
    assert play.state == BreakerState() == BreakerState(position=Position.CLOSED, cause=Cause.RESET)


def test_as_many_failures_within_the_window_open_it() -> None:
    """The fifth failure opens it, then and there; the state says when, why, and when to try again."""
    play = Play()
    for second in range(4):
        play.clock.seconds = second
        play.fails(str(second))
        assert play.position is Position.CLOSED
    play.clock.seconds = 4
    play.fails("4", why="Unavailable: no CUDA device")
    assert play.state == BreakerState(
        position=Position.OPEN,
        failures=tuple(Failure(str(second), NIGHT + timedelta(seconds=second)) for second in range(5)),
        opened_at=NIGHT + timedelta(seconds=4),
        probe_at=NIGHT + timedelta(seconds=64),
        failed_probes=0,
        lease=None,
        cause=Cause.TOO_MANY_FAILURES,
        why="Unavailable: no CUDA device",
    )
    assert play.asked() is REFUSE


@pytest.mark.parametrize("failures", [1, 2, 7])
def test_number_of_failures_is_declared(failures: int) -> None:
    """It opens at the declared number, not one earlier."""
    play = Play(Breaker(scope="host", failures=failures))
    play.fails(*(str(number) for number in range(failures - 1)))
    assert play.asked() is CALL
    play.fails("last")
    assert play.asked() is REFUSE


@pytest.mark.parametrize(("seconds", "counts"), [(599.999999, True), (600, False), (601, False)])
def test_failure_leaves_the_window_at_its_end(seconds: float, counts: bool) -> None:
    """What failed as long ago as the window is long does not count any more, whatever comes after it."""
    play = Play()
    play.fails("old")
    play.clock.seconds = seconds
    play.fails("1", "2", "3", "4")
    assert play.position is (Position.OPEN if counts else Position.CLOSED)
    assert play.tokens == (["old"] if counts else []) + ["1", "2", "3", "4"]


def test_slow_failures_never_open_it() -> None:
    """Five failures in more than the window are none too many, however long it goes on."""
    play = Play()
    for number in range(200):
        play.clock.advance(150)
        play.fails(str(number))
    assert play.position is Position.CLOSED
    assert play.tokens == ["196", "197", "198", "199"]


@pytest.mark.parametrize("event", [PermitRequested("x"), CallEnded("x", SERVED), *ORDERS[:2]], ids=str)
def test_window_is_pruned_by_whatever_happens(event: Event) -> None:
    """No step leaves a failure in the state that is older than the window."""
    play = closed()
    play.clock.seconds = 600
    play.happens(event)
    assert play.tokens == []


def test_service_between_failures_forgives_nothing() -> None:
    """Failures count within their window, also where other calls were served in between: half of them may fail."""
    play = Play()
    for number in range(5):
        assert play.asked() is CALL
        play.ended(f"good {number}", SERVED)
        play.ended(f"bad item {number}", INCONCLUSIVE)
        play.fails(f"bad {number}")
    assert play.position is Position.OPEN


def test_a_failure_that_is_taken_back_does_not_count() -> None:
    """One that is unknown is no news, and an open breaker stays open, whichever is taken back."""
    play = closed()
    play.fails("one", "two")
    for token in ("one", "nobody's"):
        assert play.happens(FailureTakenBack(token)) is NOTED
    assert play.tokens == ["two"]
    play.fails(*(str(number) for number in range(play.breaker.failures - 1)))
    assert play.position is Position.OPEN
    play.happens(FailureTakenBack("two"))
    assert play.position is Position.OPEN


def test_failure_told_twice_counts_once() -> None:
    """A token counts once, so that a caller may repeat what was perhaps not heard."""
    play = closed()
    play.fails("two", "one", "two", "one")
    assert play.tokens == ["one", "two"]
    play.fails("three", "four", "four", "three")
    assert play.asked() is CALL
    play.fails("five")
    assert play.position is Position.OPEN


def test_open_breaker_refuses_until_its_cool_down_is_over() -> None:
    """Up to the last moment of the minute everybody is refused, which changes nothing; at its end one probes."""
    play = opened()
    before = play.state
    for seconds in (0, 30, 59.999999):
        play.clock.seconds = seconds
        assert not play.state.is_probe_due(play.clock.now())
        assert play.asked() is REFUSE
    assert play.state == before
    play.clock.seconds = 60
    assert play.state.is_probe_due(play.clock.now())
    assert play.asked("prober") is PROBE


def test_where_it_stands_says_what_becomes_of_who_asks() -> None:
    """Refused while it is shut, and while somebody probes, when there is hope; not where a probe is owed, or lost."""

    def says(play: Play) -> tuple[bool, bool]:
        return play.state.is_held_open(play.clock.now()), play.state.refuses(play.clock.now())

    play = opened()
    assert says(play) == (True, True)
    play.clock.seconds = 60
    assert says(play) == (False, False), "a probe is owed"
    assert play.asked("prober") is PROBE
    assert says(play) == (False, True)
    play.ended("prober", INCONCLUSIVE)
    assert says(play) == (False, False), "the permit was given back"
    assert play.asked("prober") is PROBE
    play.clock.seconds = 60 + 60
    assert says(play) == (False, False), "the probe was lost"
    for cause, expected in ((Cause.FORCED_OPEN, (True, True)), (Cause.FORCED_CLOSED, (False, False))):
        play.happens(Overridden(cause))
        assert says(play) == expected
    assert says(closed()) == (False, False)


def test_open_breaker_that_does_not_know_when_is_probed_now() -> None:
    """A state that was kept without its time of probing does not stay open for good."""
    play = Play(state=BreakerState(position=Position.OPEN))
    assert play.asked("prober") is PROBE


def test_late_failures_do_not_open_it_again() -> None:
    """Calls that were under way when it opened may fail still: it stays as it is, they only stand in the window."""
    play = opened()
    before = play.state
    play.clock.advance(1)
    play.fails("six", "seven")
    assert play.state == replace(before, failures=play.state.failures)
    assert play.tokens[5:] == ["six", "seven"]


@pytest.mark.parametrize("verdict", [SERVED, INCONCLUSIVE])
def test_late_service_does_not_close_it(verdict: Verdict) -> None:
    """A call that was let through before it opened says nothing of what is the case now."""
    play = opened()
    before = play.state
    play.ended("slow", verdict)
    assert play.state == before


# Half-open


def test_one_probes_and_everybody_else_is_refused() -> None:
    """The lease is the prober's alone, to the last moment. It may ask again: the first answer may have been lost."""
    play = probing()
    assert play.state == replace(
        opened().state,
        position=Position.HALF_OPEN,
        probe_at=None,
        lease=Lease("prober", NIGHT + timedelta(seconds=120)),
        cause=Cause.PROBE_DUE,
    )
    before = play.state
    for seconds in (60, 119.999999):
        play.clock.seconds = seconds
        assert not play.state.is_probe_due(play.clock.now())
        assert [play.asked("other"), play.asked("prober")] == [REFUSE, PROBE]
    assert play.state == before


def test_served_probe_closes_it() -> None:
    """Its window is empty then, and nothing is left of the time when it was open."""
    play = probing()
    play.ended("prober", SERVED)
    assert play.state == BreakerState(position=Position.CLOSED, cause=Cause.PROBE_SERVED)
    play.fails("1", "2", "3", "4")
    assert play.asked() is CALL


def test_failed_probe_opens_it_for_twice_as_long() -> None:
    """The cool-down begins when the probe fails, and the state says why it failed."""
    play = probing()
    before = play.state
    play.clock.seconds = 70
    play.ended("prober", FAILED, "TimedOut: cut off")
    assert play.state == replace(
        before,
        position=Position.OPEN,
        lease=None,
        probe_at=NIGHT + timedelta(seconds=70 + 120),
        failed_probes=1,
        cause=Cause.PROBE_FAILED,
        why="TimedOut: cut off",
    )
    assert play.state.opened_at == NIGHT


def test_cool_down_doubles_up_to_its_limit() -> None:
    """60, 120, 240, 480 and 900 seconds, and 900 for good: no number of failed probes overflows it."""
    play = opened()
    waits = []
    for number in range(4000):
        assert play.state.probe_at is not None
        waits.append((play.state.probe_at - play.clock.now()).total_seconds())
        play.clock.advance(waits[-1] - 0.5)
        assert play.asked("early") is REFUSE
        play.clock.advance(0.5)
        assert play.asked(f"probe {number}") is PROBE
        play.ended(f"probe {number}", FAILED)
    assert waits[:7] == [60, 120, 240, 480, 900, 900, 900]
    assert set(waits[7:]) == {900}
    assert play.state.failed_probes == 4000


@pytest.mark.parametrize(("failed_probes", "seconds"), [(0, 1), (1, 2), (19, 2**19), (20, 1e6), (10**9, 1e6)])
def test_long_cool_downs_double_as_often(failed_probes: int, seconds: float) -> None:
    """Also a breaker that begins at a second doubles up to its own limit."""
    breaker = Breaker(scope="fleet", open_for_s=1.0, open_for_at_most_s=1e6)
    assert breaker.cool_down(failed_probes) == timedelta(seconds=seconds)


def test_cool_down_starts_small_again() -> None:
    """After it was closed by a probe the next opening begins at one minute."""
    play = probing()
    play.ended("prober", FAILED)
    play.clock.advance(120)
    play.asked("second")
    play.ended("second", SERVED)
    play.fails("1", "2", "3", "4", "5")
    assert play.state.probe_at == play.clock.now() + timedelta(seconds=60)
    assert play.state.failed_probes == 0


def test_inconclusive_probe_gives_its_permit_back() -> None:
    """A bad item or a cancelled call is no verdict: the next to ask probes at once, and nothing was counted."""
    play = probing()
    before = play.state
    play.ended("prober", INCONCLUSIVE)
    assert play.state == replace(before, lease=None)
    assert play.state.is_probe_due(play.clock.now())
    play.clock.advance(1)
    assert [play.asked("second"), play.asked("third")] == [PROBE, REFUSE]
    assert play.state == replace(before, lease=Lease("second", NIGHT + timedelta(seconds=61 + 60)))


def test_verdict_of_another_call_is_not_the_probes() -> None:
    """While somebody probes, calls that were let through earlier neither close it nor open it."""
    play = probing()
    before = play.state
    play.ended("slow", SERVED)
    assert play.state == before
    play.fails("slower")
    assert play.state == replace(before, failures=play.state.failures)
    assert play.tokens[-1] == "slower"


def test_lost_probe_opens_it_for_as_long_again() -> None:
    """Who asks once the lease is over finds it lost and is refused; the next probe is a cool-down after the lease,
    which is not doubled: nobody knows that it failed."""
    play = probing()
    before = play.state
    play.clock.seconds = 150
    assert play.asked("late") is REFUSE
    assert play.state == replace(
        before,
        position=Position.OPEN,
        lease=None,
        probe_at=NIGHT + timedelta(seconds=120 + 60),
        failed_probes=0,
        cause=Cause.PROBE_LOST,
    )
    play.clock.seconds = 179.999999
    assert play.asked("early") is REFUSE
    play.clock.seconds = 180
    assert play.asked("next") is PROBE


def test_lease_is_lost_at_its_end() -> None:
    """At the moment the lease ends it is not believed any more."""
    play = probing()
    play.clock.seconds = 120
    play.asked("late")
    assert play.state.cause is Cause.PROBE_LOST


def test_lost_probe_keeps_the_doublings() -> None:
    """The cool-down after a lost probe is the one that was due: 120 s after one failed probe."""
    play = probing()
    play.ended("prober", FAILED)  # at 60 s
    play.clock.seconds = 180
    play.asked("dies")
    play.clock.seconds = 241
    play.asked("finds out")
    assert play.state.probe_at == NIGHT + timedelta(seconds=240 + 120)
    assert play.state.failed_probes == 1


def test_probe_lost_long_ago_is_made_up_for_at_once() -> None:
    """Where nobody asked for an hour the first finds the probe lost, and the next one probes."""
    play = probing()
    play.clock.advance(3600)
    assert [play.asked("first"), play.asked("second"), play.asked("third")] == [REFUSE, PROBE, REFUSE]


@pytest.mark.parametrize("verdict", Verdict)
def test_late_verdict_of_a_lost_probe_moves_nothing(verdict: Verdict) -> None:
    """Whose lease was lost is not believed, neither while it is open nor while somebody else probes."""
    play = probing()
    play.clock.seconds = 120
    play.asked("finds out")
    before = play.state
    play.ended("prober", verdict)
    assert play.state == replace(before, failures=play.state.failures)
    play.clock.seconds = 180
    play.asked("second")
    before = play.state
    play.ended("prober", verdict)
    assert play.state == replace(before, failures=play.state.failures)


def test_late_verdict_before_anybody_noticed_is_believed() -> None:
    """A lease that is over, but was not taken away yet, still closes it: better late than probed again."""
    play = probing()
    play.clock.advance(100)
    play.ended("prober", SERVED)
    assert play.position is Position.CLOSED


def test_probe_told_twice_counts_once() -> None:
    """A repeated verdict of a failed probe doubles nothing."""
    play = probing()
    play.ended("prober", FAILED)
    before = play.state
    play.ended("prober", FAILED)
    assert play.state == replace(before, failures=play.state.failures)


# Forced


@pytest.mark.parametrize(
    ("cause", "decision"), [(Cause.FORCED_OPEN, REFUSE), (Cause.FORCED_CLOSED, CALL)], ids=["open", "closed"]
)
@pytest.mark.parametrize("position", Position, ids=str)
def test_only_a_person_ends_a_forced_position(position: Position, cause: Override, decision: Decision) -> None:
    """Neither failures, nor probes, nor years move it, and no failure is noted; a reset does, and it begins anew."""
    play = STANDING_AT[position]()
    assert play.happens(Overridden(cause)) is NOTED
    where = play.state.position
    assert where.value == BY_A_PERSON[cause.value]
    assert (play.state.lease, play.state.probe_at, play.state.failed_probes) == (None, None, 0)
    assert play.tokens == []
    for years in range(3):
        assert play.asked("asks") is decision
        assert not play.state.is_probe_due(play.clock.now())
        for verdict, token in product(Verdict, ("prober", "asks", *(f"{years}-{number}" for number in range(9)))):
            play.ended(token, verdict)
        assert play.position is where
        assert play.tokens == []
        play.clock.advance(365 * 24 * 3600)
    play.happens(Overridden(Cause.RESET))
    assert play.state == BreakerState()


def test_forced_open_says_since_when() -> None:
    """The time is that of the order; the same order again changes nothing."""
    play = opened()
    play.clock.advance(7)
    play.happens(Overridden(Cause.FORCED_OPEN))
    forced_open = BreakerState(
        position=Position.FORCED_OPEN, opened_at=NIGHT + timedelta(seconds=7), cause=Cause.FORCED_OPEN
    )
    assert play.state == forced_open
    play.clock.advance(7)
    play.happens(Overridden(Cause.FORCED_OPEN))
    assert play.state == forced_open
    play.happens(Overridden(Cause.FORCED_CLOSED))
    assert play.state == BreakerState(position=Position.FORCED_CLOSED, cause=Cause.FORCED_CLOSED)


@pytest.mark.parametrize("position", Position, ids=str)
def test_reset_begins_anew(position: Position) -> None:
    """From wherever it stands a reset leaves a closed breaker with an empty window."""
    play = STANDING_AT[position]()
    assert play.happens(Overridden(Cause.RESET)) is NOTED
    assert play.state == BreakerState()
    play.ended("prober", FAILED)
    assert play.tokens == ["prober"]


# How it is declared


def test_defaults_are_those_of_the_design() -> None:
    """5 failures in 10 minutes; 60 s, doubling to 15 min; a lease of a minute, of which a probe has four fifths."""
    breaker = Breaker(scope="host")
    assert breaker == Breaker(scope="host", failures=5, within_s=600, open_for_s=60, open_for_at_most_s=900, lease_s=60)
    assert breaker.probe_limit_s == 48
    assert Breaker(scope="host", lease_s=10).probe_limit_s == 8


DURATIONS = ("within_s", "open_for_s", "open_for_at_most_s", "lease_s")


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"scope": "global"}, "a breaker's scope must be 'host', 'fleet' or 'key', not 'global'"),
        ({"scope": "key", "key": "id"}, "a breaker's key is a str, not a function of an input"),
        ({"failures": 0}, "at least 1 failure, not 0"),
        ({"failures": -1}, "at least 1 failure, not -1"),
        ({"within_s": 0}, "window, cool-downs and lease must be above 0 s and at most a year"),
        ({"open_for_s": 0}, "window, cool-downs and lease must be above 0 s and at most a year"),
        ({"lease_s": 0}, "window, cool-downs and lease must be above 0 s and at most a year"),
        ({"lease_s": -1}, "window, cool-downs and lease must be above 0 s and at most a year"),
        *(({name: seconds}, "at most a year") for name, seconds in product(DURATIONS, (nan, inf, 31_536_001))),
        (
            {"open_for_s": 61, "open_for_at_most_s": 60},
            "longest cool-down must not be shorter than its first",
        ),
    ],
    ids=str,
)
def test_breaker_that_cannot_work_is_refused(how: dict[str, Any], problem: str) -> None:
    """A breaker is refused when it is declared."""
    with pytest.raises(ValueError, match=problem):
        Breaker(**{"scope": "fleet", **how})


def test_smallest_breaker_is_accepted() -> None:
    """One failure, and a cool-down that never grows, are fine."""
    breaker = Breaker(scope="fleet", failures=1, within_s=1e-3, open_for_s=60, open_for_at_most_s=60, lease_s=1e-3)
    assert breaker.cool_down(0) == breaker.cool_down(9) == timedelta(seconds=60)


def test_slowest_breaker_is_accepted() -> None:
    """A year for everything overflows no date."""
    play = Play(Breaker(scope="fleet", failures=1, **dict.fromkeys(DURATIONS, 31_536_000)))
    play.fails("one")
    for number in range(9):
        play.clock.advance(31_536_000)
        assert play.asked(f"probe {number}") is PROBE
        play.ended(f"probe {number}", FAILED)
