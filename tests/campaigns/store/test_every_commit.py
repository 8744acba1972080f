"""Every commit of a run is a place to die, and one where another run over the same items may come in between.

New runs finish what is left then, and nothing wrong is stored.
"""

from __future__ import annotations

import pytest

from repli.tasks.storage.database import Database
from tests.support.crashing import SAME_ITEMS, Place, Scenario

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]

WITH_PENDING_ITEMS = 2
"""So many acts have pending items, which two runs may take up at the same time."""


@pytest.mark.parametrize("place", [Place.COMMIT, Place.COMMITTED], ids=lambda place: place.name.lower())
def test_a_run_may_be_killed_at_every_commit(database: Database, place: Place) -> None:
    scenario = Scenario(database)
    positions = scenario.positions()
    assert len(positions) > 60, "the scenario lost most of its commits"
    broken = [problem for act, number in positions for problem in scenario.kill(act, number, place)]
    assert not broken, "\n".join(broken)


def test_the_same_items_may_be_enriched_by_two_runs(database: Database) -> None:
    """Acts without pending items are stopped beside the locks of an open transaction, and right after a commit."""
    scenario = Scenario(database)
    broken = [
        problem
        for act, number in scenario.positions()
        for problem in scenario.interleave(act, number, _place(act, number), SAME_ITEMS)
    ]
    assert not broken, "\n".join(broken)


def _place(act: int, number: int) -> Place:
    return Place.BEGIN if act < WITH_PENDING_ITEMS else (Place.COMMIT, Place.COMMITTED)[number % 2]
