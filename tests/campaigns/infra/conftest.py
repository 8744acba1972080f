"""The standing form, run natively, that several tests share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from infra.compose_file import parts, ports
from infra.postgres import OwnPostgres, installed
from repli.deployments import AUTOMATIONS, DEPLOYMENTS
from repli.flows.server.ports import find_free_port
from repli.tasks.fallback import RepliError
from tests.support import ROOT
from tests.support.server_logs import ServerLogs
from tests.support.terminal import alive_after

STOPS_WITHIN_S = 200


def environment(**variables: str) -> dict[str, str]:
    """An environment in which nothing is set but free ports, and where the scheduler finds these tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REPLI_", "PREFECT_", "PG"))}
    free = {name: str(find_free_port()) for name in ports({})}
    return {**kept, **free, "PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONPATH": str(ROOT), **variables}


@dataclass
class Native:
    """One `python -m infra.native`, and what it has printed."""

    folder: Path
    options: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = environment(**self.variables)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "infra.native", "--folder", str(self.folder), *self.options],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.printed: list[str] = []

    def read_until(self, beginning: str) -> str:
        """The first line from here on that begins so; fails where the output ends first."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.printed.append(line)
            if line.startswith(beginning):
                return line
        self.process.stdout.close()
        pytest.fail(f"it ended with {self.process.wait()} before it printed {beginning!r}: {self.printed}")

    def exported(self) -> dict[str, str]:
        """The environment of a shell that has exported what it says to, once it stands."""
        self.read_until("export PREFECT_API_URL=")
        exports = "".join(line for line in self.printed if line.startswith("export "))
        shell = subprocess.run(
            ["bash", "-c", 'eval "$1"; env -0', "bash", exports],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(line.split("=", 1) for line in shell.stdout.split("\0") if line)

    def started(self) -> list[psutil.Process]:
        """Every process that it has started and that lives, and those that they have."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def end(self, how: signal.Signals) -> tuple[int, list[psutil.Process]]:
        """Its exit status after this signal, and the processes that it left behind."""
        started = self.started()
        self.process.send_signal(how)
        return self.ended(started)

    def ended(self, started: list[psutil.Process]) -> tuple[int, list[psutil.Process]]:
        """The same, where it ends by itself."""
        out, _ = self.process.communicate(timeout=STOPS_WITHIN_S)
        self.printed += out.splitlines(keepends=True)
        return self.process.returncode, alive_after(started, seconds=1)

    def kill(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.end(signal.SIGTERM)


class RestartablePostgres:
    """A PostgreSQL that is not a part of the native form, so that it can be away for a while."""

    def __init__(self, folder: Path) -> None:
        self._own = OwnPostgres(folder / "postgres", "repli", "of-a-test")
        port = str(find_free_port())
        variables = {"POSTGRES_PASSWORD": self._own.password, "POSTGRES_PORT": port}
        [part] = [part for part in parts(variables, folder, find_free_port) if part.service == "postgres"]
        self._part = self._own.here(part)
        self.variables = {
            "REPLI_DATABASE_URL": f"postgresql://repli@127.0.0.1:{port}/repli",
            "PGPASSWORD": self._own.password,
        }
        self.start()

    def start(self) -> None:
        """Return once it answers."""
        environment = {**os.environ, **self._part.environment}
        self._process = subprocess.Popen(
            self._part.command,
            env=environment,
            cwd="/",
            user=self._own.user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while subprocess.run(self._part.health, env=environment, capture_output=True, check=False).returncode:
            assert self._process.poll() is None, "it ended"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it and every connection to it."""
        self._process.send_signal(self._part.stop_signal)
        self._process.wait(STOPS_WITHIN_S)


def declare(environment: Mapping[str, str]) -> None:
    """Bring everything that is declared to a Prefect server, by the commands of infra/README.md."""
    for words in (
        ("block", "register", "-m", "repli.blocks"),
        ("deploy", "--all", "--prefect-file", str(DEPLOYMENTS)),
        ("automation", "create", "--from-file", str(AUTOMATIONS)),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            cwd=ROOT,
            env=dict(environment),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def open_folder(server_logs: ServerLogs) -> Iterator[Path]:
    """A folder that PostgreSQL can reach, whoever it runs as: pytest's own are closed to others."""
    try:
        installed()
    except RepliError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="repli-standing-") as folder:
        Path(folder).chmod(0o755)
        server_logs.watch(Path(folder))
        yield Path(folder)


@pytest.fixture(scope="module")
def standing_form(open_folder: Path) -> Iterator[tuple[Native, dict[str, str]]]:
    """The whole topology with a worker tagged `GPU` and all that is declared, and the environment that it exports."""
    native = Native(open_folder / "standing", ("--gpu", "--workers", "2"), {"REPLI_GPU_DEVICE": "cpu"})
    try:
        environment = native.exported()
        declare(environment)
        yield native, environment
    finally:
        native.kill()
