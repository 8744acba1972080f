"""Policy of a run: the rungs to call, their order and penalties, breaker settings, and the rungs a drill must cover.

A policy selects rungs and sets penalties. It cannot add a rung, nor make a stage optional: only the code can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

from repli.tasks.fallback import SKIP, AnyChain, AnyRung, Breaker, Skip, UsageError, check_rung_exists
from repli.tasks.fallback.chain import breakers_of

Choice = tuple[tuple[str, str], ...]
"""The rungs of a stage, best first, each with its penalty, such as `"0.9"`. An optional stage ends with `skip`."""

ALL = "all"
"""Stands for every rung in `Policy.expect`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Overrides of one breaker's settings; see `repli.tasks.fallback.Breaker`. None keeps the declared setting.

    `at_once` and `per_second` are of breakers of scope `key`; a `per_second` of 0 stands for any number.

    Example:
        >>> BreakerPolicy(failures=3).applied_to(Breaker(scope="host")).failures
        3
    """

    failures: int | None = None
    within_s: float | None = None
    open_for_s: float | None = None
    open_for_at_most_s: float | None = None
    at_once: int | None = None
    per_second: float | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self._overrides().items())

    def applied_to(self, breaker: Breaker) -> Breaker:
        """Return the breaker with these settings. Raises ValueError if one is out of range."""
        overrides = self._overrides()
        if self.per_second == 0:
            overrides["per_second"] = None
        return replace(breaker, **overrides)

    def _overrides(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Overrides of the declared chains and breakers of a run.

    Args:
        chains: The chosen rungs, by stage. Other rungs of these stages are not called.
        breakers: Breaker settings by rung, as `stage.rung`.
        expect: Rungs, as `stage.rung`, that a drill must cover in order to pass; `all` is every rung. A rung that is
            not in its chain is not drilled.

    Example:
        >>> print(Policy(chains={"classify_image": (("cpu", "1"), ("skip", "0.7"))}))
        classify_image: cpu 1 · skip 0.7
    """

    chains: Mapping[str, Choice] = field(default_factory=dict, hash=False)
    breakers: Mapping[str, BreakerPolicy] = field(default_factory=dict, hash=False)
    expect: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the policy on one line, empty if it overrides nothing."""
        chains = [
            f"{stage}: " + " · ".join(f"{rung} {penalty}" for rung, penalty in choice)
            for stage, choice in self.chains.items()
        ]
        breakers = [f"breaker {name}: {breaker}" for name, breaker in self.breakers.items()]
        return "; ".join([*chains, *breakers, *([f"drill expects {', '.join(self.expect)}"] if self.expect else [])])

    def expects(self, rung: str) -> bool:
        """Return whether a drill fails if it does not cover the rung `stage.rung`."""
        return ALL in self.expect or rung in self.expect

    def applied_to(self, declared: Sequence[AnyChain]) -> tuple[AnyChain, ...]:
        """Return the declared chains under this policy, in their order.

        Raises:
            UsageError: The policy names an unknown stage, rung or breaker, or results in a chain that cannot work. The
                message names the stage and the rung, and says what to do.
        """
        stages = [chain.stage for chain in declared]
        if unknown := [stage for stage in self.chains if stage not in stages]:
            raise UsageError(f"policy: there is no stage {unknown[0]!r}; choose from {', '.join(stages)}")
        breakers = list(breakers_of(declared))
        if unknown := [name for name in self.breakers if name not in breakers]:
            raise UsageError(f"policy: there is no breaker {unknown[0]!r}; choose from {', '.join(breakers)}")
        rungs = [f"{chain.stage}.{rung}" for chain in declared for rung in chain.rung_names]
        if unknown := [name for name in self.expect if name not in (ALL, *rungs)]:
            raise UsageError(
                f"policy: expect: there is no rung {unknown[0][:200]!r}; choose {ALL}, or from {', '.join(rungs)}"
            )
        return tuple(self._chain(chain) for chain in declared)

    def _chain(self, chain: AnyChain) -> AnyChain:
        rungs = [self._with_breaker(chain.stage, rung) for rung in chain.rungs]
        chain = chain.with_rungs(*rungs, *([chain.skip] if chain.skip else []))
        return _select(chain, self.chains[chain.stage]) if chain.stage in self.chains else chain

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


def _select(chain: AnyChain, choice: Choice) -> AnyChain:
    """Return the chain of the chosen rungs at their penalties."""
    names = [name for name, _ in choice]
    _check_names(chain, names)
    declared = {rung.name: rung for rung in chain.rungs}
    selected: list[AnyRung | Skip] = []
    for name, penalty in choice:
        try:
            selected.append(Skip(penalty=penalty) if name == SKIP else replace(declared[name], penalty=penalty))
        except ValueError as error:
            raise UsageError(f"policy: {chain.stage}: {error}; correct it") from None
    if selected[0].factor != 1:
        raise UsageError(
            f"policy: {chain.stage}: {names[0]} comes first, so its penalty must be 1, not {selected[0].penalty}"
        )
    for (name, rung), (next_name, next_rung) in pairwise(zip(names, selected, strict=True)):
        if next_rung.factor > rung.factor:
            raise UsageError(
                f"policy: {chain.stage}: {next_name} ({next_rung.penalty}) comes after {name} ({rung.penalty}) and is "
                f"worth more; penalties go from the best down, so raise {name} or lower {next_name}"
            )
    return chain.with_rungs(*selected)


def _check_names(chain: AnyChain, names: Sequence[str]) -> None:
    stage = chain.stage
    for name in names:
        if name == SKIP and chain.is_required:
            raise UsageError(
                f"policy: {stage} is required, which only the code can change; remove skip from the policy"
            )
        check_rung_exists(stage, name, [chain], "policy")
        if names.count(name) > 1:
            raise UsageError(f"policy: {stage} names {name} twice; name it once")
    if not set(names) - {SKIP}:
        called = ", ".join(rung.name for rung in chain.rungs)
        raise UsageError(f"policy: {stage} has no rung to call; name one of {called}")
    if not chain.is_required and names[-1] != SKIP:
        raise UsageError(f"policy: {stage} is optional, so skip must be its last rung; add it, with its penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When items are retried.

    Args:
        below: Quality below which stored items are queued, if a stage of theirs is retryable.
        tries: Retries without an improvement after which an item is parked.
        delay_s: Seconds between the first and the second retry. The delay doubles with each retry.
        lease_s: Seconds after which a claim that is not renewed expires.

    Example:
        >>> RetryPolicy(delay_s=60).delay(tries=3).total_seconds()
        240.0
    """

    below: float = 0.8
    tries: int = 5
    delay_s: float = 300.0
    lease_s: float = 120.0

    def delay(self, tries: int) -> timedelta:
        """Return the delay until the next retry of an item after `tries` retries without an improvement."""
        return timedelta(seconds=self.delay_s * 2 ** max(0, tries - 1))
