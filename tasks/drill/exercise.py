"""One stage of a drill: each rung forced on the sample, and each reached by making all before it fail.

The chain, its checks and its time limits are the real ones; breakers are not asked, and are told nothing. Whatever a
rung raises is noted, also where the engine made up for it: what fails its first call fails the first batch of a night.

A rung is *not covered*, which is no failure unless the policy expects it, where it cannot run here:

- every call of it ended with `Unavailable`: there is no such device, model or service here. Any other error fails it,
  an origin that is down included (an `ItemError` of each item): it ran, and served nothing. So does `Unavailable` in
  some calls only: then it can run here, and did not always.
- the sample has no item for its stage: none declares an input, none came so far, or what is declared was never fetched.

Where the primary has no answers, nothing is compared with them: agreement is None.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

from repli.tasks.drill.interval import interval
from repli.tasks.drill.shadow import shadow
from repli.tasks.drill.verdict import RuleVerdict, RungVerdict, first_reason
from repli.tasks.fallback import (
    SKIP,
    AnyChain,
    AnyRung,
    AttemptOutcome,
    Chain,
    ChainInput,
    Directives,
    Failed,
    Fault,
    FaultKind,
    Incompatible,
    OutOfMemory,
    Rule,
    Runtime,
    Status,
    StepError,
    StepResult,
    Unavailable,
    run_chain,
    without_breakers,
)
from repli.tasks.pipeline import Pipeline, StageContext
from repli.tasks.settings import Settings
from repli.tasks.stages.store import merge
from repli.tasks.storage import results
from repli.tasks.storage.database import Database

WALKED = 16
"""Items on which the fall is walked: for coverage, not for figures."""
CONSTANT_FROM = 5
"""Items from which on a rung is looked at that gives the same answer for all."""
LEAST_SHARE = 0.5
"""A rung that serves a smaller share of what the primary serves is no fallback."""
DOUBT = 0.05
"""The chance, below which a difference is taken for one."""
RUN_ID = "drill"


def exercise(
    pipeline: Pipeline, name: str, item_ids: Sequence[str], settings: Settings, runtime: Runtime
) -> tuple[list[RungVerdict], list[RuleVerdict]]:
    """A verdict on every rung of the stage `name`, and on every rule that forbids one of them.

    Nothing is written but to a shadow of the store.
    """
    runtime = replace(runtime, breaker_of=without_breakers)
    with shadow(settings, item_ids) as shadowed:
        drill = _StageDrill(pipeline, name, item_ids, shadowed, runtime)
        rungs = [drill.judge(rung) for rung in pipeline.stage(name).chain.rung_names]
        rules = [drill.try_forbidden(rule) for rule in pipeline.rules.table if rule.forbidden_stage == name]
    return rungs, rules


@dataclass(slots=True)
class _Seen:
    """What one rung did when it was called, however the engine made up for it.

    `unavailable` has a message for each call that ended with `Unavailable`, raised or answered for every item.
    """

    calls: int = 0
    raised: list[Exception] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Called:
    """What came of calling a rung: walked to over some of the sample, then forced on all of it."""

    walked: Sequence[StepResult]
    forced: Sequence[StepResult]


class _StageDrill:
    """One stage over the sample, in a shadow store.

    The rungs are called last one first, so that none lives on what a better one left in the shadow: `cached` is to find
    what was fetched before the drill. Each is walked to before it is forced and timed: by then its model is loaded.
    """

    def __init__(
        self, pipeline: Pipeline, name: str, item_ids: Sequence[str], settings: Settings, runtime: Runtime
    ) -> None:
        self._rules = pipeline.rules
        self._primaries = {chain.stage: chain.primary.name for chain in pipeline.chains}
        self._stage = pipeline.stage(name)
        self._runtime = runtime
        self._seen: defaultdict[str, _Seen] = defaultdict(_Seen)
        self._chain = _watched(self._stage.chain, self._seen)
        database = Database(settings.database_url)
        self._context = StageContext(
            settings=settings, database=database, run_id=RUN_ID, now=runtime.now(), rules=pipeline.rules
        )
        self._works: list[ChainInput[Any]] = []
        self._kept: dict[str, StepResult] = {}
        for state in results.load(database, item_ids):
            earlier = [state.results.get(other) for other in pipeline.before(name)]
            if all(result and result.status.is_done for result in earlier):
                value = self._stage.input(state)
                if value is not None and not self._stage.comparison.is_empty(value):
                    self._works.append(ChainInput(state.item.id, value))
                if kept := state.results.get(name):
                    self._kept[state.item.id] = kept
        self._called = {rung: self._call(rung) for rung in reversed(self._chain.rung_names)}
        primary = self._chain.primary.name
        self._primary = _answers(self._called[primary].forced, primary)

    def judge(self, rung: str) -> RungVerdict:
        """Judge what the rung answered, beside the primary's answers."""
        factor = self._chain.skip.factor if self._chain.skip and rung == SKIP else self._rung(rung).factor
        verdict = RungVerdict(stage=self._stage.name, rung=rung, penalty=float(factor))
        if why := self._why_not_covered(rung):
            is_expected = self._context.settings.policy.expects(verdict.name)
            reason = f"it is not covered, and the policy expects it: {why}" if is_expected else ""
            return replace(verdict, is_reached=False, not_covered=why, reason=reason)
        called = self._called[rung]
        if rung == SKIP:
            return self._judge_skip(verdict, called.forced, called.walked)
        return self._judge(verdict, called.forced, called.walked)

    def try_forbidden(self, rule: Rule) -> RuleVerdict:
        """Ask for the pair that the rule forbids: the chain is to pass it over, and the merge to refuse it."""
        verdict = RuleVerdict(rule=str(rule))
        for earlier in sorted(rule.rungs):
            barred = {name: str(by) for name, by in self._rules.barred(self._stage.name, {rule.stage: earlier}).items()}
            if self._works:
                asked = [replace(self._works[0], forbidden=barred)]
                [result] = self._run(asked, Directives(forced={self._stage.name: rule.forbidden_rung}))
                refused = [a.rung for a in result.attempts if a.outcome is AttemptOutcome.INCOMPATIBLE]
                if result.rung == rule.forbidden_rung or rule.forbidden_rung not in refused:
                    return replace(verdict, reason=f"the chain served {rule.forbids} after {rule.stage}.{earlier}")
            served = {**self._primaries, rule.stage: earlier, rule.forbidden_stage: rule.forbidden_rung}
            pair = {
                stage: StepResult(item_id="drill", stage=stage, status=Status.DEGRADED, rung=rung)
                for stage, rung in served.items()
            }
            try:
                merge(self._rules, pair)
            except Incompatible:
                continue
            return replace(verdict, reason=f"the merge took {rule.forbids} after {rule.stage}.{earlier}")
        return verdict

    def _judge(self, verdict: RungVerdict, forced: Sequence[StepResult], walked: Sequence[StepResult]) -> RungVerdict:
        rung = self._rung(verdict.rung)
        answers = _answers(forced, rung.name)
        both = [id_ for id_ in self._primary if id_ in answers]
        shares: Sequence[float] = []
        if both and rung.name != self._chain.primary.name:
            values = [[some[id_].value for id_ in both] for some in (self._primary, answers)]
            shares = self._stage.comparison.agreement(*values)
        reach = interval(shares) if shares else None
        agreement = fmean(shares) if shares else None
        is_walked = any(result.rung == rung.name for result in walked)
        reason = first_reason(
            (
                self._why_not_called(rung.name, forced),
                self._why_it_raised(rung.name),
                f"it served none of {len(forced)} items: {_error(forced, rung.name)}" if not answers else None,
                None if is_walked else "it was not reached when all before it failed",
                self._why_too_few(both, rung.name, forced),
                self._why_constant(rung.name, answers),
                self._why_wrong_space(answers, rung.name),
                self._why_mistaken(rung, answers) if both and shares else None,
            )
        )
        seconds = [attempt.seconds for r in answers.values() for attempt in r.attempts if attempt.rung == rung.name]
        return replace(
            verdict,
            reason=reason,
            note=self._note(answers),
            is_reached=bool(answers) and is_walked,
            items=len(answers),
            agreement=agreement,
            interval=reach,
            seconds_per_item=fmean(seconds) if seconds else None,
            penalty_justified=1.0 if rung is self._chain.primary else _justified(agreement),
        )

    def _judge_skip(
        self, verdict: RungVerdict, forced: Sequence[StepResult], walked: Sequence[StepResult]
    ) -> RungVerdict:
        """Judge that skip leaves nothing, says so, and tells a decision from a failure."""
        is_empty = all(r.status is Status.SKIPPED and r.value is None and r.confidence == 0 for r in [*forced, *walked])
        is_told = all(r.error is None and not r.retryable for r in forced) and all(
            r.error is not None and r.retryable for r in walked
        )
        reason = first_reason(
            (
                None if is_empty else "it left a value, or was not reached when all before it failed",
                None if is_told else "it does not tell what was decided from what failed",
            )
        )
        return replace(verdict, reason=reason, is_reached=is_empty, items=len(forced))

    def _why_not_covered(self, rung: str) -> str:
        """Return why the rung cannot run here; '' where it can. See the module's docstring."""
        if not self._works:
            return "the sample has no item for this stage"
        seen = self._seen[rung]
        return seen.unavailable[0] if seen.calls and len(seen.unavailable) == seen.calls else ""

    def _note(self, answers: Mapping[str, StepResult]) -> str:
        """Return a note on a rung whose every answer is that it does not know: names that name no class are no fault of
        the rung that reads them."""
        if answers and all(self._stage.comparison.is_unknown(answer.value) for answer in answers.values()):
            return f"it answered 'unknown' for all {len(answers)} items"
        return ""

    def _why_not_called(self, rung: str, forced: Sequence[StepResult]) -> str | None:
        return None if self._seen[rung].calls else f"it was not called: {_error(forced, rung)}"

    def _why_it_raised(self, rung: str) -> str | None:
        errors = [error for error in self._seen[rung].raised if not isinstance(error, OutOfMemory | MemoryError)]
        if not errors:
            return None
        return f"it raised in {len(errors)} of {self._seen[rung].calls} calls: {StepError.of(errors[0]).line}"

    def _why_too_few(self, both: Sequence[str], rung: str, forced: Sequence[StepResult]) -> str | None:
        if len(both) >= LEAST_SHARE * len(self._primary):
            return None
        return (
            f"it served {len(both)} of the {len(self._primary)} items that the primary serves: {_error(forced, rung)}"
        )

    def _why_constant(self, rung: str, answers: Mapping[str, StepResult]) -> str | None:
        """Return why the rung is taken for one that answers the same whatever it is shown.

        One answer for the whole sample may be right: all its names name one class. So the rung is shown an input that
        has nothing in common with the sample. Where the stage has none to show, the primary has to tell the items
        apart.
        """
        key, another = self._stage.comparison.key, self._stage.comparison.another
        if key is None or self._note(answers):
            return None
        if another:
            suspects = answers
        else:
            suspects = {id_: answers[id_] for id_ in self._primary if id_ in answers}
            if len({key(self._primary[id_].value) for id_ in suspects}) < 2:
                return None
        given = {key(answer.value) for answer in suspects.values()}
        if len(suspects) < CONSTANT_FROM or len(given) > 1:
            return None
        if another:
            work = replace(self._works[0], input=another(self._works[0].input, self._context))
            shown = _answers(self._run([work], Directives(forced={self._stage.name: rung})), rung)
            if {key(answer.value) for answer in shown.values()} != given:
                return None
        return f"it gave the same answer for all {len(suspects)} items"

    def _why_mistaken(self, rung: AnyRung, answers: Mapping[str, StepResult]) -> str | None:
        """Make a mistake with the input, and see whether the rung comes nearer to the primary by it: then it makes the
        same mistake itself. McNemar's exact test (1947) on the items where that makes a difference."""
        from scipy import stats

        is_same, primary = self._stage.comparison.is_same, self._primary
        works = [work for work in self._works if work.item_id in answers and work.item_id in primary]
        for name, make in self._stage.comparison.mistakes.items():
            mistaken = [replace(work, input=make(work.input, self._context)) for work in works]
            run = self._run(mistaken, Directives(forced={self._stage.name: rung.name}))
            differing = [
                is_same(primary[id_].value, result.value)
                for id_, result in _answers(run, rung.name).items()
                if is_same(primary[id_].value, result.value) != is_same(primary[id_].value, answers[id_].value)
            ]
            if differing and stats.binomtest(sum(differing), len(differing), alternative="greater").pvalue < DOUBT:
                nearer = f"{sum(differing)} of the {len(differing)} items where it matters"
                return f"it seems to make a mistake: {name} brings it nearer to the primary on {nearer}"
        return None

    def _why_wrong_space(self, answers: Mapping[str, StepResult], rung: str) -> str | None:
        space = self._stage.comparison.space
        if space is None:
            return None
        spaces = Counter(space(answer.value) for answer in answers.values())
        stored = {kept.value["space"] for kept in self._kept.values() if kept.rung == rung and kept.value}
        if len(spaces) > 1:
            return f"its vectors live in several spaces: {', '.join(sorted(spaces))}"
        if stored - set(spaces):
            return f"its vectors live in {', '.join(spaces)}, those in the store in {', '.join(sorted(stored))}"
        return None

    def _call(self, rung: str) -> _Called:
        walked = self._run(self._works[:WALKED], Directives(faults=self._faults_before(rung)))
        return _Called(walked=walked, forced=self._run(self._works, Directives(forced={self._stage.name: rung})))

    def _run(self, works: Sequence[ChainInput[Any]], directives: Directives) -> list[StepResult]:
        """The results of these, in batches as a night has them: a rung's time limit is meant for one."""
        size = self._context.settings.batch_size
        return [
            result
            for start in range(0, len(works), size)
            for result in run_chain(
                self._chain,
                works[start : start + size],
                self._context,
                run_id=RUN_ID,
                runtime=self._runtime,
                directives=directives,
            )
        ]

    def _rung(self, name: str) -> AnyRung:
        return next(rung for rung in self._chain.rungs if rung.name == name)

    def _faults_before(self, rung: str) -> tuple[Fault, ...]:
        names = self._chain.rung_names
        before = names[: names.index(rung)]
        return tuple(Fault(stage=self._stage.name, rung=name, kind=FaultKind.ERROR) for name in before)


def _watched(chain: AnyChain, seen: Mapping[str, _Seen]) -> AnyChain:
    """The chain, its rungs noting their calls and what they raise. Injected faults are around that."""

    def watch(rung: AnyRung, inputs: Sequence[Any], context: StageContext) -> Any:
        noted = seen[rung.name]
        noted.calls += 1
        try:
            outcomes = rung.run(inputs, context)
        except Exception as error:
            noted.raised.append(error)
            if isinstance(error, Unavailable):
                noted.unavailable.append(StepError.of(error).message)
            raise
        errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
        if errors and len(errors) == len(outcomes) and all(one.type == Unavailable.__name__ for one in errors):
            noted.unavailable.append(errors[0].message)
        return outcomes

    rungs = [replace(rung, run=partial(watch, rung)) for rung in chain.rungs]
    return Chain(chain.stage, *rungs, *([chain.skip] if chain.skip else []), check=chain.check)


def _answers(found: Sequence[StepResult], rung: str) -> dict[str, StepResult]:
    """The results that the rung served, by item."""
    return {result.item_id: result for result in found if result.rung == rung}


def _justified(agreement: float | None) -> float | None:
    """The penalty that an agreement would justify; one of 0 is none, so at least 0.01."""
    return None if agreement is None else max(0.01, round(agreement, 2))


def _error(found: Sequence[StepResult], rung: str) -> str:
    """The first error that the rung is on record with."""
    errors = (a.error.line for result in found for a in result.attempts if a.rung == rung and a.error)
    return next(errors, "no error is on record")
