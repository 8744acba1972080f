"""A private Prefect server, with its state under the home."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from itertools import count
from pathlib import Path
from typing import IO

from repli.flows.server.interrupted_runs import mark_crashed
from repli.flows.server.ports import find_free_port
from repli.tasks.fallback import RepliError, StoreError
from repli.tasks.settings import Settings

SERVER_START_LIMIT_S = 180
SERVER_STOP_LIMIT_S = 10
DRAIN_LIMIT_S = 10
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


class PrivateServer:
    """A Prefect server on loopback, with its state under the home.

    Making one starts the server; `wait` returns once it answers. Start the Dask cluster in between.

    Args:
        port: The port of a server with all its services, for `repli serve`. None for a server of one run, on a free
            port and without the services that it does not need.

    Raises:
        RepliError: A `port` is given, and another server uses the state.
        StoreError: The home cannot be written.
    """

    def __init__(self, settings: Settings, port: int | None = None) -> None:
        self._lock, home = _free_folder(settings.home, only_first=port is not None)
        services = {} if port else {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NO_SERVICES}
        port = port or find_free_port()
        self.home = home
        self.api_url = f"http://127.0.0.1:{port}/api"
        self.environment = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_API_SSL_CERT_FILE": str(_one_certificate(home)),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            "DO_NOT_TRACK": "1",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(FLOW_HEARTBEAT_S),
            # Keeps the concurrency slots of deployments when the server is killed.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        self.log = home / "server.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own module, a port number
                [sys.executable, "-m", "repli.flows.server.prefect_process", str(port)],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C must reach the run only, which reports its end to the server
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment, **services},
            )

    def wait(self) -> None:
        """Wait until the server answers, and mark as crashed the runs that an earlier server left unfinished.

        Raises:
            RepliError: It does not answer in time, or it ended.
        """
        deadline = time.monotonic() + SERVER_START_LIMIT_S
        while time.monotonic() < deadline and self.is_alive():
            try:
                with urllib.request.urlopen(f"{self.api_url}/health", timeout=5):  # noqa: S310  http on loopback
                    mark_crashed(self.api_url)
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RepliError(
            f"the private Prefect server did not start; see {self.log}, or set PREFECT_API_URL to a running server"
        )

    def leave(self) -> None:
        """Close the server's standard input, which ends it."""
        if self._process.stdin:
            self._process.stdin.close()

    def is_alive(self) -> bool:
        """Return whether the server process is running."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Send the queued events and logs, for at most `DRAIN_LIMIT_S` each, then stop the server.

        A queue that is not empty when the server is gone delays the end of the interpreter by a minute.
        """
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        for queue in (EventsWorker, APILogWorker):
            queue.drain_all(timeout=DRAIN_LIMIT_S)
        self.leave()
        try:
            self._process.wait(SERVER_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lock.close()


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
    try:
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
    except OSError as error:
        raise StoreError(f"the home {home} cannot be written ({error.strerror}); set REPLI_HOME to another") from None
    raise AssertionError("unreachable: `count` has no end")
