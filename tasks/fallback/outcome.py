"""A chain's input for one item, and a rung's outcome for it. Outcomes are values, not exceptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Generic, TypeVar

from repli.tasks.fallback.errors import BreakerOpen, Declined, ItemError, Unavailable
from repli.tasks.fallback.result import StepError

I = TypeVar("I")  # noqa: E741  as in chain.py
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class ChainInput(Generic[I]):
    """One item's input to a chain.

    Args:
        item_id: The item, unique in its batch.
        input: The value that each rung is called with.
        forbidden: Rungs that must not serve the item, each with the reason; see `compatibility`.
        improve_on: The rung of the item's stored result. Only better rungs are called; if none of them serves, the
            stored result is kept.

    Example:
        >>> ChainInput("42", "a cat", improve_on="rules").input
        'a cat'
    """

    item_id: str
    input: I
    _: KW_ONLY
    forbidden: Mapping[str, str] = field(default_factory=dict)
    improve_on: str | None = None


@dataclass(frozen=True, slots=True)
class Served(Generic[V]):
    """The rung served the item, with a `confidence` in [0, 1].

    `limited_to` names the part of the answer that there is, where a part is missing. The trail says so.

    Example:
        >>> Served("cat", confidence=0.9).value
        'cat'
    """

    value: V
    confidence: float = 1.0
    _: KW_ONLY
    limited_to: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The rung did not serve the item; the item goes to the next rung.

    Args:
        error: The reason.
        is_item_error: The item caused the failure, not the rung, so the rung's breaker does not count it.
        is_declined: The rung does not know the answer for the item.
        is_unavailable: The device, model or service is not here.
        is_refused: The breaker of the key of its call refused it.

    Example:
        >>> from repli.tasks.fallback import ItemError
        >>> Failed.because(ItemError("the page has no text")).error.line
        'ItemError: the page has no text'
    """

    error: StepError
    is_item_error: bool = False
    is_declined: bool = False
    is_unavailable: bool = False
    is_refused: bool = False

    @classmethod
    def because(cls, error: Exception) -> Failed:
        """Return the failure that `error` describes. An `ItemError` is the item's."""
        return cls(
            StepError.of(error),
            is_item_error=isinstance(error, ItemError),
            is_declined=isinstance(error, Declined),
            is_unavailable=isinstance(error, Unavailable),
            is_refused=isinstance(error, BreakerOpen),
        )


Outcome = Served[V] | Failed
Answers = dict[int, Outcome[V]]
"""The outcomes that a call has given so far, by the position of the item in the call."""


def each(inputs: Iterable[I], serve: Callable[[I], Served[V]]) -> list[Outcome[V]]:
    """Return one outcome per input, for a rung that works item by item.

    An `ItemError` that `serve` raises fails its item alone. Any other exception is raised: it concerns the rung.
    """
    outcomes: list[Outcome[V]] = []
    for value in inputs:
        try:
            outcomes.append(serve(value))
        except ItemError as error:
            outcomes.append(Failed.because(error))
    return outcomes
