"""Runs in trouble: a worker dies, stops or is poisoned, or an item hangs, at a random moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.trouble import campaign

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1200)]

RUNS = 5


def test_whatever_happens_no_item_is_lost_or_worse(tmp_path: Path, standing_server: dict[str, str]) -> None:
    """Each item is as after an undisturbed run; one that hangs is skipped at its limit, and says so."""
    outcomes = list(campaign(tmp_path, standing_server, runs=RUNS, seed=3))
    assert [line for outcome in outcomes for line in outcome.wrong] == []
    assert len(outcomes) > RUNS
