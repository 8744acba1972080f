"""What the attempts at an item come to: its result, and the reasons of a result that a later try could not improve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TypeVar

from repli.tasks.fallback.chain import AnyChain, Chain
from repli.tasks.fallback.errors import NoInput
from repli.tasks.fallback.outcome import ChainInput, Served
from repli.tasks.fallback.result import SKIP, Attempt, AttemptOutcome, StepError, StepResult
from repli.tasks.fallback.status import Status

I = TypeVar("I")  # noqa: E741  as in chain.py
V = TypeVar("V")
C = TypeVar("C")


def conclude(
    chain: Chain[I, V, C],
    item: ChainInput[I],
    attempts: tuple[Attempt, ...],
    served: Served[V] | None,
    *,
    run_id: str,
    finished_at: datetime,
    is_policy: bool,
) -> StepResult:
    """Return an item's result: terminal, or `pending` where the stored result that it was to improve on is kept.

    Args:
        attempts: The trail, one attempt per rung considered.
        served: The answer of the last rung of the trail, if it served the item.
        is_policy: `skip` was forced, so a retry cannot give a better result.
    """
    result = partial(
        StepResult, item_id=item.item_id, stage=chain.stage, attempts=attempts, run_id=run_id, finished_at=finished_at
    )
    if served:
        rung = next(rung for rung in chain.rungs if rung.name == attempts[-1].rung)
        is_primary = rung is chain.primary
        return result(
            status=Status.SUCCEEDED if is_primary else Status.DEGRADED,
            value=served.value,
            confidence=served.confidence * rung.after_decline if _was_declined(attempts) else served.confidence,
            rung=rung.name,
            penalty=rung.factor,
            error=None if is_primary else _first_error(attempts),
            retryable=not is_primary and _can_improve(attempts),
        )
    if item.improve_on and not (attempts and attempts[-1].outcome is AttemptOutcome.SERVED):
        return result(status=Status.PENDING)  # no better rung served: the stored result is kept
    if chain.skip:
        return result(
            status=Status.SKIPPED,
            confidence=0.0,
            rung=SKIP,
            penalty=chain.skip.factor,
            error=None if is_policy else _reason(chain, attempts),
            retryable=not is_policy and _can_improve(attempts) and not _is_invalid(attempts),
        )
    return result(
        status=Status.FAILED,
        confidence=0.0,
        error=_reason(chain, attempts),
        retryable=_can_improve(attempts)
        and all(one.error.retryable for one in attempts if one.error and not _is_declined(one)),
    )


def with_later_reasons(chain: AnyChain, kept: StepResult, later: StepResult) -> StepResult:
    """Return a stored result, below the best, with the reasons of a later try that was no better.

    In its trail the rungs better than its own have the attempts of the later try. A failed call is only replaced by
    another call, which says more than that a rung was refused or is unavailable, unless its failure was injected.
    """
    if kept.status not in {Status.DEGRADED, Status.SKIPPED} or kept.rung not in chain.rung_names:
        return kept
    earlier = {attempt.rung: attempt for attempt in kept.attempts}
    better = chain.rung_names[: chain.rung_names.index(kept.rung)]
    tried = {one.rung: _attempt_that_counts(earlier.get(one.rung), one) for one in later.attempts if one.rung in better}
    trail = (*tried.values(), *(attempt for attempt in kept.attempts if attempt.rung not in tried))
    if trail == kept.attempts:
        return kept
    if kept.status is Status.DEGRADED:
        return replace(kept, attempts=trail, error=_first_error(trail), retryable=_can_improve(trail))
    retryable = _can_improve(trail) and not _is_invalid(trail)
    return replace(kept, attempts=trail, error=_reason(chain, trail), retryable=retryable)


def _attempt_that_counts(earlier: Attempt | None, later: Attempt) -> Attempt:
    calls = {AttemptOutcome.FAILED, AttemptOutcome.DECLINED}
    if earlier is None or later.outcome in calls or earlier.outcome not in calls:
        return later
    return later if earlier.error and earlier.error.is_injected else earlier


def _first_error(attempts: Sequence[Attempt]) -> StepError | None:
    """Return why the best rung did not serve: that it had no input, as far as a rung has told."""
    missed = [one.error for one in attempts if one.error and one.outcome is not AttemptOutcome.SERVED]
    return _no_input(attempts) or next(iter(missed), None)


def _no_input(attempts: Sequence[Attempt]) -> StepError | None:
    """Return the error of a rung for which an earlier stage left no input: it is that of all rungs that need one."""
    errors = (one.error for one in attempts if _is_declined(one) and one.error)
    return next((error for error in errors if error.type == NoInput.__name__), None)


def _was_declined(attempts: Sequence[Attempt]) -> bool:
    """Return whether a rung was not sure of the item, though it had an input."""
    return any(_is_declined(one) and one.error and one.error.type != NoInput.__name__ for one in attempts)


def _can_improve(attempts: Sequence[Attempt]) -> bool:
    """Return whether a rung did not serve that may later: one that declined, or lacks the input, will decline again."""
    missed = {one.outcome for one in attempts if one.error} - {AttemptOutcome.SERVED, AttemptOutcome.DECLINED}
    return AttemptOutcome.FAILED in missed if _no_input(attempts) else bool(missed)


def _is_invalid(attempts: Sequence[Attempt]) -> bool:
    """Return whether the rungs that failed all found the item itself invalid, so that no later try can serve it."""
    failed = [one.error for one in attempts if one.outcome is AttemptOutcome.FAILED and one.error]
    return bool(failed) and not any(error.retryable for error in failed)


def _is_declined(attempt: Attempt) -> bool:
    return attempt.outcome is AttemptOutcome.DECLINED


def _reason(chain: AnyChain, attempts: Sequence[Attempt]) -> StepError | None:
    """Return the error that says most about an item that no rung served.

    It is that of the best rung whose call failed, or was refused for its key; else of the best service that was
    unavailable or refused, which a retry may reach; else of the best rung that declined; else of a device that is not
    here, which says nothing about the item. Where every rung that had an input declined, none was sure.
    """
    devices = {rung.name for rung in chain.rungs if rung.resources}
    declined = AttemptOutcome.DECLINED
    missed = [attempt for attempt in attempts if attempt.error]
    failed = [one for one in missed if one.outcome is AttemptOutcome.FAILED or (one.error and one.error.keys)]
    no_reason = {declined, AttemptOutcome.FORCED_PAST}
    out_of_reach = [one for one in missed if one.outcome not in no_reason and one.rung not in devices]
    unsure = [attempt.error for attempt in missed if attempt.outcome is declined and attempt.error]
    if failed or out_of_reach:
        return [*failed, *out_of_reach][0].error
    if no_input := _no_input(attempts):
        return no_input
    if unsure:
        return replace(unsure[0], message=f"no rung was sure; {unsure[0].message}")
    return next((attempt.error for attempt in missed), None)
