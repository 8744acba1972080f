"""Decide which stages to reprocess, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from repli.tasks.execution.stage_runner import StageReport
from repli.tasks.fallback import SKIP, AnyChain, AnyRung, Rules
from repli.tasks.storage.retry.needs import RetryTarget

PROBE_ITEMS = 4
"""Items per stage in a probe: enough to tell one bad item from a rung that is still unavailable."""
MAX_ITEMS_WITHOUT_IMPROVEMENT = 500
"""Stop a stage after this many items without an upgrade, even if each looks bad: a dead server makes every item time
out."""


class RetryDecision(StrEnum):
    """The decision whether to send more items to a stage."""

    PROBING = "open"  # the items so far say nothing about the others
    CONTINUE = "worthwhile"
    STOP = "hopeless"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """The progress of a stage during one run of `reprocess`. The counts begin again at each upgrade.

    Args:
        has_upgraded: An item was upgraded.
        failed_by_rung: Sound items that no better rung could serve.
        unimproved: The other items without an upgrade: bad themselves, or no rung was called for them. Those that were
            refused for their key are in neither count: they say nothing about items of other keys.
    """

    has_upgraded: bool = False
    failed_by_rung: int = 0
    unimproved: int = 0

    def after(self, report: StageReport) -> StageProgress:
        """Return the progress after one more batch."""
        if report.upgraded:
            return StageProgress(has_upgraded=True)
        failed_by_rung = len(report.failed_by_rung)
        served = sum(count for rung, count in report.rungs.items() if rung != SKIP)  # again, for a changed input
        return StageProgress(
            has_upgraded=self.has_upgraded,
            failed_by_rung=self.failed_by_rung + failed_by_rung,
            unimproved=self.unimproved + max(0, report.items - failed_by_rung - served - len(report.refused_by_key)),
        )

    @property
    def decision(self) -> RetryDecision:
        """Return STOP after too many failures, CONTINUE after an upgrade, else PROBING."""
        if self.failed_by_rung >= PROBE_ITEMS or self.unimproved >= MAX_ITEMS_WITHOUT_IMPROVEMENT:
            return RetryDecision.STOP
        return RetryDecision.CONTINUE if self.has_upgraded else RetryDecision.PROBING


def retry_targets(
    chain: AnyChain,
    declared: Sequence[str],
    callable_now: Collection[str],
    rules: Rules,
    refused: Callable[[AnyRung], frozenset[str]] = lambda rung: frozenset(),
) -> list[RetryTarget]:
    """Return the search conditions for the results of a stage that a rung may improve now.

    Stale results are among them where the best rung can be called.

    Args:
        declared: Names of all rungs of the stage, best first, including those that the policy leaves out.
        callable_now: Names of the rungs of the `chain` that can be called.
        refused: Returns the digests of the breakers of a rung that refuse their keys.
    """
    found: list[RetryTarget] = []
    for position, rung in enumerate(chain.rungs):
        if rung.name not in callable_now:
            continue
        worse = chain.rung_names[position + 1 :]
        left_out = [name for name in declared[declared.index(rung.name) + 1 :] if name not in chain.rung_names]
        rules_against = [rule for rule in rules.table if rule.forbids == f"{chain.stage}.{rung.name}"]
        excluded_by = tuple((rule.stage, frozenset(rule.rungs)) for rule in rules_against)
        is_best = rung is chain.primary
        found.append(
            RetryTarget(
                stage=chain.stage,
                rungs=(None, *worse, *left_out),
                excluded_by=excluded_by,
                include_stale=is_best,
                outdated=(rung.name, *worse, *left_out),
                declared=tuple(declared),
                refused=refused(rung),
            )
        )
        if not rules_against:
            break
    return found
