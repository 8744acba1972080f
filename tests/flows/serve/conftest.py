"""A `repli serve` that the tests of this folder share. Starting one takes a quarter of a minute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.commandline import write_manifest
from tests.flows.serve.serving import Serving
from tests.server_logs import ServerLogs


@pytest.fixture(scope="package")
def nightly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is enriched every night."""
    return write_manifest(tmp_path_factory.mktemp("nightly"), 2)


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory, nightly: Path, server_logs: ServerLogs) -> Iterator[Serving]:
    """One on a fresh home, where whatever is not whole is queued."""
    server_logs.watch(home := tmp_path_factory.mktemp("served"))
    with Serving(home, "--nightly", str(nightly), REPLI_RETRY_BELOW="1") as serving:
        yield serving
