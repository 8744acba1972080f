"""Start the dashboard: replace this process with the Streamlit server."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from repli.flows.server.environment import run_variables
from repli.flows.server.ports import LOOPBACK, check_port_is_free
from repli.tasks.fallback import RepliError
from repli.tasks.settings import Settings


def dashboard(settings: Settings, port: int) -> NoReturn:
    """Replace this process with the Streamlit server, on 127.0.0.1. It reads its settings from the environment.

    The connection that carries the clicks of a page is accepted from pages of this machine only: `server.enableCORS` is
    Streamlit's name for that check of the origin. It is set here, so that no configuration file turns it off.

    Raises:
        RepliError: The extra is not installed, the store is missing or of another version, or the port is in use.
    """
    from repli.tasks.storage.views.dashboard_stats import open_read_only

    try:
        import streamlit  # noqa: F401
    except ModuleNotFoundError:
        raise RepliError("the dashboard needs Streamlit; install it with `pip install 'repli[dashboard]'`") from None
    open_read_only(settings.database_url).engine.dispose()
    check_port_is_free(port, "choose another with --port")
    options = {
        "server.address": LOOPBACK,
        "server.port": port,
        "server.headless": "true",
        "server.enableCORS": "true",
        "server.enableXsrfProtection": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "browser.serverAddress": LOOPBACK,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "runner.magicEnabled": "false",
    }
    page = Path(__file__).with_name("app.py")
    arguments = [f"--{name}={value}" for name, value in options.items()]
    os.execve(  # noqa: S606
        sys.executable,
        [sys.executable, "-m", "streamlit", "run", str(page), *arguments],
        {**os.environ, **run_variables(settings)},
    )
