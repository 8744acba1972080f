"""Text that no database keeps, whoever wrote it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from repli.tasks.fallback import Attempt, AttemptOutcome, Status, StepError, StepResult
from repli.tasks.storage import results, runs
from repli.tasks.storage.database import Database
from repli.tasks.storage.storable import dumps
from repli.tasks.storage.views import lookup
from tests.support.default_pipeline import STORED

BAD = [
    "a null \0 byte",
    "the first half \ud83d of a pair",
    "the second half \udc00 of a pair",
    "a first half that is spelt out, and a second one: \\ud83d\ude00",
]
ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Half surrogate pairs among it."""
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(ANY_JSON)
def test_any_value_becomes_strict_json(value: Any) -> None:
    """As UTF-8 and without NaN; a second time changes nothing."""
    text = dumps(value)
    kept = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    json.dumps(kept, ensure_ascii=False).encode()
    assert "\0" not in json.dumps(kept, ensure_ascii=False)
    assert dumps(kept) == text


@pytest.mark.parametrize(
    "value", ["plain", "🦜 and é", "a backslash \\u0000 in words", {"a": [1, 2.5, None, True]}, "\\ud800"]
)
def test_a_sound_value_is_kept(value: object) -> None:
    """Also one that spells an escape out."""
    assert json.loads(dumps(value)) == value


def test_what_is_no_number_is_null() -> None:
    """No database reads NaN in JSON."""
    assert dumps({"score": math.nan, "most": math.inf}) == '{"score": null, "most": null}'


def test_a_circular_value_is_an_error() -> None:
    """As it is without this: it has no JSON."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match="Circular"):
        dumps(value)


@pytest.mark.parametrize("bad", BAD)
def test_an_error_that_quotes_it_breaks_no_view(database: Database, registered: Callable[..., str], bad: str) -> None:
    """In an error, a trail, a value, a note or a source: each view and query of it reads on."""
    registered("a")
    error = StepError(type="ValueError", message=f"cannot parse {bad}")
    trail = (
        Attempt(rung="gpu", outcome=AttemptOutcome.FAILED, error=error),
        Attempt(rung="cpu", outcome=AttemptOutcome.SERVED),
    )
    now = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
    result = StepResult(
        item_id="a",
        stage="classify_image",
        status=Status.DEGRADED,
        rung="cpu",
        value={"label": bad, bad: [bad]},
        error=error,
        attempts=trail,
        run_id="run",
        finished_at=now,
    )
    results.save(database, [result])
    run_id = runs.start(database, bad[-20:], f"manifest {bad}", {"limit": bad}, now)
    runs.finish(database, run_id, now, notes=[bad], summary={"ending": bad})
    view = lookup.view(database, "a", STORED)
    assert view is not None
    assert "\ufffd" in str(view.stages["classify_image"].error)
    assert "\ufffd" in runs.find(database, run_id).source
    with database.read() as connection:
        for query in (
            "SELECT error_message, value FROM repli_steps",
            "SELECT error_type, count(*) FROM repli_steps GROUP BY error_type",
            "SELECT label FROM repli_items",
        ):
            assert len(connection.execute(sa.text(query)).all()) == 1
