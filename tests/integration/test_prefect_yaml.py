"""`deployments/` as its user has it who has a Prefect server: the commands that its README names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.prefect_api import ask


def check_out(folder: Path) -> Path:
    """What a clone would hold: the files that git knows, and no other."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def test_what_is_deployed_from_a_clean_checkout(standing_server: dict[str, str], tmp_path: Path) -> None:
    """Pool, deployments and automations, by Prefect's own commands; each schedule is as declared. The nightly one waits
    for a source."""
    checkout = check_out(tmp_path / "checkout")
    environment = {"PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path), **standing_server}

    def prefect(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    prefect("work-pool", "create", "repli", "--type", "process")
    prefect("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    prefect("automation", "create", "--from-file", "deployments/automations.yaml")

    deployed = {one["name"]: one for one in ask(standing_server, "deployments/filter", {})}
    schedules = {
        name: [(one["slug"], one["schedule"]["cron"], one["schedule"]["timezone"], one["active"]) for one in listed]
        for name, listed in ((name, one["schedules"]) for name, one in deployed.items())
    }
    assert schedules == {
        "enrich": [("nightly", "0 1 * * *", "UTC", False)],
        "reprocess": [("every-15-minutes", "*/15 * * * *", "UTC", True)],
        "drill": [("weekly", "0 4 * * 0", "UTC", True)],
    }
    limits = {name: (one["global_concurrency_limit"] or {}).get("limit") for name, one in deployed.items()}
    assert limits == {"enrich": None, "reprocess": 1, "drill": 1}
    for name, one in deployed.items():
        assert (one["work_pool_name"], one["entrypoint"]) == ("repli", f"repli.flows.{name}.{name}")
        assert (one["enforce_parameter_schema"], one["pull_steps"]) == (True, [])

    automations = {one["name"]: one for one in ask(standing_server, "automations/filter", {})}
    assert automations.keys() == {
        "repli: a breaker closed",
        "repli: a run failed",
        "repli: a run that is gone is marked as crashed",
        "repli: the drill failed",
    }
    closed = automations["repli: a breaker closed"]
    assert closed["trigger"]["expect"] == ["repli.breaker.closed"]
    assert [one["deployment_id"] for one in closed["actions"]] == [deployed["reprocess"]["id"]]
