"""The keys, such as origins, whose calls failed in a run: why, since when, how many items fell back, the next try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from repli.tasks.fallback import Breaker, Position
from repli.tasks.fallback.breaker import BreakerState, clock_time
from repli.tasks.storage import breakers, counts
from repli.tasks.storage.breakers import Key
from repli.tasks.storage.database import Database

MAX_LISTED_KEYS = 20
"""The most keys that a report lists: those that most items wait for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOutage:
    """One key, the items of the run that wait for it, and its breaker's state at the time `now`."""

    key: Key
    items: int
    state: BreakerState
    now: datetime

    def __str__(self) -> str:
        """Return the outage in one line, such as ``shop.example: it answered 503 since 03:12, 12 items fell back``."""
        items = f"{self.items:,} item{'' if self.items == 1 else 's'} fell back"
        if self.state.position in {Position.CLOSED, Position.FORCED_CLOSED}:
            return f"{self.key.place}: {items}, its breaker is closed now"
        since = f" since {self._time(self.state.opened_at)}" if self.state.opened_at else ""
        return f"{self.key.place}: {self._reason}{since}, {items}, {self._next_try}"

    def as_json(self) -> dict[str, Any]:
        """Return the outage as `run --json` has it."""
        state = self.state
        return {
            "breaker": self.key.name,
            "key": self.key.place,
            "items": self.items,
            "state": state.position.value,
            "why": state.why,
            "since": state.opened_at and state.opened_at.isoformat(),
            "next_probe_at": state.probe_at and state.probe_at.isoformat(),
        }

    @property
    def _reason(self) -> str:
        """Return the error without its type, and without what to do about it."""
        return self.state.why.partition(": ")[2].partition(";")[0] or str(self.state.position).replace("_", " ")

    @property
    def _next_try(self) -> str:
        if self.state.position is Position.FORCED_OPEN:
            return "no try until `repli breakers reset`"
        return f"next try {self._time(self.state.probe_at)}" if self.state.probe_at else "a try is under way"

    def _time(self, at: datetime) -> str:
        return clock_time(at, self.now, seconds=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outages:
    """The keys that items of a run wait for: those of most items, and how many there are besides."""

    listed: Sequence[KeyOutage] = ()
    others: int = 0

    @property
    def lines(self) -> list[str]:
        """Return a line for each listed key, and one that counts the others."""
        others = f"and {self.others:,} other key{'' if self.others == 1 else 's'}; see `repli breakers`"
        return [*map(str, self.listed), *([others] if self.others else [])]


def key_outages(database: Database, run_id: str) -> Outages:
    """Return the keys that results of a run's items wait for, those of most items first."""
    waiting = counts.waits(database, run_id).most_common()
    if not waiting:
        return Outages()
    keys = {Key(*breaker.split("@", 1)): count for breaker, count in waiting[:MAX_LISTED_KEYS]}
    states, now = breakers.read(database, Breaker(scope="key"), list(keys))
    listed = [KeyOutage(key=key, items=count, state=states[key], now=now) for key, count in keys.items()]
    return Outages(listed=listed, others=len(waiting) - len(listed))
