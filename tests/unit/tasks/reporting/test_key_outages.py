"""What a report says of origins that are down: why, since when, how many items fell back, and when it tries again."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from repli.tasks.fallback import Attempt, AttemptOutcome, Breaker, Position, Status, StepError, StepResult
from repli.tasks.fallback.breaker import BreakerState, CallEnded, Cause, Overridden, Verdict
from repli.tasks.items import Item
from repli.tasks.reporting.key_outages import MAX_LISTED_KEYS, KeyOutage, Outages, key_outages
from repli.tasks.storage import breakers, catalogue, results, runs
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database

NIGHT = datetime(2026, 11, 27, 3, 30, tzinfo=UTC)
WHY = "TransientError: it answered 503 Service Unavailable; try later"
OPEN = BreakerState(
    position=Position.OPEN, opened_at=NIGHT - timedelta(minutes=18), probe_at=NIGHT - timedelta(minutes=10), why=WHY
)


def outage(state: BreakerState, items: int = 2344) -> KeyOutage:
    return KeyOutage(key=Key("fetch.origin", "shop.example"), items=items, state=state, now=NIGHT)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (
            outage(OPEN),
            "shop.example: it answered 503 Service Unavailable since 03:12, 2,344 items fell back, next try 03:20",
        ),
        (
            outage(BreakerState(position=Position.OPEN, opened_at=NIGHT - timedelta(days=1), probe_at=NIGHT, why=WHY)),
            (
                f"shop.example: it answered 503 Service Unavailable since {NIGHT - timedelta(days=1):%Y-%m-%d} 03:30, "
                "2,344 items fell back, next try 03:30"
            ),
        ),
        (
            outage(BreakerState(position=Position.HALF_OPEN, opened_at=NIGHT, why="TimedOut: no answer"), items=1),
            "shop.example: no answer since 03:30, 1 item fell back, a try is under way",
        ),
        (
            outage(BreakerState(position=Position.FORCED_OPEN, opened_at=NIGHT)),
            "shop.example: forced open since 03:30, 2,344 items fell back, no try until `repli breakers reset`",
        ),
        (outage(BreakerState()), "shop.example: 2,344 items fell back, its breaker is closed now"),
    ],
)
def test_an_outage_is_one_line(told: KeyOutage, line: str) -> None:
    """As a person would say it."""
    assert str(told) == line


def waiting(item_id: str, run_id: str, *keys: str, rung: str = "cached") -> StepResult:
    error = StepError(type="BreakerOpen", message="it is open", keys=keys)
    trail = Attempt(rung="origin", outcome=AttemptOutcome.REFUSED, error=error)
    kept = {"rung": rung, "penalty": Decimal("0.95"), "retryable": True, "attempts": (trail,)}
    return StepResult(item_id=item_id, stage="fetch", status=Status.DEGRADED, run_id=run_id, finished_at=NIGHT, **kept)


def test_the_items_of_a_run_are_counted_by_key(database: Database) -> None:
    """Those of most items come first; an item that waits for two counts for both, and one of another run for none."""
    keys = {"a": ["one"], "b": ["one"], "c": ["one", "two"], "d": []}
    run_ids = [
        runs.start(database, str(uuid.uuid4()), "items.jsonl", {}, NIGHT + timedelta(hours=hour)) for hour in range(2)
    ]
    catalogue.register(database, run_ids[0], [Item(id=id_, name=id_) for id_ in keys])
    catalogue.register(database, run_ids[1], [Item(id="other", name="other")])
    results.save(database, [waiting(id_, run_ids[0], *names) for id_, names in keys.items()])
    results.save(database, [waiting("other", run_ids[1], "two")])
    by_key = Breaker(scope="key", failures=1)
    breakers.apply(database, by_key, Key("fetch.origin", "one"), CallEnded("call", Verdict.FAILED, WHY))
    breakers.apply(database, by_key, Key("fetch.origin", "two"), Overridden(Cause.FORCED_OPEN))
    found = key_outages(database, run_ids[0])
    one, two = found.listed
    assert found.others == 0
    assert [(told.key.place, told.items, told.state.position) for told in (one, two)] == [
        ("one", 3, Position.OPEN),
        ("two", 1, Position.FORCED_OPEN),
    ]
    assert one.as_json() == {
        "breaker": "fetch.origin",
        "key": "one",
        "items": 3,
        "state": "open",
        "why": WHY,
        "since": one.state.opened_at and one.state.opened_at.isoformat(),
        "next_probe_at": one.state.probe_at and one.state.probe_at.isoformat(),
    }


def test_what_is_served_at_last_waits_for_nothing(database: Database) -> None:
    """A result of the best rung takes the place of the fallback's, whatever its trail."""
    run_id = runs.start(database, str(uuid.uuid4()), "items.jsonl", {}, NIGHT)
    catalogue.register(database, run_id, [Item(id="a", name="a")])
    results.save(database, [waiting("a", run_id, "one")])
    served = {"status": Status.SUCCEEDED, "rung": "origin", "penalty": Decimal(1)}
    results.save(database, [StepResult(item_id="a", stage="fetch", run_id=run_id, finished_at=NIGHT, **served)])
    assert key_outages(database, run_id) == Outages()


def test_keys_beyond_the_list_are_counted(database: Database) -> None:
    """A night with a thousand dead origins does not look like one with twenty."""
    run_id = runs.start(database, str(uuid.uuid4()), "items.jsonl", {}, NIGHT)
    names = [f"item-{number}" for number in range(MAX_LISTED_KEYS + 3)]
    catalogue.register(database, run_id, [Item(id=name, name=name) for name in names])
    results.save(database, [waiting(name, run_id, f"https://{name}.test") for name in names])
    found = key_outages(database, run_id)
    assert (len(found.listed), found.others) == (MAX_LISTED_KEYS, 3)
    assert found.lines[-1] == "and 3 other keys; see `repli breakers`"
