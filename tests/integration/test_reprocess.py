"""Healing as an operator meets it: a queue after an outage, and what `repli reprocess` makes of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from repli.flows.cli.demo.catalogue import package_data
from repli.flows.cli.demo.photos import PHOTOS
from repli.flows.dispatch.retry_planner import PROBE_ITEMS
from repli.tasks.fallback import Fault, UsageError
from repli.tasks.fallback.policy import RetryPolicy
from repli.tasks.stages.rules import RULES
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import items, retries, retry_queue, step_results
from repli.tasks.storage.views import lookup
from tests.integration.test_breakers import ask
from tests.support.command_line import write_manifest
from tests.support.default_pipeline import STAGE_NAMES, STORED
from tests.support.prefect_api import Deployments
from tests.support.preloaded import Preloaded, Shop
from tests.support.serving import until
from tests.support.stores import hold_open

pytestmark = pytest.mark.timeout(600)

OUTAGE = ("classify_image.gpu=error", "embed_text.text_and_label=error", "embed_text.text_only=error")
BREAKERS = tuple(fault.partition("=")[0] for fault in OUTAGE)
FORCED_DOWN = ("--force", "classify_image=cpu", "--force", "embed_text=hashed")
"""What brings items to 0.72 and moves no breaker."""
POLICY = RetryPolicy()

Steps = Mapping[tuple[str, str], Mapping[str, Any]]


def faults(specs: Sequence[str]) -> list[str]:
    return [word for spec in specs for word in ("--fault", spec)]


def reset(shop: Shop, names: Sequence[str]) -> None:
    for name in names:
        assert shop.repli("breakers", "reset", name).returncode == 0


def steps_of(store: Database) -> Steps:
    """Every result in the store, whole, by item and stage."""
    with store.read() as connection:
        rows = connection.execute(sa.select(step_results)).mappings().all()
    return {(row["item_id"], row["stage"]): dict(row) for row in rows}


def values_of(steps: Steps) -> Steps:
    """The results without their reasons, which are those of the latest try."""
    reasons = {"error", "attempts", "retryable"}
    return {key: {name: step[name] for name in step.keys() - reasons} for key, step in steps.items()}


def qualities(store: Database) -> dict[str, float | None]:
    with store.read() as connection:
        return {row.id: row.quality for row in connection.execute(sa.select(items.c.id, items.c.quality))}


def let_the_waits_be_over(store: Database, **values: Any) -> None:
    """As if the time until the next try had passed."""
    with store.write() as connection:
        is_delayed = retry_queue.c.state == "delayed"
        connection.execute(sa.update(retry_queue).where(is_delayed).values(due_at=retry_queue.c.enqueued_at, **values))


def report_of(standing: dict[str, str], key: str) -> str:
    """The newest report of this kind in the Prefect UI."""
    artifacts = ask(standing, "artifacts/filter", {"sort": "CREATED_DESC", "limit": 20})
    return str(next(one["data"] for one in artifacts if one["key"] == key))


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """An outage, and what `reprocess` made of it: beside open breakers, while the faults went on, and after them.

    `steps` are the store's after each of the three, `queues` the queue as it was before each.
    """

    with_image: frozenset[str]
    without: frozenset[str]
    run: Any
    beside_open_breakers: str
    while_it_lasts: Any
    after_it: Any
    once_more: Any
    queues: Sequence[Any]
    steps: Sequence[Steps]
    qualities: Sequence[dict[str, float | None]]
    shop: Shop


@pytest.fixture(scope="module")
def night(preloaded: Preloaded, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """24 items, 16 of them with an image, through a night without the GPU and the text models."""
    folder = tmp_path_factory.mktemp("night")
    shop = Shop(preloaded, folder / "home")
    manifest = write_manifest(folder / "items", 24, with_image=lambda number: number % 3 > 0)
    queues, steps, stored = [], [], []

    def look() -> None:
        queues.append(shop.json("queue"))
        steps.append(steps_of(shop.store))
        stored.append(qualities(shop.store))

    run = shop.json("run", manifest, "--batch-size", "3", *faults(OUTAGE))  # five batches open a breaker
    hold_open(shop.store)
    look()
    beside_open_breakers = shop.repli("reprocess")
    assert beside_open_breakers.returncode == 0, beside_open_breakers.stderr
    look()
    reset(shop, BREAKERS)
    while_it_lasts = shop.json("reprocess", "--batch-size", "8", *faults(OUTAGE))
    look()
    reset(shop, BREAKERS)
    let_the_waits_be_over(shop.store)
    after_it = shop.json("reprocess", "--batch-size", "8")
    look()
    return Night(
        with_image=frozenset(f"item-{number}" for number in range(24) if number % 3),
        without=frozenset(f"item-{number}" for number in range(0, 24, 3)),
        run=run,
        beside_open_breakers=beside_open_breakers.stdout,
        while_it_lasts=while_it_lasts,
        after_it=after_it,
        once_more=shop.json("reprocess"),
        queues=queues,
        steps=steps,
        qualities=stored,
        shop=shop,
    )


def test_what_fell_below_the_threshold_is_queued(night: Night) -> None:
    """0.72 waits in the queue, 0.8 does not; the run and `queue` say how many, in the order in which they go."""
    assert night.run["quality"] == {"0.8": 8, "0.72": 16}
    assert night.run["queued"] == 16
    queue = night.queues[0]
    assert (queue["queued"], queue["claimed"], queue["parked"]) == (16, 0, 0)
    assert queue["priorities"] == {"HIGH": 0, "NORMAL": 0, "LOW": 16}
    assert {entry["id"] for entry in queue["items"]} == night.with_image
    assert {(entry["priority"], entry["quality"], entry["tries"]) for entry in queue["items"]} == {("LOW", 0.72, 0)}
    turns = [(entry["enqueued_at"], entry["id"]) for entry in queue["items"]]
    assert turns == sorted(turns), "among equals the oldest goes first"


def test_nothing_is_claimed_while_the_breakers_are_open(night: Night) -> None:
    """The items would be refused, so they are left where they are, and it says so."""
    assert "nothing was claimed; no better rung is available now; 16 still queued" in night.beside_open_breakers
    assert night.queues[1] == night.queues[0]
    assert night.steps[1] == night.steps[0]


def test_a_probe_that_gains_nothing_ends_it(night: Night) -> None:
    """While the fault lasts a few items are tried; the others stay untried, and nothing is worse than before."""
    outcome = night.while_it_lasts
    probes = 2 * PROBE_ITEMS  # of each of the two stages
    assert (outcome["claimed"], outcome["unchanged"], outcome["upgraded"], outcome["parked"]) == (probes, probes, 0, 0)
    assert outcome["calls"] == {**dict.fromkeys(STAGE_NAMES, 0), "classify_image": probes, "embed_text": probes}
    assert outcome["ending"] == f"the probe of {probes} items improved nothing, so the other items wait"
    assert outcome["mean_quality_before"] == outcome["mean_quality_after"] == 0.72
    assert values_of(night.steps[2]) == values_of(night.steps[1])
    assert night.qualities[2] == night.qualities[1]
    tries = Counter(entry["tries"] for entry in night.queues[2]["items"])
    assert tries == {1: probes, 0: 16 - probes}
    assert night.queues[2]["queued"] == 16


def test_whoever_was_tried_in_vain_waits(night: Night) -> None:
    """The next try comes after five minutes; who was not tried may go at once."""
    for entry in night.queues[2]["items"]:
        enqueued_at, not_before = (datetime.fromisoformat(entry[name]) for name in ("enqueued_at", "not_before"))
        waits_s = (not_before - enqueued_at).total_seconds()
        assert waits_s > POLICY.delay_s if entry["tries"] else waits_s == 0


def test_only_the_degraded_stages_are_done_again(night: Night) -> None:
    """All that was queued is whole again, by its primaries, without one call of the stages that were whole."""
    outcome = night.after_it
    assert set(outcome) >= {
        *("claimed", "upgraded", "unchanged", "parked"),
        *("mean_quality_before", "mean_quality_after", "calls"),
    }
    assert (outcome["claimed"], outcome["upgraded"], outcome["unchanged"], outcome["parked"]) == (16, 16, 0, 0)
    assert (outcome["mean_quality_before"], outcome["mean_quality_after"]) == (0.72, 1.0)
    done_again = {"classify_image": 16, "embed_text": 16, "store": 16}
    assert outcome["calls"] == {**dict.fromkeys(STAGE_NAMES, 0), **done_again}
    assert outcome["ending"] == ""

    before, after = night.steps[2], night.steps[3]
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {(item_id, stage) for item_id in night.with_image for stage in done_again}
    for item_id in night.with_image:
        for stage, rung in (("classify_image", "gpu"), ("embed_text", "text_and_label")):
            step = after[item_id, stage]
            assert (step["status"], step["rung"], step["penalty"]) == ("succeeded", rung, 1.0)
            assert (step["error"], step["retryable"], step["run_id"]) == (None, False, outcome["run_id"])
            assert [(attempt["rung"], attempt["outcome"]) for attempt in step["attempts"]] == [(rung, "served")]
        assert after[item_id, "store"]["value"] == {"quality": 1.0}
    assert night.qualities[3] == dict.fromkeys(night.with_image, 1.0) | dict.fromkeys(night.without, 0.8)


def test_a_second_run_finds_nothing(night: Night) -> None:
    """The queue is empty, and what is at 0.8 was never in it."""
    assert (night.queues[3]["queued"], night.queues[3]["items"]) == (0, [])
    outcome = night.once_more
    assert (outcome["claimed"], outcome["mean_quality_before"], outcome["mean_quality_after"]) == (0, None, None)
    assert outcome["ending"] == "the queue is empty: stored items are queued below quality 0.8"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("queue", "retry"), 2, "missing argument 'ID'; see `repli queue retry --help`"),
        (("queue", "smash", "item-0"), 2, "`repli queue` has no command 'smash'; choose from retry"),
        (("queue", "retry", "item-0", "nobody"), 1, "there is no item 'nobody' in"),
        (("reprocess", "--limit", "0"), 2, "--limit 0: ask for at least 1 item"),
        (("reprocess", "--batch-size", "0"), 2, "--batch-size 0"),
        (("reprocess", "--fault", "embed_text.moon=oom"), 2, "embed_text has no rung 'moon'"),
    ],
)
def test_a_wrong_order_is_one_line(night: Night, arguments: tuple[str, ...], status: int, message: str) -> None:
    """What cannot be done is told in one line, and nothing is queued, not even what could have been."""
    done = night.shop.repli(*arguments)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (status, 1, "")
    assert message in done.stderr
    assert night.shop.json("queue")["items"] == []


@pytest.mark.parametrize("arguments", [("queue",), ("queue", "retry", "a"), ("reprocess",)])
def test_without_a_store_it_says_how_to_make_one(preloaded: Preloaded, home: Path, arguments: tuple[str, ...]) -> None:
    """One line, and no store is left behind."""
    done = Shop(preloaded, home).repli(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "make one with `repli run SOURCE`" in done.stderr
    assert not home.exists()


LABELS = "classify_image.gpu=error"
INVALID = "validate.expectations=error@0.2"
BAD_NIGHT = (LABELS, INVALID, "validate.basic=error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Photos after a bad night: most wait for nobody, some failed, two are not where the manifest says.

    `asked` is the answer to a person who asks for all `dim` ones and for the `plain` one; `steps` and `queues` are
    those after that, after the healing, and after the last try in vain.
    """

    dim: frozenset[str]
    failed: frozenset[str]
    lost: frozenset[str]
    run: Any
    asked: Any
    healed: Any
    in_vain: Any
    report: str
    brought_back: str
    found: Any
    steps: Sequence[Steps]
    queues: Sequence[Any]
    qualities: dict[str, float | None]
    shop: Shop
    undisturbed: Shop


@pytest.fixture(scope="module")
def gallery(preloaded: Preloaded, standing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """One store from the bad night until every item is whole, and another that never knew that night."""
    folder = tmp_path_factory.mktemp("gallery")
    shop, undisturbed = Shop(preloaded, folder / "home"), Shop(preloaded, folder / "undisturbed")
    manifest, photos = write_gallery(folder / "items")
    failed = frozenset(filter(Fault.parse(INVALID).hits, photos))
    dim, lost = frozenset(photos) - failed, frozenset(("lost-0", "lost-1"))
    queues, steps = [], []

    def look() -> None:
        queues.append(shop.json("queue"))
        steps.append(steps_of(shop.store))

    run = shop.json("run", manifest, *faults(BAD_NIGHT))
    asked = shop.json("queue", "retry", *sorted(dim), "plain")
    look()
    reset(shop, ["classify_image.gpu"])
    healed = shop.json("reprocess")
    look()
    let_the_waits_be_over(shop.store, tries=POLICY.tries - 1)
    in_vain = shop.json("reprocess")
    look()
    report = report_of(standing, "reprocess-report")
    brought_back = shop.repli("queue", "retry", *sorted(lost))
    for item_id in lost:
        (manifest.parent / f"{item_id}.jpg").write_bytes((manifest.parent / "photo-0.jpg").read_bytes())
    found = shop.json("reprocess")
    undisturbed.json("run", manifest)
    return Gallery(
        dim=dim,
        failed=failed,
        lost=lost,
        run=run,
        asked=asked,
        healed=healed,
        in_vain=in_vain,
        report=report,
        brought_back=brought_back.stdout,
        found=found,
        steps=steps,
        queues=queues,
        qualities=qualities(shop.store),
        shop=shop,
        undisturbed=undisturbed,
    )


def write_gallery(folder: Path) -> tuple[Path, list[str]]:
    """A manifest of photos that both models are sure of, two more that are not there, and one item without; the ids of
    those there."""
    try:
        files = [package_data("foolbox") / name for name in PHOTOS if name.startswith("imagenet_")]
    except UsageError as error:
        pytest.skip(str(error))
    folder.mkdir()
    photos = {f"photo-{number}": file for number, file in enumerate(files)}
    for item_id, file in photos.items():
        (folder / f"{item_id}.jpg").write_bytes(file.read_bytes())
    records = [
        {"id": item_id, "name": f"Picture {item_id}", "document": f"What {item_id} shows.", "image": f"{item_id}.jpg"}
        for item_id in (*photos, "lost-0", "lost-1")
    ]
    records.append({"id": "plain", "name": "No picture", "document": "There is nothing to see here."})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))
    return manifest, list(photos)


def labels(steps: Steps, item_ids: frozenset[str]) -> dict[str, str | None]:
    return {item_id: steps[item_id, "classify_image"]["value"]["label"] for item_id in item_ids}


def test_who_was_asked_for_goes_first_then_what_failed(gallery: Gallery) -> None:
    """A whole item is told apart; at 0.9 nothing is queued by itself; the lowest quality goes last of these."""
    assert gallery.run["failed"] == len(gallery.failed) > 0
    assert gallery.run["queued"] == len(gallery.failed | gallery.lost)
    assert gallery.asked == {"queued": sorted(gallery.dim), "nothing_to_do": ["plain"]}
    order = [(entry["priority"], entry["quality"], entry["id"]) for entry in gallery.queues[0]["items"]]
    assert order == [
        *(("HIGH", 0.9, item_id) for item_id in sorted(gallery.dim)),
        *(("NORMAL", None, item_id) for item_id in sorted(gallery.failed)),
        *(("LOW", 0.63175, item_id) for item_id in sorted(gallery.lost)),
    ]


def test_text_is_embedded_again_only_where_the_label_is_another(gallery: Gallery) -> None:
    """What the smaller model saw alike keeps its vector; the store says which run each is from."""
    before, after = gallery.steps[:2]
    old, new = labels(before, gallery.dim), labels(after, gallery.dim)
    relabelled = {item_id for item_id in gallery.dim if old[item_id] != new[item_id]}
    assert 0 < len(relabelled) < len(gallery.dim), "the two models agree on some photos and differ on others"
    assert {after[item_id, "classify_image"]["rung"] for item_id in gallery.dim} == {"gpu"}
    again = {id_ for id_ in gallery.dim if after[id_, "embed_text"]["run_id"] == gallery.healed["run_id"]}
    assert again == relabelled
    for item_id in gallery.dim - relabelled:
        assert after[item_id, "embed_text"] == before[item_id, "embed_text"]
    assert gallery.healed["calls"]["embed_text"] == len(relabelled | gallery.failed)
    assert gallery.healed["calls"]["store"] == len(gallery.dim | gallery.failed)


def test_what_failed_is_taken_through_all_that_comes_after(gallery: Gallery) -> None:
    """It was fetched, so it begins at the stage that failed; it is whole like any other."""
    before, after = gallery.steps[:2]
    calls = gallery.healed["calls"]
    assert (calls["validate"], calls["extract_text"]) == (len(gallery.failed), len(gallery.failed))
    # The lost ones too, once: the accelerator had failed for them before anything saw that they have no picture.
    assert calls["classify_image"] == len(gallery.failed | gallery.dim | gallery.lost)
    for item_id in gallery.failed:
        failed = before[item_id, "validate"]
        assert (failed["status"], failed["retryable"]) == ("failed", True)
        assert (item_id, "store") not in before
        assert after[item_id, "fetch"] == before[item_id, "fetch"]
        assert [after[item_id, stage]["status"] for stage in STAGE_NAMES] == ["succeeded"] * len(STAGE_NAMES)
    healed = gallery.healed
    assert healed["upgraded"] == len(gallery.failed | gallery.dim)
    assert (healed["claimed"], healed["unchanged"]) == (healed["upgraded"] + len(gallery.lost), len(gallery.lost))


def test_what_cannot_be_mended_is_parked(gallery: Gallery) -> None:
    """After the fifth try in vain it is out of the queue, on the report, and as good as it was before."""
    waiting, parked = gallery.queues[1], gallery.queues[2]
    assert {entry["id"] for entry in waiting["items"]} == gallery.lost
    assert {(entry["tries"], entry["state"]) for entry in waiting["items"]} == {(1, "queued")}
    assert (gallery.in_vain["claimed"], gallery.in_vain["parked"]) == (2, 2)
    assert gallery.in_vain["calls"]["fetch"] == 2
    assert gallery.in_vain["mean_quality_after"] == gallery.in_vain["mean_quality_before"] == 0.63175
    assert {(entry["id"], entry["state"]) for entry in parked["items"]} == {("lost-0", "parked"), ("lost-1", "parked")}
    assert (parked["queued"], parked["parked"]) == (0, 2)
    assert values_of(gallery.steps[2]) == values_of(gallery.steps[1]), "nothing better came, so nothing is replaced"
    section = gallery.report.partition("## Parked\n")[2]
    assert "- lost-0\n- lost-1\n" in section
    assert "`repli queue retry ID`" in section


def test_what_is_parked_comes_back_by_hand(gallery: Gallery) -> None:
    """Once the files are where the manifest says, one command and one run make the items whole."""
    assert gallery.brought_back == "2 items queued with priority HIGH; `repli reprocess` processes them.\n"
    assert (gallery.found["claimed"], gallery.found["upgraded"]) == (2, 2)
    calls = {"fetch": 2, "classify_image": 2, "embed_text": 2, "store": 2}
    assert gallery.found["calls"] == {**dict.fromkeys(STAGE_NAMES, 0), **calls}
    assert set(gallery.qualities.values()) == {1.0}


def test_in_the_end_it_is_as_if_nothing_had_happened(gallery: Gallery) -> None:
    """Every result, its trail and its vector are those of a store that never knew the bad night."""
    healed, undisturbed = documents(gallery.shop.store), documents(gallery.undisturbed.store)
    assert healed == undisturbed
    ours, theirs = steps_of(gallery.shop.store), steps_of(gallery.undisturbed.store)
    for item_id in healed:
        vectors = [np.frombuffer(steps[item_id, "embed_text"]["vector"], np.float32) for steps in (ours, theirs)]
        assert np.allclose(*vectors, atol=1e-4)


def documents(store: Database) -> dict[str, Any]:
    """What `repli show` says of each item, less what no two runs share."""
    found = {}
    for item_id in qualities(store):
        view = lookup.view(store, item_id, STORED)
        assert view
        document = found[item_id] = view.as_json()
        for step in document["stages"].values():
            del step["run_id"], step["finished_at"]
            step["confidence"] = None if step["confidence"] is None else round(step["confidence"], 3)
            for attempt in step["attempts"]:
                del attempt["seconds"]
            if step["stage"] == "classify_image" and step["value"]:
                del step["value"]["top"]  # its confidences differ in the last digits from batch to batch
    return found


def test_a_rung_that_does_not_go_with_another_is_named(
    preloaded: Preloaded, tmp_path: Path, standing: dict[str, str]
) -> None:
    """Beside a guessed label no text is embedded with it, even by force; item and report name the rule.

    With a label from a model it is, and the queue is worked off as far as was asked.
    """
    shop = Shop(preloaded, tmp_path / "home")
    manifest = write_manifest(tmp_path / "items", 4, name="Folding chair")
    rule = RULES[0]
    force = ("--force", "classify_image=rules")
    for options in (force, (*force, "--force", "embed_text=text_and_label", "--refresh")):
        run = shop.json("run", manifest, *options)
        assert run["rungs"]["embed_text"] == {"text_only": 4}
        assert (run["quality"], run["queued"]) == ({"0.76": 4}, 4)
        step = shop.json("show", "item-1")["stages"]["embed_text"]
        assert [(attempt["rung"], attempt["outcome"]) for attempt in step["attempts"]] == [
            ("text_and_label", "incompatible"),
            ("text_only", "served"),
        ]
        assert step["attempts"][0]["error"] == step["error"] == {"type": "Incompatible", "message": str(rule)}
        report = report_of(standing, "enrich-report").replace("\\_", "_")
        assert f"## Incompatible rungs\n\n| rule | items |\n| --- | ---: |\n| {rule} | 4 |\n" in report
    page = shop.repli("show", "item-1", COLUMNS="400").stdout
    assert "text_and_label incompatible → text_only served" in page
    assert f"embed_text is degraded: {rule}" in page

    some = shop.json("reprocess", "--limit", "3")
    assert (some["claimed"], some["upgraded"], some["queue"]["queued"]) == (3, 3, 1)
    rest = shop.json("reprocess", "--limit", "3")
    assert (rest["claimed"], rest["upgraded"], rest["queue"]["queued"]) == (1, 1, 0)
    assert set(qualities(shop.store).values()) == {1.0}
    assert {row["rung"] for key, row in steps_of(shop.store).items() if key[1] == "embed_text"} == {"text_and_label"}


LOOKS = f"""
import time
import repli
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database

spell = repli.Stage("spell", input=lambda item: item.name)

@spell.rung(time_limit_s=120)
def aloud(names):
    store = Database("STORE")
    is_probe = len(names) <= {PROBE_ITEMS}
    deadline = time.monotonic() + 60
    while (runs.latest(store, runs.REPROCESS).progress or {{}}).get("is_probing") is not is_probe:
        if time.monotonic() > deadline:
            raise repli.Unavailable(f"the progress never said that is_probing is {{is_probe}}")
        time.sleep(0.1)
    return [name.upper() for name in names]

@spell.rung(penalty="0.8", time_limit_s=60)
def quietly(names):
    return list(names)

pipeline = repli.Pipeline([spell])
"""


def test_the_progress_says_while_a_run_only_probes(preloaded: Preloaded, tmp_path: Path) -> None:
    """The display measures no speed by the probe; each item is upgraded here once the progress says what it is in."""
    lines = [json.dumps({"id": f"item {number}", "name": f"Thing {number}"}) for number in range(20)]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    shop = Shop(preloaded, tmp_path / "home", tmp_path)
    (tmp_path / "looks.py").write_text(LOOKS.replace("STORE", f"sqlite:///{shop.home / 'repli.db'}"))
    below = {"REPLI_RETRY_BELOW": "1", "REPLI_PIPELINE": ""}  # this store has a pipeline of its own
    shop.json("run", "items.jsonl", "--pipeline", "looks:pipeline", "--force", "spell=quietly", **below)
    healed = shop.json("reprocess", "--batch-size", "16", **below)
    assert (healed["claimed"], healed["upgraded"]) == (20, 20)


@pytest.mark.campaign
def test_items_that_nothing_mends_do_not_keep_the_others_waiting(preloaded: Preloaded, tmp_path: Path) -> None:
    """Thirty pictures that no model can open are first in line; those behind them are whole after one run."""
    shop = Shop(preloaded, tmp_path / "home")
    manifest = write_manifest(tmp_path / "items", 40)
    broken = {f"item-{number}" for number in range(30)}
    for item_id in broken:
        (manifest.parent / f"{item_id.removeprefix('item-')}.png").write_bytes(b"no picture")
    assert shop.json("run", manifest, *FORCED_DOWN)["quality"] == {"0.72": 10, "0.56": 30}
    healed = shop.json("reprocess", "--batch-size", "16")
    assert healed["ending"] == ""
    after = qualities(shop.store)
    assert {after[item_id] for item_id in broken} == {0.665}, "their text is embedded, as well as it can be"
    assert {quality for item_id, quality in after.items() if item_id not in broken} == {1.0}


@pytest.mark.campaign
def test_items_that_are_barred_do_not_keep_the_others_waiting(preloaded: Preloaded, tmp_path: Path) -> None:
    """Labels by `rules` bar 24 items from a better vector while the models are held back: they are left where they are,
    and what comes after them is whole."""
    shop = Shop(preloaded, tmp_path / "home")
    barred = write_manifest(tmp_path / "barred", 24, name="Folding chair")
    others = tmp_path / "others.jsonl"
    others.write_text("".join(json.dumps({"id": f"other-{n}", "name": f"Other thing {n}"}) + "\n" for n in range(8)))
    for rung in ("gpu", "cpu"):
        shop.repli("breakers", "open", f"classify_image.{rung}")
    assert shop.json("run", barred)["quality"] == {"0.76": 24}
    assert shop.json("run", others, "--force", "embed_text=hashed")["quality"] == {"0.8": 8}
    shop.repli("queue", "retry", *qualities(shop.store))
    healed = shop.json("reprocess")
    assert (healed["claimed"], healed["upgraded"], healed["queue"]["queued"]) == (8, 8, 24)
    assert Counter(qualities(shop.store).values()) == {0.76: 24, 1.0: 8}
    reset(shop, ["classify_image.gpu", "classify_image.cpu"])
    assert shop.json("reprocess")["upgraded"] == 24
    assert set(qualities(shop.store).values()) == {1.0}


@pytest.mark.campaign
def test_runs_side_by_side_share_the_work(
    preloaded: Preloaded, tmp_path: Path, standing_server: dict[str, str]
) -> None:
    """Two `reprocess`, an `enrich` of other items and one that refreshes some of the same, which asks for no claim: no
    item is done by both `reprocess`, and nothing is left. Neither of the two claims anything before both have begun."""
    shop = Shop(preloaded, tmp_path / "home")
    manifest = write_manifest(tmp_path / "items", 24)
    shop.json("run", manifest, *FORCED_DOWN)
    queued = set(qualities(shop.store))
    others = tmp_path / "others.jsonl"
    others.write_text("".join(json.dumps({"id": f"new-{n}", "name": f"New thing {n}"}) + "\n" for n in range(16)))
    server = Deployments(standing_server["PREFECT_API_URL"])

    def running() -> set[str]:
        return {run["id"] for run in server.flow_runs("reprocess") if run["state_type"] == "RUNNING"}

    before = running()  # a run that was killed is among them
    with shop.store.write():
        both = [shop.begin("reprocess", "--batch-size", "8", "--json") for _ in range(2)]
        until(lambda: len(running() - before) == 2)
    begun = [
        *both,
        shop.begin("run", others, "--batch-size", "4", "--json"),
        shop.begin("run", manifest, "--limit", "6", "--refresh", "--batch-size", "2", "--json"),
    ]
    *healed, fresh, refreshed = [command.json() for command in begun]
    assert (fresh["stored"], fresh["quality"]) == (16, {"1.0": 16})
    assert set(qualities(shop.store).values()) == {1.0}
    assert shop.json("queue")["items"] == []

    with shop.store.read() as connection:
        rows = connection.execute(sa.select(retries)).all()
    at = {row.item_id: row.at for row in rows}
    assert len(at) == len(rows), "no item was done by both"
    assert {row.outcome for row in rows} == {"upgraded"}
    assert {row.run_id for row in rows} == {outcome["run_id"] for outcome in healed}, "both had some"
    steps = steps_of(shop.store)
    by_refresh = {id_ for id_ in queued if steps[id_, "fetch"]["run_id"] == refreshed["run_id"]}
    assert by_refresh | set(at) == queued
    refreshable = {f"item-{number}" for number in range(6)}
    assert by_refresh <= refreshable
    healers = {outcome["run_id"] for outcome in healed}
    for stage in ("classify_image", "embed_text", "store"):
        calls = sum(outcome["calls"][stage] for outcome in healed)
        theirs = [id_ for id_ in at if steps[id_, stage]["run_id"] in healers]
        assert len(theirs) <= calls <= len(at.keys() | refreshable), f"{stage}: each item at most once"
