"""Emit Prefect events, which automations act on.

===========================  ========================  =============================================================
event                        resource                  payload
===========================  ========================  =============================================================
`repli.breaker.opened`       `repli.breaker.NAME`      `breaker`, `key`, `old`, `new`, `cause`, `why`, `at`
`repli.breaker.half_opened`  `repli.breaker.NAME`      the same
`repli.breaker.closed`       `repli.breaker.NAME`      the same
`repli.run.degraded`         `repli.run`               the run's report: `run_id`, `items`, `stored`, `failed`,
                                                       `degraded`, `mean_quality`, `queued`
`repli.drill.passed`         `repli.drill`             `verdict`, `rungs_declared`, `rungs_reached`, `not_covered`,
                                                       `failures`
`repli.drill.failed`         `repli.drill`             the same
`repli.penalty.proposed`     `repli.penalty.NAME`      `rung`, `declared`, `proposed`, `relative_accuracy`,
                                                       `relative_interval`, `set`
===========================  ========================  =============================================================

NAME is `STAGE.RUNG`: an automation can match one rung or, with ``*``, several. Times are ISO 8601.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from repli.tasks.fallback import Position
from repli.tasks.storage.breakers import Move

BREAKER_EVENTS: Mapping[Position, str] = {
    Position.OPEN: "repli.breaker.opened",
    Position.FORCED_OPEN: "repli.breaker.opened",
    Position.HALF_OPEN: "repli.breaker.half_opened",
    Position.CLOSED: "repli.breaker.closed",
    Position.FORCED_CLOSED: "repli.breaker.closed",
}
RUN_DEGRADED = "repli.run.degraded"
DRILL_PASSED, DRILL_FAILED = "repli.drill.passed", "repli.drill.failed"
PENALTY_PROPOSED = "repli.penalty.proposed"


def emit_breaker_move(move: Move) -> None:
    """Emit the event of a breaker's move."""
    resource = {"prefect.resource.name": str(move.key), "repli.breaker.key": move.key.place}
    _emit(BREAKER_EVENTS[move.new], f"repli.breaker.{move.key.name}", breaker_payload(move), resource)


def emit_run_degraded(summary: Mapping[str, Any]) -> None:
    """Emit the event of a run of `enrich` with degraded or failed items. `summary` is the document of `run --json`."""
    keys = ("run_id", "items", "stored", "failed", "degraded", "mean_quality", "queued")
    _emit(RUN_DEGRADED, "repli.run", {key: summary[key] for key in keys}, {"prefect.resource.name": "enrich"})


def emit_drill_verdict(report: Mapping[str, Any], failures: Iterable[str]) -> None:
    """Emit the event of a drill's verdict. `report` is the document of `drill --json`."""
    keys = ("verdict", "rungs_declared", "rungs_reached", "not_covered")
    payload = {**{key: report[key] for key in keys}, "failures": list(failures)}
    event = DRILL_FAILED if payload["failures"] else DRILL_PASSED
    _emit(event, "repli.drill", payload, {"prefect.resource.name": "drill"})


def emit_penalty_proposed(proposal: Mapping[str, Any]) -> None:
    """Emit the event of a penalty that a drill proposes; see `repli.tasks.drill.proposals`."""
    resource = {"prefect.resource.name": proposal["rung"]}
    _emit(PENALTY_PROPOSED, f"repli.penalty.{proposal['rung']}", proposal, resource)


def breaker_payload(move: Move) -> dict[str, Any]:
    """Return the payload of the event of a breaker's move."""
    return {
        "breaker": move.key.name,
        "key": move.key.place or None,
        "old": move.old.value,
        "new": move.new.value,
        "cause": move.cause.value,
        "why": move.why,
        "at": move.at.isoformat(),
    }


def _emit(event: str, resource: str, payload: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    """Send an event to the Prefect server at `PREFECT_API_URL`, or do nothing if none is set."""
    from prefect.events import emit_event
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        emit_event(event, resource={"prefect.resource.id": resource, **labels}, payload=dict(payload))
