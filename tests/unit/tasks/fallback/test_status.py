"""The table of moves: which there are, and that an illegal one raises and changes nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from repli.tasks.fallback import Status, StepResult
from repli.tasks.fallback.errors import IllegalMove
from repli.tasks.fallback.status import MOVES, can_move, check_move

LEGAL = {
    "pending": "succeeded degraded skipped not_applicable failed",
    "succeeded": "succeeded pending",
    "degraded": "degraded succeeded pending",
    "skipped": "skipped degraded succeeded pending",
    "not_applicable": "not_applicable pending",
    "failed": "failed succeeded degraded skipped not_applicable pending",
}
PAIRS = list(product(Status, Status))


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=lambda status: str(status))
def test_table_has_these_moves_and_no_others(old: Status, new: Status) -> None:
    """Each of the 36 moves is legal or not as the design says."""
    assert can_move(old, new) is (new in LEGAL[old].split())


@pytest.mark.parametrize(
    ("old", "new"), [pair for pair in PAIRS if not can_move(*pair)], ids=lambda status: str(status)
)
def test_illegal_move_raises_and_changes_nothing(old: Status, new: Status) -> None:
    """An illegal move raises, names both ends and the way out, and leaves both results as they were."""
    before = StepResult(item_id="1", stage="fetch", status=old, rung="origin", value="kept")
    after = StepResult(item_id="1", stage="fetch", status=new, rung="cached", value="new")
    copies = replace(before), replace(after)
    with pytest.raises(IllegalMove, match=rf"^a {old} step cannot become {new}; from here it may become \w+"):
        before.become(after)
    assert (before, after) == copies


@pytest.mark.parametrize(("old", "new"), [pair for pair in PAIRS if can_move(*pair)], ids=lambda status: str(status))
def test_legal_move_gives_the_new_result(old: Status, new: Status) -> None:
    """A legal move answers the new result itself."""
    after = StepResult(item_id="1", stage="fetch", status=new)
    check_move(old, new)
    assert StepResult(item_id="1", stage="fetch", status=old).become(after) is after


def test_every_status_stands_in_the_table() -> None:
    """The table leaves no status out, so no look-up can fail."""
    assert set(MOVES) == set(Status)


def test_only_pending_is_not_terminal() -> None:
    """A stage has ended in every status but one."""
    assert [status for status in Status if not status.is_terminal] == [Status.PENDING]


def test_later_stages_go_on_after_everything_but_pending_and_failed() -> None:
    """A degraded, a skipped and a needless stage all let the item go on."""
    assert [status for status in Status if not status.is_done] == [Status.PENDING, Status.FAILED]
