"""The questions of a drill in a real browser: a click answers, and no other site can."""

from __future__ import annotations

import json
import signal
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.sync_api import Page, expect

from repli.flows.server.ports import find_free_port
from repli.tasks.drill.questions import Question, Said
from repli.tasks.drill.verdict import DrillVerdict
from repli.tasks.execution.stage_runner import input_hash_of
from repli.tasks.settings import Settings
from repli.tasks.storage import drills, labels, results
from repli.tasks.storage.database import Database
from tests.support import files
from tests.support.browser import open_page, wait_for_dashboard
from tests.support.command_line import command, environment
from tests.support.default_pipeline import PIPELINE
from tests.support.in_process import enrich

pytest.importorskip("streamlit", reason="the extra `dashboard` is not installed")
pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 60
SHOWN = 30_000
NOW = datetime(2026, 11, 27, tzinfo=UTC)
IDS = ("fish", "bird", "page")
PROPOSAL = {
    "rung": "classify_image.cpu",
    "declared": 0.9,
    "proposed": 0.97,
    "relative_accuracy": 1.0,
    "relative_interval": [0.97, 1.03],
    "set": "Enrichment Policy: chains.classify_image.cpu = 0.97",
}
HOSTILE = "[tench](javascript:alert(1)) **now**"


@dataclass(frozen=True)
class Served:
    """A dashboard that is up, and the store that it shows."""

    url: str
    database: Database

    def at(self, **query: str) -> str:
        return f"{self.url}?{urlencode(query)}"

    def labels(self) -> dict[str, dict[str, object]]:
        """What people have said, by item."""
        return {label.item_id: dict(label.value) for label in labels.of_items(self.database, IDS).values()}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A dashboard of three items, about each of which the last drill asks a question."""
    lines = []
    for number, item_id in enumerate(IDS):
        (tmp_path / f"{item_id}.png").write_bytes(files.png(number))
        (tmp_path / f"{item_id}.txt").write_text(f"All that there is to say of the {item_id}, and no more.")
        lines.append({"id": item_id, "name": item_id, "image": f"{item_id}.png", "document": f"{item_id}.txt"})
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = Settings.from_environment({"REPLI_HOME": str(tmp_path / "home"), "REPLI_GPU_DEVICE": "cpu"})
    enrich(settings, tmp_path / "items.jsonl")
    database = Database(settings.database_url)
    asked = [
        question(database, "fish", "classify_image", [("gpu", "tench"), ("cpu", "goldfish")], tells=0.9),
        question(database, "bird", "classify_image", [("gpu", HOSTILE), ("cpu", "hen")], tells=0.8),
        question(database, "page", "extract_text", [("full", "All that there is"), ("plain", "Menu. All")], tells=0.7),
    ]
    verdict = DrillVerdict(sample=3, rungs=[], rules=[], questions=asked, proposals=[PROPOSAL])
    drills.keep(database, None, NOW, NOW, verdict.as_json())
    port = find_free_port()
    lax = {"STREAMLIT_SERVER_ENABLE_CORS": "false", "STREAMLIT_SERVER_ENABLE_XSRF_PROTECTION": "false"}
    process = subprocess.Popen(
        command("dashboard", "--port", str(port)),
        env={**environment(tmp_path / "home"), **lax},
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_for_dashboard(url, process)
        yield Served(url, database)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
        database.engine.dispose()


def question(database: Database, item_id: str, stage: str, said: list[tuple[str, str]], *, tells: float) -> Question:
    [state] = results.load(database, [item_id])
    return Question(
        item_id=item_id,
        stage=stage,
        kind="label" if stage == "classify_image" else "rung",
        input_hash=str(input_hash_of(PIPELINE, stage, state)),
        said=[Said(rung=rung, answer=answer, key=answer, confidence=0.5) for rung, answer in said],
        vocabulary="imagenet-1k" if stage == "classify_image" else "",
        tells=tells,
        name=item_id,
        text=None,
        image=None,
        document=None,
    )


def asked_about(page: Page, item_id: str) -> None:
    """Wait until the page asks about an item, and about no other: what was asked before leaves it later."""
    expect(page.locator("#repli-question")).to_have_count(1, timeout=SHOWN)
    expect(page.locator("#repli-question", has_text=item_id)).to_have_count(1, timeout=SHOWN)


def click(page: Page, text: str) -> None:
    page.get_by_role("button", name=text, exact=True).click()


def test_a_click_answers_and_the_next_question_is_asked(served: Served) -> None:
    """By a candidate, by a label that no rung said, by the rung of a text; a wrong label says what is meant."""
    with open_page() as page:
        page.goto(served.url)
        link = page.locator("#repli-questions")
        expect(link).to_have_text("Decide 3 disagreements →", timeout=SHOWN)
        expect(page.locator(".repli-notice")).to_contain_text(
            "block Enrichment Policy: chains.classify_image.cpu = 0.97"
        )
        link.click()
        asked_about(page, "fish")
        expect(page.locator('[data-testid="stImage"] img')).to_be_visible(timeout=SHOWN)
        click(page, "goldfish")
        asked_about(page, "bird")
        assert served.labels() == {"fish": {"label": "goldfish"}}
        as_it_is = page.get_by_role("button", name=HOSTILE, exact=True)
        expect(as_it_is).to_have_count(1, timeout=SHOWN)  # and no link
        another = page.get_by_label("Another label")
        expect(another).to_have_count(1, timeout=SHOWN)  # that of the question before goes as the page is drawn
        another.fill("ostrisch")
        click(page, "Keep it")
        expect(page.locator(".repli-notice")).to_contain_text("did you mean ostrich", timeout=SHOWN)
        expect(another).to_have_count(1, timeout=SHOWN)
        another.fill("Ostrich")
        click(page, "Keep it")
        asked_about(page, "page")
        click(page, "Later")
        expect(page.get_by_text("You have put off the others.")).to_be_visible(timeout=SHOWN)
        click(page, "Show them again")
        asked_about(page, "page")
        click(page, "full")
        expect(page.get_by_text("All 3 questions are answered.")).to_be_visible(timeout=SHOWN)
        page.goto(served.url)
        expect(link).to_have_text("All disagreements are decided →", timeout=SHOWN)
    said = served.labels()
    assert said["bird"] == {"label": "ostrich"}
    assert said["page"]["rungs"] == ["full"]


def test_no_address_answers_and_no_other_site(served: Served) -> None:
    """A link with an answer in it only shows the page. The connection that carries a click is refused to pages of
    another site, also where the user's configuration would allow it."""
    with open_page() as page:
        page.goto(served.at(questions="1", item_id="fish", answer="tench", label="tench"))
        asked_about(page, "fish")
    assert served.labels() == {}
    assert connects(served, served.url.rstrip("/")) == HTTPStatus.SWITCHING_PROTOCOLS
    assert connects(served, "http://shop.example") == HTTPStatus.FORBIDDEN


def connects(served: Served, origin: str) -> int:
    """The answer to a page of this origin that asks for the connection that carries clicks."""
    connection = HTTPConnection(str(urlsplit(served.url).netloc), timeout=PATIENCE_S)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": b64encode(bytes(16)).decode()}
    with closing(connection):
        connection.request("GET", "/_stcore/stream", headers={**upgrade, **key, "Origin": origin})
        with connection.getresponse() as answer:
            return answer.status


def test_a_question_about_a_forgotten_item_is_put_off(served: Served) -> None:
    """The page says so, and goes on to the next."""
    report = dict(drills.latest(served.database, 1)[0].report)
    gone = replace(Question.from_json(report["questions"][0]), item_id="gone", tells=1.0)
    report["questions"] = [gone.as_json(), *report["questions"]]
    later = datetime(2026, 11, 28, tzinfo=UTC)
    drills.keep(served.database, None, later, later, report)
    with open_page() as page:
        page.goto(served.at(questions="1"))
        asked_about(page, "gone")
        expect(page.locator(".repli-notice")).to_contain_text("is not in the store any more", timeout=SHOWN)
        click(page, "Later")
        asked_about(page, "fish")
