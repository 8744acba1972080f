"""The size of batches that a run chooses for itself."""

from __future__ import annotations

import pytest

from repli.tasks.execution.batch_size import choose_batch_size


@pytest.mark.parametrize(
    ("items", "threads", "size"),
    [
        (12, 2, 128),  # one small batch
        (768, 2, 128),  # three batches for each thread
        (2_400, 2, 400),
        (10_000, 2, 512),
        (10_000, 32, 128),  # all workers are busy
        (30_000, 32, 312),
        (1_000_000, 32, 512),
        (10_000, 0, 512),  # no worker has joined yet
    ],
)
def test_batches_grow_as_far_as_each_worker_has_several(items: int, threads: int, size: int) -> None:
    """At least 128 items, at most 512, and three batches for each thread in between."""
    assert choose_batch_size(None, items=items, threads=threads) == size


@pytest.mark.parametrize("given", [1, 7, 128, 10_000])
def test_a_size_that_is_given_is_used_as_it_is(given: int) -> None:
    """Whatever the run is like."""
    assert choose_batch_size(given, items=1_000_000, threads=32) == given
