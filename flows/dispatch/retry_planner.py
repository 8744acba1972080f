"""What may be gained by doing a stage again: which items to ask for, and whether it is worth while to ask for more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from repli.tasks.execution.stage_runner import StageReport
from repli.tasks.fallback import SKIP, AnyChain, Rules
from repli.tasks.storage.retry.claims import Gap

PROBE_ITEMS = 4
"""Of each stage: enough to tell one bad item from a rung that is still gone."""
IN_VAIN_AT_MOST = 500
"""So many items without a gain are enough, even where each of them is itself to blame: a server that is down looks like
that, and costs each of its items a time-out."""


class Verdict(StrEnum):
    """Whether more items are to be sent to a stage."""

    OPEN = "open"  # what was sent says nothing of the others
    WORTHWHILE = "worthwhile"
    HOPELESS = "hopeless"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What is known of a stage's better rungs. The counts are of items since the last gain: those that the rungs let
    down, and those that were to blame themselves, or that no rung was called for."""

    has_gained: bool = False
    let_down: int = 0
    in_vain: int = 0

    def after(self, report: StageReport) -> Prospect:
        """What is known once a batch came through."""
        if report.lifted:
            return Prospect(has_gained=True)
        let_down = len(report.let_down)
        served = sum(count for rung, count in report.rungs.items() if rung != SKIP)  # anew, for another input
        return Prospect(
            has_gained=self.has_gained,
            let_down=self.let_down + let_down,
            in_vain=self.in_vain + max(0, report.items - let_down - served),
        )

    @property
    def verdict(self) -> Verdict:
        """A stage has to show that it gains something, and that it still does. One bad item says nothing of it."""
        if self.let_down >= PROBE_ITEMS or self.in_vain >= IN_VAIN_AT_MOST:
            return Verdict.HOPELESS
        return Verdict.WORTHWHILE if self.has_gained else Verdict.OPEN


def gaps(chain: AnyChain, declared: Sequence[str], callable_now: Collection[str], rules: Rules) -> list[Gap]:
    """Which items may gain at a stage now.

    Args:
        declared: the names of all rungs of the stage, best first, those that the policy leaves out too.
        callable_now: the names of those rungs of the `chain` that can be called.
    """
    found: list[Gap] = []
    for position, rung in enumerate(chain.rungs):
        if rung.name not in callable_now:
            continue
        worse = chain.rung_names[position + 1 :]
        left_out = [name for name in declared[declared.index(rung.name) + 1 :] if name not in chain.rung_names]
        bars = [rule for rule in rules.table if rule.forbids == f"{chain.stage}.{rung.name}"]
        unless = tuple((rule.stage, frozenset(rule.rungs)) for rule in bars)
        is_best = rung is chain.primary
        found.append(Gap(stage=chain.stage, served=(None, *worse, *left_out), unless=unless, whole_too=is_best))
        if not bars:
            break
    return found
