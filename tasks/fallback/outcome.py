"""What a rung answers for one item: outcomes are values, not exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from tasks.fallback.errors import RungError
from tasks.fallback.result import StepError

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Served(Generic[V]):
    """The rung served the item, `confidence` in [0, 1]."""

    value: V
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Failed:
    """The rung did not serve the item, which goes to the next rung."""

    error: StepError

    @classmethod
    def because(cls, error: RungError) -> Failed:
        return cls(StepError.of(error))


Outcome = Served[V] | Failed
