"""Temporary variables of this process, and those that hand a store and a pipeline to flows and child processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from repli.tasks.settings import Settings

# The terminal shows progress and summaries; the logs are in the Prefect UI.
QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "CRITICAL",  # of the queues of events and logs, where they lose the server
    "DASK_LOGGING__DISTRIBUTED": "critical",
}

TRUST_SERVER = {"PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false"}
"""No process asks for the server's version when it runs its first task: without an answer the task would fail."""

NO_HEARTBEATS = "_REPLI_NO_HEARTBEATS"
"""The variable that says that nobody looks at heartbeats of flow runs: Prefect takes up to a second to end them."""

STAGE_IMPORTS = "_REPLI_STAGE_IMPORTS"
"""The variable with the modules that the stages of a pipeline need, separated by commas, for `worker_imports`."""


def run_variables(settings: Settings) -> dict[str, str]:
    """Return the variables that name the home, the store and the pipeline of the settings.

    A flow or a child process that reads them uses this store, and not the one of a Prefect block.
    """
    return {
        "REPLI_HOME": str(settings.home),
        "REPLI_DATABASE_URL": settings.database_url,
        "REPLI_PIPELINE_FOLDER": str(settings.pipeline_folder),
        **({"REPLI_PIPELINE": settings.pipeline} if settings.pipeline else {}),
    }


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
