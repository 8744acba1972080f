"""The reasons of a stored result after a later try that was no better."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from repli.tasks.fallback import Attempt, AttemptOutcome, Chain, Rung, Skip, Status, StepError, StepResult
from repli.tasks.fallback.conclusion import conclude, with_later_reasons
from repli.tasks.fallback.errors import BreakerOpen, Declined, InvalidItem, NoInput, TimedOut, Unavailable
from repli.tasks.fallback.faults import InjectedFault
from repli.tasks.fallback.outcome import ChainInput, Served

NOW = datetime(2026, 11, 27, 3, 0, tzinfo=UTC)


def _serve_none(inputs: Any, context: Any) -> list[Any]:
    return []


RUNGS = [Rung(name, _serve_none, penalty=penalty, time_limit_s=1) for name, penalty in (("a", "1"), ("b", "0.9"))]
CHAIN: Chain[Any, Any, Any] = Chain("s", *RUNGS, Skip(penalty="0.7"))


def missed(rung: str, error: Exception, outcome: AttemptOutcome = AttemptOutcome.FAILED) -> Attempt:
    return Attempt(rung=rung, outcome=outcome, error=StepError.of(error))


def served(rung: str) -> Attempt:
    return Attempt(rung=rung, outcome=AttemptOutcome.SERVED)


def degraded(*attempts: Attempt) -> StepResult:
    """A result that `b` served."""
    return StepResult(
        item_id="x",
        stage="s",
        status=Status.DEGRADED,
        value="kept",
        confidence=0.5,
        rung="b",
        penalty=Decimal("0.9"),
        error=attempts[0].error,
        retryable=True,
        attempts=(*attempts, served("b")),
        run_id="night",
        finished_at=NOW,
    )


def skipped(*attempts: Attempt) -> StepResult:
    """A result that no rung served."""
    given_up = {"status": Status.SKIPPED, "value": None, "confidence": 0.0, "rung": "skip", "penalty": Decimal("0.7")}
    return replace(degraded(*attempts), **given_up, attempts=(*attempts, served("skip")))


def later(*attempts: Attempt) -> StepResult:
    """A later try that served nothing better."""
    return replace(StepResult.pending("x", "s"), attempts=attempts, run_id="day")


TIMED_OUT = missed("a", TimedOut("a took too long"))
REFUSED = missed("a", BreakerOpen("a is resting"), AttemptOutcome.REFUSED)
AWAY = missed("a", Unavailable("a is not here"), AttemptOutcome.UNAVAILABLE)
UNSURE = missed("a", Declined("best guess cat at 0.21"), AttemptOutcome.DECLINED)
INJECTED = missed("a", InjectedFault("injected: s.a raised an error"))


@pytest.mark.parametrize(
    ("attempt", "confidence"),
    [
        (UNSURE, 0.4),
        (TIMED_OUT, 0.8),
        (AWAY, 0.8),
        (missed("a", NoInput("there is no picture"), AttemptOutcome.DECLINED), 0.8),
    ],
)
def test_a_rung_is_less_sure_where_a_better_one_was_not(attempt: Attempt, confidence: float) -> None:
    """By its factor; a rung that failed, or that had nothing to look at, says nothing of the item."""
    chain = Chain("s", RUNGS[0], replace(RUNGS[1], after_decline=0.5))
    given = {"run_id": "night", "finished_at": NOW, "is_policy": False}
    result = conclude(chain, ChainInput("x", 1), (attempt, served("b")), Served("value", 0.8), **given)
    assert (result.rung, result.confidence) == ("b", confidence)


NO_INPUT = missed("b", NoInput("the picture was not fetched"), AttemptOutcome.DECLINED)


@pytest.mark.parametrize("serves", ["c", "skip"])
@pytest.mark.parametrize(
    ("best", "retryable"), [(AWAY, False), (REFUSED, False), (missed("a", TimedOut("a hung")), True)]
)
def test_an_input_that_is_missing_is_the_reason(best: Attempt, retryable: bool, serves: str) -> None:
    """And not the device that is not here, which would have nothing to look at either. A rung that hung may serve."""
    device = replace(RUNGS[0], resources={"GPU": 1})
    chain = Chain("s", device, RUNGS[1], Rung("c", _serve_none, penalty="0.8", time_limit_s=1), Skip(penalty="0.7"))
    answer = Served("by name", 0.3) if serves == "c" else None
    trail = (best, NO_INPUT, served(serves))
    given = {"run_id": "night", "finished_at": NOW, "is_policy": False}
    result = conclude(chain, ChainInput("x", 1), trail, answer, **given)
    expected = best.error if retryable and serves == "skip" else NO_INPUT.error
    assert (result.rung, result.error, result.retryable) == (serves, expected, retryable)


@pytest.mark.parametrize("factor", [0, 1.1, -1, float("nan"), "0.5"])
def test_a_factor_after_a_decline_is_a_share(factor: Any) -> None:
    """Above 0, and at most 1."""
    with pytest.raises(ValueError, match="rung a: after_decline"):
        replace(RUNGS[0], after_decline=factor)


@pytest.mark.parametrize(
    ("earlier", "newer", "counts"),
    [
        (TIMED_OUT, missed("a", ValueError("a is broken")), missed("a", ValueError("a is broken"))),
        (REFUSED, TIMED_OUT, TIMED_OUT),
        (AWAY, REFUSED, REFUSED),
        (TIMED_OUT, UNSURE, UNSURE),
        (TIMED_OUT, REFUSED, TIMED_OUT),
        (TIMED_OUT, AWAY, TIMED_OUT),
        (UNSURE, AWAY, UNSURE),
        (INJECTED, REFUSED, REFUSED),
        (INJECTED, AWAY, AWAY),
    ],
)
def test_the_reason_is_the_later_trys(earlier: Attempt, newer: Attempt, counts: Attempt) -> None:
    """A later call replaces whatever was there; without a call only a fault that was injected gives way."""
    kept = degraded(earlier)
    result = with_later_reasons(CHAIN, kept, later(newer))
    assert (result.error, result.attempts) == (counts.error, (counts, served("b")))
    assert replace(result, error=kept.error, attempts=kept.attempts, retryable=True) == kept, "nothing else changes"


def test_only_better_rungs_are_told_of() -> None:
    """A refresh that fell to a worse rung says nothing of the one that had served."""
    result = with_later_reasons(CHAIN, degraded(TIMED_OUT), later(AWAY, missed("b", ValueError("b is broken"))))
    assert result.attempts == (TIMED_OUT, served("b"))
    assert with_later_reasons(CHAIN, degraded(TIMED_OUT), later(TIMED_OUT)) == degraded(TIMED_OUT)


def test_what_declines_now_is_not_retried() -> None:
    """The rung can be called again and is not sure: waiting helps no more."""
    assert not with_later_reasons(CHAIN, degraded(TIMED_OUT), later(UNSURE)).retryable
    unsure_too = missed("b", Declined("no word"), AttemptOutcome.DECLINED)
    result = with_later_reasons(CHAIN, skipped(TIMED_OUT, TIMED_OUT), later(UNSURE, unsure_too))
    assert (result.status, result.retryable) == (Status.SKIPPED, False)
    assert result.error == StepError(
        type="Declined", message="no rung was sure; best guess cat at 0.21", retryable=False
    )


def test_an_item_that_turns_out_invalid_is_not_retried() -> None:
    """Every rung was called, and each found the item itself invalid."""
    invalid = [missed(rung, InvalidItem("no picture")) for rung in "ab"]
    result = with_later_reasons(CHAIN, skipped(TIMED_OUT), later(*invalid))
    assert (result.error, result.retryable) == (invalid[0].error, False)


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.NOT_APPLICABLE, Status.FAILED])
def test_a_result_that_has_no_better_one_keeps_its_reasons(status: Status) -> None:
    """A later failure is no reason for what the primary served."""
    kept = replace(degraded(TIMED_OUT), status=status)
    assert with_later_reasons(CHAIN, kept, later(AWAY)) is kept
