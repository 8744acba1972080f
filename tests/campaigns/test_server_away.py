"""A standing Prefect server that is away for five minutes of a longer run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from repli.flows.server.dask_cluster import MAX_WORKERS
from tests.support.prefect_api import ask
from tests.support.server_outage import SlowRun, standing_server
from tests.support.slow_pipeline import SECONDS_EACH

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]

AWAY_S = 300.0
SECONDS_EACH_ITEM = 2
ITEMS = 170 * min(MAX_WORKERS, os.cpu_count() or 1)
"""Enough for a run that is at work throughout the outage."""
ENDS_WITHIN_S = 1200.0


def test_five_minutes_cost_nothing_but_records(tmp_path: Path) -> None:
    """The run goes on meanwhile, every item is stored, and the flow run ends as completed."""
    with standing_server(tmp_path / "server") as server:
        variables = {SECONDS_EACH: str(SECONDS_EACH_ITEM), "PREFECT_API_URL": server.api_url}
        run = SlowRun(tmp_path, ITEMS, **variables)
        run.until(lambda: run.stored() > 0)
        before = run.stored()
        server.kill()
        time.sleep(AWAY_S)
        assert run.stored() > before + ITEMS // 10
        server.start()
        run.release()
        status, report, stderr = run.end(ENDS_WITHIN_S)
        assert (status, stderr, report["stored"]) == (0, "", ITEMS)
        ended = run.run()
        assert ended
        assert len(ended.notes or ()) == 1
        flow_run = ask({"PREFECT_API_URL": server.api_url}, f"flow_runs/{ended.flow_run_id}")
        assert flow_run["state_type"] == "COMPLETED"
