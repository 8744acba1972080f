"""Run one stage over one batch of items: find the work, run the chain, save the results as a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from repli.tasks.execution.rung_versions import version_in_use
from repli.tasks.fallback import (
    ChainInput,
    Directives,
    ItemError,
    Runtime,
    Status,
    StepResult,
    run_chain,
)
from repli.tasks.fallback.conclusion import with_later_reasons
from repli.tasks.fallback.runner import LetGo as Release
from repli.tasks.fallback.runner import keep_all, unserved
from repli.tasks.items import ItemState
from repli.tasks.json_values import fingerprint
from repli.tasks.pipeline import Pipeline, Stage, StageContext
from repli.tasks.settings import Settings
from repli.tasks.storage import results
from repli.tasks.storage.database import Database
from repli.tasks.storage.outages import PATIENCE_S
from repli.tasks.storage.results import Basis
from repli.tasks.storage.retry import claims

LetGo = Callable[["StageReport", Sequence[str], Sequence[str]], None]

_STATUS_TEXTS = {Status.PENDING.value: "unchanged"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """An option of a run: retry degraded, skipped and failed results, and replace a result only by a better one.

    Args:
        holder: the claim holder of the items; other items of a batch are skipped.
        stages: the stages whose better rungs may serve now.
    """

    holder: str
    stages: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of one run, the same for all of its stages.

    Args:
        run_id: the run that results are saved under.
        refresh: whether to recompute results of earlier runs, but for failed ones that cannot be retried.
        upgrade: which results to improve; None to compute missing results only.
        directives: rungs to force and faults to inject.
    """

    run_id: str
    refresh: bool = False
    upgrade: Upgrade | None = None
    directives: Directives = field(default_factory=Directives)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """The counts of one stage over one batch.

    Args:
        stage: the stage's name.
        items: how many items the stage had work on.
        statuses: how many items have each status.
        rungs: how many items each rung served.
        mean_penalty: the mean of the penalties, factors in (0, 1] of which 1 is best; None where no result has one.
        notes: lines for the run's report.
        tried: of an upgrade, the items for which a rung was called.
        upgraded: of these, the items with a better result than before, or with a current one in place of a stale or
            outdated one.
        worse: how many results were worse than the stored ones, which stand.
        failed_by_rung: of an upgrade, the items that are sound themselves and that no called rung served.
        refused_by_key: of an upgrade, the items that were not tried, because the breaker of their key is open.
    """

    stage: str
    items: int
    statuses: Mapping[str, int] = field(default_factory=dict)
    rungs: Mapping[str, int] = field(default_factory=dict)
    mean_penalty: Decimal | None = None
    notes: tuple[str, ...] = ()
    tried: frozenset[str] = frozenset()
    upgraded: frozenset[str] = frozenset()
    worse: int = 0
    failed_by_rung: frozenset[str] = frozenset()
    refused_by_key: frozenset[str] = frozenset()

    @property
    def is_degraded(self) -> bool:
        """Return whether a degraded, skipped or failed result is among the results."""
        return any(self.statuses.get(status) for status in (Status.DEGRADED, Status.SKIPPED, Status.FAILED))

    def __str__(self) -> str:
        if not self.items:
            return "nothing left to do"
        counts = [f"{count} {_STATUS_TEXTS.get(status, status)}" for status, count in self.statuses.items()]
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
    let_go: LetGo | None = None,
) -> StageReport:
    """Run the stage `name` on the items that need it, and save the results before returning.

    An item that has its result is not processed again, so a run that was interrupted, or a task that is computed
    twice, resumes at the first batch without results. Skipped are items that failed for good, or whose earlier stages
    are not done; and, of an upgrade, items that are not claimed for it.

    Args:
        let_go: gets items of a batch that one slow call holds up: a report on those whose results are saved, their ids,
            and the ids of those that no rung was called for. None of them is in the report that is returned.

    Raises:
        StoreError: the results could not be read or saved; none were saved.
        ProcessPoisoned: a rung left this process unusable; no result was saved.
    """
    database = Database(settings.database_url, patience_s=PATIENCE_S)
    context = StageContext(
        settings=settings, database=database, run_id=options.run_id, now=runtime.now(), rules=pipeline.rules
    )
    stage = pipeline.stage(name)
    works = _find_work(pipeline, name, item_ids, database, options)
    previous = {work.item_id: work.previous for work in works} if options.upgrade else {}

    def save(results: Sequence[StepResult]) -> StageReport:
        ids = {result.item_id for result in results}
        of_these = [work for work in works if work.item_id in ids]
        saved = _save(pipeline, stage, of_these, results, context)
        worse = _worse(of_these, saved)
        unchanged = [result for result in saved if result.status is Status.PENDING]
        _keep_later_reasons(stage, [*worse, *unchanged], context)
        return replace(_build_report(name, saved, previous), worse=len(worse))

    def release(results: Sequence[StepResult], untouched: Sequence[str]) -> None:
        if let_go:
            let_go(save(results), [result.item_id for result in results], untouched)

    return save(_do_work(stage, works, context, options, runtime, release if let_go else keep_all))


@dataclass(frozen=True, slots=True, kw_only=True)
class _ItemWork:
    """The work of a stage on one item.

    Args:
        previous: the result that the work may replace; a pending one where the stage has none.
        state: the item as it was loaded.
        input_hash: the fingerprint of the stage's input, which is saved with the result.
        chain_input: what the chain is to do; None where the stage is not applicable to the item, or
        error: says why it has no input.
        discard_existing: whether any result replaces the previous one, also a worse one.
    """

    previous: StepResult
    state: ItemState
    input_hash: str | None
    chain_input: ChainInput[Any] | None
    error: ItemError | None
    discard_existing: bool

    @property
    def item_id(self) -> str:
        return self.previous.item_id


def _find_work(
    pipeline: Pipeline, name: str, item_ids: Sequence[str], database: Database, options: RunOptions
) -> list[_ItemWork]:
    """Return the work of the stage `name` on the items that need it and that this run may work on."""
    states = results.load(database, item_ids, with_trail=False)
    if options.upgrade:
        # Read the claims after the results. In the other order, another run could claim an item, save a result and
        # release the item in between, and this run would work from the results before.
        holders = claims.holders(database, item_ids)
        states = [state for state in states if holders.get(state.item.id) == options.upgrade.holder]
    works = [_work_on(state, pipeline, name, options) for state in states]
    return [work for work in works if work]


def _work_on(state: ItemState, pipeline: Pipeline, name: str, options: RunOptions) -> _ItemWork | None:
    """Return the work of the stage `name` on one item; None where it has its result, or an earlier stage has none."""
    earlier = pipeline.before(name)
    if not all((result := state.results.get(other)) and result.status.is_done for other in earlier):
        return None
    value, error, input_hash = _input_of(pipeline, name, state)
    previous = state.results.get(name) or StepResult.pending(state.item.id, name)
    forbidden = pipeline.rules.forbidden_rungs(name, {other: state.results[other].rung or "" for other in earlier})
    needed = _work_needed(previous, input_hash, is_forbidden=previous.rung in forbidden, options=options)
    if needed is None:
        return None
    chain_input = None
    if value is not None:
        reasons = {rung: str(rule) for rung, rule in forbidden.items()}
        chain_input = ChainInput(state.item.id, value, forbidden=reasons, improve_on=needed.improve_on)
    return _ItemWork(
        previous=previous,
        state=state,
        input_hash=input_hash,
        chain_input=chain_input,
        error=error,
        discard_existing=needed.discard_existing,
    )


def _input_of(pipeline: Pipeline, name: str, state: ItemState) -> tuple[Any, ItemError | None, str | None]:
    """Return the input of the stage for an item, or the error that it has none; and the hash of either.

    An input without a JSON form has the hash of all that it may be made from: the record and the earlier values.
    """
    try:
        value = pipeline.input(name, state)
    except ItemError as error:
        return None, error, fingerprint(str(error))
    if (input_hash := fingerprint(value)) is None:
        earlier = {other: state.value(other) for other in pipeline.before(name)}
        input_hash = fingerprint([state.item.fingerprint, earlier])
    return value, None, input_hash


def input_hash_of(pipeline: Pipeline, name: str, state: ItemState) -> str | None:
    """Return the hash of the input of the stage `name` for an item, as it is saved with a result."""
    return _input_of(pipeline, name, state)[2]


def _do_work(
    stage: Stage,
    works: Sequence[_ItemWork],
    context: StageContext,
    options: RunOptions,
    runtime: Runtime,
    let_go: Release,
) -> list[StepResult]:
    """Return one result per work: from one run of the chain, or `not_applicable` where the chain has no input."""
    run_id, now = options.run_id, context.now
    finished = [
        unserved(stage.chain, work.item_id, work.error, run_id=run_id, finished_at=now)
        if work.error
        else StepResult.not_applicable(work.item_id, stage.name, run_id=run_id, finished_at=now)
        for work in works
        if work.chain_input is None
    ]
    inputs = [work.chain_input for work in works if work.chain_input is not None]
    if inputs:
        finished += run_chain(
            stage.chain,
            inputs,
            context,
            run_id=run_id,
            runtime=runtime,
            directives=options.directives,
            let_go=let_go,
        )
    return finished


def _save(
    pipeline: Pipeline,
    stage: Stage,
    works: Sequence[_ItemWork],
    finished: Sequence[StepResult],
    context: StageContext,
) -> list[StepResult]:
    """Save the terminal results, each with its input's fingerprint and revision; return the results as they stand."""
    by_item = {work.item_id: work for work in works}
    versions = _versions_of(finished, pipeline, stage, context.settings)
    terminal = [
        replace(
            result,
            input_hash=(work := by_item[result.item_id]).input_hash,
            revision=work.state.revision,
            rung_version=versions.get(result.rung),
        )
        for result in finished
        if result.status.is_terminal
    ]
    new = {result.item_id: result for result in terminal}
    discard = [
        work.previous
        for work in works
        if work.discard_existing or ((result := new.get(work.item_id)) and _renews(result, work.previous))
    ]
    unchanged = [result for result in finished if not result.status.is_terminal]
    basis = Basis(
        states={id_: work.state for id_, work in by_item.items()},
        earlier=pipeline.before(stage.name),
        input_hash=lambda state: _input_of(pipeline, stage.name, state)[2],
    )
    saved = stage.hooks.save(context, terminal, discard, basis)
    results.note_waits(context.database, unchanged)
    return [*saved, *unchanged]


def _versions_of(
    finished: Sequence[StepResult], pipeline: Pipeline, stage: Stage, settings: Settings
) -> Mapping[str | None, str | None]:
    """Return the versions of the rungs that served, by name."""
    served = {result.rung for result in finished}
    rungs = [rung.name for rung in stage.chain.rungs if rung.name in served]
    return {rung: version_in_use(pipeline, stage, rung, settings.models) for rung in rungs}


def _worse(works: Sequence[_ItemWork], saved: Sequence[StepResult]) -> list[StepResult]:
    """Return the results that are worse than the stored ones, which stand."""
    kept = {work.item_id: work.previous for work in works if not work.discard_existing}
    return [
        result
        for result in saved
        if result.status.is_terminal
        and result.item_id in kept
        and result.rank < kept[result.item_id].rank
        and not _renews(result, kept[result.item_id])
    ]


def _keep_later_reasons(stage: Stage, tries: Sequence[StepResult], context: StageContext) -> None:
    """Give the stored results the reasons of later tries with the same input that were no better."""
    if not tries:
        return
    stored = {state.item.id: state.results for state in results.load(context.database, [one.item_id for one in tries])}
    pairs = [(kept, one) for one in tries if (kept := stored.get(one.item_id, {}).get(stage.name))]
    renewed = [
        new
        for kept, later in pairs
        if kept.run_id != later.run_id and later.input_hash in {None, kept.input_hash}
        if (new := with_later_reasons(stage.chain, kept, later)) is not kept
    ]
    results.replace_reasons(context.database, renewed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _WorkNeeded:
    """A stage's work on an item: the rung to improve on, and whether to discard the existing result first."""

    improve_on: str | None = None
    discard_existing: bool = False


def _work_needed(
    previous: StepResult, input_hash: str | None, *, is_forbidden: bool, options: RunOptions
) -> _WorkNeeded | None:
    """Return the work on an item whose earlier stages are done; None where its previous result is to stay."""
    if previous.status is Status.PENDING:
        return _WorkNeeded()
    if previous.status is Status.FAILED:
        return _WorkNeeded() if previous.retryable else None
    if is_forbidden:
        return _WorkNeeded(discard_existing=True)
    if previous.is_stale:
        return _WorkNeeded()
    has_other_input = previous.input_hash is not None and input_hash is not None and previous.input_hash != input_hash
    if has_other_input or (options.refresh and previous.run_id != options.run_id):
        return _WorkNeeded()
    if options.upgrade and previous.stage in options.upgrade.stages and previous.is_outdated:
        return _WorkNeeded()
    if options.upgrade and previous.stage in options.upgrade.stages and previous.retryable:
        return _WorkNeeded(improve_on=previous.rung)
    return None


def _build_report(stage: str, finished: Sequence[StepResult], previous: Mapping[str, StepResult]) -> StageReport:
    """Return the counts of a batch's results and, compared with the `previous` results, what was upgraded."""
    penalties = [result.penalty for result in finished if result.penalty is not None]
    retried = [result for result in finished if result.item_id in previous]
    upgraded = frozenset(result.item_id for result in retried if _is_better(result, previous[result.item_id]))
    refused = frozenset(result.item_id for result in retried if result.is_refused_by_key) - upgraded
    return StageReport(
        stage=stage,
        items=len(finished),
        statuses=Counter(result.status.value for result in finished),
        rungs=Counter(result.rung for result in finished if result.rung),
        mean_penalty=sum(penalties, Decimal(0)) / len(penalties) if penalties else None,
        tried=frozenset(result.item_id for result in retried if result.was_called) - refused,
        upgraded=upgraded,
        failed_by_rung=frozenset(result.item_id for result in retried if result.is_failed_by_rung) - upgraded,
        refused_by_key=refused,
    )


def _is_better(result: StepResult, previous: StepResult) -> bool:
    is_to_replace = previous.is_stale or previous.is_outdated
    is_as_good = is_to_replace and result.rank == previous.rank
    return result.rank > previous.rank or is_as_good or _renews(result, previous)


def _renews(result: StepResult, previous: StepResult) -> bool:
    """Return whether the rung of an outdated result has served again. Its penalty may have been changed since."""
    return previous.is_outdated and previous.rung is not None and result.rung == previous.rung
