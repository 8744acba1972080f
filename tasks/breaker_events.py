"""Breakers' moves as Prefect events, for automations to act on.

==========================  ==================================================================
event                       payload
==========================  ==================================================================
`repli.breaker.opened`      `breaker`, `place`, `old`, `new`, `cause`, `why`, `at` (ISO 8601)
`repli.breaker.half_opened` the same
`repli.breaker.closed`      the same
==========================  ==================================================================

The resource is ``repli.breaker.STAGE.RUNG``, so that an automation can match one rung or, with ``*``, all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tasks.fallback import Position
from tasks.storage.breakers import Move

DRAIN_LIMIT_S = 10
EVENTS: Mapping[Position, str] = {
    Position.OPEN: "repli.breaker.opened",
    Position.FORCED_OPEN: "repli.breaker.opened",
    Position.HALF_OPEN: "repli.breaker.half_opened",
    Position.CLOSED: "repli.breaker.closed",
    Position.FORCED_CLOSED: "repli.breaker.closed",
}


def payload(move: Move) -> dict[str, Any]:
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


def emit(move: Move) -> None:
    """Send the event to the Prefect server that this process knows; where it knows none, do nothing."""
    from prefect.events import emit_event
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        return
    emit_event(
        EVENTS[move.new],
        resource={
            "prefect.resource.id": f"repli.breaker.{move.key.name}",
            "prefect.resource.name": str(move.key),
            "repli.breaker.place": move.key.place,
        },
        payload=payload(move),
    )


def emit_now(moves: Iterable[Move]) -> None:
    """Send the events, and wait until they are sent: for a process that ends right after."""
    from prefect.events.worker import EventsWorker

    for move in moves:
        emit(move)
    EventsWorker.drain_all(timeout=DRAIN_LIMIT_S)
