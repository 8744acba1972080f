"""The Prefect UI over the runs that were kept under the home: ``python -m flows.server_ui [PORT]``, until Ctrl-C."""

from __future__ import annotations

import sys
import time

from flows.cluster import PrivateServer
from tasks.settings import Settings


def main() -> None:
    """Serve until Ctrl-C."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 4200
    server = PrivateServer(Settings.from_environment(), port=port)
    server.wait()
    print(f"Prefect UI: http://127.0.0.1:{port}/runs   (Ctrl-C ends it)", flush=True)  # noqa: T201  its one output
    try:
        while server.is_alive():
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


if __name__ == "__main__":
    main()
