"""`repli serve` as its user has it: one command, and what is deployed there does its work."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil
import pytest

from repli.flows.server.ports import find_free_port
from repli.flows.server.serve import _variables
from repli.tasks.settings import Settings
from tests.support.command_line import command, environment, write_manifest
from tests.support.serving import Serving, until

pytestmark = pytest.mark.timeout(900)

GPU = "classify_image.gpu"


def test_it_says_where_everything_is(served: Serving, nightly: Path) -> None:
    """The page names the UI, the store and the cluster, and when what runs; the UI answers there."""
    night = f"nightly: from {nightly}, at 0 1 * * * (UTC)"
    for words in (served.ui_url, "repli.db", "tcp://127.0.0.1:", night, "every 15 minutes", "Sundays at 04:00"):
        assert words in served.page
    with urllib.request.urlopen(served.ui_url, timeout=30) as answer:
        assert "<title>Prefect" in answer.read().decode()


def test_only_this_machine_reaches_it(served: Serving) -> None:
    """Every port of every process is on loopback: Dask runs whatever it is sent."""
    listening = [
        (process.name(), connection.laddr.ip)
        for process in served.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert {ip for _, ip in listening} == {"127.0.0.1"}, listening


@pytest.mark.parametrize(
    ("name", "schedules"),
    [
        ("enrich", [("nightly", "0 1 * * *", True)]),
        ("reprocess", [("every-15-minutes", "*/15 * * * *", True)]),
        ("drill", [("weekly", "0 4 * * 0", True)]),
    ],
)
def test_what_is_deployed_is_scheduled(
    served: Serving, nightly: Path, name: str, schedules: list[tuple[str, str, bool]]
) -> None:
    """The API tells each schedule; the night has the source that was named. The UI shows each as ready to run."""
    found = until(lambda: one if (one := served.deployment(name))["status"] == "READY" else None)
    assert [(one["slug"], one["schedule"]["cron"], one["active"]) for one in found["schedules"]] == schedules
    assert found["description"]
    if name == "enrich":
        assert found["parameters"] == {"source": str(nightly)}


def test_blocks_and_automations_are_there(served: Serving) -> None:
    """Registered and declared, without a hand on it."""
    types = {one["slug"] for one in served.ask("block_types/filter", {"limit": 200})}
    assert types >= {"item-store", "enrichment-policy", "repli-cluster"}
    automations = {one["name"]: one["enabled"] for one in served.ask("automations/filter", {})}
    assert automations.keys() >= {"repli: a breaker closed", "repli: a run failed", "repli: the drill failed"}
    assert all(automations.values())


def test_the_form_rejects_nonsense(served: Serving) -> None:
    """What the schema of a parameter does not allow is refused before a run is made, with the parameter's name."""
    properties = served.deployment("enrich")["parameter_openapi_schema"]["properties"]
    assert all(one["title"] and one["description"] for one in properties.values())
    for parameters, named in (
        ({"source": "relative.jsonl"}, "source"),
        ({"source": "/x", "limit": 0}, "limit"),
        ({"source": "/x", "batch_size": 10**9}, "batch_size"),
        ({"source": "/x", "force": ["classify_image.tpu"]}, "force"),
        ({"source": "/x", "faults": [{"rung": GPU, "kind": "oom", "rate": 2}]}, "faults"),
    ):
        before = len(served.flow_runs("enrich"))
        with pytest.raises(HTTPError, match=r"409|422") as refused:
            served.start("enrich", **parameters)
        assert named in refused.value.read().decode()
        assert len(served.flow_runs("enrich")) == before, named


@pytest.mark.campaign
def test_a_breaker_that_closes_sets_reprocess_off(served: Serving, tmp_path: Path) -> None:
    """Items fall back while the primary is gone; its breaker closes, and soon they are whole, by the automation."""
    manifest = write_manifest(tmp_path / "items", 24)
    run = served.repli("run", manifest, "--batch-size", "4", "--fault", f"{GPU}=error", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["quality"] == {"0.9": 24}
    before = {one["id"] for one in served.flow_runs("reprocess")}

    ordered = served.repli("breakers", "reset", GPU)
    assert ordered.returncode == 0, ordered.stderr

    def healed() -> Any:
        runs = [one for one in served.flow_runs("reprocess") if one["id"] not in before]
        by_hand = [one for one in runs if one["created_by"] and one["created_by"]["type"] == "AUTOMATION"]
        return [one for one in by_hand if one["state_type"] == "COMPLETED"]

    until(healed, 300, "no run of `reprocess` by the automation came to its end")
    status = json.loads(served.repli("status", "--json").stdout)
    assert status["quality"] == {"1.0": 24}
    assert json.loads(served.repli("queue", "--json").stdout)["items"] == []


@pytest.mark.campaign
@pytest.mark.server_errors("is being enriched by another run")
def test_one_source_is_enriched_by_one_run_at_a_time(served: Serving, tmp_path: Path) -> None:
    """Of two runs of one source, started from the UI at once, one does the work, and the other ends cancelled."""
    manifest = write_manifest(tmp_path / "items", 24)
    both = [served.start("enrich", source=str(manifest), batch_size=1) for _ in range(2)]

    def ended() -> list[str]:
        states = [served.flow_run(one)["state_type"] for one in both]
        return sorted(states) if all(state in {"COMPLETED", "CANCELLED", "FAILED"} for state in states) else []

    assert until(ended, 400) == ["CANCELLED", "COMPLETED"]


def test_a_second_one_says_so(served: Serving) -> None:
    """On the same home there is one, and the other ends with one line that says where."""
    done = served.repli("serve", "--port", str(find_free_port()))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "already" in done.stderr
    assert served.ui_url in done.stderr


def test_a_night_without_a_source_is_refused(tmp_path: Path) -> None:
    """What is not there cannot be enriched every night: told at once, not at 01:00."""
    words, home = command("serve", "--nightly", tmp_path / "nowhere.jsonl"), environment(tmp_path / "home")
    done = subprocess.run(words, env=home, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nowhere.jsonl" in done.stderr


def test_flow_runs_work_on_the_store_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told which, by a path that holds in folders of their own, so no block is asked for another."""
    monkeypatch.chdir(tmp_path)
    told = _variables(Settings(home=tmp_path / "home", database_url="sqlite:///some.db"))
    assert told["REPLI_DATABASE_URL"] == f"sqlite:///{tmp_path}/some.db"
    assert told["REPLI_HOME"] == str(tmp_path / "home")


def test_flow_runs_use_the_models_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint and a folder that were named from here are found from folders of their own."""
    monkeypatch.chdir(tmp_path)
    told = _variables(
        Settings.from_environment({"REPLI_IMAGE_MODEL_CPU": "timm:resnet18@pets.pth", "REPLI_TEXT_MODEL": "./mine"})
    )
    assert told["REPLI_IMAGE_MODEL_CPU"] == f"timm:resnet18@{tmp_path}/pets.pth"
    assert told["REPLI_TEXT_MODEL"] == str(tmp_path / "mine")


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """One line says which, and how to choose another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words, home = command("serve", "--port", port), environment(tmp_path / "home")
        done = subprocess.run(words, env=home, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"port {port} is in use" in done.stderr
    assert "--port" in done.stderr
