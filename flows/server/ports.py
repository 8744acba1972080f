"""Ports of this machine's loopback."""

from __future__ import annotations

import errno
import socket

from repli.tasks.fallback import RepliError

LOOPBACK = "127.0.0.1"


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
    """Return a port that nothing listens on now."""
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        port: int = server.getsockname()[1]
        return port
