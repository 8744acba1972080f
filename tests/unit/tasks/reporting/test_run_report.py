"""The report of a run: counts that add up, a chart, and nothing that Markdown acts on."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from PIL import Image
from rich.console import Console, RenderableType

from repli.flows.cli.render import item_page, overview_page, run_summary
from repli.tasks.fallback import Attempt, AttemptOutcome, Incompatible, Position, Status, StepError, StepResult
from repli.tasks.fallback.breaker import CallEnded, Cause, Verdict
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.items import Item
from repli.tasks.reporting.run_report import MAX_LISTED_ITEMS, Report, build_report, colour, markdown, quality_chart
from repli.tasks.settings import Settings
from repli.tasks.stages.rules import RULES
from repli.tasks.storage import breakers, catalogue, results, runs, usage
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database
from repli.tasks.storage.outdated import OutdatedTally
from repli.tasks.storage.retry import claims
from repli.tasks.storage.retry.claims import RetryTarget
from repli.tasks.storage.usage import ApiUsage
from repli.tasks.storage.views import lookup
from tests.support.default_pipeline import CHAINS, STAGE_NAMES, STORED, declared_breakers
from tests.support.stores import store_at

BEGAN = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
NASTY = "a|b`c`<b>&amp; ![x](http://evil/a.png) [y](z) *bold* \\ \n# head"


@pytest.fixture
def database(settings: Settings) -> Database:
    store = Database(settings.database_url)
    store.migrate()
    return store


@pytest.fixture
def report(database: Database) -> Report:
    """Two whole items, one that fell in two stages, one that failed, one that is pending, and a line superseded."""
    records = [Item(id=id_, name=f"Item {id_}") for id_ in ("whole", "also", "fallen", "failed", "pending", "whole")]
    records[2] = Item(id="fallen", name=NASTY)
    run_id = runs.start(
        database, "flow run", "items.jsonl", {"limit": None, "emulated": True, "force": ["embed_text=hashed"]}, BEGAN
    )
    catalogue.register(database, run_id, records)
    gone = StepError(type="Unavailable", message=f"no device | {NASTY}")

    def step(item_id: str, stage: str, status: Status, **fields: Any) -> StepResult:
        return StepResult(item_id=item_id, stage=stage, status=status, run_id=run_id, finished_at=BEGAN, **fields)

    attempts = (
        Attempt(rung="gpu", outcome=AttemptOutcome.UNAVAILABLE, error=gone, where="node7"),
        Attempt(rung="cpu", outcome=AttemptOutcome.SERVED, where="node7/cpu"),
    )
    whole = {"status": Status.SUCCEEDED, "rung": "gpu", "penalty": Decimal(1), "confidence": 0.9}
    results.save(
        database,
        [
            step("whole", "classify_image", **whole),
            step("also", "classify_image", **whole),
            step(
                "fallen", "classify_image", Status.DEGRADED, rung="cpu", error=gone, attempts=attempts, confidence=0.5
            ),
            step("fallen", "embed_text", Status.SKIPPED, rung="skip", confidence=0.0, penalty=Decimal("0.7")),
            step("failed", "validate", Status.FAILED, rung="basic", error=StepError(type="I", message="no name")),
        ],
    )
    store_at(database, run_id, {"whole": Decimal(1), "also": Decimal(1), "fallen": Decimal("0.63")})
    runs.finish(database, run_id, BEGAN + timedelta(seconds=12.3456))
    return build_report(database, runs.find(database, run_id), STAGE_NAMES)


def shown(page: RenderableType) -> str:
    """What a terminal of 120 columns shows."""
    console = Console(width=120, record=True, file=None, force_terminal=False, quiet=False, stderr=True)
    with console.capture() as capture:
        console.print(page)
    return capture.get()


def test_one_line_says_it_all(report: Report) -> None:
    """Every item is in one of its counts."""
    assert str(report) == (
        "3 of 5 items stored, mean quality 0.877, expected accuracy 0.600, 1 degraded, 1 failed, 1 pending, "
        "1 lines superseded by a later one with the same id, accelerator emulated"
    )


def test_what_models_behind_an_api_used_is_told(report: Report, database: Database) -> None:
    """In the line, in the outside form, and on the page; a run without any says nothing."""
    assert report.as_json()["usage"] == []
    assert "Models behind an API" not in markdown(report, CHAINS)
    used = ApiUsage(model="https://host/v1#small", requests=1, texts=2, tokens=30, uncounted=0, cost=0.6)
    usage.add(database, report.run.id, used)
    told = build_report(database, report.run, STAGE_NAMES)
    assert str(told).endswith("accelerator emulated; https://host/v1#small: 2 texts, 30 tokens, cost 0.6")
    assert told.as_json()["usage"] == [used.as_json()]
    assert "## Models behind an API\n\n- https\\://host/v1#small: 2 texts, 30 tokens, cost 0.6\n" in markdown(
        told, CHAINS
    )


def queued_at_063(database: Database, *item_ids: str) -> str:
    """Items that are stored and wait in the queue, as one run's; its id."""
    run_id = runs.start(database, f"flow run of {item_ids}", "items.jsonl", {}, BEGAN)
    catalogue.register(database, run_id, [Item(id=id_, name=id_) for id_ in item_ids])
    skipped = {"status": Status.SKIPPED, "rung": "skip", "penalty": Decimal("0.7"), "retryable": True}
    results.save(
        database,
        [
            StepResult(item_id=id_, stage="embed_text", confidence=0.0, run_id=run_id, finished_at=BEGAN, **skipped)
            for id_ in item_ids
        ],
    )
    store_at(database, run_id, dict.fromkeys(item_ids, Decimal("0.63")))
    return run_id


def test_what_waits_to_be_done_again_is_told(database: Database) -> None:
    """Of the run's own items: those in the queue, and apart from them those that only a person brings back."""
    queued_at_063(database, "somebody", "else's")
    run_id = queued_at_063(database, "a", "b", "c")
    taken = claims.claim(database, run_id, [RetryTarget(stage="embed_text", rungs=["skip"])], 3, 60)
    claims.settle(database, run_id, run_id, taken[2:], ["a"], RetryPolicy(tries=1))
    told = build_report(database, runs.find(database, run_id), STAGE_NAMES)
    assert str(told).startswith("3 of 3 items stored, mean quality 0.630, expected accuracy 0.000, 3 degraded, ")
    assert str(told).endswith("0 failed, 2 queued for retry, 1 parked")
    assert told.as_json()["queued"] == 2


def test_a_rule_that_kept_a_rung_from_being_called_is_told(database: Database, report: Report) -> None:
    """Each rule with the items in whose trails it stands. That it would have applied, had the rung's turn come, is
    nothing; nor is a rung that was forced past. A report without any has no such section."""
    assert "Incompatible rungs" not in markdown(report, CHAINS)
    run_id = runs.start(database, "another flow run", "items.jsonl", {}, BEGAN)
    catalogue.register(database, run_id, [Item(id=id_, name=id_) for id_ in "abcd"])
    guess, name = (StepError.of(Incompatible(str(rule))) for rule in RULES)
    barred, past = AttemptOutcome.INCOMPATIBLE, AttemptOutcome.FORCED_PAST
    trails = {
        "a": [Attempt(rung="text_and_label", outcome=barred, error=guess)],
        "b": [
            Attempt(rung="text_and_label", outcome=barred, error=guess),
            Attempt(rung="hashed", outcome=barred, error=name),
        ],
        "c": [Attempt(rung="text_and_label", outcome=past, error=StepError(type="Forced", message="by hand"))],
        "d": [],
    }
    down = {"status": Status.DEGRADED, "run_id": run_id, "finished_at": BEGAN}
    results.save(
        database,
        [
            *(StepResult(item_id=id_, stage="extract_text", rung="name_only", **down) for id_ in trails),
            *(StepResult(item_id=id_, stage="classify_image", rung="rules", **down) for id_ in trails),
            *(
                StepResult(item_id=id_, stage="embed_text", rung="text_only", attempts=tuple(trail), **down)
                for id_, trail in trails.items()
            ),
        ],
    )
    page = markdown(build_report(database, runs.find(database, run_id), STAGE_NAMES), CHAINS)
    assert "## Incompatible rungs\n\n| rule | items |\n| --- | ---: |\n" in page
    rows = [line for line in page.splitlines() if "does not go with" in line]
    assert [row.rpartition(" | ")[2] for row in rows] == ["2 |", "1 |"]
    assert "a guessed label would poison the vector" in rows[0]
    assert "a hash of a bare name only repeats the keyword index" in rows[1]


def test_the_outside_form(report: Report) -> None:
    """`run --json` has the documented keys, and its counts add up."""
    outside = report.as_json()
    assert set(outside) >= {
        *("run_id", "items", "stored", "failed", "degraded", "mean_quality"),
        *("quality", "stages", "rungs", "queued", "seconds"),
    }
    assert (outside["items"], outside["stored"], outside["failed"], outside["degraded"]) == (5, 3, 1, 1)
    assert outside["quality"] == {"1.0": 2, "0.63": 1}
    assert outside["seconds"] == 12.346
    assert set(outside["stages"]) == set(STAGE_NAMES)
    assert {sum(counts.values()) for counts in outside["stages"].values()} == {5}
    assert outside["rungs"]["classify_image"] == {"gpu": 2, "cpu": 1}


def test_what_the_manifest_s_reading_said_is_in_every_form(report: Report, database: Database) -> None:
    """On the page, on the terminal, and in `run --json`."""
    assert report.as_json()["notes"] == []
    line = "items.csv: 1 row has fewer cells than the first line (line 3), and nothing for 'image' (1)"
    runs.finish(database, report.run.id, BEGAN + timedelta(seconds=12), [line])
    told = build_report(database, runs.find(database, report.run.id), STAGE_NAMES)
    assert told.as_json()["notes"] == [line]
    assert "## Notes\n\n- items.csv: 1 row has fewer cells" in markdown(told, CHAINS)
    assert "1 row has fewer cells than the first line (line 3)" in shown(run_summary(told))


def test_markdown_has_its_parts(report: Report) -> None:
    """A headline, a chart, both tables with every stage, and the items worth a look."""
    text = markdown(report, CHAINS)
    assert text.startswith("# 3 of 5 items stored")
    assert "![Items by quality](data:image/png;base64,iVBOR" in text
    for heading in ("## Stages by status", "## Stages by rung", "## Lowest quality", "## Failed"):
        assert heading in text
    assert "| classify_image | gpu **2** · cpu **1** · rules · skip |" in text
    assert "Source items.jsonl · 12.3 s · `emulated`, `force embed_text=hashed`\n" in text


def test_tables_are_whole_whatever_items_are_called(report: Report) -> None:
    """Every row of a table has as many cells as its head."""
    rows = [line for line in markdown(report, CHAINS).splitlines() if line.startswith("|")]
    cells = [plain(line).count("|") for line in rows]
    assert cells == [9] * 8 + [3] * 8 + [5] * 3 + [5] * 3


def test_nothing_in_a_name_is_acted_on(report: Report) -> None:
    """No markup of a name or an error reaches the page: no picture is loaded, no link made."""
    [row] = [line for line in markdown(report, CHAINS).splitlines() if line.startswith("| fallen")]
    assert not set("<>[]`*&\\") & set(plain(row.replace("<br>", "")))
    assert "a\\|b" in row and "\\<b\\>" in row and "http\\://evil" in row


def plain(line: str) -> str:
    """The line without what is escaped in it."""
    return re.sub(r"\\.", "", line)


def test_a_report_of_nothing_is_a_report(database: Database) -> None:
    """A run whose items are all pending has no mean, no lists, and a chart."""
    run_id = runs.start(database, "flow run", "items.jsonl", {}, BEGAN)
    catalogue.register(database, run_id, [Item(id="a", name="n")])
    report = build_report(database, runs.find(database, run_id), STAGE_NAMES)
    assert str(report) == "0 of 1 items stored, no mean quality, 0 degraded, 0 failed, 1 pending"
    assert report.seconds == 0
    assert "## Failed" not in markdown(report, CHAINS)


def test_few_are_named(database: Database) -> None:
    """A run of a thousand failures names some of them, and counts all."""
    run_id = runs.start(database, "flow run", "items.jsonl", {}, BEGAN)
    ids = [f"{number:04}" for number in range(1000)]
    catalogue.register(database, run_id, [Item(id=id_) for id_ in ids])
    failed = {"status": Status.FAILED, "error": StepError(type="E", message="x" * 5000), "finished_at": BEGAN}
    results.save(database, [StepResult(item_id=id_, stage="validate", run_id=run_id, **failed) for id_ in ids])
    report = build_report(database, runs.find(database, run_id), STAGE_NAMES)
    assert (len(report.failed), report.tally.failed) == (MAX_LISTED_ITEMS, 1000)
    assert len(markdown(report, CHAINS)) < 60_000


@pytest.mark.parametrize(
    ("quality", "failed", "bars"), [({}, 0, 1), ({1.0: 3}, 0, 1), ({0.9: 1, 0.63: 1, 1.0: 1}, 7, 4)]
)
def test_the_chart_is_a_picture(quality: dict[float, int], failed: int, bars: int) -> None:
    """A bar for each quality and one for the failed; with nothing to show it is empty and still a PNG."""
    chart = Image.open(BytesIO(quality_chart(quality, failed)))
    assert chart.format == "PNG"
    assert chart.height == pytest.approx(110 * (0.9 + 0.38 * bars), abs=2)


@pytest.mark.parametrize(("quality", "same_as"), [(1.0, 1.0), (0.95, 0.9), (0.9, 0.9), (0.85, 0.8), (0.72, 0.1)])
def test_a_quality_has_the_colour_of_its_range(quality: float, same_as: float) -> None:
    """Whole, good, fair, and below the threshold of the queue."""
    assert colour(quality) == colour(same_as)
    assert len({colour(value) for value in (1.0, 0.9, 0.8, 0.1)}) == 4


def test_the_terminal_shows_a_run(report: Report) -> None:
    """The line, both tables, and why items fell or failed; names are not taken for markup."""
    page = shown(run_summary(report))
    assert "3 of 5 items stored" in page
    assert "gpu 2 · cpu 1" in page
    assert "validate → basic: no name" in page
    assert "classify_image → cpu: no device | a|b`c`<b>" in page


def test_the_terminal_shows_a_store(database: Database, report: Report) -> None:
    """Counts, where they are from, and the last run."""
    page = shown(overview_page(database, report.tally, report.run, database.now(), OutdatedTally()))
    assert "5 items: 3 stored, 1 failed, 1 pending, mean quality 0.877, expected accuracy 0.600" in page
    assert "last run: items.jsonl, started 2026-11-23 03:00:00, ended 2026-11-23 03:00:12 (UTC)" in page


@pytest.mark.parametrize("item_id", ["whole", "fallen", "failed", "pending"])
def test_the_terminal_shows_an_item(database: Database, report: Report, item_id: str) -> None:
    """Every stage with its status, the trail, and the reasons in full."""
    view = lookup.view(database, item_id, STORED)
    assert view is not None
    page = shown(item_page(view))
    assert all(stage in page for stage in STAGE_NAMES)
    if item_id == "fallen":
        assert "gpu unavailable → cpu served" in page
        assert "classify_image is degraded: no device" in page


def test_the_terminal_names_the_card_that_an_item_ran_on(database: Database, report: Report) -> None:
    """The trail says where an attempt ran, unless that was a processor, as almost everything does."""
    attempts = (
        Attempt(rung="gpu", outcome=AttemptOutcome.FAILED, where="node7/cuda:1"),
        Attempt(rung="cpu", outcome=AttemptOutcome.SERVED, where="node7/cpu"),
    )
    ran = StepResult(item_id="fallen", stage="classify_image", status=Status.DEGRADED, attempts=attempts)
    view = lookup.view(database, "fallen", STORED)
    assert view is not None
    page = shown(item_page(replace(view, stages={"classify_image": ran})))
    assert "gpu failed (node7/cuda:1) → cpu served" in page
    assert "node7/cpu" not in page


def test_moves_and_notes_are_told(report: Report, database: Database) -> None:
    """The report and the terminal name every breaker that moved during the run, why, and what else there is to note."""
    during = BEGAN + timedelta(seconds=5)
    breaker = declared_breakers()["classify_image.gpu"]
    for when, token in ((BEGAN - timedelta(hours=1), "a"), (during, "b"), (BEGAN + timedelta(hours=1), "c")):
        order = Cause.FORCED_OPEN if token == "b" else Cause.RESET
        breakers.override(
            database, breaker, Key("classify_image.gpu"), Cause.FORCED_CLOSED, clock=lambda _, at=when: at
        )
        breakers.override(database, breaker, Key("classify_image.gpu"), order, clock=lambda _, at=when: at)
    for failure in range(breaker.failures):
        event = CallEnded(f"{failure}", Verdict.FAILED, why=NASTY)
        breakers.apply(database, breaker, Key("classify_image.gpu", "host|1"), event, clock=lambda _: during)
    runs.finish(database, report.run.id, BEGAN + timedelta(seconds=12), ["the store was away", NASTY])
    told = build_report(database, runs.find(database, report.run.id), STAGE_NAMES)
    assert [(move.old, move.new) for move in told.moves] == [
        (Position.CLOSED, Position.FORCED_CLOSED),
        (Position.FORCED_CLOSED, Position.FORCED_OPEN),
        (Position.CLOSED, Position.OPEN),
    ]
    page = markdown(told, CHAINS)
    assert "- the store was away\n" in page
    assert "| 03:00:05 | classify\\_image.gpu@host\\|1 | closed | open | too many failures | a\\|b" in page
    assert "\n# head" not in page
    seen = shown(run_summary(told))
    assert "the store was away" in seen
    assert "closed → open" in seen


def test_many_moves_are_cut_to_the_last(report: Report, database: Database) -> None:
    """A breaker that moves all night does not fill the report; the rest is counted."""
    breaker = declared_breakers()["classify_image.gpu"]
    for number in range(60):
        order = Cause.FORCED_OPEN if number % 2 else Cause.FORCED_CLOSED
        breakers.override(database, breaker, Key("classify_image.gpu"), order, clock=lambda _: BEGAN)
    page = markdown(build_report(database, report.run, STAGE_NAMES), CHAINS)
    assert "10 earlier moves are in the store" in page
    assert page.count("| 03:00:00 |") == 50
