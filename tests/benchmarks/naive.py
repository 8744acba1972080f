"""One mapped task per item and stage, timed: `naive_flow` on the Dask cluster that `repli run` would start.

``python -m tests.benchmarks.naive MANIFEST ITEMS`` takes the first items of a catalogue through it, and prints its
seconds as JSON. The start of the cluster, the imports of its workers and the loading of their models are not counted.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, cast

from repli.flows.server.dask_cluster import cluster
from repli.tasks.settings import Settings

WARM_UP = 4
"""Items with which the workers import and load, off the clock."""


def main() -> None:
    """Run the flow on the catalogue that the command line names, and print its seconds."""
    manifest = Path(sys.argv[1])
    lines = manifest.read_text(encoding="utf-8").splitlines()[: int(sys.argv[2])]
    records = [json.loads(line) for line in lines]
    with cluster(Settings.from_environment()) as address:  # before anything imports Prefect
        from prefect_dask import DaskTaskRunner

        from tests.benchmarks.naive_flow import naive_flow

        run = naive_flow.with_options(task_runner=cast(Any, DaskTaskRunner(address=address)))
        run(str(manifest.parent), records[:WARM_UP])
        started = time.monotonic()
        run(str(manifest.parent), records)
        print(json.dumps({"seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main()
