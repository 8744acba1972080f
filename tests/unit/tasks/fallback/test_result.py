"""Step results: their outside form, their standing, and that they travel between processes."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from repli.tasks.fallback import (
    Attempt,
    AttemptOutcome,
    ChainInput,
    Directives,
    Failed,
    Fault,
    FaultKind,
    InvalidItem,
    ItemError,
    Outcome,
    OutOfMemory,
    RepliError,
    Rung,
    Served,
    Skip,
    Status,
    StepError,
    StepResult,
)
from repli.tasks.fallback.splitting import RungResult
from repli.tasks.fallback.status import can_move
from repli.tasks.pipeline import Stage
from tests.support.fakes import NIGHT

KEYS = "item_id stage status value confidence rung penalty error retryable is_stale attempts run_id finished_at".split()  # noqa: SIM905  as section 3 writes them
KEYS += ["rung_version"]
NO_GPU = StepError(type="Unavailable", message="no CUDA device")
FULL = StepResult(
    item_id="7",
    stage="classify_image",
    status=Status.DEGRADED,
    value={"label": "tabby"},
    confidence=0.75,
    rung="cpu",
    penalty=Decimal("0.9"),
    error=NO_GPU,
    retryable=True,
    attempts=(
        Attempt(rung="gpu", outcome=AttemptOutcome.UNAVAILABLE, error=NO_GPU, seconds=0.12345678, where="node7"),
        Attempt(rung="cpu", outcome=AttemptOutcome.SERVED, seconds=1.5, where="node7/cpu"),
    ),
    run_id="run-1",
    finished_at=NIGHT,
    rung_version="2",
)


def test_json_form_has_the_keys_of_the_design_in_order() -> None:
    """The outside form of any result has the keys of section 3, in its order, then the version."""
    assert list(FULL.as_json()) == KEYS
    assert list(StepResult.pending("7", "fetch").as_json()) == KEYS


def test_json_form_in_full() -> None:
    """The outside form is plain JSON: numbers, names and ISO times, seconds to the microsecond."""
    assert json.loads(json.dumps(FULL.as_json())) == {
        "item_id": "7",
        "stage": "classify_image",
        "status": "degraded",
        "value": {"label": "tabby"},
        "confidence": 0.75,
        "rung": "cpu",
        "penalty": 0.9,
        "error": {"type": "Unavailable", "message": "no CUDA device"},
        "retryable": True,
        "is_stale": False,
        "attempts": [
            {
                "rung": "gpu",
                "outcome": "unavailable",
                "error": {"type": "Unavailable", "message": "no CUDA device"},
                "seconds": 0.123457,
                "where": "node7",
            },
            {"rung": "cpu", "outcome": "served", "error": None, "seconds": 1.5, "where": "node7/cpu"},
        ],
        "run_id": "run-1",
        "finished_at": "2026-01-01T03:00:00+00:00",
        "rung_version": "2",
    }


def test_pending_result_claims_nothing() -> None:
    """A stage that has not run left no value, no penalty, no error, no trail."""
    absent = dict.fromkeys(KEYS) | {"item_id": "7", "stage": "fetch", "status": "pending"}
    assert StepResult.pending("7", "fetch").as_json() == absent | {
        "retryable": False,
        "is_stale": False,
        "attempts": [],
    }


def test_result_cannot_be_changed() -> None:
    """Results are values."""
    with pytest.raises(FrozenInstanceError):
        FULL.status = Status.SUCCEEDED  # type: ignore[misc]
    assert FULL.status is Status.DEGRADED


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ItemError("cannot be read"), StepError(type="ItemError", message="cannot be read")),
        (InvalidItem("no name"), StepError(type="InvalidItem", message="no name", retryable=False)),
        (RuntimeError(), StepError(type="RuntimeError", message="RuntimeError")),
        (OutOfMemory("two\n  lines\t"), StepError(type="OutOfMemory", message="two lines")),
        (ValueError("x" * 9000), StepError(type="ValueError", message="x" * 2000)),
    ],
    ids=["message", "for good", "no message", "lines", "endless"],
)
def test_error_as_a_value(error: Exception, expected: StepError) -> None:
    """An exception becomes its type and one bounded line; only a wrong item is not worth another try."""
    assert StepError.of(error) == expected


RANKED = [Status.FAILED, Status.SKIPPED, Status.DEGRADED, Status.SUCCEEDED]
PENALTIES: dict[Status, list[str | None]] = {
    Status.PENDING: [None],
    Status.FAILED: [None],
    Status.SKIPPED: ["0.01", "0.7", "1"],
    Status.DEGRADED: ["0.01", "0.9", "1"],
    Status.SUCCEEDED: ["1"],
    Status.NOT_APPLICABLE: ["1"],
}


def standings(status: Status) -> list[float]:
    """Every standing that a result of the status may have, from the lowest to the highest."""
    return [
        StepResult(item_id="1", stage="s", status=status, penalty=None if penalty is None else Decimal(penalty)).rank
        for penalty in PENALTIES[status]
    ]


@pytest.mark.parametrize(("old", "new"), list(product(RANKED, RANKED)), ids=lambda status: str(status))
def test_standing_agrees_with_the_table_of_moves(old: Status, new: Status) -> None:
    """Among the statuses of a stage that had work, the store replaces a result exactly where the table has the move."""
    if old is new:
        assert standings(old) == sorted(set(standings(old)))  # the better rung wins
    elif can_move(old, new):
        assert min(standings(new)) >= max(standings(old))
    else:
        assert max(standings(new)) < min(standings(old))


def test_standing_of_a_stage_with_nothing_to_do() -> None:
    """`not_applicable` replaces a failure and itself, and nothing worse than a primary's answer replaces it."""
    (nothing_to_do,) = standings(Status.NOT_APPLICABLE)
    assert nothing_to_do > max(standings(Status.FAILED))
    assert nothing_to_do > max(standings(Status.SKIPPED) + standings(Status.DEGRADED))
    assert nothing_to_do == max(standings(Status.SUCCEEDED))


def test_pending_stands_below_everything() -> None:
    """Whatever a stage leaves replaces that it has not run."""
    assert max(standings(Status.PENDING)) < min(min(standings(status)) for status in Status if status.is_terminal)


def subclasses(root: type[BaseException]) -> list[type[BaseException]]:
    return [root, *(below for child in root.__subclasses__() for below in subclasses(child))]


@pytest.mark.parametrize(
    "error",
    [kind for kind in subclasses(RepliError) if kind.__module__.startswith("repli.tasks.fallback")],
    ids=lambda kind: kind.__name__,
)
def test_every_exception_pickles(error: type[BaseException]) -> None:
    """An error goes from a worker to the flow with its type and its message."""
    back = pickle.loads(pickle.dumps(error("why it failed")))
    assert type(back) is error
    assert str(back) == "why it failed"


def answer(inputs: Sequence[str], context: object) -> Sequence[Outcome[str]]:
    return []


VALUES = [
    FULL,
    StepResult.pending("7", "fetch"),
    NO_GPU,
    FULL.attempts[0],
    Served("value", confidence=0.5),
    Failed(NO_GPU),
    ChainInput("7", {"name": "cup"}),
    Fault(stage="fetch", rung="origin", kind=FaultKind.OOM, rate=0.1, seed=3),
    Directives(forced={"fetch": "cached"}, faults=(Fault.parse("fetch.origin=kill"),)),
    RungResult(outcomes={"7": Served("value")}, seconds={"7": 0.5}, unavailable={"8"}),
    Rung("origin", answer, time_limit_s=5, resources={"GPU": 1}),
    Skip(penalty="0.7"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_every_value_pickles(value: Any, protocol: int) -> None:
    """A value that went to another process and back is equal to what it was."""
    assert pickle.loads(pickle.dumps(value, protocol)) == value
    assert copy.deepcopy(value) == value


class _Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_whose_message_cannot_be_made_is_a_reason_all_the_same() -> None:
    """It must not end the run: it is raised where the chain has caught the error already."""
    assert StepError.of(_Speechless()).line == "_Speechless: its message cannot be read (RuntimeError)"


def raising(value: Any) -> Any:
    raise _Speechless


@pytest.mark.parametrize(("rung", "check"), [(raising, None), (str.upper, raising)])
def test_an_error_without_words_is_a_reason_in_a_chain(rung: Any, check: Any) -> None:
    """A rung of one's own and a check may raise it."""
    stage = Stage("s", input=str, check=check)
    stage.rung(time_limit_s=5, per_item=True)(rung)
    stage.skip(penalty="0.5")
    [result] = stage.try_on(["a"])
    assert result.status is Status.SKIPPED
    assert result.error is not None
    assert "its message cannot be read" in result.error.message
