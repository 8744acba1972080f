"""`repli serve` as a process that tests ask things of."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil

from repli.flows.server.ports import find_free_port
from repli.tasks.storage.database import Database
from tests.support.command_line import command, environment
from tests.support.prefect_api import Deployments
from tests.support.terminal import alive_after

READY = "Ctrl-C stops it"
ENDS_WITHIN_S = 10.0
OUTLIVES_AT_MOST_S = 2.0
KILLED_ENDS_WITHIN_S = 60.0
"""After `kill -9`, or by itself: each process notices that the others are gone."""


class Serving(Deployments):
    """One `repli serve` on a home of its own, once it answers.

    Args:
        cwd: the folder that it, and the commands beside it, are started in.
        variables: set in its environment, and in that of the commands beside it.
    """

    def __init__(self, home: Path, *options: str, cwd: Path | None = None, **variables: str) -> None:
        self.home = home
        self._cwd = cwd
        port = find_free_port()
        self.ui_url = f"http://127.0.0.1:{port}"
        super().__init__(f"{self.ui_url}/api")
        self.variables = variables
        self.environment = {**environment(home), **variables}
        self._process = subprocess.Popen(
            command("serve", "--port", str(port), *options),
            env=self.environment,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a Ctrl-C at the tests is not for it
        )
        self.page = self.read_until(READY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        """End it, where no test has."""
        if self._process.poll() is None:
            self.end()

    def read_until(self, words: str) -> str:
        """What it prints until these words are among it."""
        assert self._process.stdout
        read = ""
        while words not in read:
            line = self._process.stdout.readline()
            assert line, f"it ended with {self._process.wait(5)}: {read}"
            read += line
        return read

    def repli(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """A command beside it, on the same home."""
        return subprocess.run(
            command(*arguments),
            env=self.environment,
            cwd=self._cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    def store(self) -> Database:
        """The store of its home."""
        return Database(f"sqlite:///{self.home / 'repli.db'}")

    def processes(self) -> list[psutil.Process]:
        """It, and all that it started."""
        me = psutil.Process(self._process.pid)
        return [me, *me.children(recursive=True)]

    @property
    def pid(self) -> int:
        """The id of the command's process."""
        return self._process.pid

    def ended(self) -> tuple[int, str]:
        """Its exit status and what it said last, once it has ended by itself."""
        said, _ = self._process.communicate(timeout=KILLED_ENDS_WITHIN_S)
        return self._process.returncode, said

    def end(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str, list[psutil.Process]]:
        """Send it a signal: its exit status, what it said last, and what of it lives on."""
        family = self.processes()
        os.kill(self._process.pid, how)
        is_killed = how is signal.SIGKILL
        said, _ = self._process.communicate(timeout=KILLED_ENDS_WITHIN_S if is_killed else ENDS_WITHIN_S)
        alive = alive_after(family, KILLED_ENDS_WITHIN_S if is_killed else OUTLIVES_AT_MOST_S)
        for process in alive:  # it is a test that failed, and no other is to meet them
            process.kill()
        return self._process.returncode, said, alive


def until(condition: Callable[[], Any], within_s: float = 200.0, otherwise: str = "it does not come to be") -> Any:
    """What the condition gives once that is true."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)
    return found
