"""Commands with a `PREFECT_API_URL` at which no Prefect server answers."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from repli.tasks.storage.database import Database
from tests.support.command_line import Repli, write_manifest
from tests.support.odd_servers import mute_server, nobody

GPU = "classify_image.gpu"
ENDS_WITHIN_S = 100
"""It takes a dozen seconds where nobody else uses the machine, and the begin of a run waits for two minutes."""


@pytest.mark.parametrize(
    ("server", "told"),
    [
        pytest.param(
            nullcontext(nobody()),
            "did not answer (Connection refused); check that it runs, and correct PREFECT_API_URL",
            id="refused",
        ),
        pytest.param(
            mute_server(),
            "did not answer within 10 s; check that it runs, and correct PREFECT_API_URL or unset it",
            id="mute",
            marks=pytest.mark.campaign,
        ),
    ],
)
def test_a_run_ends_at_once_in_one_line(
    repli: Repli, tmp_path: Path, server: AbstractContextManager[str], told: str
) -> None:
    """It names the address, the reason and what to do; no worker is started for it."""
    manifest = write_manifest(tmp_path / "items", 1)
    with server as url:
        started = time.monotonic()
        done = repli("run", manifest, PREFECT_API_URL=url)
        assert time.monotonic() - started < ENDS_WITHIN_S
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"repli: the Prefect server at {url} {told}")


@pytest.mark.parametrize("command", ["reprocess", "drill"])
def test_so_do_the_other_flows(repli: Repli, store: Database, home: Path, command: str) -> None:
    """On a store that is there."""
    home.mkdir()
    store.migrate()
    url = nobody()
    done = repli(command, "--json", PREFECT_API_URL=url)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"repli: the Prefect server at {url} did not answer (Connection refused); check")
    done = repli(command, PREFECT_API_URL="nowhere")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("repli: PREFECT_API_URL='nowhere' is not an http or https address")


def test_a_breaker_is_changed_all_the_same(repli: Repli) -> None:
    """The store has it; that no event was sent is told beside it."""
    with mute_server() as url:
        started = time.monotonic()
        done = repli("breakers", "open", GPU, "--json", PREFECT_API_URL=url)
        assert time.monotonic() - started < ENDS_WITHIN_S
    assert done.returncode == 0, done.stderr
    assert [view["state"] for view in json.loads(done.stdout) if view["name"] == GPU] == ["forced_open"]
    assert done.stderr.startswith("repli: the breaker is changed, but no event was sent: ")
    assert "did not answer within 5 s; check that it runs" in done.stderr
    assert done.stderr.count("\n") == 1
