"""The examples of `docs/examples` work as a user runs them: by `repli`, in their folder. Only the far end is a fake."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from repli.tasks.items import Text
from tests.support import ROOT
from tests.support.chat_server import ChatServer, Reply
from tests.support.command_line import environment
from tests.support.preloaded import Preloaded, Shop
from tests.support.server_logs import ServerLogs
from tests.support.servers import standing_cluster

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("no_server_errors")]

EXAMPLES = ROOT / "docs" / "examples"
SHOWN = [
    line.removeprefix("    ")
    for line in (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("    ")
]
"""What the README shows of commands and of what they print."""
MAX_LINES = 60


def read_lines(path: Path) -> dict[str, Any]:
    """The records of a JSONL file, by id."""
    return {one["id"]: one for one in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


TICKETS = read_lines(EXAMPLES / "tickets.jsonl")
MODEL = {
    "T-1042": "billing",
    "T-1043": "delivery",
    "T-1044": "account",
    "T-1045": "billing",
    "T-1046": "delivery",
    "T-1047": "account",
    "T-1048": "billing",
    "T-1049": "delivery",
    "T-1050": "account",
    "T-1051": "billing",
    "T-1052": "other",
    "T-1053": "other",
}
"""The queue of each ticket, as the language model answers."""
BY_WORDS = {"T-1048", "T-1051"}
SKIPPED = {"T-1052", "T-1053"}
PENALTY = {"classifier": 0.75, "words": 0.6, "skip": 0.4}
"""Without the model, key words serve two tickets, nothing serves two, and the classifier serves all others."""
WORKERS_AT_MOST = 8


def rung_without_model(ticket: str) -> str:
    return "words" if ticket in BY_WORDS else "skip" if ticket in SKIPPED else "classifier"


def sorts(question: str) -> Reply:
    """A model that knows the queue of each ticket, and writes as models do."""
    [ticket] = [id_ for id_, ticket in TICKETS.items() if ticket["body"] in question]
    return f" {MODEL[ticket].capitalize()}.\n"


def talks(question: str) -> Reply:
    """A model that does not do what it is asked."""
    return "As a language model, I cannot help you with that. Have you tried to turn it off and on again?"


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatServer]:
    """A language model. Each test says whether it is up, and how it answers."""
    chat = ChatServer(sorts)
    yield chat
    chat.close()


@pytest.fixture(scope="module")
def cluster(
    chat: ChatServer, tmp_path_factory: pytest.TempPathFactory, server_logs: ServerLogs
) -> Iterator[dict[str, str]]:
    """The environment that names a Prefect server, and a Dask cluster whose workers know the language model."""
    server_logs.watch(folder := tmp_path_factory.mktemp("cluster"))
    with standing_cluster(folder, **chat.variables) as variables:
        yield {**environment(folder), **variables, "REPLI_PIPELINE": ""}  # the examples choose their own


@pytest.fixture(scope="module")
def forker(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    """Begins commands on the cluster without the seconds that they take to import what they need."""
    with Preloaded(cluster, tmp_path_factory.mktemp("commands")) as forker:
        yield forker


@pytest.fixture
def shop(forker: Preloaded, chat: ChatServer, tmp_path: Path) -> Iterator[Shop]:
    """Commands in the folder of the examples, on a store of the test's own, beside a model that is up and sorts."""
    chat.reply, chat.questions = sorts, []
    chat.start()
    yield Shop(forker, tmp_path / "home", EXAMPLES)
    chat.stop()


@pytest.fixture
def tickets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the example, to try its stages in this process."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("tickets")


def shown(shop: Shop) -> dict[str, Any]:
    """What `export` writes of each ticket, by id."""
    path = shop.home / "tickets.jsonl"
    assert shop.json("export", path, "--overwrite")["items"] == len(TICKETS)
    return read_lines(path)


def labels(items: dict[str, Any]) -> dict[str, str]:
    return {id_: (item["stages"]["queue"]["value"] or {}).get("label") for id_, item in items.items()}


@pytest.mark.parametrize("name", ["tickets", "translate"])
def test_an_example_is_short(name: str) -> None:
    """An example is one file that fits a page or two."""
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_model_sorts_every_ticket(shop: Shop, chat: ChatServer, cluster: dict[str, str]) -> None:
    """The command that the README shows, typed in the folder of the examples: the model is asked once about each
    ticket, and `show`, `status`, `search` and `export` know the queues and the texts. A drill passes."""
    [typed] = [line for line in SHOWN if line.startswith("repli run ")]
    done = subprocess.run(
        [Path(sys.executable).with_name("repli"), *typed.split()[1:], "--json"],
        cwd=EXAMPLES,
        env={**cluster, "REPLI_HOME": str(shop.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["stored"], report["degraded"], report["quality"]) == (12, 0, {"1.0": 12})
    assert report["rungs"]["queue"] == {"model": 12}
    assert sorted(chat.questions) == sorted(set(chat.questions))
    assert len(chat.questions) == len(TICKETS)

    item = shop.json("show", "T-1045")
    assert (item["name"], item["quality"], item["degraded"]) == ("Invoice for March", 1, [])
    assert list(item["stages"]) == ["message", "queue", "store"]
    assert item["stages"]["queue"]["value"]["label"] == "billing"
    assert item["stages"]["message"]["value"]["text"].startswith("Invoice for March\n\nOur accountant needs")
    assert shop.json("status")["stages"] == {stage: {"succeeded": 12} for stage in ("message", "queue", "store")}
    hits = shop.json("search", "accountant VAT", "--mode", "keyword")["hits"]
    assert (hits[0]["id"], hits[0]["quality"]) == ("T-1045", 1)
    exported = shown(shop)
    assert labels(exported) == MODEL
    assert exported["T-1042"]["attributes"]["customer"] == "anna@example.com"

    drill = shop.json("drill")
    assert (drill["verdict"], drill["rungs_declared"], drill["rungs_reached"]) == ("passed", 6, 6)
    words = next(rung for rung in drill["rungs"] if rung["rung"] == "words")
    assert words["note"].startswith("it declined 9 of 12 items")


@pytest.mark.campaign
def test_an_outage_and_what_heals_it(shop: Shop, chat: ChatServer) -> None:
    """While connections are refused, each ticket is sorted as well as it can be, at a known quality and with the
    reason. The breaker opens: the model is called for its five failures, and the calls in flight. A drill says that the
    model is not covered. Once the model is back, it is asked once about each ticket, and all are whole."""
    chat.stop()
    done = shop.repli("run", "tickets.jsonl", "--pipeline", "tickets:pipeline", "--batch-size", "1")
    assert done.returncode == 0, done.stderr
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    table = [line for line in SHOWN if line.startswith(" ")]
    assert [line for line in printed if line in table] == table
    items = shown(shop)
    for id_, item in items.items():
        result, rung = item["stages"]["queue"], rung_without_model(id_)
        assert (result["rung"], item["quality"], item["degraded"]) == (rung, PENALTY[rung], ["queue"])
        assert result["retryable"]
    classified = {id_ for id_ in items if rung_without_model(id_) == "classifier"}
    assert labels(items) == {id_: None if id_ in SKIPPED else label for id_, label in MODEL.items()}
    reasons = [items[id_]["stages"]["queue"]["error"]["message"] for id_ in classified]
    assert all("Connection refused" in reason for reason in reasons)

    outcomes = Counter(item["stages"]["queue"]["attempts"][0]["outcome"] for item in items.values())
    assert outcomes.keys() == {"unavailable", "refused"}
    [breaker] = shop.json("breakers")
    assert (breaker["name"], breaker["state"]) == ("queue.model", "open")
    assert 5 <= outcomes["unavailable"] < 5 + WORKERS_AT_MOST
    assert shop.json("search", "parcel")["hits"][0]["quality"] == PENALTY["classifier"]

    drill = shop.json("drill")
    assert (drill["verdict"], drill["not_covered"]) == ("passed", ["queue.model"])

    chat.start()
    assert shop.repli("breakers", "reset", "queue.model").returncode == 0
    healed = shop.json("reprocess")
    assert (healed["claimed"], healed["upgraded"], healed["mean_quality_after"]) == (12, 12, 1)
    assert healed["calls"] == {"message": 0, "queue": 12, "store": 12}
    assert len(chat.questions) == len(TICKETS)
    assert labels(shown(shop)) == MODEL


@pytest.mark.campaign
def test_a_model_that_talks_is_declined(shop: Shop, chat: ChatServer) -> None:
    """An answer that is no queue is declined: the breaker stays closed, and no ticket is to be tried again."""
    chat.reply = talks
    report = shop.json("run", "tickets.jsonl", "--pipeline", "tickets:pipeline")
    assert report["rungs"]["queue"] == {"classifier": 8, "words": 2, "skip": 2}
    for id_, item in shown(shop).items():
        result = item["stages"]["queue"]
        assert result["rung"] == rung_without_model(id_)
        assert result["attempts"][0]["outcome"] == "declined"
        assert "the model answered 'as a language model, i cannot help you " in result["error"]["message"]
        assert not result["retryable"]
    [breaker] = shop.json("breakers")
    assert (breaker["state"], breaker["failures"]) == ("closed", 0)
    assert len(chat.questions) == len(TICKETS)


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("refusal", "asked", "outcome", "reason"),
    [
        (429, 1, "unavailable", "the language model is overloaded: it answered 429"),
        (503, 1, "unavailable", "the language model is overloaded: it answered 503"),
        (400, 3, "failed", "Client error '400 Bad Request'"),
    ],
)
def test_what_a_refusal_costs(
    refusal: int,
    asked: int,
    outcome: str,
    reason: str,
    chat: ChatServer,
    shop: Shop,
    tickets: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that is overloaded is not asked about the other tickets of the batch; one that refuses a ticket is."""
    for name, value in chat.variables.items():
        monkeypatch.setenv(name, value)
    chat.reply = lambda question: refusal
    results = tickets.queue.try_on([Text(TICKETS[id_]["body"]) for id_ in ("T-1043", "T-1044", "T-1048")])
    assert [result.value.label for result in results] == ["delivery", "account", "billing"]
    assert [result.attempts[0].outcome for result in results] == [outcome] * 3
    assert all(reason in result.error.message for result in results)
    assert len(chat.questions) == asked


@pytest.mark.campaign
@pytest.mark.parametrize("missing", ["OPENAI_BASE_URL", "OPENAI_API_KEY"])
def test_without_a_model_nothing_is_called(
    missing: str, chat: ChatServer, shop: Shop, tickets: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names the variable that is not set. The table of the trial shows the label alone."""
    for name, value in chat.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    trial = tickets.queue.try_on([Text("I was charged twice")])
    [result] = trial
    assert (result.status, result.value.label) == ("degraded", "billing")
    assert missing in result.error.message
    assert str(trial).splitlines()[1].split()[:3] == ["degraded", "classifier", "'billing'"]
    assert not chat.questions


def test_translate_prints_its_trial() -> None:
    """The script prints the table that the README shows."""
    script = [sys.executable, "translate.py"]
    done = subprocess.run(script, cwd=EXAMPLES, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == SHOWN[-3:]


def test_translate_is_a_stage_among_the_default_ones(shop: Shop, tmp_path: Path) -> None:
    """A run has seven stages. A name in the dictionary is degraded, for the reason that the service gave; one that is
    not in it is skipped."""
    document = "It has whiskers and a tail, and lives in many houses of this town."
    manifest = tmp_path / "animals.jsonl"
    manifest.write_text(
        "\n".join(json.dumps({"id": name.lower(), "name": name, "document": document}) for name in ("Cat", "Axolotl"))
    )
    forced = ("--force", "classify_image=rules", "--force", "embed_text=hashed")
    report = shop.json("run", manifest, "--pipeline", "translate:pipeline", *forced)
    stages = ["fetch", "validate", "extract_text", "translate", "classify_image", "embed_text", "store"]
    assert list(report["stages"]) == stages
    assert report["rungs"]["translate"] == {"dictionary": 1, "skip": 1}
    cat, axolotl = shop.json("show", "cat"), shop.json("show", "axolotl")
    assert cat["stages"]["translate"]["value"] == "Chat"
    assert cat["stages"]["translate"]["error"]["message"] == "the translation service is not configured"
    assert cat["quality"] == pytest.approx(0.8 * 0.8)
    assert axolotl["stages"]["translate"]["status"] == "skipped"
    assert axolotl["quality"] == pytest.approx(0.7 * 0.8)
