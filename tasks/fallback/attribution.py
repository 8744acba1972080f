"""Whose fault the failed calls of one batch are, the rung's or an item's, as far as the rung's breaker is concerned.

An exception of a whole call does not say. What follows does: a bad item breaks its batch and one of its halves, and
the other half is served; a rung that is down serves nobody. So

* a failed call counts at once, and is excused where the same batch is served afterwards;
* of a rung that served last, and has not failed for others either, the first failed calls in a row are held back
  until the next call tells: workers that each have a bad item in their batch would open the breaker together otherwise.
  What is still held when the batch is over counts, unless some call of the batch was served: then it was the items'
  fault;
* running out of memory with several items is no failure: splitting may cure it;
* a probe, a rung that is not here, and calls of one item, which have no neighbours to tell by, count at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repli.tasks.fallback.breaker import Verdict
from repli.tasks.fallback.errors import ItemError, OutOfMemory, Unavailable
from repli.tasks.fallback.gate import BreakerClient, Permit, verdict_on
from repli.tasks.fallback.outcome import Outcome
from repli.tasks.fallback.result import StepError

HELD_BACK = 2
"""Failed calls in a row that one bad item explains: its batch's, and one half's."""


@dataclass(frozen=True, slots=True)
class _FailedCall:
    permit: Permit
    why: str
    may_be_item_error: bool


class FailureAttribution:
    """Tells a gate of the calls of one batch.

    Args:
        has_neighbours: calls carry several items; else nothing is held back, and nothing excused.
    """

    def __init__(self, gate: BreakerClient, *, has_neighbours: bool) -> None:
        self._gate = gate
        self._has_neighbours = has_neighbours
        self._held: list[_FailedCall] = []
        self._counted: list[Permit] = []
        self._has_served = False
        self._is_trusted: bool | None = None  # None: as the permit says

    def raised(self, permit: Permit, error: Exception, *, items: int) -> None:
        """A call with so many items raised `error`."""
        if isinstance(error, ItemError) or (isinstance(error, OutOfMemory | MemoryError) and items > 1):
            self._gate.record(permit, Verdict.INCONCLUSIVE)
            return
        may_be_item_error = not isinstance(error, Unavailable)  # no item makes a device go away
        self._failed(_FailedCall(permit, StepError.of(error).line, may_be_item_error))

    def answered(self, permit: Permit, outcomes: Sequence[Outcome[Any]]) -> None:
        """A call was answered."""
        verdict, why = verdict_on(outcomes)
        if verdict is Verdict.FAILED:
            self._failed(_FailedCall(permit, why, may_be_item_error=True))
            return
        self._gate.record(permit, verdict)
        self._has_served = self._is_trusted = True
        self._excuse()

    def over(self) -> None:
        """Every item had its call. What failed last in a batch that was served was its items' fault too."""
        if self._has_served:
            self._excuse()
        self._count()

    def _failed(self, call: _FailedCall) -> None:
        is_trusted = call.permit.is_trusted if self._is_trusted is None else self._is_trusted
        self._held.append(call)
        is_doubtful = is_trusted and call.may_be_item_error and self._has_neighbours and not call.permit.is_probe
        if not is_doubtful or len(self._held) > HELD_BACK:
            self._count()

    def _count(self) -> None:
        for call in self._held:
            self._gate.record(call.permit, Verdict.FAILED, call.why)
            self._is_trusted = False
        self._counted += [call.permit for call in self._held if call.may_be_item_error]
        self._held = []

    def _excuse(self) -> None:
        if self._has_neighbours:
            self._held = []
            if self._counted:
                self._gate.forgive(self._counted)
            self._counted = []
