"""Start the dashboard: replace this process with the Streamlit server."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from repli.tasks.fallback import RepliError
from repli.tasks.settings import Settings

LOOPBACK = "127.0.0.1"


def dashboard(settings: Settings, port: int) -> NoReturn:
    """Become the dashboard's server, on this machine's own address. It reads its settings from the environment.

    Raises:
        RepliError: the extra is not installed, there is no store of today's kind, or the port is taken.
    """
    from repli.tasks.storage.views.dashboard_stats import opened

    try:
        import streamlit  # noqa: F401
    except ModuleNotFoundError:
        raise RepliError("the dashboard needs the extra: pip install 'repli[dashboard]'") from None
    opened(settings.database_url).engine.dispose()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise RepliError(f"port {port} cannot be had ({error.strerror}); choose another with --port") from None
    options = {
        "server.address": LOOPBACK,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "browser.serverAddress": LOOPBACK,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "runner.magicEnabled": "false",
    }
    page = Path(__file__).with_name("app.py")
    asked = [f"--{name}={value}" for name, value in options.items()]
    os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", str(page), *asked])  # noqa: S606
