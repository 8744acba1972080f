"""What is scheduled happens: the server makes runs for each schedule, and they do their work by themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from repli.flows.cli.demo.catalogue import package_data
from repli.flows.enrich import NO_SOURCE
from repli.tasks.fallback import UsageError
from repli.tasks.storage import drills
from tests.support.command_line import write_manifest
from tests.support.prefect_api import ENDED
from tests.support.server_logs import ServerLogs
from tests.support.serving import Serving, until

pytestmark = pytest.mark.timeout(1200)

DEPLOYMENTS = ("enrich", "reprocess", "drill")


@pytest.fixture(scope="module")
def nightly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("nightly"), 2)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, nightly: Path, server_logs: ServerLogs) -> Iterator[Serving]:
    """One on a fresh home."""
    server_logs.watch(home := tmp_path_factory.mktemp("scheduled"))
    with Serving(home, "--nightly", str(nightly), REPLI_RETRY_BELOW="1") as serving:
        yield serving


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_each_schedule_has_runs(served: Serving, name: str) -> None:
    """The server's scheduler has made the next runs of each deployment."""
    assert until(lambda: served.scheduled(name), 200, f"nothing is scheduled for {name}")


@pytest.mark.campaign
def test_schedules_fire(served: Serving, tmp_path: Path) -> None:
    """`enrich`, `reprocess` and `drill`, each moved to the next minute, run to their end with nobody near: the source
    of `--nightly` is stored, photos that had fallen back are whole, and the drill passes and its report is kept."""
    try:
        photos = sorted(package_data("foolbox").glob("imagenet_*.jpg"))
    except UsageError as error:
        pytest.skip(str(error))
    (tmp_path / "photos").mkdir()
    for photo in photos:
        shutil.copy(photo, tmp_path / "photos")
    run = served.repli("run", tmp_path / "photos", "--fault", "classify_image.gpu=oom", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["degraded"] == len(photos)
    before = frozenset(run["id"] for name in DEPLOYMENTS for run in served.flow_runs(name))
    for name in DEPLOYMENTS:
        served.fire_soon(name)

    runs = {
        name: until(partial(served.fired, name, before), 400, f"no scheduled run of {name} came to its end")[0]
        for name in DEPLOYMENTS
    }
    assert {run["state_type"] for run in runs.values()} == {"COMPLETED"}, [run["state"] for run in runs.values()]
    # The scheduled `reprocess` may find the probe of `enrich` in flight; then the closed breaker starts another.
    until(lambda: json.loads(served.repli("queue", "--json").stdout)["items"] == [], 300, "photos are still queued")

    def upgrading() -> list[dict[str, Any]]:
        return [run for run in served.flow_runs("reprocess") if run["id"] not in before]

    until(lambda: any("upgraded" in (run["state"]["message"] or "") for run in upgrading()))
    assert served.repli("show", "item-1").returncode == 0, "the source of `--nightly` is stored"
    kept = drills.of_flow_run(served.store(), runs["drill"]["id"])
    assert kept
    assert kept.verdict == "passed", kept.report


@pytest.mark.server_errors(NO_SOURCE)
def test_a_night_without_a_source_says_so(served: Serving) -> None:
    """What a schedule starts that was switched on in the UI, with no source: a run that fails, in one line that says
    what to do."""
    enrich = served.deployment("enrich")
    served.ask(f"deployments/{enrich['id']}", {"parameters": {}}, method="PATCH")
    run = served.start("enrich")
    until(lambda: served.flow_run(run)["state_type"] in ENDED)
    state = served.flow_run(run)["state"]
    assert (state["type"], state["message"]) == ("FAILED", NO_SOURCE)
