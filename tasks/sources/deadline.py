"""Connections whose time-outs are points in time, and the certificates that they trust."""

from __future__ import annotations

import ssl
import time
from functools import lru_cache
from typing import Any

import httpcore
import httpx


class DeadlineStream(httpcore.NetworkStream):
    """A connection whose time-outs are points in time, so that a slow peer cannot prolong a request byte by byte.

    httpcore passes the time-outs of a request to this class; its caller sets them to the request's deadline.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, remaining_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, remaining_s(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, remaining_s(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@lru_cache(maxsize=1)
def ssl_context() -> ssl.SSLContext:
    """Return the trusted certificates, loaded once: loading takes longer than most fetches."""
    return httpx.create_ssl_context()


def remaining_s(deadline: float | None) -> float:
    """Return the seconds until a point in time of `time.monotonic`, or raise httpcore's `ReadTimeout` after it."""
    remaining = (deadline or 0.0) - time.monotonic()
    if remaining <= 0:
        raise httpcore.ReadTimeout("the deadline has passed")
    return remaining
