"""Origins that are down, as an operator meets them: in a run, its report, `repli breakers`, and what heals when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_breakers import ask
from tests.support.origins import Origin, origins
from tests.support.preloaded import Preloaded, Shop
from tests.support.stores import hold_open

pytestmark = pytest.mark.timeout(600)

EACH = 12
SETTINGS = {
    "REPLI_ALLOW_PRIVATE_ADDRESSES": "1",
    "REPLI_FETCH_TIME_LIMIT_S": "3",
}
BREAKER = "fetch.origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """A run over three origins, two of which are down; then one of these is back."""

    shop: Shop
    well: Origin
    dead: Origin
    hanging: Origin
    run: Any
    page: str
    report: str
    requests: dict[str, int]
    while_open: Any
    healed: Any
    asked_while_healing: dict[str, int]
    listed: list[Any]


def manifest_of(folder: Path, *served: Origin) -> Path:
    """As many items of each server, in turn."""
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"id": f"{number}-{place}", "name": f"Thing {number}", "document": f"{origin.url}/{number}.html"})
        for number in range(EACH)
        for place, origin in enumerate(served)
    ]
    path = folder / "items.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def night(preloaded: Preloaded, standing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    folder = tmp_path_factory.mktemp("origins")
    shop = Shop(preloaded, folder / "home")
    with origins("well", "dead", "hanging") as (well, dead, hanging):
        everyone = {"well": well, "dead": dead, "hanging": hanging}
        manifest = manifest_of(folder / "items", well, dead, hanging)
        run = shop.json("run", manifest, **SETTINGS)
        hold_open(shop.store)
        artifacts = ask(standing, "artifacts/filter", {"sort": "CREATED_DESC", "limit": 20})
        report = str(next(one["data"] for one in artifacts if one["key"] == "enrich-report"))
        requests = {name: origin.requests for name, origin in everyone.items()}
        page = shop.repli("breakers", COLUMNS="120").stdout
        while_open = shop.json("reprocess", **SETTINGS)
        assert {name: origin.requests for name, origin in everyone.items()} == requests, "an open breaker was passed"
        for origin, kind in ((well, "well"), (dead, "well"), (hanging, "hanging")):
            origin.become(kind)
        assert shop.repli("breakers", "reset", BREAKER, "--key", dead.url).returncode == 0
        healed = shop.json("reprocess", **SETTINGS)
        yield Night(
            shop=shop,
            well=well,
            dead=dead,
            hanging=hanging,
            run=run,
            page=page,
            report=report,
            requests=requests,
            while_open=while_open,
            healed=healed,
            asked_while_healing={name: origin.requests for name, origin in everyone.items()},
            listed=shop.json("breakers"),
        )


def test_every_item_is_stored_and_those_that_fell_back_are_queued(night: Night) -> None:
    """Those of the server that is well are whole; nobody waits for the others."""
    assert (night.run["stored"], night.run["failed"]) == (3 * EACH, 0)
    assert night.run["rungs"]["fetch"] == {"origin": EACH, "skip": 2 * EACH}
    assert night.run["queued"] == 2 * EACH


def test_a_server_that_is_down_is_asked_a_few_times(night: Night) -> None:
    """So many as open its breaker, those in flight, and two tries of a transient error; the other is asked once."""
    assert night.requests["well"] == EACH
    assert night.requests["dead"] <= 5 + 2 + 4
    assert night.requests["hanging"] <= 5 - 1 + 4


def test_the_report_names_them(night: Night) -> None:
    """In JSON with the items and times, and in one line each in the Prefect UI."""
    outages = {one["key"]: one for one in night.run["outages"]}
    assert outages.keys() == {night.dead.url, night.hanging.url}
    assert {(one["breaker"], one["items"], one["state"]) for one in outages.values()} == {(BREAKER, EACH, "open")}
    assert "503 Service Unavailable" in outages[night.dead.url]["why"]
    plain = night.report.replace("\\", "")
    assert f"- {night.dead.url}: it answered 503 Service Unavailable since " in plain
    assert f", {EACH} items fell back, next try " in plain


def test_open_breakers_are_listed_first_by_key(night: Night) -> None:
    """The names of the servers come before those of the models, which are well."""
    first = night.page.index("classify_image.gpu")
    assert 0 < night.page.index(night.dead.url) < first
    assert 0 < night.page.index(night.hanging.url) < first
    assert night.well.url not in night.page


def test_while_the_breakers_are_open_nothing_is_claimed(night: Night) -> None:
    """Nobody is asked, and no item has a try counted."""
    assert night.while_open["claimed"] == 0
    assert night.while_open["ending"] == "no better rung is available now"


def test_when_one_is_back_its_items_are_fetched_once_and_nothing_else(night: Night) -> None:
    """The other one's wait on, without a try."""
    assert night.asked_while_healing == {"well": 0, "dead": EACH, "hanging": 0}
    assert night.dead.paths == {f"/{number}.html": 1 for number in range(EACH)}
    assert (night.healed["claimed"], night.healed["upgraded"], night.healed["unchanged"]) == (EACH, EACH, 0)
    queue = night.shop.json("queue")
    assert {entry["id"] for entry in queue["items"]} == {f"{number}-2" for number in range(EACH)}
    assert {entry["tries"] for entry in queue["items"]} == {0}


def test_breakers_that_are_closed_leave_nothing(night: Night) -> None:
    """Only the server that is still down is kept."""
    assert {view["key"] for view in night.listed if view["name"] == BREAKER} == {night.hanging.url}
