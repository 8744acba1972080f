"""A Prefect server of one's own, for as long as whoever started it lives.

``python -m flows.private_server PORT`` serves on loopback until its standard input closes, which it does by itself
when the parent process ends, however it ends: nothing is left behind.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def main() -> None:
    """Serve until standard input closes."""
    port = int(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(final=True), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=2)


def _end_with_parent() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
