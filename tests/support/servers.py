"""A command line to type at, and a Prefect server and Dask cluster that several tests share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repli.tasks.storage.database import Database
from tests.support.command_line import Repli, command, environment, write_manifest
from tests.support.preloaded import Preloaded, Shop
from tests.support.server_logs import ServerLogs
from tests.support.serving import Serving


@contextmanager
def standing_cluster(folder: Path, **variables: str) -> Iterator[dict[str, str]]:
    """Start a Prefect server and a Dask cluster; the environment that names them.

    Args:
        folder: their home.
        variables: what the workers have in their environment, too.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.prefect_cluster"],
        env={**environment(folder), **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdin
        line = next(line for line in process.stdout if line.startswith("{"))
        try:
            yield json.loads(line)
        finally:
            process.stdin.close()
            process.wait(60)


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory, server_logs: ServerLogs) -> Iterator[dict[str, str]]:
    """The environment that names a standing Prefect server and Dask cluster."""
    server_logs.watch(folder := tmp_path_factory.mktemp("standing"))
    with standing_cluster(folder) as variables:
        yield variables


@pytest.fixture(scope="session")
def preloaded(standing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    """Begins commands on the standing cluster without the seconds that they take to import what they need."""
    folder = tmp_path_factory.mktemp("preloaded")
    with Preloaded({**environment(folder), **standing}, folder) as preloaded:
        yield preloaded


@pytest.fixture
def standing_server(standing: dict[str, str]) -> dict[str, str]:
    """The environment that names the standing Prefect server; the Dask cluster is the run's own."""
    return {name: value for name, value in standing.items() if name.startswith("PREFECT_")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def repli(home: Path) -> Repli:
    """Runs a command to its end."""

    def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), env={**environment(home), **variables}, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def quick_repli(preloaded: Preloaded, home: Path) -> Repli:
    """Runs a command to its end, on the standing server and cluster, its imports done before."""

    def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return Shop(preloaded, home).begin(*arguments, **variables).done()

    return run


@pytest.fixture
def store(home: Path) -> Database:
    return Database(f"sqlite:///{home / 'repli.db'}")


@pytest.fixture(scope="package")
def nightly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is enriched every night."""
    return write_manifest(tmp_path_factory.mktemp("nightly"), 2)


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory, nightly: Path, server_logs: ServerLogs) -> Iterator[Serving]:
    """One on a fresh home, where whatever is not whole is queued. Tests of other packages get it too: none ends it."""
    server_logs.watch(home := tmp_path_factory.mktemp("served"))
    with Serving(home, "--nightly", str(nightly), REPLI_RETRY_BELOW="1") as serving:
        yield serving
