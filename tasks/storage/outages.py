"""Wait out an outage of the store: the one place where a transaction is run again.

A database restarts, a disk is full or read-only for a while, two transactions deadlock: the same transaction succeeds
later. So each function of the store that flows and stages call is `retried`: it runs again until it succeeds or the
store has been unavailable for `Database.patience_s`. Each is idempotent, because a lost connection does not tell
whether the last commit was made.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from repli.tasks.fallback import StoreError
from repli.tasks.fallback.splitting import clear_traceback_frames

if TYPE_CHECKING:
    from repli.tasks.storage.database import Database

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_S = 60.0
"""Seconds that a run waits for the store. A failover or a restart of PostgreSQL takes less."""
CONFLICT_PATIENCE_S = 15.0
"""Seconds that every command retries a transaction that another one broke, such as by a deadlock."""
GIVEN_UP_FOR_S = 60.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


class StoreUnavailable(StoreError):
    """The store is unavailable for now: the same transaction may succeed later."""


class TransactionConflict(StoreUnavailable):
    """The database ended the transaction in favour of another one: a deadlock or a serialization failure."""


_is_waiting: ContextVar[bool] = ContextVar("is_waiting", default=False)
_given_up: dict[str, float] = {}
"""The places that this process has given up waiting for, and when, by the monotonic clock."""


def retried(function: Callable[Concatenate[Database, P], T]) -> Callable[Concatenate[Database, P], T]:
    """Return `function`, run again while its store is unavailable. It must be idempotent.

    Raises:
        StoreError: the store was unavailable for longer than its patience.
    """

    @wraps(function)
    def run(database: Database, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return wait_out(lambda: function(database, *args, **kwargs), str(database), database.patience_s)

    return run


def wait_out(work: Callable[[], T], place: str, patience_s: float) -> T:
    """Return what `work` returns, run again with growing pauses while it raises `StoreUnavailable`.

    Inside another `wait_out`, only the outer one retries. A process that has given up waiting for a place does not wait
    for it again for `GIVEN_UP_FOR_S`: a run that ends because of an outage ends soon.

    Args:
        place: the name of the database or folder.

    Raises:
        StoreError: `work` raised `StoreUnavailable` for longer than `patience_s` seconds.
    """
    if _is_waiting.get():
        return work()
    token = _is_waiting.set(True)
    try:
        return _retry(work, place, patience_s)
    finally:
        _is_waiting.reset(token)


def _retry(work: Callable[[], T], place: str, patience_s: float) -> T:
    began_at = time.monotonic()
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return work()
        except StoreUnavailable as error:
            has_given_up = time.monotonic() - _given_up.get(place, -GIVEN_UP_FOR_S) < GIVEN_UP_FOR_S
            limit_s = 0.0 if has_given_up else patience_s
            if isinstance(error, TransactionConflict):
                limit_s = max(limit_s, CONFLICT_PATIENCE_S)
            left_s = began_at + limit_s - time.monotonic()
            if left_s <= 0:
                if limit_s >= patience_s > 0:
                    _given_up[place] = time.monotonic()
                raise StoreError(f"{error}; waited {limit_s:g} s" if limit_s else str(error)) from error
            clear_traceback_frames(error)  # they keep cursors open, and so a SQLite file that was opened read-only
        time.sleep(min(left_s, random.uniform(pause_s / 2, pause_s)))  # noqa: S311  spreads out the retries
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
