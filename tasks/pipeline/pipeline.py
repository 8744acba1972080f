"""Declare a pipeline: stages in their order, and the rules between them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from repli.tasks.fallback import Breaker, ItemError, Rule, Rules, StepError, UsageError
from repli.tasks.fallback.chain import breakers_of
from repli.tasks.fallback.policy import NO_OVERRIDES, Policy
from repli.tasks.items import STORE, Embedding, ItemState
from repli.tasks.pipeline.declaration import refused_in_place
from repli.tasks.pipeline.enriched_item import EnrichedItem
from repli.tasks.pipeline.roles import name_of
from repli.tasks.pipeline.stage import Stage
from repli.tasks.pipeline.store import STAGE as STORE_STAGE
from repli.tasks.settings import ModelSettings
from repli.tasks.storage.pipelines import StoredPipeline


class Pipeline:
    """Stages in their order, and the rules on which rungs are incompatible. Its methods return changed copies.

    `version` is a digest of the stages, rungs and rules, and of the source files of their functions as they are when
    the pipeline is made: a process that has imported an older file has another version.

    Args:
        stages: the stages. Where none is named `store`, that stage is added at the end.
        rules: which rungs must not serve the same item.

    Raises:
        DeclarationError: two stages have one name or both produce embeddings, a stage stands where it cannot, or a rule
            does not fit these stages; the message has the line.

    Example:
        >>> Pipeline([translate]).names
        ('translate', 'store')
    """

    def __init__(self, stages: Sequence[Stage], rules: Iterable[Rule] = ()) -> None:
        with refused_in_place():
            if not isinstance(stages, Iterable):
                raise ValueError(f"a pipeline takes a list of stages, not a {type(stages).__name__}")
            if isinstance(rules, Rule):
                raise ValueError("a pipeline takes a list of rules; write [Rule(...)]")
            stages = list(stages)
            _check_types(stages)
            if STORE not in {stage.name for stage in stages}:
                stages.append(STORE_STAGE)
            _check_stages(stages)
            self._set(stages, rules)

    def _set(self, stages: Iterable[Stage], rules: Iterable[Rule]) -> None:
        self.stages = tuple(stages)
        self.names = tuple(stage.name for stage in self.stages)
        self.chains = tuple(stage.chain for stage in self.stages)
        self.rules = Rules(self.chains, *rules)
        self._by_name = dict(zip(self.names, self.stages, strict=True))
        produces = {stage.name: stage.produces for stage in self.stages}
        self.version = _version(self.stages, self.rules)
        self._produced_before = {name: {other: produces[other] for other in self.before(name)} for name in self.names}
        for stage in self.stages:  # last: stages that were refused are in no pipeline
            stage.join_pipeline()

    def insert(
        self, stage: Stage, *, after: str | None = None, before: str | None = None, rules: Iterable[Rule] = ()
    ) -> Pipeline:
        """Return this pipeline with one stage more.

        Args:
            after: the name of the stage before the new one; or
            before: the name of the stage after it.
            rules: rules to add.

        Raises:
            DeclarationError: neither or both are given, there is no such stage, or the new stage cannot stand there.
        """
        with refused_in_place():
            _check_types([stage])
            if (after is None) == (before is None):
                raise ValueError(f"insert {stage.name}: give the name of one stage, as after=... or before=...")
            name = before if after is None else after
            position = self._position(str(name), f"insert {stage.name}") + (after is not None)
            stages = [*self.stages[:position], stage, *self.stages[position:]]
            return Pipeline(stages, [*self.rules.table, *rules])

    def replace(self, name: str, stage: Stage, *, rules: Iterable[Rule] = ()) -> Pipeline:
        """Return this pipeline with another stage in the place of the stage `name`.

        Rules stay as far as the new stage has the stage's name and the rungs that they name.

        Args:
            rules: rules to add.

        Raises:
            DeclarationError: there is no such stage, it is `store`, or the new one cannot stand there.
        """
        with refused_in_place():
            _check_types([stage])
            position = self._position(name, f"replace {name}")
            if name == STORE:
                raise ValueError(f"{STORE} cannot be replaced: it makes the item searchable, with its quality")
            stages = [*self.stages[:position], stage, *self.stages[position + 1 :]]
            return Pipeline(stages, [*_remaining_rules(self.rules.table, stages), *rules])

    def remove(self, *names: str) -> Pipeline:
        """Return this pipeline without the stages of these names, and without the rules that name them.

        Raises:
            DeclarationError: there is no such stage, or it is `store`.
        """
        with refused_in_place():
            for name in names:
                self._position(name, f"remove {name}")
            if STORE in names:
                raise ValueError(f"{STORE} cannot be removed: it makes the item searchable, with its quality")
            stages = [stage for stage in self.stages if stage.name not in names]
            return Pipeline(stages, _remaining_rules(self.rules.table, stages))

    def stage(self, name: str) -> Stage:
        """Return the stage of this name, or raise KeyError."""
        return self._by_name[name]

    def before(self, name: str) -> tuple[str, ...]:
        """Return the names of the stages before the stage `name`."""
        return self.names[: self.names.index(name)]

    def input(self, name: str, state: ItemState) -> Any:
        """Return what the rungs of the stage `name` get for an item; None where the stage is not applicable to it.

        A record that could not be read has nothing to do in any stage, and fails in one that takes it all the same.

        Raises:
            ItemError: the stage's own function raised.
        """
        stage = self.stage(name)
        if state.item.problem and not stage.hooks.takes_unreadable:
            return None
        try:
            return stage.input(EnrichedItem(state, self._produced_before[name]))
        except ItemError:
            raise
        except Exception as error:
            why = StepError.of(error).line
            raise ItemError(f"the input of {name} cannot be made ({why}); correct the stage's `input`") from error

    def described(self, name: str) -> StoredPipeline:
        """Return what the store keeps of this pipeline, which was chosen as `name`."""
        produces = {stage.name: role for stage in self.stages if (role := name_of(stage.produces))}
        return StoredPipeline(name=name, chains=self.chains, produces=produces)

    @property
    def breakers(self) -> dict[str, Breaker]:
        """Return the declared breakers by rung, `STAGE.RUNG`, in the order of the stages."""
        return breakers_of(self.chains)

    def with_policy(self, policy: Policy) -> Pipeline:
        """Return this pipeline with its chains changed by `policy`; the same object for equal policies.

        Raises:
            UsageError: the policy does not fit these chains or rules; the message says where.
        """
        return _with_policy(self, policy)

    def with_models(self, models: ModelSettings) -> Pipeline:
        """Return this pipeline with the chains of its stages for these models; itself where they stay as they are."""
        return _with_models(self, models)

    def _position(self, name: str, action: str) -> int:
        if name not in self.names:
            raise ValueError(f"{action}: there is no stage {name!r}; choose from {', '.join(self.names)}")
        return self.names.index(name)

    def __repr__(self) -> str:
        return f"Pipeline({' → '.join(self.names)})"


def _check_types(stages: Iterable[Stage]) -> None:
    """Raise ValueError unless these are stages."""
    if wrong := [stage for stage in stages if not isinstance(stage, Stage)]:
        raise ValueError(f"a pipeline is made of stages, not of a {type(wrong[0]).__name__}")


def _check_stages(stages: Sequence[Stage]) -> None:
    """Raise ValueError unless these stages can be a pipeline."""
    names = [stage.name for stage in stages]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two stages are named {twice[0]}; rename one")
    if len(names) < 2:
        raise ValueError(f"a pipeline has at least one stage beside {STORE}")
    for position, stage in enumerate(stages):
        if stage.name == STORE and stage.hooks.must_be != "last":
            raise ValueError(f"{STORE} is the name of the last stage, which is added by itself; rename yours")
        wanted = {"first": 0, "last": len(stages) - 1}.get(stage.hooks.must_be or "", position)
        if position != wanted:
            raise ValueError(f"{stage.name} must be the {stage.hooks.must_be} stage: {stage.hooks.because}")
    embedding = [stage.name for stage in stages if stage.produces is Embedding]
    if len(embedding) > 1:
        raise ValueError(
            f"{' and '.join(embedding)} both produce embeddings, and search has one vector for each item; leave "
            "`produces` out of one"
        )


def _version(stages: Sequence[Stage], rules: Rules) -> str:
    digest = hashlib.sha256()
    for stage in stages:
        for rung in stage.chain.rungs:
            options = (
                f"{rung.penalty} {rung.time_limit_s} {rung.per_item} {rung.breaker} {rung.resources} {rung.version}"
            )
            digest.update(f"{stage.name}.{rung.name} {options}\n".encode())
        digest.update(f"{stage.name}.skip {stage.chain.skip} {stage.produces}\n".encode())
    digest.update("\n".join(map(str, rules.table)).encode())
    modules = (
        sys.modules.get(getattr(function, "__module__", None) or "") for one in stages for function in one.functions
    )
    for path in sorted(_sources(modules)):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]


def _sources(modules: Iterable[ModuleType | None]) -> set[str]:
    """Return the files of these modules, and of those in the same folder that they have imported anything of."""
    files: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        file = getattr(module, "__file__", None)
        if module is None or file is None or file in files or not Path(file).is_file():
            continue
        files.add(file)
        for value in vars(module).values():
            imported = (
                value if isinstance(value, ModuleType) else sys.modules.get(str(getattr(value, "__module__", "")))
            )
            if Path(getattr(imported, "__file__", None) or "/").is_relative_to(Path(file).parent):
                waiting.append(imported)
    return files


def _module_of(value: object) -> ModuleType | None:
    """Return the module that defines a function or a class."""
    return sys.modules.get(str(getattr(value, "__module__", "")))


@lru_cache(maxsize=16)
def _with_policy(pipeline: Pipeline, policy: Policy) -> Pipeline:
    if policy == NO_OVERRIDES:
        return pipeline
    chains = policy.applied_to(pipeline.chains)
    stages = [stage.with_chain(chain) for stage, chain in zip(pipeline.stages, chains, strict=True)]
    changed = copy(pipeline)
    try:
        changed._set(stages, _remaining_rules(pipeline.rules.table, stages))
    except ValueError as error:
        raise UsageError(f"policy: {error}; keep a rung that these rules allow") from None
    changed.rules = pipeline.rules  # all of them: results of earlier runs may be by rungs that the policy removes
    return changed


@lru_cache(maxsize=16)
def _with_models(pipeline: Pipeline, models: ModelSettings) -> Pipeline:
    chains = [stage.hooks.with_models(stage.chain, models) for stage in pipeline.stages]
    if all(chain is stage.chain for chain, stage in zip(chains, pipeline.stages, strict=True)):
        return pipeline
    changed = copy(pipeline)
    stages = [stage.with_chain(chain) for stage, chain in zip(pipeline.stages, chains, strict=True)]
    changed._set(stages, pipeline.rules.table)
    return changed


def _remaining_rules(rules: Iterable[Rule], stages: Iterable[Stage]) -> Iterator[Rule]:
    """Yield the rules, reduced to the stages and rungs that there are."""
    rungs = {stage.name: set(stage.chain.rung_names) for stage in stages}
    for rule in rules:
        remaining = rungs.get(rule.stage, set()).intersection(rule.rungs)
        if remaining and rule.forbidden_rung in rungs.get(rule.forbidden_stage, set()):
            yield replace(rule, rungs=remaining)
