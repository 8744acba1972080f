"""Which rungs do not go together: small rules, in order, each with its reason.

::

    RULES = Rules(
        CHAINS,
        Rule("classify_image", {"rules", "skip"}, forbids="embed_text.text_and_label", because="a guess is no label"),
    )

They are enforced twice: a rung that a rule forbids is not called, and what must not meet is not merged. Rules that
cannot work are refused here, when they are declared, not at 3 a.m.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import product

from repli.tasks.fallback.chain import AnyChain
from repli.tasks.fallback.result import SKIP


@dataclass(frozen=True, slots=True)
class Rule:
    """Where one of the `rungs` served `stage`, a rung of a later stage must not serve the item.

    Args:
        stage: the earlier stage.
        rungs: its rungs that the rule is about, `skip` possibly among them.
        forbids: the rung that does not go with them, as ``STAGE.RUNG``. It cannot be `skip`, which always goes.
        because: the reason, for people: it stands in the trail of every item that the rule concerns.
    """

    stage: str
    rungs: Collection[str] = field(hash=False)
    _: KW_ONLY
    forbids: str
    because: str

    @property
    def forbidden_stage(self) -> str:
        return self.forbids.partition(".")[0]

    @property
    def forbidden_rung(self) -> str:
        return self.forbids.partition(".")[2]

    def applies(self, rungs: Mapping[str, str]) -> bool:
        """Whether the rung that served `stage` is one of the rule's."""
        return rungs.get(self.stage) in self.rungs

    def __str__(self) -> str:
        return f"{self.forbids} does not go with {self.stage} by {' or '.join(sorted(self.rungs))}: {self.because}"


class Rules:
    """The table of rules over some chains.

    Args:
        chains: in the order of their stages.
        rules: in the order in which they are looked at; the first that applies is the one that is told.

    Raises:
        ValueError: a rule names what there is not, looks forward, forbids `skip`, or the rules together can leave
            a stage without a rung. The message says which.
    """

    def __init__(self, chains: Sequence[AnyChain] = (), *rules: Rule) -> None:
        self.table = rules
        self._by_stage = {chain.stage: chain for chain in chains}
        self._order = list(self._by_stage)
        for rule in rules:
            self._check(rule)
        for chain in chains:
            self._check_that_one_is_left(chain)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the rules are over, in their order."""
        return tuple(self._order)

    def barred(self, stage: str, rungs: Mapping[str, str]) -> dict[str, Rule]:
        """The rungs of `stage` that do not go with the `rungs` that served earlier stages, each with its rule."""
        barred: dict[str, Rule] = {}
        for rule in self.table:
            if rule.forbidden_stage == stage and rule.applies(rungs):
                barred.setdefault(rule.forbidden_rung, rule)
        return barred

    def broken(self, rungs: Mapping[str, str]) -> list[Rule]:
        """The rules that an item breaks whose stages were served by these `rungs`."""
        return [
            rule
            for rule in self.table
            if rule.applies(rungs) and rungs.get(rule.forbidden_stage) == rule.forbidden_rung
        ]

    def _check(self, rule: Rule) -> None:
        for stage, rungs in ((rule.stage, rule.rungs), (rule.forbidden_stage, [rule.forbidden_rung])):
            if stage not in self._by_stage:
                raise ValueError(f"rule {rule}: there is no stage {stage!r}; choose from {', '.join(self._order)}")
            names = self._by_stage[stage].rung_names
            if unknown := [rung for rung in rungs if rung not in names]:
                raise ValueError(f"rule {rule}: {stage} has no rung {unknown[0]!r}; choose from {', '.join(names)}")
        if self._order.index(rule.stage) >= self._order.index(rule.forbidden_stage):
            raise ValueError(f"rule {rule}: {rule.stage} does not come before {rule.forbidden_stage}")
        if rule.forbidden_rung == SKIP:
            raise ValueError(f"rule {rule}: giving up always goes; forbid a rung that is called")

    def _check_that_one_is_left(self, chain: AnyChain) -> None:
        causes = sorted({rule.stage for rule in self.table if rule.forbidden_stage == chain.stage})
        for combination in product(*(self._by_stage[stage].rung_names for stage in causes)):
            rungs = dict(zip(causes, combination, strict=True))
            barred = self.barred(chain.stage, rungs)
            if set(chain.rung_names) <= set(barred) and not self.broken(rungs):
                shown = " and ".join(f"{stage} by {rung}" for stage, rung in rungs.items())
                raise ValueError(
                    f"the rules leave {chain.stage} without a rung after {shown}: "
                    + "; ".join(str(rule) for rule in barred.values())
                )
