"""How a stage's chain is declared: its rungs, best first, and an explicit skip as the last.

::

    CHAIN = Chain(
        "classify_image",
        Rung("gpu", on_gpu, breaker=Breaker(scope="host"), time_limit_s=120),
        Rung("cpu", on_cpu, penalty="0.9", time_limit_s=300),
        Skip(penalty="0.7"),
    )

A chain that cannot work is refused here, when it is declared, not at 3 a.m.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Generic, TypeVar

from repli.tasks.fallback.breaker import Breaker
from repli.tasks.fallback.outcome import Outcome
from repli.tasks.fallback.result import SKIP

I = TypeVar("I")  # noqa: E741  what a rung is given for one item: the usual letter of the three
V = TypeVar("V")
C = TypeVar("C")


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
        name: what the outside sees, unique in its chain.
        run: called with inputs and the stage's context; answers one outcome per input, in order. It must be
            idempotent: it is called again on halves of a batch that did not fit.
        penalty: the exact factor in (0, 1], written as a string, on the quality of the items it serves.
        time_limit_s: one call is cut off after so many seconds.
        one_by_one: give it one item a call. For work with nothing to gain from a batch, where one item can hang.
        breaker: keeps everybody from calling it while it keeps failing. Without one it is called for every batch.
        resources: Dask resources that a worker needs to run it, such as ``{"GPU": 1}``.
    """

    name: str
    run: Callable[[Sequence[I], C], Sequence[Outcome[V]]]
    _: KW_ONLY
    penalty: str = "1"
    time_limit_s: float
    one_by_one: bool = False
    breaker: Breaker | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    factor: Decimal = field(init=False)

    def __post_init__(self) -> None:
        if self.name == SKIP:
            raise ValueError("a rung cannot be named 'skip'; end the chain with Skip(penalty=...)")
        if self.time_limit_s <= 0:
            raise ValueError(f"rung {self.name}: the time limit must be above 0 s")
        object.__setattr__(self, "factor", _factor(self.penalty, f"rung {self.name}"))

    @property
    def probe_limit_s(self) -> float:
        """The time limit of a probe, which is over before the breaker's lease is."""
        return min(self.time_limit_s, self.breaker.probe_limit_s) if self.breaker else self.time_limit_s


@dataclass(frozen=True, slots=True)
class Skip:
    """The last rung of a stage that may be given up: no value, confidence 0, and the reason."""

    _: KW_ONLY
    penalty: str
    factor: Decimal = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", _factor(self.penalty, SKIP))


class Chain(Generic[I, V, C]):
    """A stage's rungs, best first. Without a `Skip` at its end the stage is required.

    Args:
        stage: the stage's name.
        rungs: best first, the first of penalty 1, penalties never rising.
        check: raises ValueError for an answer that no rung of this chain may give. It runs on every answer, so
            that nonsense falls to the next rung instead of into the store.
    """

    def __init__(
        self, stage: str, *rungs: Rung[I, V, C] | Skip, check: Callable[[V], None] = lambda value: None
    ) -> None:
        self.stage = stage
        self.check = check
        self.skip = rungs[-1] if rungs and isinstance(rungs[-1], Skip) else None
        callable_rungs = rungs[:-1] if self.skip else rungs
        self.rungs: tuple[Rung[I, V, C], ...] = tuple(r for r in callable_rungs if isinstance(r, Rung))
        if len(self.rungs) != len(callable_rungs):
            raise ValueError(f"chain {stage}: Skip can only be the last rung")
        if not self.rungs:
            raise ValueError(f"chain {stage}: declare at least one rung before Skip")
        if self.rungs[0].factor != 1:
            raise ValueError(f"chain {stage}: the primary {self.rungs[0].name} must have penalty 1")
        if len(set(self.rung_names)) != len(self.rung_names):
            raise ValueError(f"chain {stage}: two rungs share a name")
        penalties = [rung.factor for rung in rungs]
        if penalties != sorted(penalties, reverse=True):
            raise ValueError(f"chain {stage}: penalties must not rise from rung to rung, best first")

    @property
    def is_required(self) -> bool:
        """Whether an item that no rung serves fails, instead of going on without."""
        return self.skip is None

    @property
    def primary(self) -> Rung[I, V, C]:
        return self.rungs[0]

    @property
    def rung_names(self) -> tuple[str, ...]:
        """Every rung by name, best first, `skip` included where the chain has one."""
        return (*(rung.name for rung in self.rungs), *((SKIP,) if self.skip else ()))

    def __repr__(self) -> str:
        return f"Chain({self.stage!r}: {' · '.join(self.rung_names)})"


AnyRung = Rung[Any, Any, Any]
AnyChain = Chain[Any, Any, Any]
