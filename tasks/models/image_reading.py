"""How the logits of an image classifier are read: labels, the confidences in them, and the score that decides.

The confidence is the softmax of the logits, divided by a temperature. The temperature is higher for small pictures,
since models know less of them than they say: what scales a small picture up adds no detail. Whether the model is sure
is decided by its score, the confidence in a picture that is not small: a picture that was declined for its size would
be left to a rung that knows no more of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from repli.tasks.items import Guess, Label
from repli.tasks.models.pictures import Preparation
from repli.tasks.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TOP = 5
"""Guesses that an answer holds, or fewer if the model has fewer classes."""
SMALL_EXPONENT = 1 / 4
"""The power of `least_side` ÷ pixels by which the temperature of a small picture is multiplied."""


class Classification(NamedTuple):
    """What a model says of a picture.

    Args:
        label: the best guess, and the next best, with their confidences.
        confidence: the probability that the label is right, in [0, 1].
        score: the confidence if the picture were not small: the model is sure of its label from its threshold on.
    """

    label: Label
    confidence: float
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a network's input is prepared and its logits are read.

    Args:
        threshold: the score below which the rung declines.
        temperature: the divisor of the logits of a picture that is not small.
        least_side: the pixels of a picture's shorter side below which it is small; 0 where the model was not measured
            on small pictures.
    """

    preparation: Preparation
    vocabulary: Vocabulary
    threshold: float
    temperature: float
    least_side: int = 0

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the reading of which `dataclasses.asdict` made the document."""
        labels = document["vocabulary"]["labels"]
        return cls(
            preparation=Preparation(**document["preparation"]),
            vocabulary=Vocabulary(name=document["vocabulary"]["name"], labels=tuple(labels) if labels else None),
            threshold=document["threshold"],
            temperature=document["temperature"],
            least_side=document.get("least_side", 0),
        )

    def temperature_of(self, side: int) -> float:
        """Return the temperature of a picture whose shorter side has so many pixels."""
        return float(self.temperature * max(1.0, self.least_side / side) ** SMALL_EXPONENT)

    def classify(self, logits: npt.NDArray[np.float32], sides: Sequence[int]) -> list[Classification]:
        """Return what the model says of each picture.

        Args:
            logits: of shape (pictures, classes).
            sides: the pixels of the shorter side of each picture.
        """
        scores = softmax(logits, [self.temperature] * len(sides)).max(-1).tolist()
        confidences = softmax(logits, [self.temperature_of(side) for side in sides])
        return [self._classification(row, score) for row, score in zip(confidences, scores, strict=True)]

    def _classification(self, confidences: npt.NDArray[np.float64], score: float) -> Classification:
        best_first = (-confidences).argsort(kind="stable")[:TOP]
        names = [self.vocabulary.label(int(index)) for index in best_first]
        top = tuple(
            Guess(label=label, label_index=index, confidence=round(confidence, 4))
            for (label, index), confidence in zip(names, confidences[best_first].tolist(), strict=True)
        )
        best = top[0]
        label = Label(label=best.label, label_index=best.label_index, top=top, vocabulary=self.vocabulary.name)
        return Classification(label, best.confidence, round(score, 4))


def softmax(logits: npt.NDArray[np.float32], temperatures: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the probabilities of the classes, of shape (pictures, classes), by a temperature for each picture."""
    import numpy as np

    divided = logits / np.array(temperatures)[:, None]
    powers = np.exp(divided - divided.max(-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return probabilities
