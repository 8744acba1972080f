"""What a Dask worker imports before it takes any work: a preload module of Dask.

A worker takes tasks apart in one thread while another works. Where both import Prefect at once, each may come to wait
for a module that the other holds, and Python lets one of the imports fail ("deadlock detected by _ModuleLock").
"""

from __future__ import annotations

from repli.tasks.runtime.imports import without_collections
from repli.tasks.runtime.timeline import timed, worker

with timed(worker(), "import Prefect and the stages"), without_collections():
    import repli.tasks.execution.stage_task  # noqa: F401  every task needs it
