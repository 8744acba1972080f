"""A Prefect server and a Dask cluster that several tests share: ``python -m tests.support.prefect_cluster``.

Prints one line of JSON with the environment that uses them, and lives until its standard input closes.
"""

from __future__ import annotations

import json
import os
import sys

from repli.flows.server.dask_cluster import cluster
from repli.tasks.settings import Settings


def main() -> None:
    with cluster(Settings.from_environment()) as address:
        names = ("PREFECT_API_URL", "PREFECT_API_SSL_CERT_FILE", "PREFECT_HOME")
        sys.stdout.write(
            json.dumps({**{name: os.environ[name] for name in names}, "REPLI_DASK_ADDRESS": address}) + "\n"
        )
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
