"""Faults that a run injects on purpose, innermost, around one rung.

``classify_image.gpu=oom`` hits every item, ``classify_image.gpu=oom@0.1`` one in ten. The seed, the fault and the item
alone decide whether an item is hit, not its batch or the number of calls, so a run can be repeated. A fault that hits
every item is raised, as from a broken rung; a fault that hits some items fails those alone.
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
from repli.tasks.fallback.outcome import ChainInput, Failed, Outcome, Served
from repli.tasks.fallback.result import INJECTED, SKIP

I = TypeVar("I")  # noqa: E741  as in chain.py
V = TypeVar("V")


class FaultKind(StrEnum):
    """The kind of failure that a fault injects into calls that carry a hit item."""

    OOM = "oom"  # the call is out of memory, unless no hit item is in it
    ERROR = "error"  # an unexpected exception
    TIMEOUT = "timeout"  # as if cut off at the time limit, without the wait
    UNAVAILABLE = "unavailable"  # no such device, model or service
    GARBAGE = "garbage"  # an invalid value
    KILL = "kill"  # the process dies, by SIGKILL


class InjectedFault(RungError):
    """An error injected by `FaultKind.ERROR`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault to inject into one rung.

    Args:
        kind: The kind of failure.
        rate: Share of the rung's items that are hit, in [0, 1].
        seed: Selects the hit items: the same seed hits the same items.

    Example:
        >>> fault = Fault.parse("classify_image.gpu=oom@0.1")
        >>> fault.rung, fault.kind.value, fault.rate
        ('gpu', 'oom', 0.1)
    """

    stage: str
    rung: str
    kind: FaultKind
    rate: float = 1.0
    seed: int = 0

    @classmethod
    def parse(cls, spec: str, *, seed: int = 0) -> Fault:
        """Return the fault that ``STAGE.RUNG=KIND[@RATE]`` describes.

        Raises:
            UsageError: The spec has another form, or its kind or rate is invalid.
        """
        match = re.fullmatch(r"(?P<stage>\w+)\.(?P<rung>\w+)=(?P<kind>\w+)(?:@(?P<rate>[0-9.eE+-]+))?", spec)
        if not match:
            raise UsageError(
                f"fault {spec!r} is not of the form STAGE.RUNG=KIND[@RATE], such as translate.service=oom@0.1"
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

    def __str__(self) -> str:
        """Return the spec that `parse` reads, without the seed."""
        return f"{self.stage}.{self.rung}={self.kind}" + (f"@{self.rate!r}" if self.rate < 1 else "")

    def hits(self, item_id: str) -> bool:
        """Return whether the fault hits this item: a hash of seed, fault and item, in [0, 1), is below the rate."""
        if self.rate >= 1:
            return True
        text = f"{self.seed}:{self.stage}.{self.rung}={self.kind}:{item_id}"
        draw = int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64
        return draw < self.rate


def check_rung_exists(stage: str, rung: str, chains: Iterable[AnyChain], option: str) -> None:
    """Raise `UsageError`, with the `option` in its message, unless the `stage` is in `chains` and has the `rung`."""
    by_stage = {chain.stage: chain for chain in chains}
    if stage not in by_stage:
        raise UsageError(f"{option}: there is no stage {stage!r}; choose from {', '.join(by_stage)}")
    if rung not in by_stage[stage].rung_names:
        raise UsageError(f"{option}: {stage} has no rung {rung!r}; choose from {', '.join(by_stage[stage].rung_names)}")


def parse_faults(specs: Iterable[str], chains: Sequence[AnyChain], *, seed: int = 0) -> tuple[Fault, ...]:
    """Return the faults that the `specs` describe. Raises `UsageError` unless each names a rung of the `chains`."""
    faults = []
    for spec in specs:
        fault = Fault.parse(spec, seed=seed)
        check_fault(fault, chains)
        faults.append(fault)
    return tuple(faults)


def check_fault(fault: Fault, chains: Iterable[AnyChain]) -> None:
    """Raise `UsageError`, with the fault in its message, unless its rung is in the `chains` and is not `skip`."""
    check_rung_exists(fault.stage, fault.rung, chains, f"fault '{fault}'")
    if fault.rung == SKIP:
        raise UsageError(f"fault '{fault}': skip calls nothing and cannot fail; name another rung")


Call = Callable[[Sequence[ChainInput[I]]], Sequence[Outcome[V]]]


def inject(faults: Iterable[Fault], call: Call[I, V]) -> Call[I, V]:
    """Return `call` with the `faults` injected, the first outermost."""
    for fault in reversed(list(faults)):
        call = _faulty(fault, call)
    return call


def _faulty(fault: Fault, call: Call[I, V]) -> Call[I, V]:
    def faulty_call(inputs: Sequence[ChainInput[I]]) -> Sequence[Outcome[V]]:
        hit = [fault.hits(item.item_id) for item in inputs]
        if not any(hit):
            return call(inputs)
        if fault.kind is FaultKind.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind is FaultKind.OOM:
            raise OutOfMemory(f"{INJECTED}{fault.stage}.{fault.rung} is out of memory")
        if fault.kind is FaultKind.GARBAGE:
            outcomes = call(inputs)
            return [_GARBAGE if is_hit else outcome for is_hit, outcome in zip(hit, outcomes, strict=True)]
        error = _ERRORS[fault.kind](f"{INJECTED}{fault.stage}.{fault.rung} {_WORDS[fault.kind]}")
        if fault.rate >= 1:
            raise error
        not_hit = [item for item, is_hit in zip(inputs, hit, strict=True) if not is_hit]
        by_item: dict[str, Outcome[V]] = {item.item_id: Failed.because(error) for item in inputs}
        if not_hit:
            by_item.update(zip((item.item_id for item in not_hit), call(not_hit), strict=True))
        return list(by_item.values())

    return faulty_call


# Every chain rejects it: its confidence is outside [0, 1], and its value has no stage's type.
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
