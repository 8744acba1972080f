"""Breakers as an operator meets them: in a run, on the command line, in the report, and as Prefect events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Repli, write_manifest
from tests.support.prefect_api import ask, events

pytestmark = pytest.mark.timeout(600)

GPU = "classify_image.gpu"


def breaker(repli: Repli, name: str = GPU) -> dict[str, Any]:
    """What `repli breakers --json` says of one breaker."""
    done = repli("breakers", "--json")
    assert done.returncode == 0, done.stderr
    [view] = [view for view in json.loads(done.stdout) if view["name"] == name]
    return dict(view)


def test_a_dead_primary_is_called_a_few_times_and_then_refused(
    quick_repli: Repli, tmp_path: Path, standing: dict[str, str]
) -> None:
    """The breaker opens in the run: later items say so, the report names the move, and Prefect hears of it, and of what
    the run came to."""
    manifest = write_manifest(tmp_path / "items", 48)
    done = quick_repli("run", manifest, "--batch-size", "4", "--fault", f"{GPU}=error", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["quality"] == {"0.9": 48}

    view = breaker(quick_repli)
    assert (view["state"], view["scope"], view["failures"]) == ("open", "host", 5)
    assert view["opened_at"] < view["next_probe_at"]
    assert "InjectedFault" in view["why"]

    step = json.loads(quick_repli("show", "item-47", "--json").stdout)["stages"]["classify_image"]
    assert [(attempt["rung"], attempt["outcome"]) for attempt in step["attempts"]] == [
        ("gpu", "refused"),
        ("cpu", "served"),
    ]
    assert (step["status"], step["retryable"], step["error"]["type"]) == ("degraded", True, "BreakerOpen")
    assert "InjectedFault" in step["error"]["message"]

    here = view["key"], view["opened_at"]
    [opened] = events(standing, "repli.breaker.opened", lambda payload: (payload["key"], payload["at"]) == here)
    assert opened["resource"]["prefect.resource.id"] == f"repli.breaker.{GPU}"
    assert (opened["payload"]["old"], opened["payload"]["new"]) == ("closed", "open")
    assert opened["payload"]["cause"] == "too many failures"
    [degraded] = events(standing, "repli.run.degraded", lambda payload: payload["run_id"] == summary["run_id"])
    assert degraded["resource"]["prefect.resource.id"] == "repli.run"
    told = ("run_id", "items", "stored", "failed", "degraded", "mean_quality", "queued")
    assert degraded["payload"] == {name: summary[name] for name in told}
    artifacts = ask(standing, "artifacts/filter", {"sort": "CREATED_DESC", "limit": 20})
    report = next(one["data"] for one in artifacts if one["key"] == "enrich-report")
    assert "## Breakers that moved" in report
    assert "too many failures" in report


def test_a_person_forces_a_breaker(quick_repli: Repli, tmp_path: Path, standing: dict[str, str]) -> None:
    """Open: the primary is not called, though it would serve. Closed and reset: it is. Prefect hears of each order."""
    assert quick_repli("breakers", "open", GPU).returncode == 0
    assert breaker(quick_repli)["state"] == "forced_open"
    manifest = write_manifest(tmp_path / "items", 2)
    run = quick_repli("run", manifest, "--json")
    assert json.loads(run.stdout)["rungs"]["classify_image"] == {"cpu": 2}
    shown = json.loads(quick_repli("show", "item-1", "--json").stdout)["stages"]["classify_image"]
    assert "forced open" in shown["error"]["message"]

    assert quick_repli("breakers", "close", GPU).returncode == 0
    assert breaker(quick_repli)["state"] == "forced_closed"
    assert quick_repli("breakers", "reset", GPU).returncode == 0
    assert breaker(quick_repli)["state"] == "closed"
    again = quick_repli("run", manifest, "--refresh", "--json")
    assert json.loads(again.stdout)["rungs"]["classify_image"] == {"gpu": 2}
    assert events(standing, "repli.breaker.closed", lambda payload: payload["new"] == "forced_closed")


@pytest.mark.campaign
def test_a_rung_that_kills_its_workers_is_refused_after_a_few_deaths(quick_repli: Repli, tmp_path: Path) -> None:
    """Where every item kills, deaths open the breaker, and the items fall back instead of being set aside."""
    manifest = write_manifest(tmp_path / "items", 12)
    done = quick_repli("run", manifest, "--json", "--fault", f"{GPU}=kill")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["stored"], summary["failed"]) == (12, 0)
    assert summary["quality"] == {"0.9": 12}
    view = breaker(quick_repli)
    assert view["state"] == "open"
    assert "WorkerDied" in view["why"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("breakers",), 1, "repli run SOURCE"),
        (("breakers", "open"), 2, "missing argument 'NAME'; see `repli breakers open --help`"),
        (("breakers", "open", "classify_image.tpu"), 2, "choose from fetch.origin"),
        (("breakers", "smash", GPU), 2, "choose from open, close, reset"),
    ],
)
def test_a_wrong_order_is_one_line(quick_repli: Repli, arguments: tuple[str, ...], status: int, message: str) -> None:
    """What cannot be done is told in one line that names the way out."""
    done = quick_repli(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert message in done.stderr


def test_options_go_before_or_after_the_sub_command(quick_repli: Repli, tmp_path: Path, home: Path) -> None:
    """`--json` and `--database` mean the same in both places; the value after the name takes precedence."""
    before, after = (f"sqlite:///{tmp_path / name}.db" for name in ("before", "after"))
    opened = quick_repli("breakers", "--json", "--database", before, "open", GPU)
    assert opened.returncode == 0, opened.stderr
    assert {view["state"] for view in json.loads(opened.stdout) if view["name"] == GPU} == {"forced_open"}
    closed = quick_repli("breakers", "--database", before, "close", GPU, "--json", "--database", after)
    assert {view["state"] for view in json.loads(closed.stdout) if view["name"] == GPU} == {"forced_closed"}
    listed = quick_repli("breakers", "--json", "--database", before)
    assert json.loads(listed.stdout) == json.loads(opened.stdout)
    assert not (home / "repli.db").exists()


def test_the_page_fits_a_terminal(quick_repli: Repli) -> None:
    """Every declared breaker is listed by its whole name on 80 columns."""
    quick_repli("breakers", "open", GPU)
    done = quick_repli("breakers", COLUMNS="80")
    for name in (GPU, "classify_image.cpu", "embed_text.text_and_label", "embed_text.text_only"):
        assert name in done.stdout
    assert "forced_open" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
