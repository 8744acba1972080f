"""Tests on real servers and clusters: what those log is looked at after each."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def look_at_the_logs(no_server_errors: None) -> None:
    """No test of the campaigns passes over a server's errors."""
