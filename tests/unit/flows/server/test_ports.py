"""Ports of loopback."""

from __future__ import annotations

import socket

import pytest

from repli.flows.server import ports
from repli.flows.server.ports import LOOPBACK, find_free_port
from repli.tasks.fallback import RepliError


def test_a_free_port_is_none_that_the_system_gives_away() -> None:
    """It can be listened on, and is not of those that Linux gives to connections and to who asks for any."""
    port = find_free_port()
    with socket.create_server((LOOPBACK, port)):
        pass
    assert port < 32768, "where Linux begins, unless an operator has told it otherwise"


def test_a_port_in_use_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all are, that is told."""
    taken, free = find_free_port(), 0
    monkeypatch.setattr(ports, "FIRST_PORT", taken)
    monkeypatch.setattr(ports, "PORTS", 2)
    with socket.create_server((LOOPBACK, taken)):
        try:
            free = find_free_port()
        except RepliError:  # the next one is in use too
            return
        assert free == taken + 1
        with socket.create_server((LOOPBACK, free)), pytest.raises(RepliError, match="no port of 127"):
            find_free_port()
