"""Run the production deployment of Repli on one machine without containers: ``python -m infra.native``, until Ctrl-C.

It starts the parts of compose.yaml as plain processes on loopback: PostgreSQL (unless `REPLI_DATABASE_URL` names one),
Prefect's server, the Dask scheduler, workers, and a Prefect worker that polls the work pool `repli`. It waits until
each answers and prints the variables to export. The variables that compose.yaml reads mean the same here.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from infra.compose_file import Part, parts, ports
from infra.postgres import OwnPostgres, prefect_url, prepare
from infra.processes import Processes
from repli.flows.server.ports import check_port_is_free, find_free_port
from repli.tasks.fallback import RepliError, UsageError
from repli.tasks.models.cards import visible_devices

POSTGRES = "postgres"


class StopRequested(BaseException):
    """SIGINT or SIGTERM arrived."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM (return 0), until a part fails (1), or refuse an invalid option or variable (2)."""
    options = _options().parse_args(arguments)
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, _stop)
    try:
        with _locked(options.folder.absolute()) as folder:
            _run(folder, options)
    except StopRequested:
        return 0
    except RepliError as error:
        print(f"infra.native: {error}", file=sys.stderr)  # noqa: T201  a command's one line
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _run(folder: Path, options: argparse.Namespace) -> None:
    variables = _variables(options)
    for variable, port in ports(variables).items():
        if not (options.database and variable == "POSTGRES_PORT"):
            check_port_is_free(port, f"set {variable} to another")
    own = None if options.database else OwnPostgres(folder / POSTGRES, "repli", variables.get("POSTGRES_PASSWORD"))
    if own:
        variables["POSTGRES_PASSWORD"] = own.password
    found = parts(variables, folder, find_free_port, profiles={"gpu"} if options.gpu else ())
    environment = next(part.environment for part in found if part.service == "prefect-worker")
    Path(environment["REPLI_HOME"]).mkdir(exist_ok=True)
    processes = Processes(folder / "logs", _say)
    try:
        if own:
            processes.bring_up([own.here(part) for part in found if part.service == POSTGRES], user=own.user)
        if note := prepare(environment["REPLI_DATABASE_URL"], own.password if own else None):
            _say(note)
        others = [part if own else _without_password(part) for part in found if part.service != POSTGRES]
        processes.bring_up(others, external="" if own else POSTGRES)
        _tell(folder, others, environment, own.password_file if own else None)
        processes.watch()
    finally:
        for end in (signal.SIGINT, signal.SIGTERM):  # later signals are ignored while it stops
            signal.signal(end, signal.SIG_IGN)
        processes.stop()


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.native", description=__doc__.partition("\n")[0])
    home = Path(os.environ.get("REPLI_HOME") or "~/.repli").expanduser()
    parser.add_argument("--folder", type=Path, default=home / "standing", help="folder of data and logs (%(default)s)")
    parser.add_argument("--workers", type=int, help="Dask workers without a device (REPLI_WORKERS, or 2)")
    parser.add_argument("--gpu", action="store_true", help="add a worker tagged GPU=1, emulated without a device")
    parser.set_defaults(database=os.environ.get("REPLI_DATABASE_URL"))
    return parser


def _variables(options: argparse.Namespace) -> dict[str, str]:
    """Return the values for the variables of compose.yaml."""
    variables = dict(os.environ)
    if options.workers is not None:
        variables["REPLI_WORKERS"] = str(options.workers)
    if options.gpu and not variables.get("REPLI_GPU_DEVICE"):
        variables["REPLI_GPU_DEVICE"] = "cuda" if visible_devices() else "cpu"
    if options.database:
        variables.setdefault("PREFECT_DATABASE_URL", prefect_url(options.database))
        variables.setdefault("POSTGRES_PASSWORD", "of another server")  # compose.yaml wants one; see _without_password
    return variables


def _without_password(part: Part) -> Part:
    """Return the part without PGPASSWORD: the password of another server is in its URL or in the environment."""
    environment = {name: value for name, value in part.environment.items() if name != "PGPASSWORD"}
    return replace(part, environment=environment)


def _tell(folder: Path, found: Sequence[Part], environment: Mapping[str, str], password_file: Path | None) -> None:
    """Print the addresses, and the variables that another shell has to export."""
    _say(f"Repli runs in {folder}: {', '.join(part.name for part in found)}")
    _say(f"Prefect: {environment['PREFECT_API_URL'].removesuffix('/api')}   (Ctrl-C stops everything)")
    for name, value in environment.items():
        if name == "PGPASSWORD" and password_file:
            print(f'export {name}="$(cat {shlex.quote(str(password_file))})"')  # noqa: T201  its output
        elif name.startswith("REPLI_") or name == "PREFECT_API_URL":
            print(f"export {name}={shlex.quote(value)}")  # noqa: T201  its output
    sys.stdout.flush()


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Lock the folder. Raises `RepliError` where another process has locked it, or it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise RepliError(f"{folder} cannot be written ({error.strerror}); choose another with --folder") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RepliError(
                f"Repli runs in {folder} already (process {lock.read().strip()}); stop that first, or choose another "
                "with --folder"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield folder


def _say(line: str) -> None:
    print(f"# {line}", flush=True)  # noqa: T201  its output


def _stop(number: int, frame: object) -> None:
    raise StopRequested


if __name__ == "__main__":
    sys.exit(main())
