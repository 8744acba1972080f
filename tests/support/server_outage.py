"""Runs of the slow pipeline whose Prefect server is killed, and a standing Prefect server to kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from repli.flows.server.ports import find_free_port
from repli.tasks.storage.database import Database
from repli.tasks.storage.runs import Run
from repli.tasks.storage.schema import items, runs
from tests.support.command_line import command, environment, write_manifest
from tests.support.progress_lines import without_progress
from tests.support.serving import until
from tests.support.slow_pipeline import HELD

PIPELINE = "tests.support.slow_pipeline:pipeline"
BATCH = 4
STARTS_WITHIN_S = 240.0
"""A dozen seconds where nobody else uses the machine."""
_SERVER = "repli.flows.server.prefect_process"


def process_of_server(command_pid: int) -> psutil.Process | None:
    """The living Prefect server that a command has started."""
    with suppress(psutil.Error):
        for child in psutil.Process(command_pid).children():
            if _SERVER in child.cmdline():
                return child
    return None


class SlowRun:
    """One `repli run` of the slow pipeline, with its output in files.

    Its last batch is not done before `release`, so that the run cannot end before a test has disturbed it.
    """

    def __init__(self, folder: Path, count: int, *options: str, home: Path | None = None, **variables: str) -> None:
        self.items = count
        self.store = Database(f"sqlite:///{folder / 'store.db'}")
        self.store.migrate()
        url = str(self.store.engine.url)
        manifest = write_manifest(folder / "items", count, with_image=lambda number: False)
        self._out, self._err = folder / "out", folder / "err"
        self._held = folder / "held"
        self._held.write_text(f"Thing number {count - 1}", encoding="utf-8")
        wanted = ("--json", "--pipeline", PIPELINE, "--batch-size", str(BATCH), "--database", url)
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                command("run", manifest, *wanted, *options),
                env={**environment(home or folder / "home"), HELD: str(self._held), **variables},
                stdout=out,
                stderr=err,
            )

    def until(self, condition: Callable[[], Any]) -> None:
        """Return once the condition is true. The run has not ended before."""
        until(lambda: condition() or self.process.poll() is not None, within_s=STARTS_WITHIN_S)
        assert self.process.poll() is None, self._err.read_text()

    def release(self) -> None:
        """Let the last batch be done."""
        self._held.unlink()

    def stored(self) -> int:
        with self.store.read() as connection:
            count = sa.select(sa.func.count()).select_from(items).where(items.c.state == "stored")
            return connection.scalar(count) or 0

    def run(self) -> Run | None:
        """The run in the store, once it has begun."""
        with self.store.read() as connection:
            row = connection.execute(sa.select(runs)).mappings().first()
        return Run(**row) if row else None

    def is_finished(self) -> bool:
        run = self.run()
        return run is not None and run.finished_at is not None

    def server(self) -> psutil.Process | None:
        """Its private Prefect server."""
        return process_of_server(self.process.pid)

    def server_answers(self) -> bool:
        server = self.server()
        return server is not None and answers(f"http://127.0.0.1:{server.cmdline()[-1]}/api")

    def suspend_server(self) -> None:
        """Make its private server hang."""
        server = self.server()
        assert server
        server.suspend()

    def kill_server(self) -> None:
        server = self.server()
        assert server
        server.kill()

    def end(self, within_s: float) -> tuple[int, dict[str, Any], str]:
        """Its exit status, its report, and its stderr without the lines of its progress, once it has ended."""
        try:
            self.process.wait(within_s)
        finally:
            self.process.kill()
        out = self._out.read_text()
        return self.process.returncode, json.loads(out) if out else {}, without_progress(self._err.read_text())


class StandingServer:
    """A Prefect server that runs elsewhere, as far as a run knows: it can be killed, and started again."""

    def __init__(self, folder: Path) -> None:
        self._port = find_free_port()
        self._folder = folder
        folder.mkdir()
        self.api_url = f"http://127.0.0.1:{self._port}/api"
        self.start()

    def start(self) -> None:
        variables = {"PREFECT_HOME": str(self._folder), "PREFECT_API_URL": self.api_url}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _SERVER, str(self._port)],
                env={**environment(self._folder), **variables, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        until(lambda: answers(self.api_url), within_s=STARTS_WITHIN_S)

    def kill(self) -> None:
        """Kill it, if it lives."""
        assert self._process.stdin
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def stop(self) -> None:
        """Make it hang: it accepts connections and answers none."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def standing_server(folder: Path) -> Iterator[StandingServer]:
    """A Prefect server for the block."""
    server = StandingServer(folder)
    try:
        yield server
    finally:
        server.kill()


def answers(api_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=2):
            return True
    except OSError:
        return False
