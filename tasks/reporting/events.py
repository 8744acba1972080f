"""What Repli tells Prefect as events, for automations to act on.

===========================  ========================  =============================================================
event                        resource                  payload
===========================  ========================  =============================================================
`repli.breaker.opened`       `repli.breaker.NAME`      `breaker`, `place`, `old`, `new`, `cause`, `why`, `at`
`repli.breaker.half_opened`  `repli.breaker.NAME`      the same
`repli.breaker.closed`       `repli.breaker.NAME`      the same
`repli.run.degraded`         `repli.run`               the run's summary: `run_id`, `items`, `stored`, `failed`,
                                                       `degraded`, `mean_quality`, `queued`
`repli.drill.passed`         `repli.drill`             `verdict`, `rungs_declared`, `rungs_reached`, `not_covered`,
                                                       `failures`
`repli.drill.failed`         `repli.drill`             the same
===========================  ========================  =============================================================

NAME is `STAGE.RUNG`, so that an automation can match one rung or, with ``*``, all of them. Times are ISO 8601.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from repli.tasks.fallback import Position
from repli.tasks.storage.breakers import Move

DRAIN_LIMIT_S = 10
BREAKER_EVENTS: Mapping[Position, str] = {
    Position.OPEN: "repli.breaker.opened",
    Position.FORCED_OPEN: "repli.breaker.opened",
    Position.HALF_OPEN: "repli.breaker.half_opened",
    Position.CLOSED: "repli.breaker.closed",
    Position.FORCED_CLOSED: "repli.breaker.closed",
}
RUN_DEGRADED = "repli.run.degraded"
DRILL_PASSED, DRILL_FAILED = "repli.drill.passed", "repli.drill.failed"


def breaker_moved(move: Move) -> None:
    """A breaker moved."""
    resource = {"prefect.resource.name": str(move.key), "repli.breaker.place": move.key.place}
    _emit(BREAKER_EVENTS[move.new], f"repli.breaker.{move.key.name}", payload_of(move), resource)


def breakers_moved_now(moves: Iterable[Move]) -> None:
    """The same for several, waiting until they are sent: for a process that ends right after."""
    from prefect.events.worker import EventsWorker

    logging.getLogger(EventsWorker.__name__).setLevel(logging.ERROR)  # it says aloud how much it has left
    for move in moves:
        breaker_moved(move)
    EventsWorker.drain_all(timeout=DRAIN_LIMIT_S)


def run_ended_degraded(summary: Mapping[str, Any]) -> None:
    """A run of `enrich` ended, and not everything is whole."""
    told = ("run_id", "items", "stored", "failed", "degraded", "mean_quality", "queued")
    _emit(RUN_DEGRADED, "repli.run", {name: summary[name] for name in told}, {"prefect.resource.name": "enrich"})


def drill_ended(report: Mapping[str, Any], failures: Iterable[str]) -> None:
    """A drill came to its verdict."""
    told = ("verdict", "rungs_declared", "rungs_reached", "not_covered")
    payload = {**{name: report[name] for name in told}, "failures": list(failures)}
    event = DRILL_FAILED if payload["failures"] else DRILL_PASSED
    _emit(event, "repli.drill", payload, {"prefect.resource.name": "drill"})


def payload_of(move: Move) -> dict[str, Any]:
    """What the event says of the move."""
    return {
        "breaker": move.key.name,
        "place": move.key.place or None,
        "old": move.old.value,
        "new": move.new.value,
        "cause": move.cause.value,
        "why": move.why,
        "at": move.at.isoformat(),
    }


def _emit(event: str, resource: str, payload: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    """Send an event to the Prefect server that this process knows; where it knows none, do nothing."""
    from prefect.events import emit_event
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        emit_event(event, resource={"prefect.resource.id": resource, **labels}, payload=dict(payload))
