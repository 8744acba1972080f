"""Find a rung that ignores its input: one answer for every item of a mixed batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from repli.tasks.fallback import Failed, Outcome, Served
from repli.tasks.items import Embedding, Label
from repli.tasks.json_values import fingerprint

LARGE_BATCH = 32
"""Answers to inputs that all differ from which on one answer for all of them is suspect. Two vectors are where the
rung can be asked for one of another input: few texts have the same, but many pictures the same label."""
_ROUNDING = 1e-6  # how far the numbers of one vector may be apart from one place in a batch to another


def check_not_constant(
    inputs: Sequence[Any],
    outcomes: Sequence[Outcome[Any]],
    answer: Callable[[Any], Outcome[Any]],
    context: Any,
    *,
    unrelated_input: Callable[[Any, Any], Any] | None,
) -> None:
    """Raise ValueError where a rung gave the same label with the same confidence, or the same vector, for all items.

    Inputs that differ may still look alike to the rung, such as one picture in many files. So where the stage can make
    an input unlike all others, the rung is called with it, and has to answer it in the same way, too. Elsewhere a label
    without a confidence of its own, 1, proves nothing: all items of a catalogue may be of one kind. A rung that
    declines an item tells the items apart.

    Args:
        answer: calls the rung with one more input.
        unrelated_input: see `Comparison`.
    """
    served = [(given, one) for given, one in zip(inputs, outcomes, strict=True) if isinstance(one, Served)]
    if not served or any(isinstance(one, Failed) and one.is_declined for one in outcomes):
        return
    first = served[0][1]
    fewest = 2 if unrelated_input and isinstance(first.value, Embedding) else LARGE_BATCH
    if len(served) < fewest or not all(_is_same(first, one) for _, one in served[1:]):
        return
    if len({fingerprint(given) for given, _ in served}) < fewest:
        return
    if unrelated_input:
        other = answer(unrelated_input(served[0][0], context))
        if not (isinstance(other, Served) and _is_same(first, other)):
            return
    elif isinstance(first.value, Label) and first.confidence == 1 and len(first.value.top) < 2:
        return
    raise ValueError(f"it gave the same answer for all {len(served)} items, which differ")


def _is_same(one: Served[Any], other: Served[Any]) -> bool:
    first, second = one.value, other.value
    if isinstance(first, Label) and isinstance(second, Label):
        return first == second and round(one.confidence, 4) == round(other.confidence, 4)
    if isinstance(first, Embedding) and isinstance(second, Embedding):
        import numpy as np

        is_comparable = first.space == second.space and first.dimensions == second.dimensions
        return is_comparable and bool(np.allclose(first.vector, second.vector, rtol=0, atol=_ROUNDING))
    return False
