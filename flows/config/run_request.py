"""What a person asks of a run of `enrich` or `reprocess`, checked before anything is started."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from repli.tasks.fallback import AnyChain, Directives, UsageError, check_rung_exists, parse_faults
from repli.tasks.fallback.policy import NO_OVERRIDES, Policy
from repli.tasks.items import Item
from repli.tasks.settings import Settings
from repli.tasks.sources import manifest
from repli.tasks.stages.default import PIPELINE

MAX_BATCH_SIZE = 10_000
"""A database takes some ten thousand parameters a query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run of `enrich`. Making one raises `UsageError` for whatever cannot be done, naming the option."""

    source: Path
    batch_size: int
    limit: int | None = None
    refresh: bool = False
    force: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    policy: Policy = NO_OVERRIDES

    def __post_init__(self) -> None:
        _check_sizes(self.batch_size, self.limit)
        self.directives()
        next(self.records())

    def directives(self) -> Directives:
        """The rungs to force and the faults to inject."""
        chains = PIPELINE.with_policy(self.policy).chains
        return Directives(forced=_forced(self.force, chains), faults=parse_faults(self.faults, chains))

    def records(self) -> Iterator[Item]:
        """The manifest's items, up to the limit."""
        return islice(manifest.read(self.source), None if self.limit is None else min(self.limit, sys.maxsize))

    def options(self, settings: Settings) -> dict[str, Any]:
        """What the run's record in the store says of it."""
        return {
            "batch_size": self.batch_size,
            "limit": self.limit,
            "refresh": self.refresh,
            "force": list(self.force),
            "faults": list(self.faults),
            "emulated": settings.is_gpu_emulated,
            **_policy_noted(self.policy),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRequest:
    """One run of `reprocess`. Making one raises `UsageError` for whatever cannot be done, naming the option."""

    batch_size: int
    limit: int | None = None
    faults: tuple[str, ...] = ()
    policy: Policy = NO_OVERRIDES

    def __post_init__(self) -> None:
        _check_sizes(self.batch_size, self.limit)
        self.directives()

    def directives(self) -> Directives:
        """The faults to inject."""
        return Directives(faults=parse_faults(self.faults, PIPELINE.with_policy(self.policy).chains))

    def options(self, settings: Settings) -> dict[str, Any]:
        """What the run's record in the store says of it."""
        return {
            "batch_size": self.batch_size,
            "limit": self.limit,
            "faults": list(self.faults),
            "emulated": settings.is_gpu_emulated,
            **_policy_noted(self.policy),
        }


def _policy_noted(policy: Policy) -> dict[str, str]:
    return {"policy": str(policy)} if str(policy) else {}


def _check_sizes(batch_size: int, limit: int | None) -> None:
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: a batch holds at least 1 item")
    if batch_size > MAX_BATCH_SIZE:
        raise UsageError(f"--batch-size {batch_size}: a batch holds at most {MAX_BATCH_SIZE} items")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: ask for at least 1 item")


def _forced(specs: Sequence[str], chains: Sequence[AnyChain]) -> dict[str, str]:
    forced: dict[str, str] = {}
    for spec in specs:
        stage, equals, rung = spec.partition("=")
        if not equals:
            raise UsageError(f"--force {spec!r} is not of the form STAGE=RUNG, such as classify_image=cpu")
        check_rung_exists(stage, rung, chains, f"--force {spec!r}")
        if forced.setdefault(stage, rung) != rung:
            raise UsageError(f"--force {spec!r}: {stage} is forced to {forced[stage]} already; choose one")
    return forced
