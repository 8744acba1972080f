"""A Dask cluster of real processes, whose workers come and go one by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distributed import Client


class Topology:
    """A Dask scheduler, and workers that come and go one by one; `client` asks it."""

    def __init__(self, stack: ExitStack, folder: Path, env: dict[str, str]) -> None:
        self._stack = stack
        self._folder = folder
        self._env = env
        file = folder / "scheduler.json"
        self._start(["scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)])
        while not file.exists() or not file.read_text():
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]
        self.client = stack.enter_context(Client(self.address, set_as_default=False))

    def add_worker(self, *options: str, place: str, nanny: bool = False) -> subprocess.Popen[bytes]:
        """A worker of one thread, alive when this returns, on a "device" of its own. A nanny brings it back."""
        before = len(self.client.scheduler_info(n_workers=-1)["workers"])
        supervised = "--nanny" if nanny else "--no-nanny"
        process = self._start(
            ["worker", self.address, "--nthreads", "1", supervised, "--no-dashboard", *options], place
        )
        self.client.wait_for_workers(before + 1, timeout=60)
        return process

    def _start(self, arguments: list[str], place: str = "") -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._folder / f"{arguments[0]}-{place}.log").open("wb"))
        env = {**self._env, "CUDA_VISIBLE_DEVICES": place, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
        process = self._stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]],
                env=env,
                stdout=log,
                stderr=log,
            )
        )
        self._stack.callback(process.kill)
        return process


@contextmanager
def environment_kept() -> Iterator[None]:
    """Restore the variables of this process after the block: Dask's nannies set those of their workers in it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def topology(folder: Path, env: dict[str, str]) -> Iterator[Topology]:
    with ExitStack() as stack:
        yield Topology(stack, folder, env)
