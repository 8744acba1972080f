"""Where stage tasks are sent: to the workers that carry what the stage's primary needs, as long as that helps.

A Dask task that asks for a resource waits for ever where no worker carries it, and where the primary's breaker is
open everywhere its workers would do alone what every worker can help with. In both cases tasks are sent without.

Where some workers carry `CPU`, stages that need no device go to those, and leave the workers with one alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client, Worker

from repli.tasks.execution.shared_breakers import current_device_scope
from repli.tasks.fallback import AnyRung, Breaker, StoreError
from repli.tasks.pipeline import AnyStage
from repli.tasks.storage import breakers
from repli.tasks.storage.breakers import FLEET, Key
from repli.tasks.storage.database import Database

LOST_AFTER_S = 10.0
"""Without a worker that carries it for so long a resource is lost. A worker that its nanny restarts is back earlier."""
DESERTED_AFTER_S = 120.0
"""Without any worker for so long a cluster is deserted."""
CACHE_TTL_S = 1.0
CPU_RESOURCE = {"CPU": 1.0}
"""What a stage asks for that asks for nothing, where there is a worker that carries it: it leaves the devices alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _BreakerSummary:
    """Whether all breakers of a rung refuse calls now, and whether they do so for some time: no probe is out."""

    all_refuse: bool
    all_open: bool


_CLOSED = _BreakerSummary(all_refuse=False, all_open=False)


class Routing:
    """What is known of the workers of a cluster, and of the breakers that they stand behind.

    Args:
        forced: the rungs that a run begins its stages at, by stage; their breakers are not asked.
    """

    def __init__(
        self,
        client: Client,
        database: Database,
        *,
        forced: Mapping[str, str] = {},
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._database = database
        self._forced = forced
        self._timer = timer
        self._places: dict[str, str] = {}
        self._missing_since: dict[str, float] = {}
        self._read_last: dict[str, tuple[float, _BreakerSummary]] = {}

    def workers(self) -> dict[str, Any]:
        """The live workers, by address, as the scheduler describes them."""
        workers: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return workers

    def place_of(self, worker: str) -> str | None:
        """The place of a worker that was seen alive; None of one that never was."""
        return self._places.get(worker)

    def resources_for(self, stage: AnyStage) -> Mapping[str, float]:
        """The resources that the stage's tasks are to ask for now; none where they had better run anywhere."""
        wanted = self._wanted(stage)
        carriers = self._carriers(wanted)
        return wanted if carriers and not self._primary(stage, carriers).all_refuse else {}

    def may_be_called(self, stage: str, rung: AnyRung) -> bool:
        """Whether a worker lives that can run the rung, and somewhere its breaker does not refuse it."""
        carriers = self._carriers(rung.resources)
        return bool(carriers) and not self._breaker_of(stage, rung, carriers).all_refuse

    def should_requeue_without_resource(self, stage: AnyStage) -> bool:
        """Whether what waits for the stage's resource had better not: no worker has carried it for a while, or the
        breaker has opened wherever one does. While a probe is out there is hope."""
        carriers = self._carriers(self._wanted(stage))
        is_lost = self._missing_for(stage.name, is_there=bool(carriers)) >= LOST_AFTER_S
        return is_lost or (bool(carriers) and self._primary(stage, carriers).all_open)

    def running_task_keys(self) -> set[Any]:
        """The keys of the tasks that some worker is at."""
        return set().union(*self._client.run(_begun, on_error="ignore").values())

    def has_no_workers(self) -> bool:
        """Whether there has been no worker at all for long."""
        return self._missing_for("any", is_there=bool(self.workers())) >= DESERTED_AFTER_S

    def _missing_for(self, what: str, *, is_there: bool) -> float:
        """Since how many seconds it has been looked for in vain."""
        if is_there:
            self._missing_since.pop(what, None)
            return 0.0
        return self._timer() - self._missing_since.setdefault(what, self._timer())

    def refresh_worker_locations(self) -> None:
        """Ask the workers that are new where they are, while they live."""
        if new := [worker for worker in self.workers() if worker not in self._places]:
            self._places.update(self._client.run(current_device_scope, workers=new, on_error="ignore"))

    def _wanted(self, stage: AnyStage) -> Mapping[str, float]:
        first = self._forced.get(stage.name, stage.chain.primary.name)
        resources = {rung.name: rung.resources for rung in stage.chain.rungs}
        return resources.get(first) or CPU_RESOURCE

    def _carriers(self, wanted: Mapping[str, float]) -> list[str]:
        return [
            address
            for address, worker in self.workers().items()
            if all(worker["resources"].get(name, 0) >= amount for name, amount in wanted.items())
        ]

    def _primary(self, stage: AnyStage, carriers: list[str]) -> _BreakerSummary:
        """How the breaker stands by which a stage is sent. None is where a rung is forced, or needs nothing."""
        primary = stage.chain.primary
        if stage.name in self._forced or not primary.resources:
            return _CLOSED
        return self._breaker_of(stage.name, primary, carriers)

    def _breaker_of(self, stage: str, rung: AnyRung, carriers: list[str]) -> _BreakerSummary:
        """How the rung's breaker stands wherever it could be called. What was read last is believed for a while."""
        if rung.breaker is None:
            return _CLOSED
        name = f"{stage}.{rung.name}"
        read_at, found = self._read_last.get(name, (None, _CLOSED))
        if read_at is None or self._timer() - read_at >= CACHE_TTL_S:
            found = self._read(name, rung.breaker, carriers)
            self._read_last[name] = (self._timer(), found)
        return found

    def _read(self, name: str, breaker: Breaker, carriers: list[str]) -> _BreakerSummary:
        self.refresh_worker_locations()
        places = {self._places.get(worker) for worker in carriers} if breaker.scope == "host" else {FLEET}
        keys = [Key(name, place) for place in places if place is not None]
        if len(keys) < len(places):  # one of them has not said where it is
            return _CLOSED
        try:
            states, now = breakers.read(self._database, breaker, [*keys, Key(name)])
        except StoreError:  # the stages say so
            return _CLOSED
        ordered = states[Key(name)]
        standing = [ordered] if ordered.position.is_forced else [states[key] for key in keys]
        return _BreakerSummary(
            all_refuse=all(state.refuses(now) for state in standing),
            all_open=all(state.is_shut(now) for state in standing),
        )


def _begun(dask_worker: Worker) -> list[Any]:
    """The keys of the tasks that this worker is at."""
    return [task.key for task in (*dask_worker.state.executing, *dask_worker.state.long_running)]
