"""Run each flow run of `repli serve` as a process of its own: ``python -m repli.flows.server.worker``.

The worker leads a process group of its own, which includes its flow runs. When its parent process ends, the whole group
is killed: server and cluster are gone, and the next run continues each item at its first unfinished stage.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

from repli.deployments import WORK_POOL
from repli.flows.server.parent_watch import when_parent_ends


def main() -> None:
    """Run scheduled flow runs until SIGTERM, which they get too, with half a minute to end."""
    when_parent_ends(lambda: os.killpg(0, signal.SIGKILL))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    from prefect.workers.process import ProcessWorker

    worker = ProcessWorker(work_pool_name=WORK_POOL, name="repli serve", create_pool_if_not_found=False)
    with suppress(KeyboardInterrupt):
        asyncio.run(worker.start())


if __name__ == "__main__":
    main()
