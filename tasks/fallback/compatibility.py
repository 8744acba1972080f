"""Compatibility rules: which rungs must not serve the same item, in order, each with its reason.

::

    RULES = Rules(
        CHAINS,
        Rule("classify_image", {"rules", "skip"}, forbids="embed_text.text_and_label", because="a guess is no label"),
    )

Rules are enforced twice: a forbidden rung is not called, and an item whose results break a rule is not stored. Rules
that cannot work raise ValueError here, when they are declared, not during a run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import product

from repli.tasks.fallback.chain import AnyChain
from repli.tasks.fallback.result import SKIP


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that forbids a rung for items whose earlier `stage` was served by one of `rungs`.

    Args:
        stage: The earlier stage.
        rungs: The rungs of `stage` that the rule applies to; may include `skip`.
        forbids: The forbidden rung of a later stage, as ``STAGE.RUNG``. It cannot be `skip`.
        because: The reason. It is shown in the trail of every item that the rule applies to.

    Example:
        >>> rule = Rule("fetch", {"cached"}, forbids="embed_text.text_and_label", because="the text may be old")
        >>> rule.applies({"fetch": "cached"}), rule.applies({"fetch": "origin"})
        (True, False)
    """

    stage: str
    rungs: Collection[str] = field(hash=False)
    _: KW_ONLY
    forbids: str
    because: str

    def __post_init__(self) -> None:
        if isinstance(self.rungs, str):
            raise ValueError(f"a rule takes a set of rungs, not a str; write {{{self.rungs!r}}}")

    @property
    def forbidden_stage(self) -> str:
        """Return the stage of the forbidden rung."""
        return self.forbids.partition(".")[0]

    @property
    def forbidden_rung(self) -> str:
        """Return the name of the forbidden rung in its stage."""
        return self.forbids.partition(".")[2]

    def applies(self, rungs: Mapping[str, str]) -> bool:
        """Return whether the rule applies to an item.

        Args:
            rungs: The rung that served the item, by stage.
        """
        return rungs.get(self.stage) in self.rungs

    def __str__(self) -> str:
        return f"{self.forbids} does not go with {self.stage} by {' or '.join(sorted(self.rungs))}: {self.because}"


class Rules:
    """The compatibility rules of a pipeline's chains.

    Args:
        chains: The chains, in the order of their stages.
        rules: The rules, in order: of several rules that forbid a rung, the first is reported.

    Raises:
        ValueError: A rule names an unknown stage or rung, forbids a rung of an earlier stage or `skip`, or the rules
            together can leave a stage without a rung. The message names the rule.

    Example:
        >>> from repli.tasks.fallback import Chain, Rung, Skip
        >>> fetch, embed = (
        ...     Chain(stage, Rung("best", lambda inputs, context: [], time_limit_s=5), Skip(penalty="0.7"))
        ...     for stage in ("fetch", "embed")
        ... )
        >>> rules = Rules([fetch, embed], Rule("fetch", {"skip"}, forbids="embed.best", because="there is no text"))
        >>> list(rules.forbidden_rungs("embed", {"fetch": "skip"}))
        ['best']
    """

    def __init__(self, chains: Sequence[AnyChain] = (), *rules: Rule) -> None:
        self.table = rules
        self._by_stage = {chain.stage: chain for chain in chains}
        self._order = list(self._by_stage)
        for rule in rules:
            self._check(rule)
        for chain in chains:
            self._check_rung_left(chain)

    @property
    def stages(self) -> tuple[str, ...]:
        """Return the names of the stages, in their order."""
        return tuple(self._order)

    def forbidden_rungs(self, stage: str, rungs: Mapping[str, str]) -> dict[str, Rule]:
        """Return the rungs of `stage` that must not serve an item, each with the first rule that forbids it.

        Args:
            rungs: The rung that served the item, by earlier stage.
        """
        forbidden: dict[str, Rule] = {}
        for rule in self.table:
            if rule.forbidden_stage == stage and rule.applies(rungs):
                forbidden.setdefault(rule.forbidden_rung, rule)
        return forbidden

    def violated(self, rungs: Mapping[str, str]) -> list[Rule]:
        """Return the rules that an item breaks whose stages were served by these `rungs`."""
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
            raise ValueError(
                f"rule {rule}: {rule.stage} does not come before {rule.forbidden_stage}; name an earlier stage"
            )
        if rule.forbidden_rung == SKIP:
            raise ValueError(f"rule {rule}: `skip` cannot be forbidden; name another rung")

    def _check_rung_left(self, chain: AnyChain) -> None:
        causes = sorted({rule.stage for rule in self.table if rule.forbidden_stage == chain.stage})
        for combination in product(*(self._by_stage[stage].rung_names for stage in causes)):
            rungs = dict(zip(causes, combination, strict=True))
            forbidden = self.forbidden_rungs(chain.stage, rungs)
            if set(chain.rung_names) <= set(forbidden) and not self.violated(rungs):
                served = " and ".join(f"{stage} by {rung}" for stage, rung in rungs.items())
                raise ValueError(
                    f"the rules leave {chain.stage} without a rung after {served}; change one of these rules: "
                    + "; ".join(str(rule) for rule in forbidden.values())
                )
