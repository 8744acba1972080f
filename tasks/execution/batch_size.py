"""How many items a batch has, where the operator does not say."""

from __future__ import annotations

SMALLEST, LARGEST = 128, 512
"""A batch costs Prefect, Dask and the store a fixed part beside that of its items, once a stage. The more share it, the
less each item pays, but the longer each waits for the others. `tests/benchmarks/cost.py` measures both parts."""
BATCHES_PER_THREAD = 3
"""Batches for each thread of a worker, so that none is without work long before the others end."""


def choose_batch_size(given: int | None, *, items: int, threads: int) -> int:
    """Return the number of items per batch: `given`, or one that fits the run.

    That is `SMALLEST`, or more where each thread gets `BATCHES_PER_THREAD` batches all the same, up to `LARGEST`.

    Args:
        given: the operator's own number.
        items: the items that the run has work on.
        threads: the threads of all workers.

    Example:
        >>> choose_batch_size(None, items=2_400, threads=2)
        400
    """
    if given is not None:
        return given
    return min(LARGEST, max(SMALLEST, items // (BATCHES_PER_THREAD * max(1, threads))))
