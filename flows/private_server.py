"""A Prefect server of one's own, for as long as whoever started it lives.

``python -m flows.private_server PORT`` serves on loopback until its standard input closes, which it does by itself
when the parent process ends, however it ends: nothing is left behind.
"""

from __future__ import annotations

import os
import signal
import sys

from flows.parent import when_parent_ends


def main() -> None:
    """Serve until standard input closes."""
    port = int(sys.argv[1])
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(final=True), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
