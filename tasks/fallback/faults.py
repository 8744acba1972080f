"""Faults on purpose: injected innermost, around one rung, by name, and the same for the same seed.

``classify_image.gpu=oom`` hits every item, ``classify_image.gpu=oom@0.1`` one in ten. Which ones depends on the
seed, the fault and the item alone, never on its batch or on how often the rung was called. So a fault that hits
every item is raised, as from a broken rung, and one that hits some is answered for those alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from repli.tasks.fallback.chain import AnyChain
from repli.tasks.fallback.errors import OutOfMemory, RungError, TimedOut, Unavailable, UsageError
from repli.tasks.fallback.outcome import Failed, Outcome, Served
from repli.tasks.fallback.result import SKIP
from repli.tasks.fallback.work import ChainInput

I = TypeVar("I")  # noqa: E741  as in chain.py
V = TypeVar("V")


class FaultKind(StrEnum):
    """What an injected fault does to the calls that carry a hit item."""

    OOM = "oom"  # the call is out of memory, until the hit items are alone
    ERROR = "error"  # an exception that nobody foresaw
    TIMEOUT = "timeout"  # as if cut off at the time limit, without the wait
    UNAVAILABLE = "unavailable"  # no such device, model or service
    GARBAGE = "garbage"  # an answer that means nothing
    KILL = "kill"  # the process dies, by SIGKILL


class InjectedFault(RungError):
    """An error that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`rate` of the items that meet `stage`.`rung` have `kind` happen to them."""

    stage: str
    rung: str
    kind: FaultKind
    rate: float = 1.0
    seed: int = 0

    @classmethod
    def parse(cls, spec: str, *, seed: int = 0) -> Fault:
        """The fault that ``stage.rung=kind[@rate]`` names.

        Raises:
            UsageError: the spec has another form, or names no kind or rate that there is.
        """
        match = re.fullmatch(r"(?P<stage>\w+)\.(?P<rung>\w+)=(?P<kind>\w+)(?:@(?P<rate>[0-9.eE+-]+))?", spec)
        if not match:
            raise UsageError(
                f"fault {spec!r} is not of the form STAGE.RUNG=KIND[@RATE], such as classify_image.gpu=oom@0.1"
            )
        if match["kind"] not in set(FaultKind):
            raise UsageError(f"fault {spec!r}: there is no kind {match['kind']!r}; choose from {', '.join(FaultKind)}")
        try:
            rate = float(match["rate"] or 1)
        except ValueError:
            rate = -1.0
        if not 0 <= rate <= 1:
            raise UsageError(f"fault {spec!r}: the rate must be a number from 0 to 1")
        return cls(stage=match["stage"], rung=match["rung"], kind=FaultKind(match["kind"]), rate=rate, seed=seed)

    def hits(self, item_id: str) -> bool:
        """Whether the fault strikes this item: a hash of seed, fault and item against the rate."""
        if self.rate >= 1:
            return True
        text = f"{self.seed}:{self.stage}.{self.rung}={self.kind}:{item_id}"
        draw = int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64
        return draw < self.rate


def check_rung_exists(stage: str, rung: str, chains: Iterable[AnyChain], option: str) -> None:
    """Raise `UsageError`, naming the `option`, unless one of the `chains` is `stage`'s and has `rung`."""
    by_stage = {chain.stage: chain for chain in chains}
    if stage not in by_stage:
        raise UsageError(f"{option}: there is no stage {stage!r}; choose from {', '.join(by_stage)}")
    if rung not in by_stage[stage].rung_names:
        raise UsageError(f"{option}: {stage} has no rung {rung!r}; choose from {', '.join(by_stage[stage].rung_names)}")


def parse_faults(specs: Iterable[str], chains: Sequence[AnyChain], *, seed: int = 0) -> tuple[Fault, ...]:
    """The faults that the `specs` name, each checked against the `chains`. Raises `UsageError`."""
    faults = []
    for spec in specs:
        fault = Fault.parse(spec, seed=seed)
        check_rung_exists(fault.stage, fault.rung, chains, f"fault {spec!r}")
        if fault.rung == SKIP:
            raise UsageError(f"fault {spec!r}: skip calls nothing, so nothing in it can fail")
        faults.append(fault)
    return tuple(faults)


Call = Callable[[Sequence[ChainInput[I]]], Sequence[Outcome[V]]]


def inject(faults: Iterable[Fault], call: Call[I, V]) -> Call[I, V]:
    """`call` with the `faults` around it, the first outermost."""
    for fault in reversed(list(faults)):
        call = _faulty(fault, call)
    return call


def _faulty(fault: Fault, call: Call[I, V]) -> Call[I, V]:
    def faulty_call(works: Sequence[ChainInput[I]]) -> Sequence[Outcome[V]]:
        hit = [fault.hits(work.item_id) for work in works]
        if not any(hit):
            return call(works)
        if fault.kind is FaultKind.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind is FaultKind.OOM:
            raise OutOfMemory(f"injected: {fault.stage}.{fault.rung} is out of memory")
        if fault.kind is FaultKind.GARBAGE:
            answers = call(works)
            return [_GARBAGE if is_hit else answer for is_hit, answer in zip(hit, answers, strict=True)]
        error = _ERRORS[fault.kind](f"injected: {fault.stage}.{fault.rung} {_WORDS[fault.kind]}")
        if fault.rate >= 1:
            raise error
        spared = [work for work, is_hit in zip(works, hit, strict=True) if not is_hit]
        outcomes: dict[str, Outcome[V]] = {work.item_id: Failed.because(error) for work in works}
        if spared:
            outcomes.update(zip((work.item_id for work in spared), call(spared), strict=True))
        return list(outcomes.values())

    return faulty_call


# No chain accepts it: a confidence outside [0, 1], and a value of no stage's type.
_GARBAGE: Served[Any] = Served(object(), confidence=float("nan"))
_ERRORS: dict[FaultKind, type[RungError]] = {
    FaultKind.ERROR: InjectedFault,
    FaultKind.TIMEOUT: TimedOut,
    FaultKind.UNAVAILABLE: Unavailable,
}
_WORDS = {
    FaultKind.ERROR: "raised an error",
    FaultKind.TIMEOUT: "ran out of time",
    FaultKind.UNAVAILABLE: "is not available",
}
