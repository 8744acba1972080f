"""Close the flow runs that a Prefect server still shows as running, or as due, when it starts again.

One server at a time uses a state folder (`private_server` holds its lock), and every process that runs a flow for a
private server ends with it. So a run that is *Running* when the server starts was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repli.flows.server.prefect_api import ask

UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")
CUT_OFF = "its process and its Prefect server ended while it ran; start it again, it continues from here"
MISSED = "`repli serve` was not running at its time; a later run of this deployment replaces it"
PAGE = 200
"""Flow runs per page: the maximum of the API."""


def mark_crashed(api_url: str) -> None:
    """Set every unfinished flow run to *Crashed*. Raises OSError where the API does not answer."""
    wanted = {"flow_runs": {"state": {"type": {"any_": UNFINISHED}}}}
    for run in _flow_runs(api_url, wanted):
        _set_state(api_url, run["id"], "CRASHED", "Crashed", CUT_OFF)


def skip_missed(api_url: str) -> None:
    """Cancel the scheduled runs whose time has passed, except the last one of each deployment.

    Prefect starts all of them once a worker polls again: three nights at once, after a long weekend. Raises OSError
    where the API does not answer.
    """
    wanted = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "sort": "EXPECTED_START_TIME_DESC"}
    missed = [
        run for run in _flow_runs(api_url, wanted) if run["auto_scheduled"] and run["estimated_start_time_delta"] > 0
    ]
    latest: dict[str, str] = {}
    for run in missed:
        if latest.setdefault(run["deployment_id"], run["id"]) != run["id"]:
            _set_state(api_url, run["id"], "CANCELLED", "Missed", MISSED)


def _flow_runs(api_url: str, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = ask(api_url, "flow_runs/filter", {**wanted, "limit": PAGE, "offset": len(found)})
        found += page
        if len(page) < PAGE:
            return found


def _set_state(api_url: str, run_id: str, state_type: str, name: str, message: str) -> None:
    state = {"type": state_type, "name": name, "message": message}
    ask(api_url, f"flow_runs/{run_id}/set_state", {"state": state, "force": True})
