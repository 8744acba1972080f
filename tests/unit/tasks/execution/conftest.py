"""A real Prefect server, for the tests of tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import prefect.settings
import pytest
from prefect.settings import temporary_settings

from repli.flows.server.private_server import PrivateServer
from repli.tasks.settings import Settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that names a Prefect server, which this process uses too. No Dask cluster is needed here."""
    home = tmp_path_factory.mktemp("server")
    server = PrivateServer(Settings.from_environment({"REPLI_HOME": str(home)}))
    try:
        server.wait()
        names = [name for name in server.environment if name.startswith("PREFECT_API_")]
        used: dict[Any, Any] = {getattr(prefect.settings, name): server.environment[name] for name in names}
        used |= {prefect.settings.PREFECT_LOGGING_TO_API_ENABLED: False}
        used |= {prefect.settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}  # its thread ends a second late
        with temporary_settings(used):
            yield server.environment
            server.stop()
    finally:
        server.leave()
