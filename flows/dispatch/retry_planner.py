"""What may be gained by doing a stage again: which items to ask for, and whether it is worth while to ask for more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from repli.tasks.execution.stage_runner import StageReport
from repli.tasks.fallback import SKIP, AnyChain, Rules
from repli.tasks.storage.retry.claims import RetryTarget

PROBE_ITEMS = 4
"""Of each stage: enough to tell one bad item from a rung that is still gone."""
MAX_ITEMS_WITHOUT_IMPROVEMENT = 500
"""So many items without a gain are enough, even where each of them is itself to blame: a server that is down looks like
that, and costs each of its items a time-out."""


class RetryDecision(StrEnum):
    """Whether more items are to be sent to a stage."""

    PROBING = "open"  # what was sent says nothing of the others
    CONTINUE = "worthwhile"
    STOP = "hopeless"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """What is known of a stage's better rungs. The counts are of items since the last gain: those that the rungs let
    down, and those that were to blame themselves, or that no rung was called for."""

    has_gained: bool = False
    failed_by_rung: int = 0
    unimproved: int = 0

    def after(self, report: StageReport) -> StageProgress:
        """What is known once a batch came through."""
        if report.upgraded:
            return StageProgress(has_gained=True)
        failed_by_rung = len(report.failed_by_rung)
        served = sum(count for rung, count in report.rungs.items() if rung != SKIP)  # anew, for another input
        return StageProgress(
            has_gained=self.has_gained,
            failed_by_rung=self.failed_by_rung + failed_by_rung,
            unimproved=self.unimproved + max(0, report.items - failed_by_rung - served),
        )

    @property
    def verdict(self) -> RetryDecision:
        """A stage has to show that it gains something, and that it still does. One bad item says nothing of it."""
        if self.failed_by_rung >= PROBE_ITEMS or self.unimproved >= MAX_ITEMS_WITHOUT_IMPROVEMENT:
            return RetryDecision.STOP
        return RetryDecision.CONTINUE if self.has_gained else RetryDecision.PROBING


def gaps(chain: AnyChain, declared: Sequence[str], callable_now: Collection[str], rules: Rules) -> list[RetryTarget]:
    """Which items may gain at a stage now.

    Args:
        declared: the names of all rungs of the stage, best first, those that the policy leaves out too.
        callable_now: the names of those rungs of the `chain` that can be called.
    """
    found: list[RetryTarget] = []
    for position, rung in enumerate(chain.rungs):
        if rung.name not in callable_now:
            continue
        worse = chain.rung_names[position + 1 :]
        left_out = [name for name in declared[declared.index(rung.name) + 1 :] if name not in chain.rung_names]
        bars = [rule for rule in rules.table if rule.forbids == f"{chain.stage}.{rung.name}"]
        excluded_by = tuple((rule.stage, frozenset(rule.rungs)) for rule in bars)
        is_best = rung is chain.primary
        found.append(
            RetryTarget(
                stage=chain.stage, rungs=(None, *worse, *left_out), excluded_by=excluded_by, include_stale=is_best
            )
        )
        if not bars:
            break
    return found
