"""Measure how far the answers of two rungs agree, for each kind of answer."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from repli.tasks.items import Assets, Embedding, Label, Text, Validation
from repli.tasks.json_values import as_json

V = TypeVar("V")

NEIGHBOURS = 10
"""Nearest neighbours that are compared where two rungs embed into different spaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Generic[V]):
    """How a drill compares the answers of a stage's rungs.

    Args:
        agreement: returns the agreement in [0, 1] of each pair of the primary's and another rung's answers to the same
            items, in their order. Empty where the answers cannot be compared.
        key: returns a key that equal answers share. None where all items may rightly have the same answer.
        space: returns the vector space of an answer that is a vector.
        is_same: returns whether an answer agrees in essence with the primary's.
        same_from: the agreement from which on two answers count as the same; below it, only one can be right.
        question: how a person says which answers to an item are right: by the right `label`, or by the `rung` whose
            answer it is. None where nobody could tell.
        is_empty: returns whether an input has no content, such as a file that was never fetched. A drill leaves it
            out, because no rung can serve it.
        unrelated_input: makes, from an input and the stage's context, an input that is unlike all others: a rung that
            answers it as it answers the others ignores its input. None where no such input can be made.
        mistakes: typical mistakes of a rung, by name, as functions of an input and the stage's context that return the
            wrong input. A rung that agrees more with the primary after one of them makes that mistake itself.
        slips: typical mistakes in an answer, by name, as functions of the primary's answer and a rung's that return
            whether the two agree once the mistake is undone.
    """

    agreement: Callable[[Sequence[V], Sequence[V]], Sequence[float]]
    key: Callable[[V], Hashable] | None = None
    space: Callable[[V], str] | None = None
    is_same: Callable[[V, V], bool] = operator.eq
    same_from: float = 1.0
    question: Literal["label", "rung"] | None = None
    is_empty: Callable[[Any], bool] = lambda value: False
    unrelated_input: Callable[[Any, Any], Any] | None = None
    mistakes: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    slips: Mapping[str, Callable[[V, V], bool]] = field(default_factory=dict)


def equality(first: Sequence[Any], second: Sequence[Any]) -> list[float]:
    """Return 1 for each pair of equal answers, 0 for each other pair."""
    return [float(as_json(a) == as_json(b)) for a, b in zip(first, second, strict=True)]


def same_label(first: Sequence[Label], second: Sequence[Label]) -> list[float]:
    """Return 1 for each pair with the same label, 0 for each other pair."""
    return [float(a.label == b.label) for a, b in zip(first, second, strict=True)]


def same_bytes(first: Sequence[Assets], second: Sequence[Assets]) -> list[float]:
    """Return 1 for each pair whose documents and images have the same bytes; 0 for each other pair."""

    def content(assets: Assets) -> tuple[str | None, ...]:
        return tuple(asset.sha256 if asset else None for asset in (assets.document, assets.image))

    return [float(content(a) == content(b)) for a, b in zip(first, second, strict=True)]


def token_overlap(first: Sequence[Text], second: Sequence[Text]) -> list[float]:
    """Return the share of words that each pair has in common: Dice's coefficient (1945) over multisets of words."""

    def overlap(a: Counter[str], b: Counter[str]) -> float:
        return 2 * (a & b).total() / (a.total() + b.total()) if a or b else 1.0

    words = [[Counter(text.text.casefold().split()) for text in texts] for texts in (first, second)]
    return [overlap(a, b) for a, b in zip(*words, strict=True)]


def same_meaning(first: Sequence[Embedding], second: Sequence[Embedding]) -> list[float]:
    """Return the cosine of each pair, 0 where it is negative.

    Vectors of different spaces cannot be compared: then the share of its nearest neighbours among these items that an
    item has in both spaces. Empty for fewer than four items.
    """
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


def _is_index_apart(primary: Label, answer: Label, distance: int) -> bool:
    """Return whether the index of an answer is so far above the primary's, in the same vocabulary."""
    if primary.label_index is None or answer.label_index is None or primary.vocabulary != answer.vocabulary:
        return False
    return answer.label_index - primary.label_index == distance


LABELS_OFF_BY_ONE: Mapping[str, Callable[[Label, Label], bool]] = {
    "labels off by one: taking one from each label's index": lambda a, b: _is_index_apart(a, b, 1),
    "labels off by one: adding one to each label's index": lambda a, b: _is_index_apart(a, b, -1),
}

ASSETS: Comparison[Assets] = Comparison(agreement=same_bytes)
VALIDATIONS: Comparison[Validation] = Comparison(agreement=equality)
TEXTS: Comparison[Text] = Comparison(
    agreement=token_overlap, key=lambda text: text.text, same_from=0.9, question="rung"
)
LABELS: Comparison[Label] = Comparison(
    agreement=same_label,
    key=lambda answer: (answer.label, answer.top),
    is_same=lambda a, b: [guess.label for guess in a.top[:1]] == [guess.label for guess in b.top[:1]],
    question="label",
    slips=LABELS_OFF_BY_ONE,
)
VECTORS: Comparison[Embedding] = Comparison(
    agreement=same_meaning, key=lambda answer: answer.vector.tobytes(), space=lambda answer: answer.space
)
ANYTHING: Comparison[Any] = Comparison(agreement=equality, question="rung")
"""The comparison of a stage that declares none."""
