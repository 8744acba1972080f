"""Results made ahead: by several threads, while their user works on those before them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from repli.tasks.runtime.limited_pool import LimitedPool

T = TypeVar("T")
R = TypeVar("R")

_WAIT_S = 1.0  # the longest wait without a line of Python, so that the user can be cut off


@contextmanager
def made_ahead(
    function: Callable[[T], R], items: Sequence[T], *, threads: int, at_least: int, at_most: int
) -> Iterator[Iterator[list[R]]]:
    """Yield an iterator over lists of results, in the order of the items, made ahead by threads of this call's own.

    When the user asks for a list, it gets all results that are ready: if the threads are slower than the user, they set
    the pace and lists are short; if they are faster, lists are as long as the user can take. With one thread, results
    are made when they are asked for, in the user's thread.

    When the block ends, however it ends, its threads end too: a user that is cut off at a time limit leaves none.

    Args:
        threads: how many items are worked on at the same time.
        at_least: the length of a list, but for the last; the user waits for so many results.
        at_most: the greatest length of a list. At most `at_least + at_most` results are made ahead.

    Raises:
        Exception: what `function` raised first.

    Example:
        >>> with made_ahead(str.upper, "lamp", threads=2, at_least=2, at_most=2) as chunks:
        ...     list(chunks)
        [['L', 'A'], ['M', 'P']]
    """
    if threads == 1:
        chunks = (items[start : start + at_least] for start in range(0, len(items), at_least))
        yield ([function(item) for item in chunk] for chunk in chunks)
        return
    pool: LimitedPool[int] = LimitedPool(threads)
    try:
        yield _lists(pool, function, items, at_least, at_most)
    finally:
        pool.close()


def _lists(
    pool: LimitedPool[int], function: Callable[[T], R], items: Sequence[T], at_least: int, at_most: int
) -> Iterator[list[R]]:
    ready: dict[int, R] = {}
    submitted = start = 0
    while start < len(items):
        ahead = min(start + at_least + at_most, len(items))
        for position in range(submitted, ahead):
            pool.submit(position, partial(function, items[position]), limit_s=math.inf)
        submitted = ahead
        wanted = min(start + at_least, len(items))
        end = start
        while True:
            while end in ready and end - start < at_most:
                end += 1
            ended = pool.next_ended(wait_s=0.0 if end >= wanted else _WAIT_S)
            if ended:
                position, outcome = ended
                ready[position] = outcome.result()
            elif end >= wanted:
                break
        yield [ready.pop(position) for position in range(start, end)]
        start = end
