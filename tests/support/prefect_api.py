"""A Prefect server, asked as its UI asks it, and a port for one."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

ANSWERS_WITHIN_S = 60.0
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
"""The types of states that a flow run ends in."""


def ask(
    environment: Mapping[str, str], path: str, body: Mapping[str, Any] | None = None, *, method: str | None = None
) -> Any:
    """What the API of the server that an environment names answers, if anything. It is asked again where its database
    was locked just then, as Prefect's own clients do."""
    request = urllib.request.Request(
        f"{environment['PREFECT_API_URL']}/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


class Deployments:
    """What is deployed to a Prefect server."""

    def __init__(self, api_url: str) -> None:
        self.api_url = api_url

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, method: str | None = None) -> Any:
        """What the API answers."""
        return ask({"PREFECT_API_URL": self.api_url}, path, body, method=method)

    def deployment(self, name: str) -> dict[str, Any]:
        return dict(self.ask(f"deployments/name/{name}/{name}"))

    def start(self, name: str, **parameters: Any) -> str:
        """Have a deployment run, as its form does: the id of the run."""
        body = {"parameters": parameters}
        return str(self.ask(f"deployments/{self.deployment(name)['id']}/create_flow_run", body)["id"])

    def scheduled(self, name: str) -> list[dict[str, Any]]:
        """The runs of a deployment that its schedules have made, and that have not begun."""
        states = {"type": {"any_": ["SCHEDULED"]}}
        wanted = {"flow_runs": {"deployment_id": {"any_": [self.deployment(name)["id"]]}, "state": states}, "limit": 50}
        return [run for run in self.ask("flow_runs/filter", wanted) if run["auto_scheduled"]]

    def fire_soon(self, name: str) -> None:
        """Change the deployment's one schedule so that it fires once, 100 to 160 seconds from now: the scheduler may
        take 60 to see the change, and longer where it is busy."""
        deployment = self.deployment(name)
        [schedule] = deployment["schedules"]
        when = datetime.now(UTC) + timedelta(seconds=160)
        cron = {"cron": f"{when.minute} {when.hour} * * *", "timezone": "UTC"}
        path = f"deployments/{deployment['id']}/schedules/{schedule['id']}"
        self.ask(path, {"active": True, "schedule": cron}, method="PATCH")

    def flow_run(self, id_: str) -> dict[str, Any]:
        return dict(self.ask(f"flow_runs/{id_}"))

    def flow_runs(self, flow: str) -> list[dict[str, Any]]:
        """The runs of a flow, the last first."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC", "limit": 50}
        return list(self.ask("flow_runs/filter", wanted))

    def fired(self, name: str, before: Collection[str]) -> list[dict[str, Any]]:
        """The runs of a deployment that its schedule started, and that have ended, but for those of before."""
        runs = [run for run in self.flow_runs(name) if run["auto_scheduled"] and run["id"] not in before]
        return [run for run in runs if run["state_type"] in ENDED]


def events(environment: Mapping[str, str], name: str, is_it: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The events of this name with such a payload, once there is one; tests before this one may have left others."""
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    while time.monotonic() < deadline:
        found = ask(environment, "events/filter", {"filter": {"event": {"name": [name]}}, "limit": 50})["events"]
        if found := [event for event in found if is_it(event["payload"])]:
            return list(found)
        time.sleep(0.2)
    return []
