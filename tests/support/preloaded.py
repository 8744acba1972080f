"""The command line with its imports done: each command is a fork of one process, ``python -m tests.support.preloaded``.

A command that is typed anew imports for seconds before it begins. Tests that type many of them, or kill one at a moment
of its work, begin where that is over.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from repli.tasks.storage.database import Database

PRELOADED = (
    "repli.flows.cli.app",
    "repli.flows.cli.run_commands",
    "repli.flows.cli.store_commands",
    "repli.flows.enrich",
    "repli.flows.reprocess",
    "repli.tasks.stages.default",
    "repli.flows.cli.render",
    "matplotlib.figure",
)
ENDS_WITHIN_S = 250.0
LOOK_EVERY_S = 0.01


class Preloaded:
    """The process that forks. Its environment names the Prefect server and the Dask cluster of all commands.

    Args:
        folder: where the commands' outputs go.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._folder = folder
        self._begun = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.preloaded"],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # it is ready

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(None, None, None)  # closes its standard input, which ends it

    def begin(self, *arguments: str | Path, cwd: Path | None = None, **variables: str) -> Command:
        """Begin a command, in the folder `cwd` if one is given, with these variables in its environment too."""
        self._begun += 1
        out, err = self._folder / f"{self._begun}.out", self._folder / f"{self._begun}.err"
        words = [str(argument) for argument in arguments]
        order = {"begin": words, "variables": variables, "cwd": cwd and str(cwd), "out": str(out), "err": str(err)}
        begun = self.ask(order)
        return Command(self, words, begun["pid"], out, err)

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the process that forks has died"
        return dict(json.loads(line))


class Command:
    """A command that was begun, in a process group of its own."""

    def __init__(self, forker: Preloaded, words: list[str], pid: int, out: Path, err: Path) -> None:
        self._forker = forker
        self._words = words
        self._pid = pid
        self._out = out
        self._err = err
        self._status: int | None = None

    def has_ended(self, within_s: float = 0.0) -> bool:
        """Whether it is over; it is waited for."""
        if self._status is None:
            self._status = self._forker.ask({"wait": self._pid, "seconds": within_s})["status"]
        return self._status is not None

    def kill(self) -> None:
        """`kill -9` of the whole group. Nothing of it lives when this returns."""
        os.killpg(self._pid, signal.SIGKILL)
        assert self.has_ended(60)

    def done(self) -> subprocess.CompletedProcess[str]:
        """How it ended, once it has."""
        assert self.has_ended(ENDS_WITHIN_S), f"{self._words} does not end: {self._err.read_text()[-2000:]}"
        return subprocess.CompletedProcess(
            self._words, self._status or 0, self._out.read_text(encoding="utf-8"), self._err.read_text(encoding="utf-8")
        )

    def json(self) -> Any:
        """The document that it printed, once it has ended well."""
        done = self.done()
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@dataclass(frozen=True, slots=True)
class Shop:
    """Commands about the store of one home, typed in the folder `cwd` if one is given."""

    forker: Preloaded
    home: Path
    cwd: Path | None = None

    @property
    def store(self) -> Database:
        return Database(f"sqlite:///{self.home / 'repli.db'}")

    def begin(self, *arguments: str | Path, **variables: str) -> Command:
        return self.forker.begin(*arguments, cwd=self.cwd, REPLI_HOME=str(self.home), **variables)

    def repli(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """How the command ended."""
        return self.begin(*arguments, **variables).done()

    def json(self, *arguments: str | Path, **variables: str) -> Any:
        """What the command printed as JSON. It has to end well."""
        return self.begin(*arguments, "--json", **variables).json()


def main() -> None:
    """Fork for each order on standard input, until that closes."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that no fork looks at, and thereby copies, what all of them share: a second each as it ends
    answer: dict[str, Any] = {"ready": True}
    while True:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        order = json.loads(line)
        if "wait" in order:
            answer = {"status": _waited_for(order["wait"], order["seconds"])}
            continue
        pid = os.fork()
        if not pid:
            _become(order)
        os.setpgid(pid, pid)
        answer = {"pid": pid}


def _become(order: Mapping[str, Any]) -> NoReturn:
    os.setpgid(0, 0)
    writes = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, order["out"], writes), (2, order["err"], writes)):
        os.dup2(os.open(path, flags), number)
    if order["cwd"]:
        os.chdir(order["cwd"])
    os.environ.update(order["variables"])
    sys.argv = ["repli", *order["begin"]]
    from repli.flows.cli.app import main

    main()
    sys.exit(0)


def _waited_for(pid: int, seconds: float) -> int | None:
    """The exit status of a child, negative for the signal that ended it; None where it lives on after so long."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    main()
