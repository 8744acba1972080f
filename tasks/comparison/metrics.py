"""How the answers of a stage are compared: with the primary's, and with each other."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from repli.tasks.comparison.image_perturbations import PICTURE_MISTAKES, another_picture
from repli.tasks.items import Assets, Classification, Embedding, Text, Validation, as_json

V = TypeVar("V")

NEIGHBOURS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Generic[V]):
    """What a drill needs to know of a stage's answers.

    Args:
        agreement: for the primary's answers and another rung's to the same items, in their order: how far each pair
            agrees, from 0 to 1. It may answer nothing where there is nothing to compare by.
        key: what answers have in common that say the same. None where all items may well have the same answer.
        space: the vector space of an answer that is a vector.
        is_same: whether an answer is, at its core, what the primary answered.
        is_unknown: whether an answer says that the rung does not know. A rung whose answers to a whole sample say so is
            reported, not failed.
        is_empty: whether an input of the stage holds nothing to work on, such as a file that was never fetched. No rung
            could serve it, so a drill leaves it out.
        another: makes, of an input and the stage's context, an input that has nothing in common with any other: a rung
            that answers it as it answers everything does not look. None where there is none to make.
        mistakes: what a rung may do wrong with its input, by name, as functions that do it: of an input and the
            stage's context. A rung that answers more like the primary after one of them does it too.
    """

    agreement: Callable[[Sequence[V], Sequence[V]], Sequence[float]]
    key: Callable[[V], Hashable] | None = None
    space: Callable[[V], str] | None = None
    is_same: Callable[[V, V], bool] = operator.eq
    is_unknown: Callable[[V], bool] = lambda answer: False
    is_empty: Callable[[Any], bool] = lambda value: False
    another: Callable[[Any, Any], Any] | None = None
    mistakes: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict)


def equality(first: Sequence[Any], second: Sequence[Any]) -> list[float]:
    """1 for answers that are the same, 0 for all others."""
    return [float(as_json(a) == as_json(b)) for a, b in zip(first, second, strict=True)]


def same_label(first: Sequence[Classification], second: Sequence[Classification]) -> list[float]:
    """1 for the same label, or for two that were withheld."""
    return [float(a.label == b.label) for a, b in zip(first, second, strict=True)]


def same_bytes(first: Sequence[Assets], second: Sequence[Assets]) -> list[float]:
    """1 where both assets are the same bytes."""

    def content(assets: Assets) -> tuple[str | None, ...]:
        return tuple(asset.sha256 if asset else None for asset in (assets.document, assets.image))

    return [float(content(a) == content(b)) for a, b in zip(first, second, strict=True)]


def token_overlap(first: Sequence[Text], second: Sequence[Text]) -> list[float]:
    """Words in common, as a share of the words of both: Dice's coefficient (1945) over multisets."""

    def overlap(a: Counter[str], b: Counter[str]) -> float:
        return 2 * (a & b).total() / (a.total() + b.total()) if a or b else 1.0

    words = [[Counter(text.text.casefold().split()) for text in texts] for texts in (first, second)]
    return [overlap(a, b) for a, b in zip(*words, strict=True)]


def same_meaning(first: Sequence[Embedding], second: Sequence[Embedding]) -> list[float]:
    """The cosine, 0 where it is below; for rungs of different spaces, whose vectors cannot be compared, the share
    of the nearest neighbours among these items that an item has in both."""
    if all(a.space == b.space for a, b in zip(first, second, strict=True)):
        return [max(0.0, min(1.0, a.similarity(b))) for a, b in zip(first, second, strict=True)]
    nearest = min(NEIGHBOURS, len(first) // 4)
    if nearest < 1:
        return []
    pairs = zip(_neighbours(first, nearest), _neighbours(second, nearest), strict=True)
    return [len(a & b) / nearest for a, b in pairs]


def _neighbours(embeddings: Sequence[Embedding], nearest: int) -> list[set[int]]:
    import numpy as np

    matrix = np.stack([embedding.vector for embedding in embeddings])
    near = matrix @ matrix.T
    np.fill_diagonal(near, -np.inf)
    return [set(row) for row in np.argpartition(-near, nearest - 1, axis=1)[:, :nearest].tolist()]


ASSETS: Comparison[Assets] = Comparison(agreement=same_bytes)
VALIDATIONS: Comparison[Validation] = Comparison(agreement=equality)
TEXTS: Comparison[Text] = Comparison(agreement=token_overlap, key=lambda text: text.text)
LABELS: Comparison[Classification] = Comparison(
    agreement=same_label,
    key=lambda answer: (answer.label, answer.top),
    is_same=lambda a, b: [guess.label for guess in a.top[:1]] == [guess.label for guess in b.top[:1]],
    is_unknown=lambda answer: answer.label is None,
    another=another_picture,
    mistakes=PICTURE_MISTAKES,
)
VECTORS: Comparison[Embedding] = Comparison(
    agreement=same_meaning, key=lambda answer: answer.vector.tobytes(), space=lambda answer: answer.space
)
ANYTHING: Comparison[Any] = Comparison(agreement=equality)
"""Of a stage that does not say how its answers are compared."""
