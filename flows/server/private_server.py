"""The Prefect server that `repli` starts for itself, with its state under the home."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from itertools import count
from pathlib import Path
from typing import IO

from repli.flows.server.interrupted_runs import mark_crashed
from repli.tasks.fallback import RepliError, StoreError
from repli.tasks.settings import Settings

SERVER_START_LIMIT_S = 180
SERVER_STOP_LIMIT_S = 10
DRAIN_LIMIT_S = 10
FLOW_HEARTBEAT_S = 30
"""Seconds between the heartbeats of a flow run: the shortest that Prefect allows. deployments/automations.yaml marks a
run that has not sent one for four minutes as crashed."""

# What a private server has no use for: nothing is scheduled, paused or late there.
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
    """A Prefect server with its state under the home, on loopback: for one run, or with a `port` to stay, with all its
    services. Starting and waiting are apart: other things are made ready in between.

    Raises:
        RepliError: the server is to stay, and another one has its state in hand.
    """

    def __init__(self, settings: Settings, port: int | None = None) -> None:
        self._lock, home = _free_folder(settings.home, only_first=port is not None)
        services = {} if port else {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NO_SERVICES}
        port = port or _free_port()
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
            # Who holds a place of a deployment that runs once at a time, beyond a hard stop of the server.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        self.log = home / "server.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own module, a port number
                [sys.executable, "-m", "repli.flows.server.prefect_process", str(port)],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the run, which tells the server of its end before it goes
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment, **services},
            )

    def wait(self) -> None:
        """Return once the server answers, and shows no run as running that ended with an earlier server.

        Raises:
            RepliError: it does not answer in time.
        """
        deadline = time.monotonic() + SERVER_START_LIMIT_S
        while time.monotonic() < deadline and self.is_alive():
            try:
                with urllib.request.urlopen(f"{self.api_url}/health", timeout=5):  # noqa: S310  http on loopback
                    mark_crashed(self.api_url)
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RepliError(f"the private Prefect server did not start; see {self.log}, or set PREFECT_API_URL to another")

    def leave(self) -> None:
        """Let go of the server, which ends by itself then."""
        if self._process.stdin:
            self._process.stdin.close()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop the server, once this process has told it everything: what is still queued for it when it is gone
        keeps the interpreter from ending for a minute."""
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
    """A bundle of one certificate. Prefect builds two TLS contexts a task run, 34 ms each from the full bundle, for
    an API that is plain http on loopback."""
    import certifi

    path = home / "one-certificate.pem"
    end = "-----END CERTIFICATE-----\n"
    bundle = Path(certifi.where()).read_text(encoding="ascii", errors="ignore")
    path.write_text(bundle[bundle.index("-----BEGIN CERTIFICATE-----") :].partition(end)[0] + end, encoding="ascii")
    return path


def _free_folder(home: Path, *, only_first: bool) -> tuple[IO[str], Path]:
    """A folder for a server's state that no other server uses now, with the lock that says so.

    Raises:
        RepliError: the home cannot be written, or only the first would do, and is in use.
    """
    try:
        for number in count(1):
            if only_first and number > 1:
                raise RepliError(f"a run keeps its record under {home} now; wait for its end, and start this again")
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
    raise AssertionError("numbers do not end")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
