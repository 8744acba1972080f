"""What a rung answers for one item: outcomes are values, not exceptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from repli.tasks.fallback.errors import ItemError, RungError
from repli.tasks.fallback.result import StepError

I = TypeVar("I")  # noqa: E741  as in chain.py
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Served(Generic[V]):
    """The rung served the item, `confidence` in [0, 1]."""

    value: V
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Failed:
    """The rung did not serve the item, which goes to the next rung.

    `is_item_error`: the failure is the item's own and says nothing of the rung; a breaker does not count it.
    """

    error: StepError
    is_item_error: bool = False

    @classmethod
    def because(cls, error: RungError) -> Failed:
        return cls(StepError.of(error), is_item_error=isinstance(error, ItemError))


Outcome = Served[V] | Failed


def each(inputs: Iterable[I], serve: Callable[[I], Served[V]]) -> list[Outcome[V]]:
    """One outcome an input, for a rung that works item by item: an `ItemError` that `serve` raises is that item's
    own failure. Whatever else it raises concerns the rung, and is raised."""
    outcomes: list[Outcome[V]] = []
    for value in inputs:
        try:
            outcomes.append(serve(value))
        except ItemError as error:
            outcomes.append(Failed.because(error))
    return outcomes
