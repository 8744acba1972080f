"""Whatever a run has read may have changed before it writes: what is stored is true all the same."""

from __future__ import annotations

import pytest

from repli.tasks.storage.database import Database
from tests.support.crashing import CHANGED_RECORDS, REPROCESS, Place, Scenario

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]


@pytest.mark.parametrize("second", [REPROCESS, CHANGED_RECORDS])
def test_another_run_may_come_before_every_transaction(database: Database, second: str) -> None:
    """A whole `reprocess`, or an `enrich` of changed records."""
    scenario = Scenario(database)
    broken = [
        problem
        for act, number in scenario.positions()
        for problem in scenario.interleave(act, number, Place.BEGIN, second)
    ]
    assert not broken, "\n".join(broken)
