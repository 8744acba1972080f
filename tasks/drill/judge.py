"""Judge every rung of one stage by its calls on the sample, and every rule that forbids one of them.

A rung is *not covered* if it cannot run here. That is a failure only if the policy expects the rung:

- Every call of it ended with `Unavailable`: there is no such device, model or service here. With any other error the
  rung fails, also if its origin is down (an `ItemError` of each item): it ran, and served nothing. A rung that is
  `Unavailable` in some calls only fails too: it can run here, but not reliably.
- The sample has no item for its stage: no item declares an input, none got this far, or the declared inputs were never
  fetched.

A rung that *declines* an item has answered: it says that it does not know, and the next rung may. That it declines many
items is a note, not a failure, because a narrow rung is right to do so.

If the primary has no answers, nothing can be compared with them: agreement and relative accuracy are None.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from repli.tasks.drill.answer_checks import AnswerChecks, answers_of
from repli.tasks.drill.answers import is_right as is_right_answer
from repli.tasks.drill.answers import key_of
from repli.tasks.drill.exercise import StageExercise
from repli.tasks.drill.interval import interval
from repli.tasks.drill.questions import Question, ask
from repli.tasks.drill.relative_accuracy import Estimate, Measurement, Pair, measure
from repli.tasks.drill.shadow import shadow
from repli.tasks.drill.verdict import RuleVerdict, RungVerdict, StageVerdict, first_reason
from repli.tasks.fallback import (
    SKIP,
    AttemptOutcome,
    Incompatible,
    OutOfMemory,
    Rule,
    Runtime,
    Status,
    StepError,
    StepResult,
)
from repli.tasks.pipeline import Pipeline
from repli.tasks.pipeline.store import merge
from repli.tasks.settings import Settings
from repli.tasks.storage import labels
from repli.tasks.storage.database import Database
from repli.tasks.storage.labels import GivenLabel

MIN_SERVED_SHARE = 0.5
"""The share of the primary's items that a fallback must serve or decline."""
MIN_PENALTY = 0.01
"""The lowest penalty that a relative accuracy can justify: 0 is not a penalty."""


def judge_stage(
    pipeline: Pipeline,
    name: str,
    item_ids: Sequence[str],
    settings: Settings,
    runtime: Runtime,
    labelled: Sequence[str] = (),
) -> StageVerdict:
    """Return a verdict on every rung of the stage `name`, and on every rule that forbids one of them.

    All writes go to a shadow of the store.

    Args:
        item_ids: the random sample.
        labelled: other items, which people labelled: they tell which of two rungs is right where these disagree, and
            not how often they do.
    """
    item_ids, every_id = list(item_ids), list(dict.fromkeys((*item_ids, *labelled)))
    given = labels.of_items(Database(settings.database_url), every_id, name)
    with shadow(settings, every_id) as shadow_settings:
        exercise = StageExercise(pipeline, name, every_id, shadow_settings, runtime)
        judge = _StageJudge(pipeline, exercise, frozenset(item_ids), given)
        rungs = judge.with_accuracy_of_primary(
            [judge.judge_rung(rung) for rung in pipeline.stage(name).chain.rung_names]
        )
        rules = [judge.judge_rule(rule) for rule in pipeline.rules.table if rule.forbidden_stage == name]
        return StageVerdict(rungs, rules, judge.questions())


class _StageJudge:
    """The checks on one exercised stage. A `_check_*` method returns why a rung fails it, or None."""

    def __init__(
        self,
        pipeline: Pipeline,
        exercise: StageExercise,
        sampled: Collection[str],
        given: Mapping[tuple[str, str, str], GivenLabel],
    ) -> None:
        self._pipeline = pipeline
        self._exercise = exercise
        self._sampled = sampled
        self._given = {
            id_: label.value
            for id_, input_hash in exercise.hashes.items()
            if (label := given.get((id_, exercise.stage.name, input_hash or "")))
        }
        self._stage = exercise.stage
        self._chain = exercise.chain
        self._checks = AnswerChecks(exercise)
        self._primary = answers_of(exercise.results[self._chain.primary.name].forced, self._chain.primary.name)
        fallbacks = [rung.name for rung in self._chain.rungs[1:]]
        self._answers = {name: answers_of(exercise.results[name].forced, name) for name in fallbacks}
        self._scores = {name: self._agreements(answers) for name, answers in self._answers.items()}
        self._pairs = {name: self._pair(name) for name in fallbacks}

    def judge_rung(self, rung: str) -> RungVerdict:
        """Return the verdict on a rung, by its own answers and their agreement with the primary's."""
        factor = self._chain.skip.factor if self._chain.skip and rung == SKIP else self._exercise.rung(rung).factor
        verdict = RungVerdict(stage=self._stage.name, rung=rung, penalty=float(factor))
        if why := self._why_not_covered(rung):
            is_expected = self._exercise.context.settings.policy.expects(verdict.name)
            reason = f"it is not covered, and the policy expects it: {why}" if is_expected else ""
            return replace(verdict, is_reached=False, not_covered=why, reason=reason)
        results = self._exercise.results[rung]
        if rung == SKIP:
            return self._judge_skip(verdict, results.forced, results.walked)
        return self._judge_called(verdict, results.forced, results.walked)

    def judge_rule(self, rule: Rule) -> RuleVerdict:
        """Return the verdict on a rule: the chain must not call the forbidden rung, and the merge must refuse it."""
        verdict = RuleVerdict(rule=str(rule))
        primaries = {chain.stage: chain.primary.name for chain in self._pipeline.chains}
        for earlier in sorted(rule.rungs):
            by_rung = self._pipeline.rules.forbidden_rungs(self._stage.name, {rule.stage: earlier})
            forbidden = {name: str(by) for name, by in by_rung.items()}
            if inputs := self._exercise.inputs:
                [result] = self._exercise.force(rule.forbidden_rung, [replace(inputs[0], forbidden=forbidden)])
                refused = [a.rung for a in result.attempts if a.outcome is AttemptOutcome.INCOMPATIBLE]
                if result.rung == rule.forbidden_rung or rule.forbidden_rung not in refused:
                    return replace(verdict, reason=f"the chain served {rule.forbids} after {rule.stage}.{earlier}")
            served = {**primaries, rule.stage: earlier, rule.forbidden_stage: rule.forbidden_rung}
            pair = {
                stage: StepResult(item_id="drill", stage=stage, status=Status.DEGRADED, rung=rung)
                for stage, rung in served.items()
            }
            try:
                merge(self._pipeline.rules, pair)
            except Incompatible:
                continue
            return replace(verdict, reason=f"the merge accepted {rule.forbids} after {rule.stage}.{earlier}")
        return verdict

    def _judge_called(
        self, verdict: RungVerdict, forced: Sequence[StepResult], walked: Sequence[StepResult]
    ) -> RungVerdict:
        rung = self._exercise.rung(verdict.rung)
        answers = answers_of(forced, rung.name)
        declined = _declined(forced, rung.name)
        is_primary = rung.name == self._chain.primary.name
        agreements = [score for id_, score in self._scores.get(rung.name, {}).items() if id_ in self._sampled]
        agreement = fmean(agreements) if agreements else None
        ends = interval(agreements) if agreements else None
        pairs = self._pairs.get(rung.name, {})
        measured = measure(
            list(pairs.values()),
            Estimate(value=agreement, low=ends[0], high=ends[1]) if agreement is not None and ends else None,
        )
        is_walked = bool(answers_of(walked, rung.name) or _declined(walked, rung.name))
        is_answered = bool(answers or declined)
        reason = first_reason(
            (
                self._check_called(rung.name, forced),
                self._check_errors(rung.name),
                None if is_answered else f"it served none of {len(forced)} items: {_first_error(forced, rung.name)}",
                None if is_walked else "it was not reached when every better rung failed",
                self._check_served_share(rung.name, answers.keys() | declined, forced),
                self._checks.check_constant(rung.name, answers),
                self._checks.check_space(answers, rung.name),
                self._checks.check_slips(answers) if agreements else None,
                self._checks.check_mistakes(rung, answers) if agreements else None,
                self._checks.check_confidences(rung.name),
            )
        )
        seconds = [attempt.seconds for r in answers.values() for attempt in r.attempts if attempt.rung == rung.name]
        return replace(
            verdict,
            reason=reason,
            note=_declined_note(declined, forced, rung.name),
            is_reached=is_answered and is_walked,
            items=sum(id_ in self._sampled for id_ in answers),
            agreement=agreement,
            interval=ends,
            seconds_per_item=fmean(seconds) if seconds else None,
            penalty_justified=1.0 if is_primary else _justified_penalty(measured),
            measured=measured,
            accuracy=measured.accuracy if measured else None,
            mean_confidence=_mean_confidence(answers, [id_ for id_ in pairs or answers if id_ in self._sampled]),
            answered=measured.answered if measured else 0,
        )

    def with_accuracy_of_primary(self, rungs: Sequence[RungVerdict]) -> list[RungVerdict]:
        """Return the verdicts, with the primary's accuracy as it is beside the best fallback that has answers."""
        for rung in rungs:
            if rung.measured and rung.measured.primary_accuracy:
                ids = [id_ for id_, pair in self._pairs[rung.rung].items() if pair.is_sampled]
                primary = replace(
                    rungs[0],
                    accuracy=rung.measured.primary_accuracy,
                    mean_confidence=_mean_confidence(self._primary, ids),
                    answered=rung.answered,
                )
                return [primary, *rungs[1:]]
        return list(rungs)

    def questions(self) -> list[Question]:
        """Return the disagreements of the judged rungs that people have not decided, at most `QUESTIONS`."""
        kind = self._stage.comparison.question
        if kind is None:
            return []
        sampled = {
            rung: {id_: pair for id_, pair in pairs.items() if pair.is_sampled} for rung, pairs in self._pairs.items()
        }
        answers = {self._chain.primary.name: self._primary, **self._answers}
        exercise = self._exercise
        return ask(self._pipeline, self._stage.name, kind, exercise.states, exercise.hashes, answers, sampled)

    def _agreements(self, answers: Mapping[str, StepResult]) -> dict[str, float]:
        """Return the agreement with the primary of each item that both serve; empty where it cannot be told.

        Items that are not of the sample have one only where people can say who is right.
        """
        is_wanted = self._stage.comparison.question is not None
        common = [id_ for id_ in self._primary if id_ in answers and (is_wanted or id_ in self._sampled)]
        if not common:
            return {}
        values = [[by_item[id_].value for id_ in common] for by_item in (self._primary, answers)]
        found = self._stage.comparison.agreement(*values)
        return dict(zip(common, found, strict=True)) if found else {}

    def _pair(self, rung: str) -> dict[str, Pair]:
        """Return the pair of answers to each item that has an agreement, with what people say of them."""
        same_from, answers = self._stage.comparison.same_from, self._answers[rung]
        elsewhere = {
            id_
            for other, scores in self._scores.items()
            for id_, score in scores.items()
            if other != rung and score < same_from
        }

        def is_right(result: StepResult) -> bool | None:
            given = self._given.get(result.item_id)
            return None if given is None else is_right_answer(given, key_of(result.value))

        return {
            id_: Pair(
                is_same=score >= same_from,
                confidence=answers[id_].confidence or 0.0,
                primary_confidence=self._primary[id_].confidence or 0.0,
                is_right=is_right(answers[id_]),
                is_primary_right=is_right(self._primary[id_]),
                is_sampled=id_ in self._sampled,
                is_disputed_elsewhere=id_ in elsewhere,
            )
            for id_, score in self._scores[rung].items()
        }

    def _judge_skip(
        self, verdict: RungVerdict, forced: Sequence[StepResult], walked: Sequence[StepResult]
    ) -> RungVerdict:
        """Judge that skip returns no value, and distinguishes a skip by policy from one after failures."""
        is_empty = all(r.status is Status.SKIPPED and r.value is None and r.confidence == 0 for r in [*forced, *walked])
        is_distinguished = all(r.error is None and not r.retryable for r in forced) and all(
            r.error is not None and r.retryable for r in walked
        )
        reason = first_reason(
            (
                None if is_empty else "it returned a value, or was not reached when every better rung failed",
                None if is_distinguished else "it does not distinguish a skip by policy from a skip after failures",
            )
        )
        return replace(verdict, reason=reason, is_reached=is_empty, items=len(forced))

    def _why_not_covered(self, rung: str) -> str:
        """Return why the rung cannot run here, or '' if it can. See the module's docstring."""
        if not self._exercise.inputs:
            return "the sample has no item for this stage"
        log = self._exercise.logs[rung]
        return log.unavailable[0] if log.calls and len(log.unavailable) == log.calls else ""

    def _check_called(self, rung: str, forced: Sequence[StepResult]) -> str | None:
        return None if self._exercise.logs[rung].calls else f"it was not called: {_first_error(forced, rung)}"

    def _check_errors(self, rung: str) -> str | None:
        log = self._exercise.logs[rung]
        errors = [error for error in log.errors if not isinstance(error, OutOfMemory | MemoryError)]
        if not errors:
            return None
        return f"it raised in {len(errors)} of {log.calls} calls: {StepError.of(errors[0]).line}"

    def _check_served_share(self, rung: str, answered: Collection[str], forced: Sequence[StepResult]) -> str | None:
        """Return that the rung failed on too many of the primary's items, or None. `answered`: served or declined."""
        common = self._primary.keys() & answered
        if len(common) >= MIN_SERVED_SHARE * len(self._primary):
            return None
        share = f"{len(common)} of the {len(self._primary)} items that the primary serves"
        return f"it served or declined {share}: {_first_error(forced, rung)}"


def _declined(results: Sequence[StepResult], rung: str) -> set[str]:
    """Return the ids of the items that the rung declined."""
    is_declined = AttemptOutcome.DECLINED
    return {r.item_id for r in results if any(a.rung == rung and a.outcome is is_declined for a in r.attempts)}


def _declined_note(declined: Collection[str], forced: Sequence[StepResult], rung: str) -> str:
    """Return a note on a rung that declined at least half of the sample, or ''."""
    if not declined or len(declined) < len(forced) / 2:
        return ""
    return f"it declined {len(declined)} of {len(forced)} items: {_first_error(forced, rung)}"


def _justified_penalty(measured: Measurement | None) -> float | None:
    """Return the penalty that a relative accuracy justifies, from `MIN_PENALTY` to 1; None without one."""
    return None if measured is None else min(1.0, max(MIN_PENALTY, round(measured.relative.value, 2)))


def _mean_confidence(answers: Mapping[str, StepResult], item_ids: Sequence[str]) -> float | None:
    """Return the mean confidence of the answers to these items; None where there are none."""
    return fmean([answers[id_].confidence or 0.0 for id_ in item_ids]) if item_ids else None


def _first_error(results: Sequence[StepResult], rung: str) -> str:
    """Return the first recorded error of the rung."""
    errors = (a.error.line for result in results for a in result.attempts if a.rung == rung and a.error)
    return next(errors, "no error was recorded")
