"""What runs of `reprocess` came to."""

from __future__ import annotations

import pytest

from repli.tasks.storage.retry import retries
from tests.support.queue import POLICY, Queue


def test_a_tally_adds_up(queue: Queue) -> None:
    """Every claimed item has one outcome; the means are of the stored ones, before and after."""
    queue.store("a", "b", at="0.5")
    queue.store("c", at="0.7")
    queue.store("f", at="0.2")
    queue.fail("d", "e")
    for _ in range(POLICY.tries - 1):
        queue.settle("first", [claim for claim in queue.claim("first") if claim.item_id in "cd"])
        queue.pass_time(10_000)
    assert queue.claimed("other", limit=1) == ["d"]
    queue.pass_time(10_000)
    taken = [claim for claim in queue.claim("first") if claim.item_id != "f"]
    run_id = queue.begin_run()
    queue.store("a", at="0.9", run_id=run_id)
    queue.store("e", at="0.6", run_id=run_id)
    tally = retries.tally(queue.database, queue.settle("first", taken, run_id=run_id))
    assert tally.outcomes == {"upgraded": 2, "unchanged": 1, "parked": 2}
    assert tally.as_json() == {
        "claimed": 5,
        "upgraded": 2,
        "unchanged": 1,
        "parked": 2,
        "mean_quality_before": pytest.approx((0.5 + 0.5 + 0.7) / 3),
        "mean_quality_after": pytest.approx((0.9 + 0.5 + 0.7 + 0.6) / 4),
    }
    assert str(tally) == "5 items claimed: 2 upgraded, 1 unchanged, 2 parked; mean quality 0.567 → 0.675"


def test_a_tally_is_of_one_run(queue: Queue) -> None:
    """Another run over the same items is another tally."""
    queue.store("a", "b")
    first = queue.settle("first", queue.claim("first"))
    queue.pass_time(10_000)
    taken = queue.claim("second", limit=1)
    second = queue.begin_run()
    queue.store("a", at="1", run_id=second)
    queue.settle("second", taken, run_id=second)
    assert retries.tally(queue.database, first).outcomes == {"unchanged": 2}
    assert retries.tally(queue.database, second).outcomes == {"upgraded": 1}


def test_a_run_that_claimed_nothing_has_no_means(queue: Queue) -> None:
    """No items, and no quality of them."""
    tally = retries.tally(queue.database, queue.begin_run())
    assert str(tally) == "0 items claimed: 0 upgraded, 0 unchanged, 0 parked; mean quality none → none"
    assert (tally.claimed, tally.as_json()["mean_quality_before"]) == (0, None)


def test_parked_items_are_listed(queue: Queue) -> None:
    """The lowest in quality first, failed ones before all; so many as were asked for; no others."""
    queue.store("a", at="0.7")
    queue.store("b", "c", "e", at="0.3")
    queue.fail("d")
    queue.park("a", "c", "b", "d")
    assert retries.parked(queue.database, 10) == ["d", "b", "c", "a"]
    assert retries.parked(queue.database, 2) == ["d", "b"]
    queue.enqueue_by_operator("b")
    assert retries.parked(queue.database, 10) == ["d", "c", "a"]
