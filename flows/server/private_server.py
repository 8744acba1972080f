"""A private Prefect server, with its state under the home."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO

from repli.flows.server.disk import disk_problem
from repli.flows.server.environment import NO_HEARTBEATS
from repli.flows.server.interrupted_runs import mark_crashed
from repli.flows.server.ports import find_free_port
from repli.tasks.fallback import RepliError, StoreError
from repli.tasks.runtime import timeline
from repli.tasks.runtime.timeline import timed
from repli.tasks.settings import Settings

SERVER_START_LIMIT_S = 180
SERVER_STOP_LIMIT_S = 10
DRAIN_LIMIT_S = 10
MAX_RESTARTS = 3
STABLE_AFTER_S = 60
"""Seconds after which a server that was started again counts as running: it is then given all restarts anew."""
FLOW_HEARTBEAT_S = 30
"""Seconds between the heartbeats of a flow run: the shortest that Prefect allows. deployments/automations.yaml marks a
run that has not sent one for four minutes as crashed."""

# Services that a server for one run does not need: it has no scheduled, paused or late runs.
_NO_SERVICES = (
    "SCHEDULER",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "CANCELLATION_CLEANUP",
    "FOREMAN",
    "REPOSSESSOR",
    "TRIGGERS",
)

_ONE_RUN = {
    **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NO_SERVICES},
    # Prefect's own types of blocks are for its UI, which `repli serve` shows. Registering them takes seconds, and
    # finding out whether they are registered imports every Prefect collection.
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}

# The states of task runs are written many at a time, once a second. One by one, as is Prefect's default, a state takes
# the server 10 ms of processor time, and a task run has three.
_RECORDS_IN_BULK = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


class PrivateServer:
    """A Prefect server on loopback, with its state under the home.

    Making one starts the server; `wait` returns once it answers. Start the Dask cluster in between. A server that ends,
    by itself or because it was killed, is started again on the same state and port, until `stop`.

    Args:
        port: The port of a server with all its services, for `repli serve`. None for a server of one run, on a free
            port and without the services that it does not need.
        tell: Prints a line for the operator, from a thread.

    Raises:
        RepliError: A `port` is given, and another server uses the state.
        StoreError: The home cannot be written.
    """

    def __init__(
        self, settings: Settings, port: int | None = None, tell: Callable[[str], None] = lambda line: None
    ) -> None:
        self._lock, home = _free_folder(settings.home, only_first=port is not None)
        services = {} if port else _ONE_RUN
        heartbeats = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(FLOW_HEARTBEAT_S)} if port else {NO_HEARTBEATS: "1"}
        port = port or find_free_port()
        self.home = home
        with _home_errors(settings.home):
            certificate = _one_certificate(home)
        self.api_url = f"http://127.0.0.1:{port}/api"
        self.environment = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_API_SSL_CERT_FILE": str(certificate),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            "DO_NOT_TRACK": "1",
            **heartbeats,
            **_RECORDS_IN_BULK,
            # Keeps the concurrency slots of deployments when the server is killed.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        self.log = home / "server.log"
        self.has_given_up = False
        self._tell = tell
        self._port = port
        self._variables = {**os.environ, **self.environment, **services}
        self._is_stopping = threading.Event()
        self._lock_of_process = threading.Lock()
        with _home_errors(settings.home):
            self.log.write_bytes(b"")
            self._process = self._start()
        threading.Thread(target=self._keep_alive, name="prefect-server", daemon=True).start()

    def _start(self) -> subprocess.Popen[bytes]:
        variables, descriptors = timeline.for_logged_child()
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  our own module, a port number
                [sys.executable, "-m", "repli.flows.server.prefect_process", str(self._port)],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C must reach the run only, which reports its end to the server
                stdout=log,
                stderr=log,
                env={**self._variables, **variables},
                pass_fds=descriptors,
            )

    def wait(self) -> None:
        """Wait until the server answers, and mark as crashed the runs that an earlier server left unfinished.

        Raises:
            RepliError: It does not answer in time, or it was given up.
        """
        deadline = time.monotonic() + SERVER_START_LIMIT_S
        while time.monotonic() < deadline and not self.has_given_up:
            try:
                with urllib.request.urlopen(f"{self.api_url}/health", timeout=5):  # noqa: S310  http on loopback
                    mark_crashed(self.api_url)
                    return
            except (urllib.error.URLError, OSError) as error:
                if isinstance(error, urllib.error.HTTPError) and self.disk_problem():
                    break
                time.sleep(0.1)
        raise RepliError(
            self.disk_problem()
            or f"the private Prefect server did not start; see {self.log}, or set PREFECT_API_URL to a running server"
        )

    def _keep_alive(self) -> None:
        """Start the server again whenever it ends, on the same state and port, until `stop`.

        It is given up once it has ended after each of `MAX_RESTARTS` restarts in a row, within `STABLE_AFTER_S`, or
        where its disk is full.
        """
        restarts, started_at = 0, time.monotonic()
        while True:
            self._process.wait()
            with self._lock_of_process:
                if self._is_stopping.is_set():
                    return
                restarts = 1 if time.monotonic() > started_at + STABLE_AFTER_S else restarts + 1
                if restarts > MAX_RESTARTS or self.disk_problem():
                    self.has_given_up = True
                    return
                self._close_stdin()
                try:
                    self._process = self._start()
                except OSError:  # no memory, or no room for its log
                    self.has_given_up = True
                    return
                started_at = time.monotonic()
            self._tell(f"the Prefect server ended, and is started again; see {self.log}")

    def disk_problem(self) -> str | None:
        """Return why the server cannot write its state, and what to do; None where it can."""
        return disk_problem(self.home)

    def leave(self) -> None:
        """Close the server's standard input, which ends it. It is not started again."""
        with self._lock_of_process:
            self._is_stopping.set()
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()

    def stop(self) -> None:
        """Send the queued events and logs of this process, then stop the server."""
        with timed("command", "send the queued events and logs"):
            drop_unsent()
        self.leave()
        with timed("command", "stop the Prefect server"):
            try:
                self._process.wait(SERVER_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._lock.close()


def drop_unsent() -> None:
    """Send the queued events and logs of this process, for at most `DRAIN_LIMIT_S` each, and drop the others."""
    if "prefect" in sys.modules:
        from repli.flows.server import records

        records.drop_unsent(DRAIN_LIMIT_S)


def _one_certificate(home: Path) -> Path:
    """Write a bundle of one certificate and return its path.

    Prefect builds two TLS contexts per task run, which take 34 ms each with the full bundle. The API is plain http on
    loopback and needs none.
    """
    import certifi

    path = home / "one-certificate.pem"
    end = "-----END CERTIFICATE-----\n"
    bundle = Path(certifi.where()).read_text(encoding="ascii", errors="ignore")
    path.write_text(bundle[bundle.index("-----BEGIN CERTIFICATE-----") :].partition(end)[0] + end, encoding="ascii")
    return path


def _free_folder(home: Path, *, only_first: bool) -> tuple[IO[str], Path]:
    """Return the lock of a folder for a server's state, and the folder.

    Args:
        only_first: Accept only the folder `prefect`, which keeps schedules and history.

    Raises:
        RepliError: `only_first` is set and the first folder is in use.
        StoreError: The home cannot be written.
    """
    with _home_errors(home):
        for number in count(1):
            if only_first and number > 1:
                raise RepliError(
                    f"another run uses the Prefect server of {home}; wait until it has ended, and start this again"
                )
            folder = home / ("prefect" if number == 1 else f"prefect-{number}")
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
            else:
                return lock, folder
    raise AssertionError("unreachable: `count` has no end")


@contextmanager
def _home_errors(home: Path) -> Iterator[None]:
    """Raise `StoreError` where the home cannot be written in the block: it is read-only, or its disk is full."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"the home {home} cannot be written ({error.strerror}); set REPLI_HOME to another") from None
