"""Choose the workers for stage tasks: those with the resource that the stage's primary needs, while that helps.

A Dask task that asks for a resource waits for ever where no worker has it. Where the primary's breaker is open on all
such workers, they would do alone what every worker can do. In both cases the next tasks are sent without the resource.

Where some workers carry `CPU`, stages that need no device go to those, and leave the device workers free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client

from repli.tasks.execution.shared_breakers import current_device_scope
from repli.tasks.fallback import AnyRung, Breaker, StoreError
from repli.tasks.pipeline import Stage
from repli.tasks.storage import breakers
from repli.tasks.storage.breakers import FLEET, Key
from repli.tasks.storage.database import Database
from repli.tasks.storage.retry.needs import digest

RESOURCE_LOST_AFTER_S = 10.0
"""Seconds without a worker that carries it after which a resource is lost. A nanny restarts its worker sooner."""
NO_WORKERS_LIMIT_S = 120.0
"""Seconds without any worker after which the run fails."""
CACHE_TTL_S = 1.0
"""Seconds for which the list of workers and a breaker's state are reused without a read."""
PROBED_KEYS = 8
"""Keys of a rung whose breakers a run of `reprocess` may probe at a time: those that are due the longest. Else ten
thousand dead origins would be ten thousand probes."""
CPU_RESOURCE = {"CPU": 1.0}
"""The resource of a stage that needs no device, where a worker carries it: it keeps such stages off device workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _BreakerSummary:
    """The state of a rung's breakers on all of its workers.

    Args:
        all_refuse: Every breaker refuses calls now.
        all_open: Every breaker refuses calls and has no probe in flight.
    """

    all_refuse: bool
    all_open: bool


_CLOSED = _BreakerSummary(all_refuse=False, all_open=False)


class Routing:
    """The workers of a cluster, and the state of the breakers of their rungs.

    Args:
        forced: The rungs that a run begins its stages at, by stage; their breakers are ignored.
        timer: Returns a monotonic time in seconds.
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
        self._workers: tuple[float | None, dict[str, Any]] = None, {}
        self._scopes: dict[str, str] = {}
        self._missing_since: dict[str, float] = {}
        self._read_last: dict[str, tuple[float, _BreakerSummary]] = {}

    def workers(self) -> dict[str, Any]:
        """Return the live workers, by address, as the scheduler described them at most `CACHE_TTL_S` ago."""
        read_at, workers = self._workers
        if read_at is None or self._timer() - read_at >= CACHE_TTL_S:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            self._workers = self._timer(), workers
        return workers

    def threads(self) -> int:
        """Return the number of threads of all live workers."""
        return sum(worker["nthreads"] for worker in self.workers().values())

    def scope_of(self, worker: str) -> str | None:
        """Return the device scope of a worker, None where it never answered."""
        return self._scopes.get(worker)

    def note_scope(self, worker: str, scope: str) -> None:
        """Note the device scope of a worker, as it says itself."""
        self._scopes[worker] = scope

    def resources_for(self, stage: Stage) -> Mapping[str, float]:
        """Return the resources that the stage's tasks must ask for now; none where any worker may run them."""
        wanted = self._resources_of(stage)
        carriers = self._carriers(wanted)
        return wanted if carriers and not self._primary_breakers(stage, carriers).all_refuse else {}

    def may_be_called(self, stage: str, rung: AnyRung) -> bool:
        """Return whether a live worker can run the rung and its breaker accepts calls somewhere."""
        carriers = self._carriers(rung.resources)
        return bool(carriers) and not self._breakers_of(stage, rung, carriers).all_refuse

    def refused_keys(self, stage: str, rung: AnyRung) -> frozenset[str]:
        """Return the digests of the rung's breakers that refuse their keys, or that others are to be probed before."""
        if rung.breaker is None or rung.breaker.scope != "key":
            return frozenset()
        try:
            held = breakers.held_back(self._database, rung.breaker, f"{stage}.{rung.name}", probes=PROBED_KEYS)
        except StoreError:  # the stages report it
            return frozenset()
        return frozenset(digest(str(key)) for key in held)

    def is_lost(self, resources: Mapping[str, float]) -> bool:
        """Return whether no worker has carried these resources for `RESOURCE_LOST_AFTER_S`."""
        what = ", ".join(sorted(resources))
        return self._missing_for(what, is_there=bool(self._carriers(resources))) >= RESOURCE_LOST_AFTER_S

    def has_no_workers(self) -> bool:
        """Return whether there has been no worker for `NO_WORKERS_LIMIT_S`."""
        return self._missing_for("any", is_there=bool(self.workers())) >= NO_WORKERS_LIMIT_S

    def _missing_for(self, what: str, *, is_there: bool) -> float:
        """Return the seconds since the look-up under the key `what` last succeeded, 0 if it succeeds now."""
        if is_there:
            self._missing_since.pop(what, None)
            return 0.0
        return self._timer() - self._missing_since.setdefault(what, self._timer())

    def refresh_worker_locations(self) -> None:
        """Ask new workers for their device scope, so that it is known after they die."""
        if new := [worker for worker in self.workers() if worker not in self._scopes]:
            self._scopes.update(self._client.run(current_device_scope, workers=new, on_error="ignore"))

    def _resources_of(self, stage: Stage) -> Mapping[str, float]:
        first = self._forced.get(stage.name, stage.chain.primary.name)
        resources = {rung.name: rung.resources for rung in stage.chain.rungs}
        return resources.get(first) or CPU_RESOURCE

    def _carriers(self, wanted: Mapping[str, float]) -> list[str]:
        return [
            address
            for address, worker in self.workers().items()
            if all(worker["resources"].get(name, 0) >= amount for name, amount in wanted.items())
        ]

    def _primary_breakers(self, stage: Stage, carriers: list[str]) -> _BreakerSummary:
        """Return the state of the primary's breakers; closed where a rung is forced, or the primary needs no device."""
        primary = stage.chain.primary
        if stage.name in self._forced or not primary.resources:
            return _CLOSED
        return self._breakers_of(stage.name, primary, carriers)

    def _breakers_of(self, stage: str, rung: AnyRung, carriers: list[str]) -> _BreakerSummary:
        """Return the state of the rung's breakers on these workers, at most `CACHE_TTL_S` old."""
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
        scopes = {self._scopes.get(worker) for worker in carriers} if breaker.scope == "host" else {FLEET}
        keys = [Key(name, scope) for scope in scopes if scope is not None]
        if len(keys) < len(scopes):  # the scope of a worker is unknown
            return _CLOSED
        try:
            states, now = breakers.read(self._database, breaker, [*keys, Key(name)])
        except StoreError:  # the stages report it
            return _CLOSED
        override = states[Key(name)]
        relevant = [override] if override.position.is_forced else [states[key] for key in keys]
        return _BreakerSummary(
            all_refuse=all(state.refuses(now) for state in relevant),
            all_open=all(state.is_held_open(now) for state in relevant),
        )
