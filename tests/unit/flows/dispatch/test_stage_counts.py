"""Items are counted once at each stage, whatever happens to their batches."""

from __future__ import annotations

import pickle
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from repli.flows.dispatch.stage_counts import StageCounts

STAGES = ("fetch", "validate", "embed", "store")


@given(
    st.lists(st.tuples(st.frozensets(st.integers(0, 9), min_size=1, max_size=4), st.sampled_from(STAGES)), max_size=40)
)
def test_no_item_is_counted_twice_at_a_stage(ended: list[tuple[frozenset[int], str]]) -> None:
    """Batches are cut up and run again: an item counts at its furthest stage, and at those before it."""
    counts = StageCounts(STAGES)
    furthest: dict[int, int] = {}
    for items, stage in ended:
        counts.stage_done(map(str, items), stage)
        for item in items:
            furthest[item] = max(furthest.get(item, -1), STAGES.index(stage))
        shown = counts.as_mapping()
        assert shown == {name: sum(at >= place for at in furthest.values()) for place, name in enumerate(STAGES)}
        assert list(shown) == list(STAGES)
        assert all(earlier >= later for earlier, later in pairwise(shown.values()))


def test_an_item_that_ends_early_counts_at_the_later_stages_too() -> None:
    """It never gets there, and the run waits for it no longer."""
    counts = StageCounts(STAGES)
    counts.stage_done(["a", "b"], "fetch")
    counts.items_done(["a"])
    assert counts.as_mapping() == {"fetch": 2, "validate": 1, "embed": 1, "store": 1}


def test_it_does_not_grow_with_the_catalogue() -> None:
    """What is done is forgotten: after ten thousand items it is as small as after ten."""
    counts = StageCounts(STAGES)
    sizes = []
    for number in range(1000):
        ids = [f"{number}-{place}" for place in range(10)]
        counts.stage_done(ids, "validate")
        counts.items_done(ids)
        sizes.append(len(pickle.dumps(counts)))
    assert sizes[-1] - sizes[0] < 50
