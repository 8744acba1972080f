"""What a chain is given to do for one item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Generic, TypeVar

I = TypeVar("I")  # noqa: E741  as in chain.py


@dataclass(frozen=True, slots=True)
class ChainInput(Generic[I]):
    """One item's input to a chain.

    Args:
        forbidden: rungs that must not serve the item, each with the reason; see `compatibility`.
        improve_on: the rung that served the item before. Only better ones are called, and where none of them
            serves, what it left stands.
    """

    item_id: str
    input: I
    _: KW_ONLY
    forbidden: Mapping[str, str] = field(default_factory=dict)
    improve_on: str | None = None
