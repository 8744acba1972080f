"""How logits are read: confidences by the size of a picture, scores without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from repli.tasks.models.image_reading import Reading
from repli.tasks.models.pictures import Preparation
from repli.tasks.models.vocabulary import Vocabulary

PLAIN = Reading(
    preparation=Preparation(size=200, crop=1),
    vocabulary=Vocabulary(name="letters", labels=("a", "b", "c", "d", "e", "f")),
    threshold=0.5,
    temperature=0.8,
)
SIZED = replace(PLAIN, least_side=100)
SIDES = (1000, 100, 99, 50, 10, 1)


@pytest.mark.parametrize(("side", "missing"), [(1000, 1), (100, 1), (50, 2), (25, 4), (1, 100)])
def test_the_temperature_rises_as_pictures_get_smaller(side: int, missing: float) -> None:
    """By the fourth root of what is missing; not for a model that was not measured on small pictures."""
    assert SIZED.temperature_of(side) == pytest.approx(0.8 * missing ** (1 / 4))
    assert PLAIN.temperature_of(side) == 0.8


def test_a_small_picture_is_trusted_less_and_its_score_stays() -> None:
    """Of one picture in six sizes: the guesses are the same, best first, and the first one's confidence falls."""
    logits = np.random.default_rng(0).normal(0, 2, (1, 6)).astype(np.float32)
    answers = SIZED.classify(np.repeat(logits, len(SIDES), 0), SIDES)
    [usual] = PLAIN.classify(logits, [1])
    assert {answer.score for answer in answers} == {usual.score} == {usual.confidence}
    assert {tuple(guess.label for guess in answer.label.top) for answer in answers} == {
        tuple(guess.label for guess in usual.label.top)
    }
    confidences = [answer.confidence for answer in answers]
    assert confidences[0] == confidences[1] == usual.confidence
    assert confidences[1:] == sorted(set(confidences), reverse=True)
    assert [answer.label.top[0].confidence for answer in answers] == confidences


def test_an_older_description_of_a_kept_network_has_no_size() -> None:
    """As those of checkpoints that were converted before."""
    document = {
        "preparation": {"size": 200, "crop": 1},
        "vocabulary": {"name": "letters", "labels": list("abcdef")},
        "threshold": 0.5,
        "temperature": 0.8,
    }
    assert Reading.from_json(document) == PLAIN
    assert Reading.from_json({**document, "least_side": 100}) == SIZED
