"""The campaigns `test_every_commit` and `test_changed_meanwhile` in short: SQLite, and few items."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from repli.tasks.storage.database import Database
from tests.support.crashing import CHANGED_RECORDS, REPROCESS, SHORT_SCENARIO, Place, Scenario


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('every-commit') / 'store.db'}")
    database.migrate()
    yield Scenario(database, SHORT_SCENARIO)
    database.engine.dispose()


@pytest.mark.campaign
def test_a_run_may_be_killed_at_every_commit(scenario: Scenario) -> None:
    positions = scenario.positions()
    broken = [problem for act, number in positions for problem in scenario.kill(act, number, Place.COMMITTED)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(("act", "second"), [(1, REPROCESS), (2, CHANGED_RECORDS)])
def test_another_run_may_come_before_every_transaction(scenario: Scenario, act: int, second: str) -> None:
    """Runs of `enrich` are met by `reprocess`, and that by an `enrich` of changed records."""
    numbers = [number for of_act, number in scenario.positions() if of_act == act]
    broken = [problem for number in numbers for problem in scenario.interleave(act, number, Place.BEGIN, second)]
    assert not broken, "\n".join(broken)
