"""`repli serve`: a Prefect server with its UI, a Dask cluster and a worker on this machine, until Ctrl-C.

One process each, all children of this one: server and worker end when it does, however it does, and so does the
cluster. What they offer is found by every `repli` command on the same home; see `repli.flows.server.discovery`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from repli.deployments import WORK_POOL
from repli.flows.server.dask_cluster import dask_cluster
from repli.flows.server.discovery import ServerInfo, serving
from repli.flows.server.environment import QUIET, environment
from repli.flows.server.interrupted_runs import skip_missed
from repli.flows.server.private_server import PrivateServer
from repli.flows.server.server_errors import ServerErrors
from repli.tasks.fallback import RepliError, UsageError
from repli.tasks.settings import Settings
from repli.tasks.storage.database import Database

WATCH_EVERY_S = 0.5
WORKER_START_LIMIT_S = 120
WORKER_STOP_LIMIT_S = 40
POLL_FOR_WORK_S = 3
ERROR_WIDTH = 300
"""Characters of an error of the server that are shown; the log has all."""


def serve(settings: Settings, *, port: int, nightly: Path | None, tell: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, and leave no process behind. `tell` is handed what a person is to read.

    Raises:
        UsageError: there is a server already, named by `PREFECT_API_URL`, or what is to be enriched every night is not
            there.
        RepliError: another one serves on this home or port, or a part did not start, or ended.
    """
    if os.environ.get("PREFECT_API_URL"):
        raise UsageError("PREFECT_API_URL names a server already; unset it, or deploy there: see deployments/README.md")
    if nightly and not nightly.exists():
        raise UsageError(f"--nightly {nightly}: there is no such file or folder; name a manifest, or leave it out")
    with _interrupts_raised():
        try:
            with serving(settings.home) as publish:
                _check_is_free(port)
                Database(settings.database_url).migrate()
                _serve(settings, port, nightly, publish, tell)
        except KeyboardInterrupt:
            tell("stopped")


def _serve(
    settings: Settings,
    port: int,
    nightly: Path | None,
    publish: Callable[[ServerInfo], None],
    tell: Callable[[str], None],
) -> NoReturn:
    server = PrivateServer(settings, port=port)
    try:
        known = {**_variables(settings), **server.environment, **QUIET}
        with environment(known), dask_cluster(settings) as dask, environment({"REPLI_DASK_ADDRESS": dask}):
            server.wait()
            skip_missed(server.api_url)
            tell("starting: what is declared is brought to the server")
            _set_up(server.home, nightly)
            with _worker(server.home) as worker:
                _wait_for_work(server, worker)
                served = ServerInfo(
                    ui_url=server.api_url.removesuffix("/api"), environment=server.environment, dask_address=dask
                )
                publish(served)
                tell(_page(served, settings, _night(server)))
                _watch(server, worker, tell)
    finally:
        server.stop()


def _watch(server: PrivateServer, worker: subprocess.Popen[bytes], tell: Callable[[str], None]) -> NoReturn:
    """Look after server and worker until one of them ends, and tell what fails in the server."""
    errors = ServerErrors(server.log)
    while True:
        time.sleep(WATCH_EVERY_S)
        for error in errors.new():
            tell(f"error in the Prefect server: {error[:ERROR_WIDTH]}; see {server.log}")
        _check_are_alive(server, worker)


def _variables(settings: Settings) -> Mapping[str, str]:
    """What the flow runs are to know of this process. They have folders of their own, so paths are absolute. Whoever
    serves on a home works on its store, as every command there does, whatever a block says."""
    url = Database(settings.database_url).url
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(Path(str(url.database)).absolute()))
    return {
        "REPLI_HOME": str(settings.home),
        "REPLI_DATABASE_URL": url.render_as_string(hide_password=False),
        "PREFECT_WORKER_QUERY_SECONDS": str(POLL_FOR_WORK_S),
    }


def _check_is_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise RepliError(f"port {port} cannot be had ({error.strerror}); choose another with --port") from None


def _set_up(home: Path, nightly: Path | None) -> None:
    source = [str(nightly.absolute())] if nightly else []
    log = home / "setup.log"
    with _child("repli.flows.server.setup", source, log) as process:
        if process.wait():
            raise RepliError(f"what is declared could not be brought to the server; see {log}")


@contextmanager
def _worker(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The worker, while the block runs; at its end its flow runs are stopped too."""
    with _child("repli.flows.server.worker", [], home / "worker.log") as process:
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(WORKER_STOP_LIMIT_S)


@contextmanager
def _child(module: str, arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, of which nothing is left at the end of the block."""
    with log.open("wb") as output, environment({"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"}):
        process = subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for this process, which stops the others in their order
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()


def _wait_for_work(server: PrivateServer, worker: subprocess.Popen[bytes]) -> None:
    """Return once the worker has asked the server for work: from then on the UI shows the deployments as ready."""
    begun, deadline = datetime.now(UTC), time.monotonic() + WORKER_START_LIMIT_S
    while time.monotonic() < deadline:
        _check_are_alive(server, worker)
        with suppress(OSError):
            asked = _answer(server, f"work_pools/{WORK_POOL}/queues/default")["last_polled"]
            if asked and datetime.fromisoformat(asked) >= begun:
                return
        time.sleep(WATCH_EVERY_S)
    raise RepliError(f"the worker did not ask for work; see {server.home / 'worker.log'}, and start this again")


def _answer(server: PrivateServer, path: str) -> Any:
    """What the API answers. Raises OSError where it does not."""
    with urllib.request.urlopen(f"{server.api_url}/{path}", timeout=30) as answer:  # noqa: S310  http on loopback
        return json.load(answer)


def _night(server: PrivateServer) -> str:
    """What the server has scheduled for the night, by this `--nightly`, an earlier one, or a person in the UI."""
    try:
        deployment = _answer(server, "deployments/name/enrich/enrich")
    except OSError:
        return "off; somebody deleted the deployment `enrich`"
    for schedule in deployment["schedules"]:
        if schedule["active"]:
            source = {**deployment["parameters"], **schedule["parameters"]}.get("source", "no source")
            when = schedule["schedule"]
            return f"from {source}, at {when.get('cron', 'its times')} ({when.get('timezone')})"
    return "off; --nightly SOURCE turns it on"


def _check_are_alive(server: PrivateServer, worker: subprocess.Popen[bytes]) -> None:
    if not server.is_alive():
        raise RepliError(f"the Prefect server ended; see {server.log}, and start this again")
    if worker.poll() is not None:
        raise RepliError(f"the worker ended; see {server.home / 'worker.log'}, and start this again")


@contextmanager
def _interrupts_raised() -> Iterator[None]:
    """SIGTERM and SIGINT raise KeyboardInterrupt, the first of them: stopping is not interrupted."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for other in signals:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _page(served: ServerInfo, settings: Settings, night: str) -> str:
    return f"""\
Prefect UI    {served.ui_url}
store         {Database(settings.database_url)}
Dask          {served.dask_address}
enrich        by hand: {served.ui_url}/deployments → enrich → Run; nightly: {night}
reprocess     every 15 minutes, and whenever a breaker closes
drill         Sundays at 04:00 UTC
`repli run`, `reprocess`, `drill` and `breakers` on this home use this server and cluster. Ctrl-C ends it."""
