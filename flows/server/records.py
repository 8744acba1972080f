"""Records of a flow run on its Prefect server: states, names, artifacts. One that fails is no error of the run.

The flow engine, the artifacts and the blocks of a flow run share one Prefect client. `record_client` makes that client
tolerant: while the server does not answer, it waits for `PATIENCE_S` from the begin of the outage, which covers a
restart, and drops the record after that. A run needs the server to begin, since its policy may be kept there: the calls
of the begin wait for `START_PATIENCE_S`, and raise then.
"""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import Artifact, FlowRun, State
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus, StateAcceptDetails
from prefect.context import FlowRunContext, SettingsContext, get_settings_context
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectException
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)

from repli.flows.server.disk import disk_problem
from repli.flows.server.prefect_requests import lost_server
from repli.tasks.fallback import StoreError
from repli.tasks.storage import runs
from repli.tasks.storage.database import Database

PATIENCE_S = 30.0
"""Seconds of an outage that records wait for the server. A restart of a private server takes 5 to 20."""
START_PATIENCE_S = 120.0
"""Seconds of an outage that the begin of a run waits for the server. A busy machine takes a minute to start one."""
RETRY_EVERY_S = 0.5
PING_EVERY_S = 1.0
ANSWER_LIMIT_S = 2.0
REQUEST_LIMIT_S = 20.0
"""Seconds after which a request counts as not answered. Prefect's 60 would hold up a run six times for one record."""

ONE_OUTAGE = timedelta(seconds=60)

T = TypeVar("T")

_BROKEN = httpx.codes.INTERNAL_SERVER_ERROR
_DROPPED = (httpx.HTTPError, PrefectException, ValueError, OSError)
"""The errors of a record: no connection, an error of the server, an answer that is none."""


@dataclass(slots=True)
class Outage:
    """A time in which the server did not answer. `until` is None while it lasts."""

    since: datetime
    problem: str
    until: datetime | None = None

    def __str__(self) -> str:
        until = f"until {self.until:%H:%M:%S}" if self.until else "until the end of the run"
        return (
            f"the Prefect server did not answer from {self.since:%Y-%m-%d %H:%M:%S} {until} UTC ({self.problem}); its "
            "records of that time are incomplete"
        )


class ServerLink:
    """The link of one flow run to its server: whether it answers, and the outages so far.

    Several threads use it: the flow's, and the one that pings.
    """

    def __init__(self) -> None:
        self._outages: list[Outage] = []
        self._lost_at: float | None = None
        self._lock = threading.Lock()
        self._noted = 0
        self._refused: dict[str, None] = {}
        self._settings: SettingsContext | None = None
        self.on_late_outages: Callable[[Sequence[str]], None] = lambda lines: None

    @property
    def notes(self) -> list[str]:
        """The outages and the refused records, a line each, for the run's report. The outages count as noted."""
        with self._lock:
            self._noted = len(self._outages)
            return [*map(str, self._outages), *self._refused]

    def close(self) -> None:
        """Report the outages since the last use of `notes`, at the end of the flow run."""
        with self._lock:
            late, self._noted = self._outages[self._noted :], len(self._outages)
        if late:
            self.on_late_outages([str(outage) for outage in late])

    def answered(self) -> None:
        """Note that the server has answered."""
        with self._lock:
            if self._lost_at is not None:
                self._lost_at = None
                self._outages[-1].until = datetime.now(UTC)

    def lost(self, problem: str) -> None:
        """Note that the server has not answered. Failures that follow each other soon are one outage."""
        now = datetime.now(UTC)
        with self._lock:
            if self._lost_at is not None:
                return
            self._lost_at = time.monotonic()
            last = self._outages[-1] if self._outages else None
            if last and last.problem == problem and last.until and now - last.until < ONE_OUTAGE:
                last.until = None
                self._noted = min(self._noted, len(self._outages) - 1)
            else:
                self._outages.append(Outage(now, problem))

    def require(self, call: Callable[[], T]) -> T:
        """Return the result of a call that the run cannot begin without, once the server answers.

        Raises:
            Exception: Prefect's error, where the server did not answer for `START_PATIENCE_S`, or refused.
        """
        while True:
            try:
                return self._ask(call)
            except Exception as error:
                if not self._is_worth_waiting(error, START_PATIENCE_S):
                    raise
            time.sleep(RETRY_EVERY_S)

    def record(self, call: Callable[[bool], T], *, is_waited_for: bool) -> T | None:
        """Return the result of a call that writes a record; None where it was dropped.

        Args:
            call: Gets whether it was tried before: the server may have carried it out without an answer.
            is_waited_for: Whether to wait for the server up to `PATIENCE_S`.
        """
        if self._lost_at is not None and not is_waited_for:
            return None
        is_repeated = False
        while True:
            try:
                return self._ask(partial(call, is_repeated))
            except _DROPPED as error:
                if lost_server(error) is None:
                    self._refused[f"the Prefect server did not take a record of the run ({error!r:.200})"] = None
                if not (is_waited_for and self._is_worth_waiting(error)):
                    return None
            is_repeated = True
            time.sleep(RETRY_EVERY_S)

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            with self._without_retries().model_copy():
                result = call()
        except Exception as error:
            if problem := lost_server(error):
                self.lost(_disk_problem(error) or problem)
            raise
        self.answered()
        return result

    def _is_worth_waiting(self, error: Exception, patience_s: float = PATIENCE_S) -> bool:
        """Return whether the server may answer soon: it restarts, or is busy. An error 500 is there to stay."""
        if lost_server(error) is None or _is_broken(error):
            return False
        with self._lock:
            return self._lost_at is None or time.monotonic() < self._lost_at + patience_s

    def _without_retries(self) -> SettingsContext:
        """Return Prefect's settings without the retries of its client. Making them takes tens of milliseconds."""
        if self._settings is None:
            now = get_settings_context()
            settings = now.settings.copy_with_update(updates={PREFECT_CLIENT_MAX_RETRIES: 0})
            self._settings = SettingsContext(profile=now.profile, settings=settings)
        return self._settings


class RecordClient(SyncPrefectClient):
    """The Prefect client of a flow run, whose writes are records that may fail. Made by `record_client`."""

    link: ServerLink

    def create_flow_run(self, *args: Any, **kwargs: Any) -> FlowRun:
        """Create the flow run, once the server answers."""
        create = super().create_flow_run
        return self.link.require(lambda: create(*args, **kwargs))

    def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        """Read the flow run, once the server answers."""
        read = super().read_flow_run
        return self.link.require(lambda: read(flow_run_id))

    def read_block_document_by_name(self, *args: Any, **kwargs: Any) -> Any:
        """Read a block, once the server answers: it is no record, but the run's policy."""
        read = super().read_block_document_by_name
        return self.link.require(lambda: read(*args, **kwargs))

    def set_flow_run_name(self, flow_run_id: UUID, name: str) -> httpx.Response:
        """Record the name of the flow run."""
        write = super().set_flow_run_name
        answer = self.link.record(lambda _: write(flow_run_id, name), is_waited_for=True)
        return answer or httpx.Response(httpx.codes.NO_CONTENT)

    def set_flow_run_state(
        self, flow_run_id: UUID | str, state: State[T], force: bool = False
    ) -> OrchestrationResult[T]:
        """Record a state. Where the server does not answer, the state counts as accepted.

        A second try is forced: the server refuses a state that it has already, and the engine would end the run.
        """
        write = super().set_flow_run_state
        result = self.link.record(
            lambda is_repeated: write(flow_run_id, state, force=force or is_repeated), is_waited_for=True
        )
        if state.is_final():
            self.link.close()
        return result or _accepted(state, UUID(str(flow_run_id)))

    def set_task_run_state(self, task_run_id: UUID, state: State[T], force: bool = False) -> OrchestrationResult[T]:
        """Record the state of a task run; as `set_flow_run_state`, but without waiting for the server."""
        write = super().set_task_run_state
        result = self.link.record(lambda _: write(task_run_id, state, force=force), is_waited_for=False)
        return result or _accepted(state)

    def create_artifact(self, artifact: ArtifactCreate) -> Artifact:
        """Record an artifact."""
        write = super().create_artifact
        created = self.link.record(lambda _: write(artifact), is_waited_for=True)
        return created or Artifact(key=artifact.key, type=artifact.type)

    def update_artifact(self, artifact_id: UUID, artifact: ArtifactUpdate) -> None:
        """Record the change of an artifact, unless the server is away: a later change replaces it."""
        write = super().update_artifact
        self.link.record(lambda _: write(artifact_id, artifact), is_waited_for=False)


def _accepted(state: State[T], flow_run_id: UUID | None = None) -> OrchestrationResult[T]:
    """Return the answer of a server that accepts a state."""
    details = state.state_details.model_copy(update={"flow_run_id": flow_run_id} if flow_run_id else {})
    accepted = state.model_copy(update={"state_details": details})
    return OrchestrationResult.model_construct(
        state=accepted, status=SetStateStatus.ACCEPT, details=StateAcceptDetails()
    )


def _is_broken(error: Exception) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == _BROKEN


def _disk_problem(error: Exception) -> str | None:
    """Return what is wrong with the disk of a server on this machine that answers with an error."""
    home = os.environ.get("PREFECT_HOME")  # set by a private server, and by `repli serve`
    return disk_problem(Path(home)) if home and _is_broken(error) else None


def record_client(client: SyncPrefectClient) -> RecordClient:
    """Turn a client into a `RecordClient` in place: the engine holds it already."""
    if isinstance(client, RecordClient):
        return client
    client.__class__ = RecordClient
    changed = cast(RecordClient, client)
    changed.link = ServerLink()
    changed._client.timeout = httpx.Timeout(REQUEST_LIMIT_S)
    return changed


@contextmanager
def server_may_fail() -> Iterator[ServerLink]:
    """Keep failures of the Prefect server from the flow that runs in the block, and in its last state after it.

    Its tasks do not check the version of the server when they start, which would fail them.
    """
    link = record_client(_client_of_flow()).link
    over = threading.Event()
    pinging = contextvars.copy_context()
    thread = threading.Thread(target=pinging.run, args=(_ping, link, over), name="prefect-ping", daemon=True)
    thread.start()
    try:
        with temporary_settings({PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}):
            yield link
    finally:
        over.set()


def server_link() -> ServerLink:
    """Return the link of the flow that runs here to its server."""
    return record_client(_client_of_flow()).link


def note_outages(database: Database, run_id: str) -> None:
    """Note the outages of the flow's last moments, after the end of its run in the store, in that run too."""

    def note(lines: Sequence[str]) -> None:
        with suppress(StoreError):
            runs.add_notes(database.without_patience(), run_id, lines)

    server_link().on_late_outages = note


def _client_of_flow() -> SyncPrefectClient:
    return cast(SyncPrefectClient, cast(FlowRunContext, FlowRunContext.get()).client)


def _ping(link: ServerLink, over: threading.Event) -> None:
    """Ask the server every second whether it is well: workers lose records too, and cannot tell the run.

    A busy server may take long to answer. It is lost once two requests in a row had no answer in time.
    """
    late = 0
    client = get_client(sync_client=True, httpx_settings={"timeout": httpx.Timeout(REQUEST_LIMIT_S / 2)})
    with client, temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        while not over.wait(PING_EVERY_S):
            error = client.api_healthcheck()
            problem = lost_server(error)
            late = late + 1 if isinstance(error, httpx.TimeoutException) else 0
            if problem and late != 1:
                link.lost(problem)
            elif not problem:
                link.answered()


def drop_unsent(limit_s: float) -> None:
    """Send the queued events and logs of this process for at most `limit_s` each, and drop the others.

    A queue that is not empty when the server is gone would delay the end of the interpreter by minutes.
    """
    kinds = (EventsWorker, APILogWorker)
    instances = cast(Any, EventsWorker)._instances.values()
    services = [service for service in list(instances) if isinstance(service, kinds)]
    limit_s = limit_s if services and _answers() else 0
    for kind in kinds:
        kind.drain_all(timeout=limit_s)
    for service in services:
        loop, is_done = service._loop, service._done_event
        if loop and is_done and not is_done.is_set():
            loop.call_soon_threadsafe(is_done.set)


def _answers() -> bool:
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": httpx.Timeout(ANSWER_LIMIT_S)}) as client,
    ):
        return client.api_healthcheck() is None
