"""The statuses of a step, and the table of legal moves between them.

======================  =============================================================
status                  meaning
======================  =============================================================
``pending``             not processed yet
``succeeded``           the primary served
``degraded``            a fallback served
``skipped``             given up: by policy, or because every rung failed
``not_applicable``      nothing to do for this item
``failed``              a required stage could not be done
======================  =============================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from repli.tasks.fallback.errors import IllegalMove


class Status(StrEnum):
    """The status of one stage of one item."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    DEGRADED = "degraded"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "not_applicable"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Return whether the stage has ended for the item: every status but `pending`."""
        return self is not Status.PENDING

    @property
    def is_done(self) -> bool:
        """Return whether later stages may run: the stage has ended and did not fail."""
        return self.is_terminal and self is not Status.FAILED


_TERMINAL = frozenset(Status) - {Status.PENDING}

# Every step may become pending again: when its item's record changes, its result no longer applies.
# No other move makes a result worse.
MOVES: Mapping[Status, frozenset[Status]] = {
    Status.PENDING: _TERMINAL,
    Status.FAILED: _TERMINAL | {Status.PENDING},
    Status.SKIPPED: frozenset({Status.SKIPPED, Status.DEGRADED, Status.SUCCEEDED, Status.PENDING}),
    Status.DEGRADED: frozenset({Status.DEGRADED, Status.SUCCEEDED, Status.PENDING}),
    Status.SUCCEEDED: frozenset({Status.SUCCEEDED, Status.PENDING}),
    Status.NOT_APPLICABLE: frozenset({Status.NOT_APPLICABLE, Status.PENDING}),
}


def can_move(old: Status, new: Status) -> bool:
    """Return whether a step may move from `old` to `new`."""
    return new in MOVES[old]


def check_move(old: Status, new: Status) -> None:
    """Raise `IllegalMove` unless a step may move from `old` to `new`."""
    if not can_move(old, new):
        raise IllegalMove(f"a {old} step cannot become {new}; from here it may become {', '.join(sorted(MOVES[old]))}")
