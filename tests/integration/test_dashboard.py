"""The dashboard in a real browser, on a store that a bad night left, by the command that starts it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect

from repli.flows.server.ports import find_free_port
from repli.tasks.fallback.breaker import Cause
from repli.tasks.items import Item
from repli.tasks.storage import breakers, catalogue, counts, drills, runs
from repli.tasks.storage.blobs import Blobs
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry import retry_queue
from repli.tasks.storage.views import lookup
from tests.support.browser import open_page, picture, wait_for_dashboard
from tests.support.command_line import Repli, command, environment
from tests.support.dashboard_store import GPU, HOSTILE_ID, HOSTILE_NAME, HOSTILE_TEXT, PHOTO, make
from tests.support.default_pipeline import STAGE_NAMES, STORED, declared_breakers

pytest.importorskip("streamlit", reason="the extra `dashboard` is not installed")
pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 60
REFRESHED = 30_000
CUT_OFF = """tiles => tiles.flatMap(tile => [...tile.querySelectorAll('*')])
    .filter(part => part.clientWidth > 0 && part.scrollWidth > part.clientWidth).map(part => part.textContent)"""
"""What of the tiles is cut off, since its tile is too narrow."""


@dataclass(frozen=True)
class Served:
    """A dashboard that is up, and the store that it shows."""

    url: str
    database: Database
    blobs: Blobs

    def at(self, **query: str) -> str:
        return f"{self.url}?{urlencode(query)}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One dashboard for all tests; Ctrl-C ends it."""
    folder = tmp_path_factory.mktemp("dashboard")
    database = make(folder / "home", folder / "items")
    port = find_free_port()
    process = subprocess.Popen(
        command("dashboard", "--port", str(port)), env=environment(folder / "home"), stdout=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_for_dashboard(url, process)
        yield Served(url, database, Blobs(folder / "home" / "blobs"))
    finally:
        process.send_signal(signal.SIGINT)
        ended = process.wait(PATIENCE_S)
    assert ended == 0
    database.engine.dispose()


@contextmanager
def watched_page() -> Iterator[Page]:
    """A page that talks to this machine alone, and whose scripts raise nothing."""
    with open_page() as page:
        hosts: set[str | None] = set()
        raised: list[str] = []
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.on("pageerror", lambda error: raised.append(str(error)))
        yield page
        assert (hosts - {"127.0.0.1", None}, raised) == (set(), [])


def rows(page: Page, name: str) -> list[list[str]]:
    """What a table says, cell by cell."""
    page.wait_for_selector(f"#repli-{name} tbody tr", state="attached")
    found = page.locator(f"#repli-{name} tbody tr").all()
    return [[cell.text_content() or "" for cell in row.locator("td").all()] for row in found]


def tiles(page: Page) -> dict[str, str]:
    """The counts at the top."""
    expect(page.get_by_test_id("stMetricLabel").last).to_have_text("expected accuracy", timeout=REFRESHED)
    return {
        (tile.locator('[data-testid="stMetricLabel"]').text_content() or ""): (
            tile.locator('[data-testid="stMetricValue"]').text_content() or ""
        ).strip()
        for tile in page.locator('[data-testid="stMetric"]').all()
    }


def test_the_whole_store_is_shown(served: Served) -> None:
    """Every number is that of the store: items, stages, rungs, breakers, queue, drills, and what is lowest."""
    tally = counts.tally(served.database, STAGE_NAMES)
    queued = retry_queue.entries(served.database, 10)
    with watched_page() as page:
        page.goto(served.url)
        shown = rows(page, "lowest")
        assert tiles(page) == {
            "items": str(tally.items),
            "stored": str(tally.stored),
            "degraded": str(tally.degraded),
            "failed": str(tally.failed),
            "pending": "0",
            "in the queue": str(retry_queue.tally(served.database).waiting),
            "mean quality": f"{tally.mean_quality:.3f}",
            "expected accuracy": f"{tally.mean_expected_accuracy:.3f}",
            "declined": str(sum(tally.declined.values())),
        }
        assert page.get_by_test_id("stMetric").evaluate_all(CUT_OFF) == []
        assert tally.failed > 0 < tally.degraded < tally.stored
        page.wait_for_function("document.querySelectorAll('[data-testid=stVegaLiteChart] svg.marks').length === 7")
        picture(page, "dashboard", height=2150)
        order = ("pending", "succeeded", "degraded", "skipped", "not_applicable", "failed", "not_reached")
        assert any("not_reached" in counts for counts in tally.shown_stages.values())
        for stage, *numbers, rungs in rows(page, "stages"):
            shown_counts = [tally.shown_stages[stage].get(status, 0) for status in order]
            assert [int(number) for number in numbers] == [*shown_counts, tally.declined.get(stage, 0)]
            assert dict(re.findall(r"(\w+) (\d+)", rungs)) == {
                rung: str(count) for rung, count in tally.rungs[stage].items()
            }
        assert [row[0] for row in rows(page, "stages")] == list(STAGE_NAMES)
        states = {row[0]: row[1] for row in rows(page, "breakers")}
        assert states == {name: "forced open" if name == GPU else "closed" for name in declared_breakers()}
        assert [row[1:4] for row in rows(page, "moves")] == [
            [GPU, "closed → forced open", "forced open"],
            [GPU, "forced open → closed", "reset"],
            [GPU, "closed → forced open", "forced open"],
        ]
        assert [row[0] for row in rows(page, "waiting")] == ["HIGH", "LOW"]
        assert sum(int(row[2]) for row in rows(page, "waiting")) == retry_queue.tally(served.database).waiting
        assert [row[0] for row in rows(page, "queue")] == [entry.item_id for entry in queued]
        assert [row[1:] for row in rows(page, "drills")] == [
            ["passed", "13 of 14", "", "classify_image.gpu"],
            ["failed", "13 of 14", "store.database: it was never reached", ""],
        ]
        last = drills.latest(served.database, 1)[0].report["rungs"]
        assert [row[0] for row in rows(page, "drill")] == [f"{rung['stage']}.{rung['rung']}" for rung in last]
        assert [(row[0], row[-1]) for row in rows(page, "drill") if row[1] == "not covered"] == [
            (GPU, "there is no CUDA device here")
        ]
        found = lookup.lowest(served.database, None, 10)
        assert [(name, float(quality)) for name, quality, _ in shown] == [
            (one.name, pytest.approx(one.quality, abs=1e-3)) for one in found
        ]


def test_a_search_finds_and_leads_to_an_item(served: Served) -> None:
    """What is typed into the box is looked for; a hit says its quality, and is one click from its page."""
    with watched_page() as page:
        page.goto(served.url)
        page.get_by_label("Search", exact=True).first.fill("beverage brewed from roasted beans")
        page.get_by_role("button", name="Search").click()
        page.wait_for_selector(".repli-hit", timeout=PATIENCE_S * 1000)
        first = page.locator(".repli-hit").first
        assert "Coffee" in (first.text_content() or "")
        assert page.locator(".repli-hit mark").count() > 0
        first.locator("a").click()
        page.wait_for_selector("#repli-attempts")
        assert "coffee" in (page.locator("#repli-item").text_content() or "")


def test_an_item_is_shown_whole(served: Served) -> None:
    """Its picture, text and label, what each stage left, and every rung that was considered."""
    view = lookup.view(served.database, PHOTO, STORED)
    assert view
    with watched_page() as page:
        page.goto(served.at(item=PHOTO))
        attempts = rows(page, "attempts")
        page.wait_for_function("[...document.querySelectorAll('img')].some(one => one.naturalWidth > 30)")
        picture(page, "dashboard-item", height=1250)
        assert page.locator("#repli-text").text_content() == view.state.value("extract_text")["text"][:5000]
        label = view.state.value("classify_image")["label"]
        assert page.locator("#repli-label").text_content() == (label or "unknown")
        assert [row[:3] for row in rows(page, "steps")] == [
            [stage, str(step.status).replace("_", " "), step.rung or ""] for stage, step in view.stages.items()
        ]
        assert [row[:3] for row in attempts] == [
            [stage, attempt.rung, str(attempt.outcome)]
            for stage, step in view.stages.items()
            for attempt in step.attempts
        ]


def test_a_picture_that_is_gone_is_told(served: Served) -> None:
    """In its place; the rest of the item's page is as it was."""
    view = lookup.view(served.database, PHOTO, STORED)
    assert view
    blob = served.blobs.path(view.state.value("fetch")["image"]["sha256"])
    put_away = blob.rename(blob.with_suffix(".away"))
    try:
        with watched_page() as page:
            page.goto(served.at(item=PHOTO))
            expect(page.get_by_text("The image cannot be shown: ")).to_be_visible(timeout=REFRESHED)
            assert len(rows(page, "steps")) == len(STAGE_NAMES)
    finally:
        put_away.rename(blob)


def test_what_a_catalogue_says_is_only_text(served: Served) -> None:
    """A name, a text, an id and an error that mean harm are shown letter by letter, wherever they are."""
    with watched_page() as page:
        page.goto(served.at(item=HOSTILE_ID))
        assert ["embed_text", "text_only", "forced_past"] in [row[:3] for row in rows(page, "attempts")]
        assert page.locator(".repli-name").text_content() == HOSTILE_NAME
        assert page.locator("#repli-text").text_content() == HOSTILE_TEXT
        assert "<b>gone</b>.png" in str(rows(page, "steps"))
        page.goto(served.url)
        assert HOSTILE_NAME in [row[0] for row in rows(page, "lowest")]
        page.goto(served.at(q="harmful shout", mode="keyword"))
        page.wait_for_selector(".repli-hit")
        assert page.locator(".repli-hit a").first.text_content() == HOSTILE_NAME
        assert page.title() == "Repli"
        assert page.locator("main :is(script, .katex, b), img[src=x], a[href^=javascript]").count() == 0


def test_what_cannot_be_shown_is_told(served: Served) -> None:
    """By the name that was asked for, as text, or with what to do; there is no traceback."""
    with watched_page() as page:
        page.goto(served.at(item="<b>nobody</b>"))
        expect(page.get_by_role("alert")).to_have_text("There is no item '<b>nobody</b>' in this store.")
        page.goto(served.at(item="\0"))
        expect(page.get_by_role("alert")).to_contain_text("There is no item")
        page.goto(served.at(q="tea", mode="<b>"))
        expect(page.get_by_role("alert")).to_contain_text("choose from hybrid, keyword, vector")
        page.goto(served.at(q="!?", mode="keyword"))
        expect(page.get_by_role("alert")).to_contain_text("there is no word in '!?'; give one")


@pytest.mark.campaign
def test_an_open_page_follows_the_store(served: Served) -> None:
    """Of a run that begins, and a breaker that is let go, an open page tells by itself."""
    with watched_page() as page:
        page.goto(served.url)
        items = int(tiles(page)["items"])
        run_id = runs.start(served.database, "a flow run", "new.jsonl", {}, datetime.now(UTC))
        catalogue.register(served.database, run_id, [Item(id="new", name="new")])
        breakers.override(served.database, declared_breakers()[GPU], Key(GPU), Cause.RESET)
        expect(page.get_by_text("running: enrich of new.jsonl")).to_be_visible(timeout=REFRESHED)
        expect(page.locator("#repli-breakers")).not_to_contain_text("forced open", timeout=REFRESHED)
        shown = tiles(page)
        assert (shown["items"], shown["pending"]) == (str(items + 1), "1")


def test_without_a_store_there_is_nothing_to_show(repli: Repli, home: Path) -> None:
    """The command says how to make one, and makes none."""
    done = repli("dashboard")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("make one with `repli run SOURCE`\n")
    assert not (home / "repli.db").exists()


def test_a_store_of_an_older_repli_is_left_as_it_is(repli: Repli, store: Database) -> None:
    """The dashboard writes nothing: it says which command brings the store up to date."""
    store.migrate()
    with store.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0005'"))
    done = repli("dashboard")
    assert (done.returncode, store.version()) == (1, "0005")
    assert "was made by an older Repli; run `repli status` to migrate it" in done.stderr
    store.engine.dispose()


def test_a_port_that_is_taken_is_told(repli: Repli, store: Database) -> None:
    """With what to do about it."""
    store.migrate()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = repli("dashboard", "--port", str(port))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"port {port} is in use; choose another with --port" in done.stderr
    store.engine.dispose()


def test_without_the_extra_it_is_named(repli: Repli, store: Database, tmp_path: Path) -> None:
    """Where Streamlit is not installed."""
    store.migrate()
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['streamlit'] = None\n")
    done = repli("dashboard", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "repli: the dashboard needs Streamlit; install it with `pip install 'repli[dashboard]'`\n"
    store.engine.dispose()
