"""Ports of this machine's loopback."""

from __future__ import annotations

import errno
import secrets
import socket
from contextlib import suppress

from repli.tasks.fallback import RepliError

LOOPBACK = "127.0.0.1"
FIRST_PORT, PORTS = 20_000, 10_000
"""The ports that servers of one run listen on."""


def check_port_is_free(port: int, remedy: str) -> None:
    """Check that a server may listen on `port`.

    Raises:
        RepliError: It may not; the message ends with `remedy`, such as "choose another with --port".
    """
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((LOOPBACK, port))
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise RepliError(f"port {port} {reason}; {remedy}") from None


def find_free_port() -> int:
    """Return a port that nothing uses now.

    The system takes the ports of connections, and those of Dask's workers, from other numbers (on Linux from 32768 on),
    so that none of them takes it before a server that takes seconds to start, or to start again.

    Raises:
        RepliError: None was found.
    """
    for _ in range(100):
        port = FIRST_PORT + secrets.randbelow(PORTS)
        with socket.socket() as server, suppress(OSError):
            server.bind((LOOPBACK, port))
            return port
    raise RepliError(f"no port of {LOOPBACK} from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free; free one of them")
