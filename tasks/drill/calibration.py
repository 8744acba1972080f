"""Find confidences that are too low, such as those of a wrong temperature: by the items on which two rungs agree.

Two rungs that give one answer are right or wrong together, so their calibrated confidences in it are about the same on
average. Of two that are far apart the lower are wrong: agreement is a sign that the answer is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from repli.tasks.drill.answers import key_of
from repli.tasks.fallback import AttemptOutcome, StepResult

MIN_AGREED = 10
"""The items with one answer in common from which on confidences are compared."""
TOLERANCE = 0.3
"""How far mean confidences may be apart: those of the default models are 0.04 apart on 53 photos, and 0.11 without
their temperatures; a temperature of 3 sets them 0.74 apart."""
_BEST_GUESS = re.compile(r"best guess (.+) at (\d\.\d+)")


def guesses(results: Sequence[StepResult], rung: str) -> dict[str, tuple[str, float]]:
    """Return the answer of a rung to each item, and its confidence: the best guess where it declined."""
    found: dict[str, tuple[str, float]] = {}
    for result in results:
        if result.rung == rung:
            found[result.item_id] = key_of(result.value), result.confidence or 0.0
            continue
        for attempt in result.attempts:
            is_declined = attempt.rung == rung and attempt.outcome is AttemptOutcome.DECLINED
            if is_declined and attempt.error and (guess := _BEST_GUESS.search(attempt.error.message)):
                found[result.item_id] = guess[1], float(guess[2])
    return found


def has_confidences(confidences: Sequence[float]) -> bool:
    """Return whether these are a model's, and differ from item to item. Rules give all their answers the same few."""
    return len(set(confidences)) > max(2, len(confidences) // 20)


def are_too_low(own: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether the confidences of a rung are far below another's in the same answers to the same items."""
    if len(own) < MIN_AGREED or not (has_confidences(own) and has_confidences(other)):
        return False
    differences = [b - a for a, b in zip(own, other, strict=True)]
    return bool(fmean(differences) - 1.96 * stdev(differences) / len(differences) ** 0.5 > TOLERANCE)


def underconfident(own: Mapping[str, tuple[str, float]], others: Mapping[str, Mapping[str, tuple[str, float]]]) -> str:
    """Return why the confidences of a rung are too low, by the guesses of the `others`; "" where none says so."""
    for rung, guessed in others.items():
        common = [id_ for id_, (answer, _) in own.items() if id_ in guessed and guessed[id_][0] == answer]
        pair = [own[id_][1] for id_ in common], [guessed[id_][1] for id_ in common]
        if are_too_low(*pair):
            return (
                f"its confidences are too low: on {len(common)} items it gives the answer of {rung}, at "
                f"{fmean(pair[0]):.2f} on average, and {rung} at {fmean(pair[1]):.2f}; correct its temperature"
            )
    return ""
