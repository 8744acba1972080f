"""Attribution of the failed calls of one batch to the rung or to an item, for the rung's breaker.

When a whole call raises, the cause may be the rung or one item. Later calls of the batch show which: a bad item breaks
its batch and one of its halves, and the other half is served; a rung that is down serves no item. So

* by default, a failed call is recorded at once, and forgiven if a later call of the same batch does not fail;
* if the rung's last call was served and its breaker has no failure in its window, the first failed calls in a row are
  held until the next call: otherwise workers that each have one bad item in their batch would open the breaker
  together. Calls that are still held at the end of the batch are recorded, unless a call of the batch was served: then
  their items caused the failures;
* running out of memory with several items is no failure: splitting may help;
* that this worker lacks the device is no failure: others may have it;
* probes, unavailable rungs and rungs that are called item by item are recorded at once: no other call can tell the
  cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repli.tasks.fallback.breaker import Verdict
from repli.tasks.fallback.breaker_client import BreakerClient, Permit, verdict_of
from repli.tasks.fallback.errors import ItemError, NotHere, OutOfMemory, Unavailable
from repli.tasks.fallback.outcome import Outcome
from repli.tasks.fallback.result import StepError

MAX_HELD_FAILURES = 2
"""Failed calls in a row that are held: one bad item fails its batch and one half."""


@dataclass(frozen=True, slots=True)
class _FailedCall:
    permit: Permit
    why: str
    may_be_item_error: bool


class FailureAttribution:
    """Records the calls of one batch with the rung's breaker.

    Args:
        has_neighbours: Whether calls carry several items. If not, no failure is held or forgiven.
    """

    def __init__(self, breaker: BreakerClient, *, has_neighbours: bool) -> None:
        self._breaker = breaker
        self._has_neighbours = has_neighbours
        self._held: list[_FailedCall] = []
        self._recorded: list[Permit] = []
        self._has_served = False
        self._is_trusted: bool | None = None  # None: as the permit says

    def record_error(self, permit: Permit, error: Exception, *, items: int) -> None:
        """Record that a call with `items` items raised `error`."""
        if isinstance(error, ItemError | NotHere) or (isinstance(error, OutOfMemory | MemoryError) and items > 1):
            self._breaker.record(permit, Verdict.INCONCLUSIVE)
            return
        may_be_item_error = not isinstance(error, Unavailable)  # no item makes a device unavailable
        self._add_failure(_FailedCall(permit, StepError.of(error).line, may_be_item_error))

    def record_fatal(self, permit: Permit, error: Exception) -> None:
        """Record that a call left the process unusable, and all that is held: this process makes no further call."""
        self._held.append(_FailedCall(permit, StepError.of(error).line, may_be_item_error=False))
        self._record_held()

    def record_answer(self, permit: Permit, outcomes: Sequence[Outcome[Any]]) -> None:
        """Record that a call returned `outcomes`."""
        verdict, why = verdict_of(outcomes)
        if verdict is Verdict.FAILED:
            self._add_failure(_FailedCall(permit, why, may_be_item_error=True))
            return
        self._breaker.record(permit, verdict)
        self._has_served = self._is_trusted = True
        self._forgive()

    def finish(self) -> None:
        """Record or forgive the held failures at the end of the batch.

        If a call of the batch was served, its items caused the last failures too.
        """
        if self._has_served:
            self._forgive()
        self._record_held()

    def _add_failure(self, call: _FailedCall) -> None:
        is_trusted = call.permit.is_trusted if self._is_trusted is None else self._is_trusted
        self._held.append(call)
        is_doubtful = is_trusted and call.may_be_item_error and self._has_neighbours and not call.permit.is_probe
        if not is_doubtful or len(self._held) > MAX_HELD_FAILURES:
            self._record_held()

    def _record_held(self) -> None:
        for call in self._held:
            self._breaker.record(call.permit, Verdict.FAILED, call.why)
            self._is_trusted = False
        self._recorded += [call.permit for call in self._held if call.may_be_item_error]
        self._held = []

    def _forgive(self) -> None:
        if self._has_neighbours:
            self._held = []
            if self._recorded:
                self._breaker.forgive(self._recorded)
            self._recorded = []
