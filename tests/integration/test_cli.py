"""The command line, as its user types it: real processes, a real Prefect server, real Dask workers, real models."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from repli.flows.server.private_server import PrivateServer
from repli.tasks.search import Mode, Query, search
from repli.tasks.settings import Settings
from repli.tasks.storage import counts
from repli.tasks.storage.database import Database
from tests.support.command_line import Repli, command, environment, write_manifest

# A server and workers that a test starts for itself take half a minute on two cores.
pytestmark = pytest.mark.timeout(600)

FULL_OUTAGE = ("classify_image.gpu=oom", "embed_text.text_and_label=error", "embed_text.text_only=error")


def snapshot(store: Database, items: int) -> dict[str, Any]:
    """What a store has of every item, less what no two runs share: times, run ids."""
    from repli.tasks.storage.views import lookup
    from tests.support.default_pipeline import STORED

    views = {}
    for number in range(items):
        view = lookup.view(store, f"item-{number}", STORED)
        assert view is not None
        document = view.as_json()
        for step in document["stages"].values():
            del step["run_id"], step["finished_at"]
            for attempt in step["attempts"]:
                del attempt["seconds"]
            if step["confidence"] is not None:
                step["confidence"] = round(step["confidence"], 3)
            if step["stage"] == "classify_image" and step["value"]:
                step["value"].pop("top")  # its confidences differ in the last digits from batch to batch
        views[document["id"]] = document
    return views


def test_a_whole_outage_is_stored_at_exactly_072(repli: Repli, tmp_path: Path, home: Path) -> None:
    """With the accelerator and the text model gone, every item is stored at 1.0 × 0.9 × 0.8, and says why."""
    manifest = write_manifest(tmp_path / "items", 40)
    faults = [argument for fault in FULL_OUTAGE for argument in ("--fault", fault)]
    done = repli("run", manifest, "--json", *faults)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["quality"] == {"0.72": 40}
    assert summary["mean_quality"] == 0.72
    assert 0 < summary["mean_expected_accuracy"] < 0.25, "a hashed vector is right in a quarter"
    assert sum(summary["expected_accuracy"].values()) == 40
    assert (summary["items"], summary["stored"], summary["failed"], summary["degraded"]) == (40, 40, 0, 40)
    assert summary["rungs"]["classify_image"] == {"cpu": 40}
    assert summary["rungs"]["embed_text"] == {"hashed": 40}

    shown = json.loads(repli("show", "item-7", "--json").stdout)
    assert shown["quality"] == 0.72
    confidences = [step["confidence"] for step in shown["stages"].values() if step["confidence"] is not None]
    assert shown["expected_accuracy"] == pytest.approx(math.prod(confidences), abs=1e-4)
    assert shown["degraded"] == ["classify_image", "embed_text"]
    classified = shown["stages"]["classify_image"]
    assert classified["error"]["type"] == "OutOfMemory"
    assert [(attempt["rung"], attempt["outcome"]) for attempt in classified["attempts"]] == [
        ("gpu", "failed"),
        ("cpu", "served"),
    ]

    status = json.loads(repli("status", "--json").stdout)
    assert status["mean_quality"] == 0.72
    assert (status["mean_expected_accuracy"], status["rates"]) == (summary["mean_expected_accuracy"], {})

    settings = Settings.from_environment({"REPLI_HOME": str(home)})
    for mode in Mode:
        found = search(settings, Database(settings.database_url), Query(text="what of thing number 7?", mode=mode))
        assert (found.hits[0].id, found.hits[0].degraded) == ("item-7", ("classify_image", "embed_text"))
    assert not children_left(home)


def test_a_private_server_ends_with_whoever_started_it(home: Path) -> None:
    """However the parent ends, the server's standard input closes, and it goes."""
    server = PrivateServer(Settings.from_environment({"REPLI_HOME": str(home)}))
    server.wait()
    server.leave()
    assert wait_for_nobody(home) == []
    server.stop()


@pytest.mark.campaign
def test_a_run_that_was_killed_goes_on_and_ends_the_same(
    repli: Repli, tmp_path: Path, home: Path, store: Database, standing: dict[str, str], standing_server: dict[str, str]
) -> None:
    """After `kill -9` amid the run no worker is left; the next run does only what is missing."""
    manifest = write_manifest(tmp_path / "items", 60, with_image=lambda number: number % 2 == 0)
    arguments = ("run", manifest, "--batch-size", "10", "--json")
    undisturbed = tmp_path / "undisturbed"
    assert repli(*arguments, **standing, REPLI_HOME=str(undisturbed)).returncode == 0

    with subprocess.Popen(
        command(*arguments),
        env={**environment(home), **standing_server},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        stored = wait_until(lambda: stored_items(store), process)
        process.send_signal(signal.SIGKILL)
    assert 0 < stored < 60
    assert wait_for_nobody(home) == []

    first = json.loads(repli("status", "--json").stdout)["last_run"]["run_id"]
    before = runs_by_stage(store)
    again = repli(*arguments, **standing)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["stored"] == 60
    after = runs_by_stage(store)
    for key, run_id in before.items():
        assert after[key] == run_id == first, "what was done is not done again"
    assert snapshot(store, 60) == snapshot(Database(f"sqlite:///{undisturbed / 'repli.db'}"), 60)


@pytest.mark.campaign
def test_what_kills_its_worker_is_set_aside_alone(repli: Repli, tmp_path: Path, standing: dict[str, str]) -> None:
    """One item over which the process dies costs its neighbours nothing; it is failed, retryable, with the reason."""
    manifest = write_manifest(tmp_path / "items", 8, with_image=lambda number: number == 5)
    done = repli("run", manifest, "--batch-size", "4", "--json", "--fault", "classify_image.gpu=kill", **standing)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["stored"], summary["failed"]) == (7, 1)
    assert summary["quality"] == {"1.0": 7}
    step = json.loads(repli("show", "item-5", "--json").stdout)["stages"]["classify_image"]
    assert (step["status"], step["retryable"], step["error"]["type"]) == ("failed", True, "WorkerDied")
    healed = json.loads(repli("run", manifest, "--json", **standing).stdout)
    assert healed["quality"] == {"1.0": 8}, "the next run tries it again"


def test_a_bad_line_loses_no_other(repli: Repli, tmp_path: Path, standing: dict[str, str]) -> None:
    """A line that is no JSON is counted failed under its number; a second line with an id supersedes the first."""
    manifest = write_manifest(tmp_path / "items", 4, with_image=lambda number: False)
    with manifest.open("a", encoding="utf-8") as file:
        file.write('{"id": "cut of\n{"id": "item-0", "name": "Thing again"}\n{"id": "nameless"}\n')
    done = repli("run", manifest, "--json", **standing)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["items"], summary["stored"], summary["failed"], summary["duplicates"]) == (6, 4, 2, 1)
    shown = json.loads(repli("show", "manifest.jsonl:5", "--json").stdout)
    assert "line 5 of manifest.jsonl is not JSON" in shown["stages"]["validate"]["error"]["message"]
    assert shown["stages"]["embed_text"]["status"] == "pending"
    assert shown["quality"] is None


def test_a_csv_is_read_as_the_options_say(repli: Repli, tmp_path: Path, standing: dict[str, str]) -> None:
    """Columns, a delimiter and an encoding that nothing tells by itself; the next run reads it so without them."""
    manifest = tmp_path / "shop.csv"
    manifest.write_bytes(
        "SKU^Title^Body\n7^Café^Crème brûlée, served in a glass\n8^Müsli^With raisins\n".encode("cp437")
    )
    columns = ("--column", "id=SKU", "--column", "name=Title", "--column", "text=Body")
    done = repli("run", manifest, *columns, "--delimiter", "^", "--encoding", "cp437", "--json", **standing)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["quality"] == {"1.0": 2}
    shown = json.loads(repli("show", "7", "--json").stdout)
    assert (shown["name"], shown["stages"]["extract_text"]["value"]["text"]) == (
        "Café",
        "Crème brûlée, served in a glass",
    )
    again = repli("run", manifest, "--json", **standing)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["quality"] == {"1.0": 2}
    assert "read as in its last run: --column 'id=SKU'" in again.stderr


def usage_errors(manifest: Path) -> Mapping[str, tuple[tuple[str | Path, ...], str]]:
    return {
        "no manifest": (("run", manifest.parent / "none.jsonl"), "there is no manifest"),
        "empty manifest": (("run", manifest.parent / "empty.jsonl"), "holds no items"),
        "no fault": (("run", manifest, "--fault", "oom"), "STAGE.RUNG=KIND"),
        "unknown kind": (("run", manifest, "--fault", "fetch.origin=fire"), "choose from oom"),
        "unknown rung": (("run", manifest, "--fault", "fetch.moon=oom"), "choose from origin, cached, skip"),
        "unknown forced rung": (("run", manifest, "--force", "fetch=moon"), "choose from origin, cached, skip"),
        "unknown stage": (("run", manifest, "--force", "bake=oven"), "choose from fetch, validate"),
        "no batch": (("run", manifest, "--batch-size", "0"), "at least 1 item"),
        "no limit": (("run", manifest, "--limit", "0"), "at least 1 item"),
        "no store": (("run", manifest, "--database", "mongo://x"), "sqlite:///FILE"),
    }


@pytest.mark.parametrize("case", usage_errors(Path("m")))
def test_a_usage_error_is_one_line_and_status_2(repli: Repli, tmp_path: Path, case: str) -> None:
    """What cannot be done as asked is told in one line that names the way out, before anything is started."""
    manifest = write_manifest(tmp_path / "items", 1, with_image=lambda number: False)
    (manifest.parent / "empty.jsonl").write_text("\n")
    arguments, message = usage_errors(manifest)[case]
    done = repli(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_store_that_cannot_be_written_is_status_1(repli: Repli, tmp_path: Path) -> None:
    """A store under a file is told in one line, before anything is started."""
    manifest = write_manifest(tmp_path / "items", 1, with_image=lambda number: False)
    done = repli("run", manifest, "--database", f"sqlite:///{manifest}/store.db")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot be created" in done.stderr


def test_an_item_or_store_that_is_not_there_is_status_1(repli: Repli) -> None:
    """`show` and `status` say what is missing and how to come by it."""
    for arguments in (("show", "nobody"), ("status",)):
        done = repli(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "repli run SOURCE" in done.stderr


def stored_items(store: Database) -> int:
    return counts.tally(store, []).stored if store.is_migrated() else 0


def wait_until(count: Callable[[], int], process: subprocess.Popen[bytes]) -> int:
    """The first count above 0, while the process lives."""
    while process.poll() is None:
        if counted := count():
            return counted
        time.sleep(0.02)
    raise AssertionError("the run ended before it could be killed")


def runs_by_stage(store: Database) -> dict[tuple[str, str], str]:
    """The run that left each result there is."""
    import sqlalchemy as sa

    from repli.tasks.storage.schema import step_results

    with store.read() as connection:
        rows = connection.execute(sa.select(step_results.c.item_id, step_results.c.stage, step_results.c.run_id)).all()
    return {(row.item_id, row.stage): row.run_id for row in rows}


def wait_for_nobody(home: Path) -> list[str]:
    """The processes of this home that still live after a while."""
    deadline = time.monotonic() + 30
    while (left := children_left(home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def children_left(home: Path) -> list[str]:
    """The processes that still have this home in their environment."""
    left = []
    for process in psutil.process_iter():
        try:
            if str(home) in str(process.environ()) and process.status() != psutil.STATUS_ZOMBIE:
                left.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
        except psutil.Error:
            continue
    return left
