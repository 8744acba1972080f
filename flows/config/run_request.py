"""Requests for a run of `enrich` or `reprocess`, checked before anything is started."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from repli.tasks.execution.batch_size import SMALLEST
from repli.tasks.fallback import AnyChain, Directives, UsageError, check_fault, check_rung_exists, parse_faults
from repli.tasks.fallback.policy import Policy
from repli.tasks.items import Item
from repli.tasks.pipeline import Pipeline
from repli.tasks.settings import ModelSettings, Settings
from repli.tasks.sources.manifest import Manifest, ManifestOptions, ShortRows, open_manifest
from repli.tasks.storage.runs import TEXT_MODEL, TEXT_MODEL_OF_BLOCK

MAX_BATCH_SIZE = 10_000
"""A database takes some ten thousand parameters a query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run of `enrich`.

    Args:
        batch_size: Items per batch; None: as many as suit the run.
        directives: The rungs to force and the faults to inject.
        pipeline: The run's pipeline, under its policy.
        prune: Whether to remove the source's items that are no longer in it from the store, at the end.
        manifest_options: How to read the source.
        manifest: The source, opened.

    Raises:
        UsageError: The run is impossible; the message names the option.
    """

    source: Path
    pipeline: Pipeline
    batch_size: int | None = None
    limit: int | None = None
    refresh: bool = False
    prune: bool = False
    directives: Directives = field(default_factory=Directives)
    manifest_options: ManifestOptions = field(default_factory=ManifestOptions)
    manifest: Manifest = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_sizes(self.batch_size, self.limit)
        _check_directives(self.directives, self.pipeline)
        if self.prune and self.limit is not None:
            raise UsageError("--prune needs the whole manifest, to know what is missing from it; omit --limit")
        object.__setattr__(self, "manifest", open_manifest(self.source, self.manifest_options))

    def records(self, short_rows: ShortRows | None = None) -> Iterator[Item]:
        """Return the manifest's items, up to the limit; `short_rows` counts the short rows among them."""
        return islice(self.manifest.items(short_rows), None if self.limit is None else min(self.limit, sys.maxsize))

    def batches(self, at_most: int) -> int:
        """Return how many batches the items make, counted up to `at_most`; the rest of the manifest is not read."""
        size = self.batch_size or SMALLEST
        items = sum(1 for _ in islice(self.records(), size * at_most))
        return -(-items // size)

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return the options that the run's record in the store keeps."""
        return {
            "batch_size": self.batch_size,
            "limit": self.limit,
            **self.manifest_options.as_options(),
            "refresh": self.refresh,
            **({"prune": True} if self.prune else {}),
            "force": [f"{stage}={rung}" for stage, rung in self.directives.forced.items()],
            "faults": list(map(str, self.directives.faults)),
            "emulated": settings.is_gpu_emulated,
            **_model_option(settings),
            **_policy_option(settings.policy),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRequest:
    """One run of `reprocess`.

    Args:
        batch_size: Items per batch; None: as many as suit the run.
        directives: The faults to inject. It forces no rung: only better rungs than before are called.
        pipeline: The run's pipeline, under its policy.
        outdated: Whether to make results by older versions of their rungs anew.
        outdated_stage: The stage whose results are made anew, those of an unknown version too; empty for all stages.

    Raises:
        UsageError: The run is impossible; the message names the option.
    """

    pipeline: Pipeline
    batch_size: int | None = None
    limit: int | None = None
    directives: Directives = field(default_factory=Directives)
    outdated: bool = False
    outdated_stage: str = ""

    def __post_init__(self) -> None:
        _check_sizes(self.batch_size, self.limit)
        _check_directives(self.directives, self.pipeline)
        stages = self.pipeline.names[:-1]
        if self.outdated_stage and self.outdated_stage not in stages:
            raise UsageError(f"--outdated {self.outdated_stage[:80]!r}: choose from {', '.join(stages)}")
        if self.outdated_stage and not self.outdated:
            raise UsageError(f"{self.outdated_stage}: a stage is given only after --outdated")

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return the options that the run's record in the store keeps."""
        return {
            "batch_size": self.batch_size,
            "limit": self.limit,
            "faults": list(map(str, self.directives.faults)),
            "emulated": settings.is_gpu_emulated,
            **_model_option(settings),
            **({"outdated": self.outdated_stage or True} if self.outdated else {}),
            **_policy_option(settings.policy),
        }


def parse_directives(chains: Sequence[AnyChain], force: Iterable[str] = (), faults: Iterable[str] = ()) -> Directives:
    """Return the directives that command-line specs name: `STAGE=RUNG` and `STAGE.RUNG=KIND[@RATE]`.

    Args:
        chains: The declared chains.

    Raises:
        UsageError: A spec has another form, or names no stage, rung, kind or rate that exists.
    """
    return Directives(forced=_parse_forced(force, chains), faults=parse_faults(faults, chains))


def _model_option(settings: Settings) -> dict[str, Any]:
    """Return the text model where it is not the default one: a search of its vectors needs it later."""
    models = settings.models
    if models.text == ModelSettings().text:
        return {}
    return {TEXT_MODEL: models.text, **({TEXT_MODEL_OF_BLOCK: True} if models.is_text_of_block else {})}


def _policy_option(policy: Policy) -> dict[str, str]:
    return {"policy": str(policy)} if str(policy) else {}


def _check_sizes(batch_size: int | None, limit: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: a batch holds at least 1 item")
    if batch_size is not None and batch_size > MAX_BATCH_SIZE:
        raise UsageError(f"--batch-size {batch_size}: a batch holds at most {MAX_BATCH_SIZE} items")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: ask for at least 1 item")


def _check_directives(directives: Directives, pipeline: Pipeline) -> None:
    """Raise `UsageError` unless the pipeline, under its policy, has every rung that the directives name."""
    chains = pipeline.chains
    for stage, rung in directives.forced.items():
        check_rung_exists(stage, rung, chains, f"--force '{stage}={rung}'")
    for fault in directives.faults:
        check_fault(fault, chains)


def _parse_forced(specs: Iterable[str], chains: Sequence[AnyChain]) -> dict[str, str]:
    forced: dict[str, str] = {}
    for spec in specs:
        stage, equals, rung = spec.partition("=")
        if not equals:
            example = f"{chains[0].stage}={chains[0].rung_names[-1]}"
            raise UsageError(f"--force {spec!r} is not of the form STAGE=RUNG, such as {example}")
        check_rung_exists(stage, rung, chains, f"--force {spec!r}")
        if forced.setdefault(stage, rung) != rung:
            raise UsageError(f"--force {spec!r}: {stage} is forced to {forced[stage]} already; choose one")
    return forced
