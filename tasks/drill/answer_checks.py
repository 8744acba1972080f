"""Check the answers of a rung for what makes them wrong as a whole: a constant, another vector space, a known mistake.

A `check_*` method returns why a rung fails it, or None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from repli.tasks.drill.calibration import guesses, overconfident, underconfident
from repli.tasks.drill.exercise import StageExercise
from repli.tasks.fallback import SKIP, AnyRung, StepResult

MIN_ITEMS_FOR_CONSTANT = 5
"""Items with one answer in common from which on a rung is suspected of answering all inputs the same."""
SIGNIFICANCE = 0.05
"""The p-value below which a difference counts as real."""


class AnswerChecks:
    """The checks on the answers of one exercised stage."""

    def __init__(self, exercise: StageExercise) -> None:
        self._exercise = exercise
        self._stage = exercise.stage
        primary = exercise.chain.primary.name
        self._primary = answers_of(exercise.results[primary].forced, primary)

    def check_constant(self, rung: str, answers: Mapping[str, StepResult]) -> str | None:
        """Return why the rung seems to ignore its input, or None.

        One answer for the whole sample can be right, for example if all names name one class. So the rung is called
        with an input that is unlike the sample. If the stage cannot make such an input, the primary must distinguish
        the items.
        """
        key, unrelated_input = self._stage.comparison.key, self._stage.comparison.unrelated_input
        if key is None:
            return None
        if unrelated_input:
            suspects = answers
        else:
            suspects = {id_: answers[id_] for id_ in self._primary if id_ in answers}
            if len({key(self._primary[id_].value) for id_ in suspects}) < 2:
                return None
        given = {key(answer.value) for answer in suspects.values()}
        if len(suspects) < MIN_ITEMS_FOR_CONSTANT or len(given) > 1:
            return None
        if unrelated_input:
            first = self._exercise.inputs[0]
            unrelated = replace(first, input=unrelated_input(first.input, self._exercise.context))
            unrelated_answers = answers_of(self._exercise.force(rung, [unrelated]), rung)
            if {key(answer.value) for answer in unrelated_answers.values()} != given:
                return None
        return f"it gave the same answer for all {len(suspects)} items"

    def check_space(self, answers: Mapping[str, StepResult], rung: str) -> str | None:
        space = self._stage.comparison.space
        if space is None:
            return None
        spaces = Counter(space(answer.value) for answer in answers.values())
        stored = {step.value["space"] for step in self._exercise.stored.values() if step.rung == rung and step.value}
        if len(spaces) > 1:
            return f"its vectors are of several spaces: {', '.join(sorted(spaces))}"
        if stored - set(spaces):
            return (
                f"its vectors are of the space {', '.join(spaces)}, those in the store of {', '.join(sorted(stored))}"
            )
        return None

    def check_slips(self, answers: Mapping[str, StepResult]) -> str | None:
        """Return which typical mistake the rung's answers seem to have, or None: see `Comparison.slips`."""
        is_same = self._stage.comparison.is_same
        pairs = [(result.value, answers[id_].value) for id_, result in self._primary.items() if id_ in answers]
        for name, is_same_undone in self._stage.comparison.slips.items():
            changed = [is_same_undone(*pair) for pair in pairs if is_same_undone(*pair) != is_same(*pair)]
            if _is_nearer(changed):
                return f"it seems to make a mistake: {name} brings it nearer to the primary on {_changes(changed)}"
        return None

    def check_confidences(self, rung: str) -> str | None:
        """Return why the rung's confidences seem too low or too high, beside those of another; or None."""
        if self._stage.comparison.question != "label":
            return None
        guessed = {
            name: guesses(self._exercise.results[name].forced, name)
            for name in self._exercise.chain.rung_names
            if name != SKIP
        }
        own = guessed.pop(rung)
        return underconfident(own, guessed) or overconfident(own, guessed)

    def check_mistakes(self, rung: AnyRung, answers: Mapping[str, StepResult]) -> str | None:
        """Return which typical mistake the rung seems to make, or None.

        Each mistake is made on purpose with the rung's inputs. If that increases the agreement with the primary, the
        rung makes the mistake itself.
        """
        is_same, primary = self._stage.comparison.is_same, self._primary
        inputs = [one for one in self._exercise.inputs if one.item_id in answers and one.item_id in primary]
        for name, make_mistake in self._stage.comparison.mistakes.items():
            mistaken = [replace(one, input=make_mistake(one.input, self._exercise.context)) for one in inputs]
            mistaken_answers = answers_of(self._exercise.force(rung.name, mistaken), rung.name)
            changed = [
                is_same(primary[id_].value, answer.value)
                for id_, answer in mistaken_answers.items()
                if is_same(primary[id_].value, answer.value) != is_same(primary[id_].value, answers[id_].value)
            ]
            if _is_nearer(changed):
                return f"it seems to make a mistake: {name} brings it nearer to the primary on {_changes(changed)}"
        return None


def _is_nearer(changed: Sequence[bool]) -> bool:
    """Return whether undoing a mistake brings a rung nearer to the primary: McNemar's exact test (1947).

    Args:
        changed: of each item whose agreement changes, whether the two agree then.
    """
    from scipy import stats

    if not changed:
        return False
    return bool(stats.binomtest(sum(changed), len(changed), alternative="greater").pvalue < SIGNIFICANCE)


def _changes(changed: Sequence[bool]) -> str:
    return f"{sum(changed)} of the {len(changed)} items whose agreement changes"


def answers_of(results: Sequence[StepResult], rung: str) -> dict[str, StepResult]:
    """Return the results that the rung served, by item."""
    return {result.item_id: result for result in results if result.rung == rung}
