"""A standing Prefect server that is away for five minutes of a longer run, or hangs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.prefect_api import ask
from tests.support.server_outage import SlowRun, standing_server

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]

AWAY_S = 300.0
ITEMS = 6000
ENDS_WITHIN_S = 1200.0


@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hung"])
def test_five_minutes_cost_nothing_but_records(tmp_path: Path, hangs: bool) -> None:
    """The run goes on meanwhile, every item is stored, and the flow run ends as completed."""
    with standing_server(tmp_path / "server") as server:
        run = SlowRun(tmp_path, ITEMS, PREFECT_API_URL=server.api_url)
        run.until(lambda: run.stored() > ITEMS // 100)
        before = run.stored()
        server.stop() if hangs else server.kill()
        time.sleep(AWAY_S)
        assert run.stored() > before + ITEMS // 10
        server.go_on() if hangs else server.start()
        status, report, stderr = run.end(ENDS_WITHIN_S)
        assert (status, stderr, report["stored"]) == (0, "", ITEMS)
        ended = run.run()
        assert ended
        assert len(ended.notes or ()) == 1
        flow_run = ask({"PREFECT_API_URL": server.api_url}, f"flow_runs/{ended.flow_run_id}")
        assert flow_run["state_type"] == "COMPLETED"
