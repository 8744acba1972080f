"""A Prefect server, asked as its UI asks it, and a port for one."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

ANSWERS_WITHIN_S = 20.0


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


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def events(environment: Mapping[str, str], name: str, is_it: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The events of this name with such a payload, once there is one; tests before this one may have left others."""
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    while time.monotonic() < deadline:
        found = ask(environment, "events/filter", {"filter": {"event": {"name": [name]}}, "limit": 50})["events"]
        if found := [event for event in found if is_it(event["payload"])]:
            return list(found)
        time.sleep(0.2)
    return []
