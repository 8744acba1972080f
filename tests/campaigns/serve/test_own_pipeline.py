"""`repli serve --pipeline`: forms, runs and schedules are of the pipeline that it was started with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.prefect_api import ENDED
from tests.support.server_logs import ServerLogs
from tests.support.serving import Serving, until

pytestmark = [pytest.mark.timeout(900), pytest.mark.campaign]

KINDS = """
import repli

kind = repli.Stage("kind", input=lambda item: item.name, produces=repli.Label)


@kind.rung(time_limit_s=60, breaker=repli.Breaker(scope="fleet"))
def service(names):
    return ["animal" if "cat" in name else repli.Declined(f"nothing is known of {name!r}") for name in names]


@kind.rung(penalty="0.7", time_limit_s=60, per_item=True)
def guess(name):
    return repli.Served("thing", confidence=0.2)


kind.skip(penalty="0.5")
pipeline = repli.Pipeline([kind])
"""
RUNGS = ["kind.service", "kind.guess", "kind.skip", "store.database"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that everything is started in: a pipeline, and what it is run on."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "kinds.py").write_text(KINDS)
    names = ("A cat", "A lamp", "Two cats")
    (folder / "items.jsonl").write_text("".join(json.dumps({"id": name, "name": name}) + "\n" for name in names))
    return folder


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory, server_logs: ServerLogs) -> Iterator[Serving]:
    """One on a fresh home."""
    server_logs.watch(home := tmp_path_factory.mktemp("own"))
    with Serving(home, "--pipeline", "kinds:pipeline", cwd=folder, REPLI_PIPELINE="") as serving:
        yield serving


def test_the_forms_list_the_rungs_of_the_pipeline(served: Serving) -> None:
    """Those of the deployments and that of the policy, and none of the default pipeline."""
    schema = json.dumps(served.deployment("enrich")["parameter_openapi_schema"])
    assert json.dumps(RUNGS) in schema
    assert json.dumps(["kind.service", "kind.guess", "store.database"]) in schema, "the rungs that may be made to fail"
    [policy] = [one for one in served.ask("block_types/filter", {"limit": 200}) if one["slug"] == "enrichment-policy"]
    [fields] = [
        one["fields"]
        for one in served.ask("block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [policy["id"]]}}})
    ]
    assert "guess" in json.dumps(fields)
    assert "classify_image" not in schema + json.dumps(fields)


def test_a_run_of_the_ui_has_the_pipeline(served: Serving, folder: Path) -> None:
    """Started with parameters of its form, it stores what the pipeline makes; what has no such rung is refused."""
    run = served.start("enrich", source=str(folder / "items.jsonl"), force=["kind.guess"])
    until(lambda: served.flow_run(run)["state_type"] in ENDED)
    assert served.flow_run(run)["state_type"] == "COMPLETED", served.flow_run(run)["state"]
    shown = json.loads(served.repli("show", "A cat", "--json").stdout)
    assert (shown["quality"], shown["stages"]["kind"]["value"]["label"]) == (0.7, "thing")
    assert json.loads(served.repli("breakers", "--json").stdout)[0]["name"] == "kind.service"


def test_reprocess_and_drill_have_it_too(served: Serving) -> None:
    """The queue is emptied but for what the better rung declined, and each rung is drilled."""
    for name in ("reprocess", "drill"):
        run = served.start(name)
        until(lambda run=run: served.flow_run(run)["state_type"] in ENDED)
        assert served.flow_run(run)["state_type"] == "COMPLETED", served.flow_run(run)["state"]
    found = {name: json.loads(served.repli("show", name, "--json").stdout) for name in ("A cat", "A lamp")}
    assert {name: one["stages"]["kind"]["rung"] for name, one in found.items()} == {
        "A cat": "service",
        "A lamp": "guess",
    }
    assert json.loads(served.repli("drill", "--json").stdout)["rungs_reached"] == len(RUNGS)


def test_another_pipeline_is_refused_beside_it(served: Serving) -> None:
    """By a command on the same store, in one line."""
    done = served.repli("run", "items.jsonl", "--pipeline", "repli:default_pipeline")
    assert done.returncode == 2
    assert "was filled by the pipeline kinds:pipeline" in done.stderr.splitlines()[-1]
