"""The Dask cluster of a run: real workers, from a fork server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Worker

from repli.flows.server.dask_cluster import dask_cluster, worker_devices
from repli.flows.server.environment import environment
from repli.tasks.settings import Settings


def seen(dask_worker: Worker) -> dict[str, Any]:
    """What a worker sees of itself and of the process that it is."""
    import threading

    import torch

    return {
        "callbacks": sorted(dask_worker.periodic_callbacks),
        "thread_names": [thread.name for thread in threading.enumerate()],
        "api": os.environ["PREFECT_API_URL"],
        "home": os.environ["REPLI_HOME"],
        "threads": torch.get_num_threads(),
        "trim": os.environ["MALLOC_TRIM_THRESHOLD_"],
        "is_in_bad_fork": torch.cuda._is_in_bad_fork(),
        "parent": os.getppid(),
    }


def assert_unprofiled(workers: list[dict[str, Any]]) -> None:
    """Dask's profiler, which breaks on frames of running threads, is on in none of the workers, in neither form."""
    for worker in workers:
        assert "heartbeat" in worker["callbacks"]
        assert not [name for name in worker["callbacks"] if "profile" in name]
        assert "MainThread" in worker["thread_names"]
        assert "Profile" not in worker["thread_names"]


@pytest.mark.skipif(sys.platform != "linux", reason="workers come from a fork server on Linux alone")
def test_a_worker_has_the_environment_of_its_cluster(tmp_path: Path) -> None:
    """Whatever the fork server was started with: a second cluster of the same process has another Prefect server."""
    parents = set()
    for number in range(2):
        home, api = str(tmp_path / f"home-{number}"), f"http://127.0.0.1:{number}/api"
        with (
            environment({"PREFECT_API_URL": api, "REPLI_HOME": home, "REPLI_GPU_DEVICE": "cpu"}),
            dask_cluster(Settings.from_environment()) as address,
            Client(address, set_as_default=False) as client,
        ):
            workers = list(client.run(seen).values())
            cores = os.cpu_count() or 1
        assert {(worker["api"], worker["home"]) for worker in workers} == {(api, home)}
        assert {worker["threads"] for worker in workers} == {max(1, cores // len(workers))}
        assert {worker["trim"] for worker in workers} == {str(4 * 1024**3)}
        assert not any(worker["is_in_bad_fork"] for worker in workers), "CUDA can be begun in every worker"
        assert_unprofiled(workers)
        parents |= {worker["parent"] for worker in workers}
    assert len(parents) == 1
    assert os.getpid() not in parents, "they are forks of one process that has imported what they need"


START_FORK_SERVER = """
import time
from multiprocessing import forkserver
from pathlib import Path
from repli.flows.server.dask_cluster import preload_workers
from repli.tasks.settings import Settings
preload_workers(Settings.from_environment(), batches=1)
process = Path(f"/proc/{forkserver._forkserver._forkserver_pid}")
own = Path("/proc/self/cmdline").read_text()
while (process / "cmdline").read_text() in {"", own} or not (variables := (process / "environ").read_text()):
    time.sleep(0.01)  # it is a fork of this process, and then for a moment has neither
print(variables.replace("\\0", "\\n"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers come from a fork server on Linux alone")
def test_the_fork_server_is_started_to_keep_memory(tmp_path: Path) -> None:
    """The C library reads the variables as a process starts: what a nanny sets in a fork comes too late."""
    undecided = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "OMP_"))}
    started = subprocess.run(
        [sys.executable, "-c", START_FORK_SERVER],
        env={**undecided, "REPLI_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    variables = dict(line.split("=", 1) for line in started.stdout.splitlines() if "=" in line)
    assert variables["MALLOC_TRIM_THRESHOLD_"] == str(4 * 1024**3)
    assert variables["MALLOC_MMAP_THRESHOLD_"] == str(1024**3)
    assert variables["OMP_NUM_THREADS"] == str(os.cpu_count()), "one worker has all processors"


def test_there_are_no_more_workers_than_batches() -> None:
    """On a machine with room for three, and two devices, which come first."""
    devices = {batches: worker_devices(["0", "1"], 3, batches) for batches in (None, 9, 3, 2, 1, 0)}
    assert devices == {None: ["0", "1", ""], 9: ["0", "1", ""], 3: ["0", "1", ""], 2: ["0", "1"], 1: ["0"], 0: ["0"]}
    assert worker_devices(["0", "1"], 1, None) == ["0", "1"], "every device has its worker"
    assert worker_devices([], 2, 1) == [""]
