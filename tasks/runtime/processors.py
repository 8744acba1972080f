"""The number of processors that this process may use."""

from __future__ import annotations

import os


def processors_of_machine() -> int:
    """Return the number of processors of this machine, or of the container that limits it."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def processors_of_worker() -> int:
    """Return this process's share of the processors, which the cluster sets for its workers; else all of them.

    It is `OMP_NUM_THREADS`, by which the libraries that run the models go too.
    """
    share = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, int(share)) if share.isdigit() else processors_of_machine()
