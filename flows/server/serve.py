"""`repli serve`: a Prefect server with its UI, a Dask cluster and a worker on this machine, until Ctrl-C.

Each is a child process and ends with this one, even when that is killed. Every `repli` command on the same home finds
them; see `repli.flows.server.discovery`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from repli.deployments import WORK_POOL
from repli.flows.server.dask_cluster import dask_cluster
from repli.flows.server.discovery import ServerInfo, serving
from repli.flows.server.environment import QUIET, TRUST_SERVER, environment, run_variables
from repli.flows.server.interrupted_runs import skip_missed
from repli.flows.server.phases import begin_phase
from repli.flows.server.ports import check_port_is_free
from repli.flows.server.prefect_api import ask
from repli.flows.server.private_server import MAX_RESTARTS, PrivateServer
from repli.flows.server.server_errors import ServerErrors
from repli.tasks.execution.run_pipeline import choose
from repli.tasks.fallback import RepliError, UsageError
from repli.tasks.settings import Settings
from repli.tasks.sources.manifest import ManifestOptions, open_manifest
from repli.tasks.sources.manifest.remembered import remembered_options
from repli.tasks.storage import pipelines
from repli.tasks.storage.database import Database

WATCH_EVERY_S = 0.5
WORKER_START_LIMIT_S = 120
WORKER_STOP_LIMIT_S = 40
POLL_FOR_WORK_S = 3
ERROR_WIDTH = 300
"""Characters of a server error that are printed; the log has all of it."""


def serve(settings: Settings, *, port: int, nightly: Path | None, tell: Callable[[str], None]) -> None:
    """Serve until this is interrupted. The caller ends the processes, see `repli.flows.server.interrupt`.

    Args:
        port: The port of the Prefect UI and API.
        nightly: A manifest to enrich every night. It is kept for later starts.
        tell: Prints text for the operator.

    Raises:
        UsageError: `PREFECT_API_URL` names another server, the `nightly` manifest does not exist or cannot be read, or
            the pipeline cannot be used.
        RepliError: The home or the port is in use, or a process did not start, or ended.
    """
    if os.environ.get("PREFECT_API_URL"):
        raise UsageError("PREFECT_API_URL names a server already; unset it, or deploy there: see deployments/README.md")
    if nightly and not nightly.exists():
        raise UsageError(f"--nightly {nightly}: there is no such file or folder; name a manifest, or omit the option")
    with serving(settings.home) as publish:
        check_port_is_free(port, "choose another with --port")
        database = Database(settings.database_url)
        database.migrate()
        chosen = choose(settings, database)
        pipelines.declare(database, chosen.stored)
        if nightly:
            path = nightly.absolute()
            open_manifest(path, remembered_options(database, path, ManifestOptions()))  # refused now and not at night
        _serve(chosen.settings, port, nightly, publish, tell)


def _serve(
    settings: Settings,
    port: int,
    nightly: Path | None,
    publish: Callable[[ServerInfo], None],
    tell: Callable[[str], None],
) -> NoReturn:
    begin_phase("starting the Prefect server")
    server = PrivateServer(settings, port=port, tell=tell)
    try:
        variables = {**_variables(settings), **server.environment, **QUIET, **TRUST_SERVER}
        with environment(variables), dask_cluster(settings) as dask, environment({"REPLI_DASK_ADDRESS": dask}):
            begin_phase("waiting for the Prefect server")
            server.wait()
            skip_missed(server.api_url)
            begin_phase("registering blocks and deployments")
            _set_up(server.home, nightly)
            begin_phase("starting the worker")
            with _worker(server.home) as worker:
                _wait_for_work(server, worker)
                info = ServerInfo(
                    ui_url=server.api_url.removesuffix("/api"), environment=server.environment, dask_address=dask
                )
                publish(info)
                tell(_page(info, settings, _nightly_schedule(server)))
                _watch(server, worker, tell)
    finally:
        server.stop()


def _watch(server: PrivateServer, worker: subprocess.Popen[bytes], tell: Callable[[str], None]) -> NoReturn:
    """Print new errors of the server until it is given up, or the worker ends; then raise `RepliError`."""
    errors = ServerErrors(server.log)
    while True:
        time.sleep(WATCH_EVERY_S)
        for error in errors.new():
            tell(f"error in the Prefect server: {error[:ERROR_WIDTH]}; see {server.log}")
        _check_alive(server, worker)


def _variables(settings: Settings) -> Mapping[str, str]:
    """Return the variables that the flow runs inherit from this process.

    Paths are absolute, since flow runs have folders of their own. The store is set, so that it goes before a block: all
    commands on a home use the same store.
    """
    url = Database(settings.database_url).url
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(Path(str(url.database)).absolute()))
    return {
        **run_variables(settings),
        **settings.models.as_variables(),
        "REPLI_DATABASE_URL": url.render_as_string(hide_password=False),
        "PREFECT_WORKER_QUERY_SECONDS": str(POLL_FOR_WORK_S),
    }


def _set_up(home: Path, nightly: Path | None) -> None:
    source = [str(nightly.absolute())] if nightly else []
    log = home / "setup.log"
    with _child("repli.flows.server.setup", source, log) as process:
        if process.wait():
            raise RepliError(f"registering blocks and deployments failed; see {log}, and start this again")


@contextmanager
def _worker(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the worker while the block runs; stop it and its flow runs at the end."""
    with _child("repli.flows.server.worker", [], home / "worker.log") as process:
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(WORKER_STOP_LIMIT_S)


@contextmanager
def _child(module: str, arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in a group of its own, and kill the whole group at the end of the block."""
    with log.open("wb") as output, environment({"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"}):
        process = subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C must reach this process only, which stops the others in order
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
    """Wait until the worker has polled the server: from then on the UI shows the deployments as ready."""
    started_at, deadline = datetime.now(UTC), time.monotonic() + WORKER_START_LIMIT_S
    while time.monotonic() < deadline:
        _check_alive(server, worker)
        with suppress(OSError):
            polled = ask(server.api_url, f"work_pools/{WORK_POOL}/queues/default")["last_polled"]
            if polled and datetime.fromisoformat(polled) >= started_at:
                return
        time.sleep(WATCH_EVERY_S)
    raise RepliError(f"the worker did not poll for work; see {server.home / 'worker.log'}, and start this again")


def _nightly_schedule(server: PrivateServer) -> str:
    """Return the nightly schedule in words. This `--nightly`, an earlier one, or the UI may have set it."""
    try:
        deployment = ask(server.api_url, "deployments/name/enrich/enrich")
    except OSError:
        return "off; the deployment `enrich` was deleted"
    for schedule in deployment["schedules"]:
        if schedule["active"]:
            source = {**deployment["parameters"], **schedule["parameters"]}.get("source", "no source")
            when = schedule["schedule"]
            return f"from {source}, at {when.get('cron', 'its times')} ({when.get('timezone')})"
    return "off; --nightly SOURCE turns it on"


def _check_alive(server: PrivateServer, worker: subprocess.Popen[bytes]) -> None:
    if server.has_given_up:
        raise RepliError(
            f"the Prefect server ended {MAX_RESTARTS + 1} times in a row; see {server.log}, and start this again"
        )
    if worker.poll() is not None:
        raise RepliError(f"the worker ended; see {server.home / 'worker.log'}, and start this again")


def _page(info: ServerInfo, settings: Settings, nightly: str) -> str:
    return f"""\
Prefect UI    {info.ui_url}
store         {Database(settings.database_url)}
Dask          {info.dask_address}
enrich        manually: {info.ui_url}/deployments → enrich → Run; nightly: {nightly}
reprocess     every 15 minutes, and whenever a breaker closes
drill         Sundays at 04:00 UTC
`repli run`, `reprocess`, `drill` and `breakers` on this home use this server and cluster. Ctrl-C stops it."""
