"""What a chain is given to do for one item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Generic, TypeVar

I = TypeVar("I")  # noqa: E741  as in chain.py


@dataclass(frozen=True, slots=True)
class Work(Generic[I]):
    """One item's input to a chain.

    Args:
        barred: rungs that must not serve the item, each with the reason; see `compatibility`.
        better_than: the rung that served the item before. Only better ones are called, and where none of them
            serves, what it left stands.
    """

    item_id: str
    input: I
    _: KW_ONLY
    barred: Mapping[str, str] = field(default_factory=dict)
    better_than: str | None = None
