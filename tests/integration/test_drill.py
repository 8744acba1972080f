"""The drill as its user holds it: a verdict, the history, an exit status, and a store that is as it was."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import dask.config
import pytest
import sqlalchemy as sa
from distributed import Client, KilledWorker, LocalCluster

from repli.flows.cli.demo.catalogue import build
from repli.flows.drill import run_stage_drills
from repli.tasks.drill.task import StageVerdict
from repli.tasks.drill.verdict import RungVerdict
from repli.tasks.storage import drills
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import breaker_failures, breakers, items, retry_queue, step_results
from tests.support.command_line import Repli, write_manifest
from tests.support.default_pipeline import CHAINS, STAGES
from tests.support.prefect_api import events
from tests.support.preloaded import Preloaded, Shop
from tests.support.topology import environment_kept

pytestmark = pytest.mark.timeout(600)


@pytest.mark.campaign
def test_a_drill_passes_and_another_fails(
    quick_repli: Repli, store: Database, standing: dict[str, str], tmp_path: Path
) -> None:
    """Every declared rung is reached on a sound machine. Without the device that a rung needs the drill still passes,
    and names the rung as not covered; where the policy expects that rung the drill fails, with exit status 1. Prefect
    hears of all three. Nothing of them touches items, breakers or the queue."""
    manifest = build(tmp_path / "items", items=12, broken=False, every_item_with_photo=True, min_words=0)
    done = quick_repli("run", manifest, "--force", "classify_image=rules", "--force", "embed_text=hashed")
    assert done.returncode == 0, done.stderr
    before = content(store)

    sound = quick_repli("drill", "--sample", "12", "--json")
    assert sound.returncode == 0, sound.stderr
    report = json.loads(sound.stdout)
    declared = [(chain.stage, rung) for chain in CHAINS for rung in chain.rung_names]
    assert (report["verdict"], report["rungs_declared"], report["rungs_reached"]) == ("passed", 18, 18)
    assert report["not_covered"] == []
    assert [(rung["stage"], rung["rung"]) for rung in report["rungs"]] == declared
    asked = {"stage", "rung", "verdict", "reason", "note", "agreement", "interval", "seconds_per_item"}
    asked |= {"penalty", "penalty_justified", "relative_accuracy", "relative_interval", "basis"}
    assert all(asked <= rung.keys() for rung in report["rungs"])

    shown = quick_repli("drill", "--sample", "6", REPLI_GPU_DEVICE="", COLUMNS="240")
    assert shown.returncode == 0, shown.stderr
    assert "passed: 17 of 18 rungs reached on 6 items, not covered: classify_image.gpu" in shown.stdout
    assert "not covered, was passed" in shown.stdout
    assert "classify_image.gpu: not covered, was passed: there is no CUDA device here" in shown.stdout

    short = quick_repli("drill", "--sample", "6", "--json", REPLI_GPU_DEVICE="", REPLI_DRILL_EXPECT="all")
    assert short.returncode == 1
    assert "classify_image.gpu: it is not covered, and the policy expects it: there is no CUDA device" in short.stderr
    assert "Traceback" not in short.stderr
    expected = json.loads(short.stdout)
    assert (expected["verdict"], expected["not_covered"]) == ("failed", ["classify_image.gpu"])
    assert [rung["rung"] for rung in expected["rungs"] if rung["verdict"] == "failed"] == ["gpu"]

    mistyped = quick_repli("drill", REPLI_DRILL_EXPECT="classify_image.tpu")
    assert mistyped.returncode == 1
    assert "there is no rung 'classify_image.tpu'; choose all, or from fetch.origin, " in mistyped.stderr

    [told] = events(standing, "repli.drill.passed", lambda payload: payload["rungs_reached"] == 18)
    assert told["resource"]["prefect.resource.id"] == "repli.drill"
    whole = {"verdict": "passed", "rungs_declared": 18, "rungs_reached": 18, "not_covered": [], "failures": []}
    assert told["payload"] == whole
    [told] = events(standing, "repli.drill.passed", lambda payload: payload["rungs_reached"] == 17)
    assert (told["payload"]["not_covered"], told["payload"]["failures"]) == (["classify_image.gpu"], [])
    [told] = events(standing, "repli.drill.failed", lambda payload: payload["rungs_reached"] == 17)
    assert told["resource"]["prefect.resource.id"] == "repli.drill"
    assert (told["payload"]["verdict"], told["payload"]["rungs_declared"]) == ("failed", 18)
    assert [failure.partition(": ")[0] for failure in told["payload"]["failures"]] == ["classify_image.gpu"]

    assert content(store) == before
    assert [drill.verdict for drill in drills.latest(store, 9)] == ["failed", "passed", "passed"]


def test_a_drill_passes_on_what_there_is(quick_repli: Repli, tmp_path: Path) -> None:
    """Without a device, and on pictures whose names name no class, the drill passes; the report says what was not
    covered, and what named nothing. On items without pictures it passes too."""
    quick_repli("run", write_manifest(tmp_path / "pictures", 12))
    done = quick_repli("drill", "--sample", "12", "--json", REPLI_GPU_DEVICE="")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["verdict"], report["not_covered"]) == ("passed", ["classify_image.gpu"])
    assert (report["rungs_declared"], report["rungs_reached"]) == (18, 17)
    rungs = {rung["rung"]: rung for rung in report["rungs"] if rung["stage"] == "classify_image"}
    assert {name: rung["verdict"] for name, rung in rungs.items()} == {
        "gpu": "not_covered",
        "cpu": "passed",
        "rules": "passed",
        "skip": "passed",
    }
    assert rungs["gpu"]["reason"].startswith("there is no CUDA device here")
    assert {rung["agreement"] for rung in rungs.values()} == {None}
    assert rungs["rules"]["note"] == "it declined 12 of 12 items: Declined: the name names no class"

    texts = write_manifest(tmp_path / "texts", 3, with_image=lambda number: False)
    other = ("--database", f"sqlite:///{tmp_path / 'texts.db'}")
    quick_repli("run", texts, *other)
    report = json.loads(quick_repli("drill", "--json", *other).stdout)
    assert report["verdict"] == "passed"
    assert report["not_covered"] == [f"classify_image.{rung}" for rung in ("gpu", "cpu", "rules", "skip")]


DISPUTED = """
import repli

look = repli.Stage("look", input=lambda item: item.name, produces=repli.Label)

@look.rung(time_limit_s=60, per_item=True)
def large(name):
    return repli.Label("tench", vocabulary="imagenet-1k")

@look.rung(time_limit_s=60, per_item=True, penalty="0.9")
def small(name):
    return repli.Label("hen" if int(name.split()[-1]) % 2 else "tench", vocabulary="imagenet-1k")

look.skip(penalty="0.7")
pipeline = repli.Pipeline([look])
"""


def test_people_answer_and_two_drills_propose_a_penalty(
    preloaded: Preloaded, home: Path, store: Database, standing: dict[str, str], tmp_path: Path
) -> None:
    """A drill asks about the items on which rungs disagree. Once they are answered the next drill measures by that,
    the one after it proposes a penalty, and Prefect hears of it. Nothing changes by itself."""
    (tmp_path / "disputed.py").write_text(DISPUTED)
    lines = [json.dumps({"id": f"item {number}", "name": f"Thing {number}", "text": "x"}) for number in range(80)]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    shop = Shop(preloaded, home, tmp_path)
    shop.json("run", "items.jsonl", "--pipeline", "disputed:pipeline")

    def small() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        report = shop.json("drill", "--sample", "60")
        return next(rung for rung in report["rungs"] if rung["rung"] == "small"), report["proposals"]

    measured, proposed = small()
    assert (measured["basis"], measured["answered"], proposed) == ("agreement", 0, [])
    asked = shop.json("drill", "--questions")
    assert 0 < len(asked["questions"]) == asked["asked"] <= 20
    for question in asked["questions"]:
        said = shop.json("label", question["item_id"], "TENCH")
        assert said == {"item": question["item_id"], "stage": "look", "value": "tench"}
    assert shop.json("drill", "--questions")["answered"] == asked["asked"]

    measured, proposed = small()
    assert (measured["basis"], proposed) == ("answers", [])
    assert measured["answered"] >= asked["asked"]
    assert measured["relative_interval"][0] < 0.5 < measured["relative_interval"][1] < 0.9
    _, [proposal] = small()
    assert (proposal["rung"], proposal["declared"]) == ("look.small", 0.9)
    assert 0.5 < proposal["proposed"] < 0.9
    assert proposal["set"] == f"Enrichment Policy: chains.look.small = {proposal['proposed']:g}"
    [told] = events(standing, "repli.penalty.proposed", lambda payload: payload["rung"] == "look.small")
    assert told["payload"] == proposal
    assert told["resource"]["prefect.resource.id"] == "repli.penalty.look.small"
    shown = shop.begin("drill", "--sample", "60", COLUMNS="240").done()
    assert "look.small: the penalty 0.9 lies outside the relative accuracy" in shown.stdout
    with store.read() as connection:
        assert set(connection.scalars(sa.select(items.c.quality))) == {1.0}


def killing(stage: str, killer: str) -> StageVerdict:
    """The drill of a stage, in a worker: one of them kills it."""
    time.sleep(0.2)  # so that the others wait on the same worker by then
    if stage == killer:
        os.kill(os.getpid(), signal.SIGKILL)
    return [RungVerdict(stage=stage, rung="primary")], []


@pytest.mark.campaign
def test_a_stage_that_kills_its_worker_is_blamed_alone() -> None:
    """All stages wait on one worker, which one of them kills. Begun again, each alone, the others are drilled."""
    with (
        environment_kept(),
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        killer = STAGES[3].name
        ended = run_stage_drills(STAGES, lambda stage: client.submit(killing, stage.name, killer, pure=False))
    assert [stage.name for stage, _ in ended] == [stage.name for stage in STAGES]
    assert [stage.name for stage, verdict in ended if isinstance(verdict, Exception)] == [killer]
    assert [type(verdict) for _, verdict in ended if isinstance(verdict, Exception)] == [KilledWorker]


def test_there_has_to_be_something_to_drill_on(quick_repli: Repli) -> None:
    """Without a store the drill is refused before anything is started."""
    done = quick_repli("drill")
    assert (done.returncode, done.stdout) == (1, "")
    assert "make one with `repli run SOURCE`" in done.stderr


def content(store: Database) -> list[list[tuple[object, ...]]]:
    """The items, what their stages left, the breakers and the queue."""
    with store.read() as connection:
        return [
            sorted(map(tuple, connection.execute(sa.select(table)).all()), key=repr)
            for table in (items, step_results, breakers, breaker_failures, retry_queue)
        ]
