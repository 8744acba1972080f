"""What a run makes of the chains that the code declares: which rungs, in which order, at which penalties; and which of
them a drill has to cover.

A policy selects and weighs; it cannot add a rung, nor decide that a stage may be given up: that is code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

from repli.tasks.fallback import SKIP, AnyChain, AnyRung, Breaker, Chain, Skip, UsageError, check_rung_exists

Choice = tuple[tuple[str, str], ...]
"""The rungs of a stage, best first, each with its penalty, written as `"0.9"`. An optional stage ends with `skip`."""

ALL = "all"
"""In place of the names of rungs: every rung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Settings of one breaker, as in `repli.tasks.fallback.Breaker`. None leaves what the code declares."""

    failures: int | None = None
    within_s: float | None = None
    open_for_s: float | None = None
    open_for_at_most_s: float | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self._set().items())

    def applied_to(self, breaker: Breaker) -> Breaker:
        """The breaker with these settings. Raises ValueError where they cannot work."""
        return replace(breaker, **self._set())

    def _set(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The chains and breakers of a run, where they differ from those that the code declares.

    Args:
        chains: by stage. A rung that is not named is not called.
        breakers: by rung, as `stage.rung`.
        expect: rungs, as `stage.rung`, that fail the drill where they are not covered; `all` is every rung. A rung that
            its chain leaves out is not drilled.
    """

    chains: Mapping[str, Choice] = field(default_factory=dict, hash=False)
    breakers: Mapping[str, BreakerPolicy] = field(default_factory=dict, hash=False)
    expect: tuple[str, ...] = ()

    def __str__(self) -> str:
        """On one line; empty where nothing differs."""
        chains = [
            f"{stage}: " + " · ".join(f"{rung} {penalty}" for rung, penalty in choice)
            for stage, choice in self.chains.items()
        ]
        breakers = [f"breaker {name}: {breaker}" for name, breaker in self.breakers.items()]
        return "; ".join([*chains, *breakers, *([f"drill expects {', '.join(self.expect)}"] if self.expect else [])])

    def expects(self, rung: str) -> bool:
        """Return whether the drill fails where the rung `stage.rung` is not covered."""
        return ALL in self.expect or rung in self.expect

    def applied_to(self, declared: Sequence[AnyChain]) -> tuple[AnyChain, ...]:
        """The declared chains under this policy, in their order.

        Raises:
            UsageError: the policy names what there is not, or leaves a chain that cannot work. The message names the
                stage and the rung, and says what to do.
        """
        stages = [chain.stage for chain in declared]
        if unknown := [stage for stage in self.chains if stage not in stages]:
            raise UsageError(f"policy: there is no stage {unknown[0]!r}; choose from {', '.join(stages)}")
        breakers = [f"{chain.stage}.{rung.name}" for chain in declared for rung in chain.rungs if rung.breaker]
        if unknown := [name for name in self.breakers if name not in breakers]:
            raise UsageError(f"policy: there is no breaker {unknown[0]!r}; choose from {', '.join(breakers)}")
        rungs = [f"{chain.stage}.{rung}" for chain in declared for rung in chain.rung_names]
        if unknown := [name for name in self.expect if name not in (ALL, *rungs)]:
            raise UsageError(
                f"policy: expect: there is no rung {unknown[0][:200]!r}; choose {ALL}, or from {', '.join(rungs)}"
            )
        return tuple(self._chain(chain) for chain in declared)

    def _chain(self, chain: AnyChain) -> AnyChain:
        chain = Chain(
            chain.stage,
            *(self._with_breaker(chain.stage, rung) for rung in chain.rungs),
            *([chain.skip] if chain.skip else []),
            check=chain.check,
        )
        return _chosen(chain, self.chains[chain.stage]) if chain.stage in self.chains else chain

    def _with_breaker(self, stage: str, rung: AnyRung) -> AnyRung:
        name = f"{stage}.{rung.name}"
        if rung.breaker is None or name not in self.breakers:
            return rung
        try:
            return replace(rung, breaker=self.breakers[name].applied_to(rung.breaker))
        except ValueError as error:
            raise UsageError(f"policy: the breaker of {name}: {error}; correct it") from None


NO_OVERRIDES = Policy()


def rung_names(text: str) -> tuple[str, ...]:
    """Return the names in a text that separates them by commas or spaces."""
    return tuple(text.replace(",", " ").split())


def _chosen(chain: AnyChain, choice: Choice) -> AnyChain:
    """The chain of the chosen rungs at their penalties."""
    names = [name for name, _ in choice]
    _check_names(chain, names)
    declared = {rung.name: rung for rung in chain.rungs}
    weighed: list[AnyRung | Skip] = []
    for name, penalty in choice:
        try:
            weighed.append(Skip(penalty=penalty) if name == SKIP else replace(declared[name], penalty=penalty))
        except ValueError as error:
            raise UsageError(f"policy: {chain.stage}: {error}; correct it") from None
    if weighed[0].factor != 1:
        raise UsageError(
            f"policy: {chain.stage}: {names[0]} comes first, so its penalty must be 1, not {weighed[0].penalty}"
        )
    for (name, rung), (next_name, next_rung) in pairwise(zip(names, weighed, strict=True)):
        if next_rung.factor > rung.factor:
            raise UsageError(
                f"policy: {chain.stage}: {next_name} ({next_rung.penalty}) comes after {name} ({rung.penalty}) and is "
                f"worth more; penalties go from the best down, so raise {name} or lower {next_name}"
            )
    return Chain(chain.stage, *weighed, check=chain.check)


def _check_names(chain: AnyChain, names: Sequence[str]) -> None:
    stage = chain.stage
    for name in names:
        if name == SKIP and chain.is_required:
            raise UsageError(f"policy: {stage} is required, which only the code can change; leave skip away")
        check_rung_exists(stage, name, [chain], "policy")
        if names.count(name) > 1:
            raise UsageError(f"policy: {stage} names {name} twice; name it once")
    if not set(names) - {SKIP}:
        called = ", ".join(rung.name for rung in chain.rungs)
        raise UsageError(f"policy: {stage} is left without a rung that is called; name one of {called}")
    if not chain.is_required and names[-1] != SKIP:
        raise UsageError(f"policy: {stage} may be given up, so skip must be its last rung; add it, with its penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When items are done again.

    Args:
        below: stored items of a quality below it are queued, where something about them can be done again.
        tries: so many tries without a gain, and an item is parked.
        delay_s: seconds until the next try after the first one; they double with each.
        lease_s: a claim that nobody renews runs out after so many seconds.
    """

    below: float = 0.8
    tries: int = 5
    delay_s: float = 300.0
    lease_s: float = 120.0

    def delay(self, tries: int) -> timedelta:
        """How long an item waits that was tried so often without a gain."""
        return timedelta(seconds=self.delay_s * 2 ** max(0, tries - 1))
