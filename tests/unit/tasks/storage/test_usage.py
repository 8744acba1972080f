"""What a run has used of models behind an API, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from repli.tasks.storage import usage
from repli.tasks.storage.database import Database
from repli.tasks.storage.usage import ApiUsage

SMALL = ApiUsage(model="https://host/v1#small", requests=3, texts=90, tokens=4100, uncounted=0, cost=0.082)
LARGE = ApiUsage(model="https://host/v1#large", requests=1, texts=1, tokens=2**40, uncounted=1, cost=None)


def test_it_is_summed_by_run_and_model(database: Database, registered: Callable[..., str]) -> None:
    """Each batch adds to it; other runs have their own. A cost is of the batches that had a price."""
    run_id, other = registered("a"), registered("b")
    for used in (SMALL, LARGE, SMALL, replace(SMALL, cost=None)):
        usage.add(database, run_id, used)
    usage.add(database, other, SMALL)
    assert usage.of_run(database, run_id) == [
        LARGE,
        replace(SMALL, requests=9, texts=270, tokens=12300, cost=pytest.approx(0.164)),
    ]
    assert usage.of_run(database, other) == [SMALL]


def test_what_is_no_run_has_none(database: Database, registered: Callable[..., str]) -> None:
    """A search adds to no run; a batch without a request writes nothing."""
    run_id = registered("a")
    usage.add(database, "search", SMALL)
    usage.add(database, run_id, replace(SMALL, requests=0, texts=0, tokens=0))
    assert usage.of_run(database, "search") == usage.of_run(database, run_id) == []


def test_it_is_told_in_one_line() -> None:
    """With the cost where there is a price, and with what the API did not say."""
    assert str(SMALL) == "https://host/v1#small: 90 texts, 4,100 tokens, cost 0.082"
    assert str(replace(SMALL, uncounted=2, cost=None)) == (
        "https://host/v1#small: 90 texts, 4,100 tokens, 2 of 3 requests did not say their tokens"
    )
