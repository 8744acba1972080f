"""The report of a run over the retry queue: what was lifted, what it took, and what is left."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console, RenderableType

from repli.flows.cli.render import queue_page, retry_answer, retry_summary
from repli.tasks.fallback import Status, StepError, StepResult
from repli.tasks.fallback.breaker import Cause
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.items import Item
from repli.tasks.reporting.retry_report import MAX_LISTED_ITEMS, RetryReport, build_retry_report, markdown
from repli.tasks.settings import Settings
from repli.tasks.storage import breakers, catalogue, results, runs, usage
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import claims, retry_queue
from repli.tasks.storage.retry.claims import RetryTarget
from repli.tasks.storage.usage import ApiUsage
from tests.support.default_pipeline import declared_breakers
from tests.support.stores import store_at

BEGAN = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
NASTY = "a|b`c`<b>&amp; ![x](http://evil/a.png) *bold* \\ \n# head"
OWED = [RetryTarget(stage="classify_image", rungs=["cpu"]), RetryTarget(stage="validate", rungs=[None])]
CALLS = {"fetch": 0, "validate": 1, "classify_image": 3}
AT_ONCE = RetryPolicy(tries=1)


@pytest.fixture
def database(settings: Settings) -> Database:
    store = Database(settings.database_url)
    store.migrate()
    return store


def step(item_id: str, stage: str, status: Status, **fields: Any) -> StepResult:
    return StepResult(item_id=item_id, stage=stage, status=status, run_id="run", finished_at=BEGAN, **fields)


def fill(database: Database, stored: dict[str, str], failed: Sequence[str] = ()) -> None:
    """Items that wait in the queue: some at a quality that their image's fallback is to blame for, some that failed."""
    run_id = runs.start(database, str(uuid.uuid4()), "items.jsonl", {}, BEGAN)
    catalogue.register(database, run_id, [Item(id=id_, name=id_) for id_ in (*stored, *failed)])
    down = {"rung": "cpu", "penalty": Decimal("0.9"), "confidence": 0.9, "retryable": True}
    results.save(database, [step(id_, "classify_image", Status.DEGRADED, **down) for id_ in stored])
    error = StepError(type="E", message="no")
    results.save(
        database, [step(id_, "validate", Status.FAILED, error=error, retryable=True, confidence=0.0) for id_ in failed]
    )
    store_at(database, run_id, {id_: Decimal(quality) for id_, quality in stored.items()})


def begin(database: Database) -> str:
    return runs.start(database, str(uuid.uuid4()), "the retry queue", {}, BEGAN, kind=runs.REPROCESS)


def build_report(database: Database, run_id: str) -> RetryReport:
    return build_retry_report(database, runs.find(database, run_id))


@pytest.fixture
def report(database: Database) -> RetryReport:
    """Four items claimed: one that had failed is stored now, one is whole, one is no better, one was tried too often.

    A fifth still waits.
    """
    fill(database, {NASTY: "0.63", "whole": "0.72", "same": "0.72", "waits": "0.72"}, ["failed"])
    run_id = begin(database)
    taken = {one.item_id: one for one in claims.claim(database, run_id, OWED, 4, 60)}
    assert list(taken) == ["failed", NASTY, "whole", "same"], "by priority, the lowest quality, age"
    served = {"rung": "gpu", "penalty": Decimal(1), "confidence": 0.9}
    results.save(
        database,
        [
            step("whole", "classify_image", Status.SUCCEEDED, **served),
            step("failed", "validate", Status.SUCCEEDED, rung="expectations", penalty=Decimal(1), confidence=1.0),
        ],
    )
    store_at(database, run_id, {"whole": Decimal(1), "failed": Decimal("0.95")})
    claims.settle(database, run_id, run_id, [taken.pop(NASTY)], [NASTY], AT_ONCE)
    claims.settle(database, run_id, run_id, list(taken.values()), ["failed", "whole", "same"], RetryPolicy())
    summary = {"calls": CALLS, "ending": ""}
    runs.finish(database, run_id, BEGAN + timedelta(seconds=12), ["the store was away", NASTY], summary)
    return build_report(database, run_id)


def shown(page: RenderableType) -> str:
    """What a terminal of 120 columns shows."""
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(page)
    return capture.get()


def test_one_line_says_it_all(report: RetryReport) -> None:
    """Every item is in one of its counts; one that had failed has no quality before, and one after."""
    assert str(report) == (
        "4 items claimed: 2 upgraded, 1 unchanged, 1 parked; mean quality 0.690 → 0.825; 2 still queued"
    )
    assert not report.all_upgraded


def test_the_outside_form(report: RetryReport) -> None:
    """`reprocess --json` has the documented keys, and its counts add up."""
    outside = json.loads(json.dumps(report.as_json()))
    assert outside == {
        "claimed": 4,
        "upgraded": 2,
        "unchanged": 1,
        "parked": 1,
        "mean_quality_before": 0.69,
        "mean_quality_after": 0.825,
        "calls": CALLS,
        "run_id": report.run.id,
        "ending": "",
        "queue": {"queued": 2, "claimed": 0, "parked": 1, "priorities": {"HIGH": 0, "NORMAL": 0, "LOW": 2}},
        "usage": [],
    }


def test_markdown_has_its_parts(report: RetryReport) -> None:
    """A headline, qualities before and after, what was called, the queue, who is parked, and the notes."""
    page = markdown(report)
    assert page.startswith(f"# {report}\n")
    assert (
        "| quality | before | after |\n| --- | ---: | ---: |\n| 1 | 0 | 1 |\n| 0.95 | 0 | 1 |\n| 0.72 | 2 | 1 |" in page
    )
    assert "\n| 0.63 | 1 | 1 |\n" in page
    assert "## Reprocessed\n\n| stage | items |\n| --- | ---: |\n| fetch | 0 |\n| validate | 1 |" in page
    assert "| HIGH | 0 |\n| NORMAL | 0 |\n| LOW | 2 |\n| parked | 1 |" in page
    assert "## Parked\n\n- a\\|b" in page
    assert "- the store was away\n" in page
    assert "## Breakers that moved" not in page


def test_what_models_behind_an_api_used_is_told(report: RetryReport, database: Database) -> None:
    """In the line, in the outside form, and on the page."""
    used = ApiUsage(model="https://host/v1#small", requests=1, texts=2, tokens=30, uncounted=0, cost=0.6)
    usage.add(database, report.run.id, used)
    told = build_retry_report(database, report.run)
    assert str(told).endswith("2 still queued; https://host/v1#small: 2 texts, 30 tokens, cost 0.6")
    assert told.as_json()["usage"] == [used.as_json()]
    assert "## Models behind an API\n\n- https\\://host/v1#small: 2 texts, 30 tokens, cost 0.6\n" in markdown(told)


def test_nothing_in_an_id_is_acted_on(report: RetryReport) -> None:
    """No markup of an item's id or of a note reaches the page."""
    page = markdown(report)
    assert "\n# head" not in page
    for line in page.splitlines():
        if "evil" in line:
            assert not set("<>[]|`*&\\") & set(re.sub(r"\\.", "", line))
            assert "http\\://evil" in line


def test_breakers_that_moved_meanwhile_are_told(report: RetryReport, database: Database) -> None:
    """Those of the run's time, and no others."""
    breaker, key = declared_breakers()["classify_image.gpu"], Key("classify_image.gpu")
    for minutes, order in ((-60, Cause.FORCED_OPEN), (0, Cause.FORCED_CLOSED), (60, Cause.RESET)):
        at = BEGAN + timedelta(minutes=minutes, seconds=5)
        breakers.override(database, breaker, key, order, clock=lambda _, at=at: at)
    told = build_report(database, report.run.id)
    assert [str(move.new) for move in told.moves] == ["forced_closed"]
    assert "## Breakers that moved\n" in markdown(told)
    assert "forced_open → forced_closed" in shown(retry_summary(told))


def test_a_run_that_claimed_nothing_says_why(database: Database) -> None:
    """It is whole, it has no mean, and the queue is as it was."""
    fill(database, {"a": "0.72", "b": "0.63"})
    run_id = begin(database)
    runs.finish(database, run_id, BEGAN, [], {"calls": {}, "ending": "no better rung is available now"})
    report = build_report(database, run_id)
    assert str(report) == "nothing was claimed; no better rung is available now; 2 still queued"
    assert report.all_upgraded
    assert (report.as_json()["claimed"], report.as_json()["mean_quality_before"]) == (0, None)
    page = markdown(report)
    assert "## Items by quality" not in page
    assert "| LOW | 2 |" in page


def test_a_run_that_was_killed_has_a_report(database: Database) -> None:
    """It left no summary; what it settled before is told."""
    fill(database, {"a": "0.72", "b": "0.63"})
    run_id = begin(database)
    taken = claims.claim(database, run_id, OWED, 1, 60)
    claims.settle(database, run_id, run_id, taken, ["b"], RetryPolicy())
    report = build_report(database, run_id)
    assert str(report).startswith("1 items claimed: 0 upgraded, 1 unchanged")
    assert (report.calls, report.ending) == ({}, "")
    assert markdown(report).startswith(f"# {report}\n")


def test_few_parked_items_are_named(database: Database) -> None:
    """The lowest in quality first; of many some are named, and all are counted."""
    ids = [f"{number:03}" for number in range(MAX_LISTED_ITEMS + 10)]
    fill(database, dict.fromkeys(ids, "0.72") | {"lowest": "0.56"})
    run_id = begin(database)
    taken = claims.claim(database, run_id, OWED, 100, 60)
    claims.settle(database, run_id, run_id, taken, [*ids, "lowest"], AT_ONCE)
    report = build_report(database, run_id)
    assert report.parked == ["lowest", *ids[: MAX_LISTED_ITEMS - 1]]
    assert report.as_json()["queue"]["parked"] == report.as_json()["parked"] == MAX_LISTED_ITEMS + 11
    assert "lowest, 000, 001" in " ".join(shown(retry_summary(report)).split())


def test_the_terminal_shows_a_run(report: RetryReport) -> None:
    """The line, what was called and what was left alone, the notes, and who is parked."""
    page = shown(retry_summary(report))
    assert "4 items claimed: 2 upgraded" in page
    lines = [" ".join(line.split()) for line in page.splitlines()]
    assert "fetch not called" in lines
    assert "classify_image 3" in lines
    assert "the store was away" in page
    assert "Parked until `repli queue retry ID`: a|b`c`<b>" in page


def test_the_terminal_shows_the_queue(report: RetryReport, database: Database) -> None:
    """How many are in each state, who is next, until when a claim holds, and that there are more."""
    claims.claim(database, "someone", OWED, 1, 60)
    retry_queue.enqueue_by_operator(database, [NASTY])
    with database.read() as connection:
        until = connection.scalar(sa.text("SELECT due_at FROM retry_queue WHERE holder = 'someone'"))
    tally = retry_queue.tally(database)
    page = shown(queue_page(tally, retry_queue.entries(database, 3)))
    head, _, _, *rows = (" ".join(line.split()) for line in page.splitlines())
    assert sorted(head.replace(";", ",").split(", ")) == ["1 HIGH", "1 claimed", "2 LOW", "2 queued"]
    assert rows[0].startswith("a|b`c`<b>")
    assert "HIGH 0.63 queued 0 " in rows[0]
    assert rows[1].startswith("same LOW 0.72 queued 1 ")
    assert rows[2].startswith(f"waits LOW 0.72 claimed until {str(until)[11:19]} 0 ")
    assert len(rows) == 3
    assert shown(queue_page(tally, retry_queue.entries(database, 1))).endswith("and 2 more\n")


def test_an_empty_queue_is_told(database: Database) -> None:
    """In a sentence, not as an empty table."""
    assert shown(queue_page(retry_queue.tally(database), [])) == "The retry queue is empty.\n"


@pytest.mark.parametrize(
    ("queued", "whole", "told"),
    [
        (["a", "b"], [], "2 items queued with priority HIGH; `repli reprocess` processes them.\n"),
        ([], ["a"], "Nothing to retry for a: succeeded, or still pending. `repli run --refresh` processes all.\n"),
    ],
)
def test_the_answer_to_a_person(queued: list[str], whole: list[str], told: str) -> None:
    """Who is first in line, and about whom there is nothing to do."""
    assert shown(retry_answer(queued, whole)) == told
