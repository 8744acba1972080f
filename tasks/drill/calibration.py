"""Find confidences that are too low or too high, such as those of a wrong temperature, by comparing two rungs.

Two rungs that give one answer are right or wrong together, so their calibrated confidences in it are about the same on
average. Of two that are far apart the lower are wrong: agreement is a sign that the answer is right.

Of two rungs that give different answers at most one is right, so their calibrated confidences add up to at most 1 on
average. Where they add up to more, the higher are taken for the wrong ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from repli.tasks.drill.answers import key_of
from repli.tasks.fallback import AttemptOutcome, StepResult

MIN_AGREED = 10
"""The items with one answer in common from which on confidences are compared."""
MIN_APART = 10
"""The items with different answers from which on confidences are added up. In drills of 200 of 1,300 photos, which have
18 of such on average, a temperature of a third of the right one is found in 94 to 98 %, of a half in 78 to 83 %, and
the right one suspected in none of 200. On small, dark, cut and blurred pictures, of which models claim less, a third is
found in 57 to 64 %, a half hardly ever."""
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


def are_too_high(own: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether the confidences of a rung are too high beside another's in different answers to the same items."""
    if len(own) < MIN_APART or not (has_confidences(own) and has_confidences(other)):
        return False
    sums = [a + b for a, b in zip(own, other, strict=True)]
    return fmean(own) > fmean(other) and fmean(sums) - 1.96 * stdev(sums) / len(sums) ** 0.5 > 1


def overconfident(own: Mapping[str, tuple[str, float]], others: Mapping[str, Mapping[str, tuple[str, float]]]) -> str:
    """Return why the confidences of a rung are too high, by the guesses of the `others`; "" where none says so.

    Rungs that mostly differ are not compared: they may have labels of two vocabularies, and both be right.
    """
    for rung, guessed in others.items():
        common = own.keys() & guessed.keys()
        apart = sorted(id_ for id_ in common if guessed[id_][0] != own[id_][0])
        pair = [own[id_][1] for id_ in apart], [guessed[id_][1] for id_ in apart]
        if 2 * len(apart) < len(common) and are_too_high(*pair):
            return (
                f"its confidences are too high: on {len(apart)} items it gives another answer than {rung}, at "
                f"{fmean(pair[0]):.2f} on average, and {rung} at {fmean(pair[1]):.2f}, and at most one of the two is "
                "right; correct its temperature"
            )
    return ""


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
