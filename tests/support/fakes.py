"""What a chain is given, made by hand: a clock that moves when told, rungs that follow a script, local breakers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from repli.tasks.fallback import (
    Breaker,
    Chain,
    ChainInput,
    Failed,
    InvalidItem,
    ItemError,
    Outcome,
    OutOfMemory,
    Rung,
    Runtime,
    Served,
    Skip,
    WorkingSizes,
)
from repli.tasks.fallback.breaker import (
    BreakerState,
    CallEnded,
    Decision,
    Event,
    FailureTakenBack,
    PermitRequested,
    Verdict,
    step,
)
from repli.tasks.fallback.breaker_client import BreakerClient, BreakerOf, Permit, without_breakers
from repli.tasks.fallback.runner import no_instrumentation
from repli.tasks.fallback.splitting import RungResult

R = TypeVar("R")

STAGE = "stage"
RUN_ID = "run-1"
NIGHT = datetime(2026, 1, 1, 3, 0, tzinfo=UTC)


@dataclass(slots=True)
class ManualClock:
    """A clock that moves only when told."""

    seconds: float = 0.0

    def now(self) -> datetime:
        return NIGHT + timedelta(seconds=self.seconds)

    def timer(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class Does(StrEnum):
    """What a scripted rung does with one item."""

    SERVE = "serve"
    FAIL = "fail"
    FAIL_FOR_GOOD = "fail_for_good"
    ANSWER_NONE = "answer_none"
    ANSWER_NAN = "answer_nan"
    ANSWER_NONSENSE = "answer_nonsense"  # a value that the chain's check refuses
    BREAK = "break"  # the whole call raises
    MISCOUNT = "miscount"  # the whole call answers for one item too few


@dataclass(slots=True, eq=False)
class ScriptedRung:
    """A rung that follows its script and remembers its calls. An item's input is its id.

    `script` says what it does with an item, `fits` how many items a call that carries the item may have at most (0:
    the item does not fit alone), `always` what every call raises, after the first `works_for`. `calls` are all calls,
    `answered` those that came back with one answer per item.
    """

    name: str
    script: Mapping[str, Does] = field(default_factory=dict)
    fits: Mapping[str, int] = field(default_factory=dict)
    always: BaseException | None = None
    works_for: int = 0
    clock: ManualClock = field(default_factory=ManualClock)
    call_takes_s: float = 0.0
    calls: list[list[str]] = field(default_factory=list)
    answered: list[list[str]] = field(default_factory=list)

    def __call__(self, inputs: Sequence[str], context: object = None) -> Sequence[Outcome[str]]:
        self.calls.append(list(inputs))
        self.clock.advance(self.call_takes_s)
        if self.always is not None and len(self.calls) > self.works_for:
            raise self.always
        if len(inputs) > min(self.fits.get(item, len(inputs)) for item in inputs):
            raise OutOfMemory("it does not fit")
        if any(self.script.get(item) is Does.BREAK for item in inputs):
            raise RuntimeError("something broke")
        answers = [self._answer(item) for item in inputs if self.script.get(item) is not Does.MISCOUNT]
        if len(answers) == len(inputs):
            self.answered.append(list(inputs))
        return answers

    def _answer(self, item: str) -> Any:
        match self.script.get(item, Does.SERVE):
            case Does.FAIL:
                return Failed.because(ItemError(f"{self.name} cannot serve {item}"))
            case Does.FAIL_FOR_GOOD:
                return Failed.because(InvalidItem(f"{item} is wrong in itself"))
            case Does.ANSWER_NONE:
                return None
            case Does.ANSWER_NAN:
                return Served(self.value(item), confidence=float("nan"))
            case Does.ANSWER_NONSENSE:
                return Served("nonsense")
            case _:
                return Served(self.value(item), confidence=0.75)

    def value(self, item: str) -> str:
        """What the rung answers for an item that it serves."""
        return f"{item} by {self.name}"

    def on(self, works: Sequence[ChainInput[str]], permit: object = None) -> Sequence[Outcome[str]]:
        """The rung as `call_rung` calls it."""
        return self([work.input for work in works])

    @property
    def sizes(self) -> list[int]:
        """How many items each call carried."""
        return [len(call) for call in self.calls]


@dataclass(slots=True, eq=False)
class LocalGate:
    """The machine of one breaker on a manual clock, which remembers its permits and what became of them.

    Its tokens are "1", "2", ... in the order of asking.
    """

    name: str
    breaker: Breaker
    clock: ManualClock
    state: BreakerState = field(default_factory=BreakerState)
    permits: list[Permit] = field(default_factory=list)
    ends: list[tuple[str, Verdict]] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)
    elsewhere: str | None = None

    def acquire(self) -> Permit:
        token = str(len(self.permits) + 1)
        decision = self.happens(PermitRequested(token))
        why = f"{self.name}: breaker {self.state.position} ({self.state.why})" if decision is Decision.REFUSE else ""
        self.permits.append(Permit(token=token, decision=decision, why=why))
        return self.permits[-1]

    def record(self, permit: Permit, verdict: Verdict, why: str = "", *, retry_after_s: float | None = None) -> None:
        self.ends.append((permit.token, verdict))
        self.happens(CallEnded(permit.token, verdict, why, retry_after_s))

    def take_back(self, permit: Permit) -> None:
        self.taken_back.append(permit.token)
        self.happens(FailureTakenBack(permit.token))

    def refusal(self) -> str | None:
        return self.state.why if self.state.refuses(self.clock.now()) else None

    def refusal_elsewhere(self) -> str | None:
        return self.elsewhere

    def happens(self, event: Event) -> Decision:
        """Let `event` happen now."""
        self.state, decision = step(self.breaker, self.state, event, self.clock.now())
        return decision

    @property
    def decisions(self) -> list[Decision]:
        """What was answered, ask by ask."""
        return [permit.decision for permit in self.permits]

    @property
    def verdicts(self) -> list[Verdict]:
        """What was told of calls, in the order of their ends."""
        return [verdict for _, verdict in self.ends]


@dataclass(slots=True)
class LocalGates:
    """The gates of a chain, by rung, each made when it is first asked for."""

    clock: ManualClock = field(default_factory=ManualClock)
    by_name: dict[str, LocalGate] = field(default_factory=dict)
    elsewhere: str | None = None

    def of(self, name: str, breaker: Breaker, key: str = "") -> BreakerClient:
        name = f"{name}@{key}" if key else name
        return self.by_name.setdefault(name, LocalGate(name, breaker, self.clock, elsewhere=self.elsewhere))


def works(count: int) -> list[ChainInput[str]]:
    """`count` items, named by their number."""
    return [ChainInput(str(number), str(number)) for number in range(count)]


def sensible(value: str) -> None:
    """The check of scripted chains."""
    if value == "nonsense":
        raise ValueError("the answer is nonsense")


def chain_of(
    *rungs: ScriptedRung,
    penalties: Sequence[str] = ("1", "0.9", "0.8"),
    skip: str | None = "0.7",
    per_item: Sequence[str] = (),
    breakers: Mapping[str, Breaker] | None = None,
    stage: str = STAGE,
    check: Callable[[str], None] = sensible,
) -> Chain[str, str, Any]:
    """A chain of scripted rungs; required where `skip`, the penalty of giving up, is None."""
    declared: list[Rung[str, str, Any] | Skip] = [
        Rung(
            rung.name,
            rung,
            penalty=penalty,
            time_limit_s=60,
            per_item=rung.name in per_item,
            breaker=(breakers or {}).get(rung.name),
        )
        for rung, penalty in zip(rungs, penalties, strict=False)
    ]
    if skip is not None:
        declared.append(Skip(penalty=skip))
    return Chain(stage, *declared, check=check)


def at_once(function: Callable[[], R], limit_s: float, name: str, *, while_waiting: Callable[[], None]) -> R:
    """Calls without a limit."""
    return function()


def runtime(
    *,
    clock: ManualClock | None = None,
    sizes: WorkingSizes | None = None,
    call_within: Callable[..., Any] = at_once,
    free_memory: Callable[[], None] = lambda: None,
    around_fallback: Callable[..., RungResult[Any]] = no_instrumentation,
    breaker_of: BreakerOf = without_breakers,
    is_fatal: Callable[[Exception], bool] = lambda error: False,
    lacks: Callable[[Mapping[str, float]], bool] = lambda resources: False,
) -> Runtime:
    """A runtime of which nothing is real."""
    clock = clock or ManualClock()
    return Runtime(
        now=clock.now,
        timer=clock.timer,
        call_within=call_within,
        free_memory=free_memory,
        sizes=sizes or WorkingSizes(),
        around_fallback=around_fallback,
        breaker_of=breaker_of,
        is_fatal=is_fatal,
        lacks=lacks,
    )
