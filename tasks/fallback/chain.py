"""Declaration of a stage's chain: its rungs, best first, and an explicit skip as the last.

::

    CHAIN = Chain(
        "classify_image",
        Rung("gpu", on_gpu, breaker=Breaker(scope="host"), time_limit_s=120),
        Rung("cpu", on_cpu, penalty="0.9", time_limit_s=300),
        Skip(penalty="0.7"),
    )

A chain that cannot work raises ValueError here, when it is declared, not during a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Generic, TypeVar

from repli.tasks.fallback.breaker import Breaker
from repli.tasks.fallback.errors import BadAnswer
from repli.tasks.fallback.outcome import Answers, Outcome
from repli.tasks.fallback.result import SKIP

I = TypeVar("I")  # noqa: E741  a rung's input for one item; V its value, C the stage's context
V = TypeVar("V")
C = TypeVar("C")

LONGEST_LIMIT_S = 30 * 24 * 3600.0
LONGEST_VERSION = 200
FIRST_VERSION = "1"
"""The version of a rung that declares none."""


def _factor(penalty: str, owner: str) -> Decimal:
    try:
        factor = Decimal(penalty)
    except InvalidOperation:
        raise ValueError(f"{owner}: the penalty {penalty!r} is not a number; write it as '0.9'") from None
    if not (factor.is_finite() and 0 < factor <= 1):
        raise ValueError(f"{owner}: the penalty {penalty} is not in (0, 1]")
    return factor


@dataclass(frozen=True, slots=True)
class Rung(Generic[I, V, C]):
    """One way to do a stage.

    Args:
        name: Name in reports, options and the trail; unique in its chain.
        run: Called with a batch of inputs and the stage's context; returns one outcome per input, in order. An iterator
            gives them as they come, each with the position of its input. It must be idempotent: it is called again on
            halves of a batch that did not fit.
        penalty: The exact factor in (0, 1], written as a string, on the quality of the items that the rung serves.
        time_limit_s: Seconds after which one call is cut off.
        per_item: Call the rung with one item at a time. For work that a batch does not speed up, where one item
            can hang.
        breaker: Stops calls of the rung while it keeps failing. Without one the rung is called for every batch.
        resources: Dask resources that a worker needs to run the rung, such as ``{"GPU": 1}``.
        version: The version of what the rung does. Results of another version are outdated.
        after_decline: The factor in (0, 1] on the confidence of an answer where a better rung was not sure: then this
            one is less often right than it says.

    Raises:
        ValueError: The name is `skip`, the penalty, the time limit or `after_decline` is out of range, the breaker is
            no `Breaker`, or the version is empty or no short line.

    Example:
        >>> from repli.tasks.fallback import Served
        >>> def upper(names, context):
        ...     return [Served(name.upper()) for name in names]
        >>> Rung("upper", upper, penalty="0.9", time_limit_s=5).factor
        Decimal('0.9')
    """

    name: str
    run: Callable[[Sequence[I], C], Sequence[Outcome[V]] | Iterator[tuple[int, Outcome[V]]]]
    _: KW_ONLY
    penalty: str = "1"
    time_limit_s: float
    per_item: bool = False
    breaker: Breaker | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    version: str = FIRST_VERSION
    after_decline: float = 1.0
    factor: Decimal = field(init=False)

    def __post_init__(self) -> None:
        if self.name == SKIP:
            raise ValueError("a rung cannot be named 'skip'; end the chain with Skip(penalty=...)")
        if not (isinstance(self.time_limit_s, int | float) and 0 < self.time_limit_s <= LONGEST_LIMIT_S):
            raise ValueError(
                f"rung {self.name}: the time limit must be above 0 s and at most 30 days, not {self.time_limit_s!r}; "
                "set time_limit_s"
            )
        if not (self.breaker is None or isinstance(self.breaker, Breaker)):
            raise ValueError(
                f"rung {self.name}: breaker is a {type(self.breaker).__name__}; write breaker=Breaker(scope=...)"
            )
        if not isinstance(self.resources, Mapping):
            kind = type(self.resources).__name__
            raise ValueError(f'rung {self.name}: resources is a {kind}; write resources={{"GPU": 1}}')
        if not (self.version.strip() and self.version.isprintable() and len(self.version) <= LONGEST_VERSION):
            raise ValueError(
                f"rung {self.name}: the version must be a number or a line of at most {LONGEST_VERSION} characters, "
                f"not {self.version[:80]!r}"
            )
        if not (isinstance(self.after_decline, int | float) and 0 < self.after_decline <= 1):
            raise ValueError(f"rung {self.name}: after_decline {self.after_decline!r} is not in (0, 1]")
        object.__setattr__(self, "factor", _factor(self.penalty, f"rung {self.name}"))

    def call(
        self, inputs: Sequence[I], context: C, *, name: str = "", answers: Answers[V] | None = None
    ) -> Sequence[Outcome[V]]:
        """Run the rung and return one outcome per input, in their order.

        Args:
            name: The rung as `stage.rung`, for the message.
            answers: Gets each outcome of an iterator as it comes, by position.

        Raises:
            BadAnswer: There is not one outcome per input.
        """
        outcomes = self.run(inputs, context)
        if isinstance(outcomes, Iterator):
            answers = {} if answers is None else answers
            for position, outcome in outcomes:
                answers[position] = outcome
            outcomes = [answers[position] for position in sorted(answers)]
        if len(outcomes) != len(inputs):
            raise BadAnswer(f"{name or self.name} returned {len(outcomes)} outcomes for {len(inputs)} items")
        return outcomes

    @property
    def probe_limit_s(self) -> float:
        """Return the time limit of a probe, in seconds. It ends before the breaker's lease does."""
        return min(self.time_limit_s, self.breaker.probe_limit_s) if self.breaker else self.time_limit_s


@dataclass(frozen=True, slots=True)
class Skip:
    """The last rung of a stage that is not required: no value, confidence 0, and the reason.

    Example:
        >>> Skip(penalty="0.7").factor
        Decimal('0.7')
    """

    _: KW_ONLY
    penalty: str
    factor: Decimal = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", _factor(self.penalty, SKIP))


def accept_value(value: Any) -> None:
    """Check nothing: the default of a chain's `check`."""


def accept_batch(inputs: Sequence[Any], outcomes: Sequence[Any], answer: Callable[[Any], Any], context: Any) -> None:
    """Check nothing: the default of a chain's `check_batch`."""


CheckBatch = Callable[[Sequence[Any], Sequence[Outcome[Any]], Callable[[Any], Outcome[Any]], Any], None]
"""See `check_batch` of `Chain`."""


class Chain(Generic[I, V, C]):
    """A stage's rungs, best first. Without a `Skip` at its end the stage is required.

    Args:
        stage: The stage's name.
        rungs: Best first: the first has penalty 1, and penalties never rise.
        check: Raises ValueError for a value that no rung of this chain may return. It runs on every value, so that
            an item with an invalid one goes to the next rung and not into the store.
        check_batch: ``check_batch(inputs, outcomes, answer, context)`` raises ValueError for answers that no rung may
            give together, such as the same one for all; then none of them is kept. `answer` calls the rung with one
            more input.

    Raises:
        ValueError: The rungs cannot form a chain. The message names the stage and the rule that they break.

    Example:
        >>> from repli.tasks.fallback import Served
        >>> full = Rung("full", lambda texts, context: [Served(text) for text in texts], time_limit_s=5)
        >>> Chain("extract_text", full, Skip(penalty="0.8"))
        Chain('extract_text': full · skip)
    """

    def __init__(
        self,
        stage: str,
        *rungs: Rung[I, V, C] | Skip,
        check: Callable[[V], None] = accept_value,
        check_batch: CheckBatch = accept_batch,
    ) -> None:
        self.stage = stage
        self.check = check
        self.check_batch = check_batch
        self.skip = rungs[-1] if rungs and isinstance(rungs[-1], Skip) else None
        callable_rungs = rungs[:-1] if self.skip else rungs
        self.rungs: tuple[Rung[I, V, C], ...] = tuple(r for r in callable_rungs if isinstance(r, Rung))
        if len(self.rungs) != len(callable_rungs):
            raise ValueError(f"chain {stage}: Skip can only be the last rung; move it to the end, once")
        if not self.rungs:
            raise ValueError(f"chain {stage}: declare at least one rung before Skip")
        if self.rungs[0].factor != 1:
            raise ValueError(
                f"chain {stage}: the primary {self.rungs[0].name} must have penalty 1; leave its penalty out"
            )
        if len(set(self.rung_names)) != len(self.rung_names):
            raise ValueError(f"chain {stage}: two rungs share a name; rename one")
        penalties = [rung.factor for rung in rungs]
        if penalties != sorted(penalties, reverse=True):
            raise ValueError(f"chain {stage}: penalties must not rise from rung to rung; order them best first")

    def with_rungs(self, *rungs: Rung[I, V, C] | Skip) -> Chain[I, V, C]:
        """Return the chain with these rungs in place of its own, and the same checks."""
        return Chain(self.stage, *rungs, check=self.check, check_batch=self.check_batch)

    @property
    def is_required(self) -> bool:
        """Return whether an item that no rung serves fails. Otherwise it is skipped and goes on."""
        return self.skip is None

    @property
    def primary(self) -> Rung[I, V, C]:
        """Return the first rung, whose penalty is 1."""
        return self.rungs[0]

    @property
    def rung_names(self) -> tuple[str, ...]:
        """Return the names of the rungs, best first, with `skip` if the chain has one."""
        return (*(rung.name for rung in self.rungs), *((SKIP,) if self.skip else ()))

    def __repr__(self) -> str:
        return f"Chain({self.stage!r}: {' · '.join(self.rung_names)})"


AnyRung = Rung[Any, Any, Any]
AnyChain = Chain[Any, Any, Any]


def breakers_of(chains: Iterable[AnyChain]) -> dict[str, Breaker]:
    """Return the declared breakers by rung, `STAGE.RUNG`, in the order of the chains."""
    return {f"{chain.stage}.{rung.name}": rung.breaker for chain in chains for rung in chain.rungs if rung.breaker}
