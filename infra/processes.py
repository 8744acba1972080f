"""Start, watch and stop the parts as processes, together with their child processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import psutil

from infra.compose_file import Part
from repli.tasks.fallback import RepliError

START_LIMIT_S = 180
STOP_LIMIT_S = 10
HEALTH_LIMIT_S = 10
POLL_EVERY_S = 0.5

_SET_DEATH_SIGNAL, _ADOPT_ORPHANS = 1, 36  # prctl(2)


class Processes:
    """The processes of one production deployment.

    Args:
        logs: The folder of the logs, one file per process.
        say: Prints a line when a worker ended and the others continue.
    """

    def __init__(self, logs: Path, say: Callable[[str], None]) -> None:
        self._logs = logs
        self._say = say
        self._running: dict[str, tuple[Part, subprocess.Popen[bytes]]] = {}
        self._answering: set[str] = set()
        logs.mkdir(parents=True, exist_ok=True)
        _adopt_orphans()

    def bring_up(self, parts: Sequence[Part], *, external: str = "", user: str | None = None) -> None:
        """Start each part once the services that it needs answer; return when all parts answer.

        Args:
            external: A service that runs elsewhere, and is not waited for.
            user: The user that the parts run as; None for the current one.

        Raises:
            RepliError: A part ended, or did not answer in time; the message names the part and its log.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while silent := [part for part in parts if part.name not in self._answering]:
            for part in silent:
                if part.name not in self._running:
                    if part.needs <= self._answering | {external}:
                        self._start(part, user)
                elif _answers(part):
                    self._answering.add(part.name)
            self._check()
            if time.monotonic() > deadline:
                named = ", ".join(str(self._log(part)) for part in silent)
                raise RepliError(f"{silent[0].name} did not answer within {START_LIMIT_S} s; see {named}")
            time.sleep(POLL_EVERY_S)

    def watch(self) -> None:
        """Watch for ever. Raises `RepliError` when a part ends that the others depend on."""
        while True:
            self._check()
            time.sleep(POLL_EVERY_S)

    def stop(self) -> None:
        """Stop every process, the last one first."""
        for part, process in reversed(self._running.values()):
            descendants = _descendants(process.pid)
            if process.poll() is None:
                process.send_signal(part.stop_signal)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _end(descendants)
        self._running.clear()
        _end(_descendants(os.getpid()))

    def _start(self, part: Part, user: str | None) -> None:
        with self._log(part).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603  a command of compose.yaml
                part.command,
                env=_environment(part),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must reach this process only, which stops the parts in order
                preexec_fn=_end_with_parent(part.stop_signal),
                user=user,
                extra_groups=[] if user else None,
            )
        self._running[part.name] = part, process

    def _check(self) -> None:
        for part, process in list(self._running.values()):
            if (status := process.poll()) is None:
                continue
            del self._running[part.name]
            ended = f"{part.name} ended ({_exit_text(status)})"
            others = any(other.is_dask_worker for other, _ in self._running.values())
            if not (part.is_dask_worker and others and part.name in self._answering):
                raise RepliError(f"{ended}, so every part was stopped; see {self._log(part)}")
            self._say(f"{ended}; the other workers take over; see {self._log(part)}")

    def _log(self, part: Part) -> Path:
        return self._logs / f"{part.name}.log"


def _environment(part: Part) -> dict[str, str]:
    """Return this process's environment with the folder of this Python first on the path, and the part's variables."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, **part.environment}


def _answers(part: Part) -> bool:
    environment = _environment(part)
    try:
        done = subprocess.run(  # noqa: S603  a command of compose.yaml
            part.health,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=HEALTH_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _exit_text(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _end(descendants: Iterable[psutil.Process]) -> None:
    left = list(descendants)
    for how in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            try:
                how(process)
            except psutil.NoSuchProcess:
                continue
        _, left = psutil.wait_procs(left, timeout=STOP_LIMIT_S / 2)


def _adopt_orphans() -> None:
    """Adopt the children of a killed part, so that they are found and stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)


def _end_with_parent(how: signal.Signals) -> Callable[[], None] | None:
    """Return a function that makes the kernel end a part when this process ends, even when it is killed."""
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, _SET_DEATH_SIGNAL, int(how), 0, 0, 0)
