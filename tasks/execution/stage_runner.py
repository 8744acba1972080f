"""Run one stage over one batch of items: find what is to be done, do it, and save it. The checkpoint is here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from repli.tasks.fallback import (
    ChainInput,
    Directives,
    Runtime,
    Status,
    StepResult,
    run_chain,
)
from repli.tasks.items import fingerprint
from repli.tasks.pipeline import Pipeline, StageContext
from repli.tasks.settings import Settings
from repli.tasks.storage import results
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims

_WORDS = {Status.PENDING.value: "left as they were"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """Do again what is less than whole, keeping whatever is as good as what comes of it.

    Args:
        holder: who has the items in hand; others that happen to be in a batch are left alone.
        stages: those where something better may be had now.
    """

    holder: str
    stages: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What one run asks of every stage."""

    run_id: str
    refresh: bool = False
    upgrade: Upgrade | None = None
    directives: Directives = field(default_factory=Directives)

    def may_work_on(self, holder: str | None) -> bool:
        """Whether an item that `holder` has in hand, None for nobody, is this run's to work on."""
        return holder == self.upgrade.holder if self.upgrade else holder in {None, self.run_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """What a stage did to one batch.

    Args:
        items: items that the stage had work on.
        rungs: how many items each rung served.
        notes: lines for the run's report.
        tried: of an upgrade, the items for which a rung was called.
        upgraded: of these, the items with a better result than before, or with a fresh one in place of a stale one.
        failed_by_rung: of these, the items that no rung served although the items themselves are sound.
    """

    stage: str
    items: int
    statuses: Mapping[str, int] = field(default_factory=dict)
    rungs: Mapping[str, int] = field(default_factory=dict)
    mean_penalty: Decimal | None = None
    notes: tuple[str, ...] = ()
    tried: frozenset[str] = frozenset()
    upgraded: frozenset[str] = frozenset()
    failed_by_rung: frozenset[str] = frozenset()

    @property
    def is_degraded(self) -> bool:
        """Whether a fallback, a skip or a failure is among the results."""
        return any(self.statuses.get(status) for status in (Status.DEGRADED, Status.SKIPPED, Status.FAILED))

    def __str__(self) -> str:
        if not self.items:
            return "nothing left to do"
        counts = [f"{count} {_WORDS.get(status, status)}" for status, count in self.statuses.items()]
        rungs = [f"{rung} {count}" for rung, count in self.rungs.items()]
        mean = f"; mean penalty {float(self.mean_penalty):.3f}" if self.mean_penalty is not None else ""
        return f"{self.items} items: {', '.join(counts)}{mean}{' · ' + ', '.join(rungs) if rungs else ''}"


def run_stage(
    pipeline: Pipeline,
    name: str,
    item_ids: Sequence[str],
    options: RunOptions,
    settings: Settings,
    runtime: Runtime,
) -> StageReport:
    """Do what is left of the stage `name` for these items, and keep the results before returning.

    Idempotent: an item that has its result is not touched again, so a run that was cut off, or a task that is
    computed twice, goes on where it stopped. Items that failed, have not come so far, or are in another's hand are
    left alone.

    Raises:
        StoreError: the results could not be read or kept; nothing was.
    """
    stage, earlier = pipeline.stage(name), pipeline.before(name)
    database = Database(settings.database_url)
    context = StageContext(
        settings=settings, database=database, run_id=options.run_id, now=runtime.now(), rules=pipeline.rules
    )
    works, finished, discard, made_from, before = [], [], [], {}, {}
    states = results.load(database, item_ids)
    holders = claims.holders(database, item_ids)  # after that: what another did to an item, he did while he held it
    for state in states:
        if not options.may_work_on(holders.get(state.item.id)):
            continue
        if not all((done := state.results.get(other)) and done.status.is_done for other in earlier):
            continue
        value = stage.input(state)
        kept = state.results.get(name) or StepResult.pending(state.item.id, name)
        barred = pipeline.rules.barred(name, {other: state.results[other].rung or "" for other in earlier})
        due = _due(kept, fingerprint(value), is_forbidden=kept.rung in barred, options=options)
        if due is None:
            continue
        before[state.item.id], made_from[state.item.id] = kept, fingerprint(value)
        if due.discard_existing:
            discard.append(kept)
        if value is None:
            finished.append(_not_applicable(state.item.id, name, context))
        else:
            reasons = {rung: str(rule) for rung, rule in barred.items()}
            works.append(ChainInput(state.item.id, value, forbidden=reasons, improve_on=due.improve_on))
    if works:
        finished += run_chain(
            stage.chain, works, context, run_id=options.run_id, runtime=runtime, directives=options.directives
        )
    fresh = [replace(one, made_from=made_from[one.item_id]) for one in finished if one.status.is_terminal]
    results.save(database, fresh, discard=discard)
    return report(name, finished, before if options.upgrade else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class _WorkNeeded:
    """A stage has work on an item. `improve_on` is the rung that is to be improved on; where the kept result
    `discard_existing`, whatever comes takes its place."""

    improve_on: str | None = None
    discard_existing: bool = False


def _due(kept: StepResult, made_from: str | None, *, is_forbidden: bool, options: RunOptions) -> _WorkNeeded | None:
    """What a stage is to do about an item whose earlier stages are done; None for nothing."""
    if kept.status is Status.PENDING:
        return _WorkNeeded()
    if kept.status is Status.FAILED:
        return _WorkNeeded() if kept.retryable else None
    if is_forbidden:
        return _WorkNeeded(discard_existing=True)
    if _is_stale_result(kept):
        return _WorkNeeded()
    answers_another = kept.made_from is not None and made_from is not None and kept.made_from != made_from
    if answers_another or (options.refresh and kept.run_id != options.run_id):
        return _WorkNeeded()
    if options.upgrade and kept.stage in options.upgrade.stages and kept.retryable:
        return _WorkNeeded(improve_on=kept.rung)
    return None


def report(stage: str, finished: Sequence[StepResult], before: Mapping[str, StepResult] = {}) -> StageReport:
    """The counts of a batch's results; with those `before` them, what was gained."""
    penalties = [result.penalty for result in finished if result.penalty is not None]
    again = [result for result in finished if result.item_id in before]
    upgraded = frozenset(result.item_id for result in again if _is_better(result, before[result.item_id]))
    return StageReport(
        stage=stage,
        items=len(finished),
        statuses=Counter(result.status.value for result in finished),
        rungs=Counter(result.rung for result in finished if result.rung),
        mean_penalty=sum(penalties, Decimal(0)) / len(penalties) if penalties else None,
        tried=frozenset(result.item_id for result in again if result.was_called),
        upgraded=upgraded,
        failed_by_rung=frozenset(result.item_id for result in again if result.is_failed_by_rung) - upgraded,
    )


def _is_better(result: StepResult, before: StepResult) -> bool:
    return result.rank > before.rank or (_is_stale_result(before) and result.status is Status.SUCCEEDED)


def _is_stale_result(kept: StepResult) -> bool:
    """Whether a whole result answers to what is not there any more; `store` does where the item has changed since."""
    return kept.status is Status.SUCCEEDED and kept.retryable


def _not_applicable(item_id: str, stage: str, context: StageContext) -> StepResult:
    return StepResult(
        item_id=item_id,
        stage=stage,
        status=Status.NOT_APPLICABLE,
        penalty=Decimal(1),
        run_id=context.run_id,
        finished_at=context.now,
    )
