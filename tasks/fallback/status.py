"""The statuses of a step and the legal moves between them: the one place that knows.

======================  =============================================================
status                  meaning
======================  =============================================================
``pending``             not processed yet
``succeeded``           the primary served
``degraded``            a fallback served
``skipped``             given up on purpose: by policy, or because every rung failed
``not_applicable``      nothing to do for this item
``failed``              a required stage could not be done
======================  =============================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from repli.tasks.fallback.errors import IllegalMove


class Status(StrEnum):
    """What is known of one stage of one item."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    DEGRADED = "degraded"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "not_applicable"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether the stage has ended for the item, one way or another."""
        return self is not Status.PENDING

    @property
    def is_done(self) -> bool:
        """Whether later stages may go on from here."""
        return self.is_terminal and self is not Status.FAILED


_ENDS = frozenset(Status) - {Status.PENDING}

# A step may always be made pending again: its item's record changed, so the old answer is to another question.
# Otherwise a move never makes anything worse.
MOVES: Mapping[Status, frozenset[Status]] = {
    Status.PENDING: _ENDS,
    Status.FAILED: _ENDS | {Status.PENDING},
    Status.SKIPPED: frozenset({Status.SKIPPED, Status.DEGRADED, Status.SUCCEEDED, Status.PENDING}),
    Status.DEGRADED: frozenset({Status.DEGRADED, Status.SUCCEEDED, Status.PENDING}),
    Status.SUCCEEDED: frozenset({Status.SUCCEEDED, Status.PENDING}),
    Status.NOT_APPLICABLE: frozenset({Status.NOT_APPLICABLE, Status.PENDING}),
}


def can_move(old: Status, new: Status) -> bool:
    """Whether a step may go from `old` to `new`."""
    return new in MOVES[old]


def check_move(old: Status, new: Status) -> None:
    """Raise `IllegalMove` unless a step may go from `old` to `new`."""
    if not can_move(old, new):
        raise IllegalMove(
            f"a step that {old} cannot become {new}; from here it may become {', '.join(sorted(MOVES[old]))}"
        )
