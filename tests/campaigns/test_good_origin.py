"""A server that is well is read as fast beside servers that are down; the benchmark says more."""

from __future__ import annotations

import pytest

from tests.benchmarks.good_origin import AIM, measure

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]


def test_a_good_server_is_read_as_fast_beside_bad_ones() -> None:
    """By eight processes, in as many rounds as it takes on a machine that has other work too."""
    assert measure(8, rounds=6, enough=AIM) >= AIM
