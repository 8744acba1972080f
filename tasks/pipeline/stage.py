"""Declare a stage: its rungs, best first, each a plain function, and an explicit skip."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from repli.tasks.comparison.metrics import Comparison
from repli.tasks.fallback import (
    AnyChain,
    AnyRung,
    Breaker,
    Chain,
    Outcome,
    Rung,
    RungError,
    Skip,
    StepError,
    StepResult,
)
from repli.tasks.fallback.chain import FIRST_VERSION
from repli.tasks.items import Embedding, Label
from repli.tasks.pipeline.constant_answers import check_not_constant
from repli.tasks.pipeline.context import StageContext
from repli.tasks.pipeline.declaration import refused_in_place
from repli.tasks.pipeline.enriched_item import EnrichedItem
from repli.tasks.pipeline.roles import role_of
from repli.tasks.pipeline.rung_functions import run_of
from repli.tasks.pipeline.trial import Trial, try_on
from repli.tasks.settings import ModelSettings, Settings
from repli.tasks.storage import results as step_results
from repli.tasks.storage.results import Basis

F = TypeVar("F", bound=Callable[..., Any])

LONGEST_NAME = 60
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
"""Names stand in commands (`STAGE.RUNG=KIND`), in columns of an export and in the store's columns of 64 characters."""


class Save(Protocol):
    """Save the results of a stage on one batch, in one transaction."""

    def __call__(
        self, context: StageContext, results: Sequence[StepResult], discard: Sequence[StepResult], basis: Basis
    ) -> Sequence[StepResult]:
        """Return the results as they were saved, without dropped ones.

        Args:
            discard: saved results to delete first, so that even a worse result can take their place.
            basis: what the results were computed from.
        """
        ...


def save_results(
    context: StageContext, results: Sequence[StepResult], discard: Sequence[StepResult], basis: Basis
) -> Sequence[StepResult]:
    """Save the results of a stage as they are."""
    return step_results.save(context.database, results, discard=discard, basis=basis)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageHooks:
    """What only a stage of this package needs.

    Args:
        save: saves the results.
        must_be: the place of the stage in each pipeline that has it, and
        because: the reason.
        takes_unreadable: whether `input` is called for a record that could not be read, too.
        imports: returns the modules that take long to import, and that worker processes may inherit from the process
            that forks them.
        warm_up: loads what the rungs need, in a worker ahead of its first batch. A load that may hang is only started.
        embed_query: yields the vectors of a search's text in each space of the rungs, faster than they do, or the error
            for a space that is out of reach now. It raises where it cannot, and then the rungs are called.
        embed_in_space: returns the vector of a search's text in a space that the models of the settings do not have, by
            one of the models that runs have named before; None where that model is not here.
        with_models: returns the chain for the models of the settings, such as one behind an API.
        version: returns the version of a rung that runs a model; None where it cannot be known here. It imports no
            model, and reads no more than files.
    """

    save: Save = save_results
    must_be: Literal["first", "last"] | None = None
    because: str = ""
    takes_unreadable: bool = False
    imports: Callable[[Settings], tuple[str, ...]] = lambda settings: ()
    warm_up: Callable[[Settings], object] = lambda settings: None
    embed_query: Callable[[str, Settings], Iterator[Embedding | RungError]] | None = None
    embed_in_space: Callable[[str, str, Sequence[str], Settings], Embedding | None] | None = None
    with_models: Callable[[AnyChain, ModelSettings], AnyChain] = lambda chain, models: chain
    version: Callable[[AnyRung, ModelSettings], str | None] = lambda rung, models: rung.version


class Stage:
    """One step of a pipeline. Its rungs are added by the decorator `rung`, best first, and by `skip`.

    Without a `skip` the stage is required: an item that no rung serves has failed.

    Args:
        name: the name in commands, reports and the store: letters, digits and underscores.
        input: returns what a rung gets for an item; None where the stage is not applicable to the item.
        produces: what the stage makes for search, export and the dashboard: `Text`, `Label` or `Embedding`. A string
            is turned into a `Text` or a `Label`. None: any value that has a JSON form.
        check: raises ValueError for a value that no rung may return, beside the check of what the stage produces.
        query_input: of a stage that produces embeddings: returns what a rung gets for the text of a search.
        comparison: how a drill compares the answers of the rungs; by default, as for what the stage produces.

    Raises:
        DeclarationError: a name or a rung cannot be used so; the message has the line.

    Example:
        >>> translate = Stage("translate", input=lambda item: item.name)
        >>> @translate.rung(time_limit_s=5, per_item=True)
        ... def dictionary(name: str) -> str:
        ...     return {"cat": "chat", "dog": "chien"}[name]
        >>> translate.skip(penalty="0.7")
        >>> [result.value for result in translate.try_on(["cat", "axolotl"])]
        ['chat', None]
    """

    def __init__(
        self,
        name: str,
        *,
        input: Callable[[EnrichedItem], Any],  # noqa: A002  the word of the design
        produces: type | None = None,
        check: Callable[[Any], None] | None = None,
        query_input: Callable[[str], Any] | None = None,
        comparison: Comparison[Any] | None = None,
        hooks: StageHooks = StageHooks(),
    ) -> None:
        with refused_in_place():
            self.name = checked_name(name, "stage")
            if not callable(input):
                raise ValueError(f"stage {name}: input is a {type(input).__name__}, not a function of an item")
            for option, given in (("check", check), ("query_input", query_input)):
                if not (given is None or callable(given)):
                    raise ValueError(f"stage {name}: {option} is a {type(given).__name__}, not a function")
            role = role_of(produces)
        self.input = input
        self.produces = produces
        self.query_input = query_input
        self.comparison = comparison or role.comparison
        self.hooks = hooks
        self._role = role
        self._check = check
        self._rungs: tuple[Rung[Any, Any, Any] | Skip, ...] = ()
        self._chain: AnyChain | None = None
        self._is_in_pipeline = False

    def rung(
        self,
        *misplaced: object,
        time_limit_s: float = 0.0,
        penalty: str = "1",
        per_item: bool = False,
        breaker: Breaker | None = None,
        resources: Mapping[str, float] | None = None,
        version: int | str = FIRST_VERSION,
        after_decline: float = 1.0,
    ) -> Callable[[F], F]:
        """Add the decorated function as the next rung, named after it. The function itself is unchanged.

        The function gets the inputs of a batch as a list and returns as many answers, in their order; with `per_item`
        it gets one input and returns one answer. A second parameter without a default gets the `StageContext`. It must
        be idempotent: it is called again on halves of a batch that did not fit. What it raises decides what follows:
        `OutOfMemory` splits the batch, `Unavailable` and `TimedOut` go to the next rung at once, `Declined` and
        `ItemError` fail one item, and any other exception is isolated. In the answers of a batch, an exception stands
        for the item that failed, and the others are served.

        Args:
            time_limit_s: seconds after which one call is cut off. Required.
            penalty: the exact factor in (0, 1], as a string, on the quality of the items that the rung serves. Items
                below 0.8, unless the settings say otherwise, are queued for a retry.
            per_item: call the function with one item at a time.
            breaker: stops calls of the rung while it keeps failing.
            resources: of the primary: Dask resources of the workers that its batches are sent to, where there are such
                workers, such as ``{"GPU": 1}``.
            version: raise it when the function answers otherwise than before. `repli status` then counts the results of
                older versions, and `repli reprocess --outdated` makes them anew.
            after_decline: the factor in (0, 1] on the confidence of an answer where a better rung was not sure.
        """

        def add(function: F) -> F:
            with refused_in_place():
                name = name_of_function(function, f"rung of {self.name}")
                run = run_of(function, f"{self.name}.{name}", per_item=per_item, convert=self._role.convert)
                rung: Rung[Any, Any, Any] = Rung(
                    name,
                    run,
                    penalty=str(penalty),
                    time_limit_s=time_limit_s,
                    per_item=per_item,
                    breaker=breaker,
                    resources=resources or {},
                    version=str(version),
                    after_decline=after_decline,
                )
                self._add(rung)
            return function

        with refused_in_place():
            if misplaced:
                raise ValueError(f"stage {self.name}: write @{self.name}.rung(time_limit_s=...), with its options")
        return add

    def skip(self, *, penalty: str) -> None:
        """End the chain with a skip: an item that no rung serves has no value here, confidence 0, and goes on."""
        with refused_in_place():
            self._add(Skip(penalty=str(penalty)))

    @property
    def chain(self) -> AnyChain:
        """Return the rungs as a chain.

        Raises:
            DeclarationError: the stage has no rung.
        """
        if self._chain is None:
            with refused_in_place():
                raise ValueError(f"stage {self.name} has no rung; add one with @{self.name}.rung(time_limit_s=...)")
        return self._chain

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """Return the functions that the stage is made of."""
        rungs = [getattr(rung.run, "__wrapped__", rung.run) for rung in self.chain.rungs]
        keys = [rung.breaker.key for rung in self.chain.rungs if rung.breaker]
        own: list[Callable[..., Any] | None] = [self.input, self.query_input, self._check, *rungs, *keys]
        return [function for function in own if function is not None]

    def version_of(self, rung: str, models: ModelSettings) -> str | None:
        """Return the version of the rung of this name with these models; None where it cannot be known here."""
        [declared] = [one for one in self.chain.rungs if one.name == rung]
        return self.hooks.version(declared, models)

    def with_chain(self, chain: AnyChain) -> Stage:
        """Return this stage with another chain, for example of fewer rungs."""
        changed = copy.copy(self)
        changed._chain = chain
        changed._is_in_pipeline = True
        return changed

    def join_pipeline(self) -> None:
        """Refuse later rungs: the pipelines that have this stage would not know them."""
        self._is_in_pipeline = bool(self.chain)

    def try_on(self, inputs: Sequence[Any]) -> Trial:
        """Return the result of each input, as a run would compute it: without Prefect, Dask or a store.

        For tests and notebooks: the results print as a table. Faults, breakers and policies of a run do not apply.

        Args:
            inputs: what a rung takes, one for each item; None gives `not_applicable`.

        Raises:
            UsageError: `inputs` is no list.
        """
        return try_on(self.chain, inputs)

    def _add(self, rung: Rung[Any, Any, Any] | Skip) -> None:
        if self._is_in_pipeline:
            raise ValueError(f"stage {self.name} is in a pipeline already; declare its rungs before the pipeline")
        rungs = (*self._rungs, rung)
        if isinstance(rung, Skip) and not self._rungs:
            raise ValueError(f"stage {self.name}: declare at least one rung before skip")
        self._chain = Chain(self.name, *rungs, check=self._checked, check_batch=self._check_batch)
        self._rungs = rungs

    def _checked(self, value: Any) -> None:
        """Raise ValueError for a value that no rung may return."""
        for check in (self._role.check, self._check):
            if check is None:
                continue
            try:
                answer: object = check(value)
            except ValueError:
                raise
            except Exception as error:
                raise ValueError(f"its check raised {StepError.of(error).line}") from error
            if answer is False:  # a check that returns whether the value is valid would let all values pass
                raise ValueError("its check returned False; raise ValueError with the reason")

    def _check_batch(
        self,
        inputs: Sequence[Any],
        outcomes: Sequence[Outcome[Any]],
        answer: Callable[[Any], Outcome[Any]],
        context: Any,
    ) -> None:
        """Raise ValueError for answers that no rung may give together."""
        if self.produces in {Label, Embedding}:
            unrelated_input = self.comparison.unrelated_input
            check_not_constant(inputs, outcomes, answer, context, unrelated_input=unrelated_input)

    def __repr__(self) -> str:
        return f"Stage({self.name!r}: {' · '.join(self._chain.rung_names) if self._chain else 'no rung'})"


def name_of_function(function: Any, what: str) -> str:
    """Return the name of a function that is to be a stage or rung, or raise ValueError where it has none."""
    if not hasattr(function, "__name__"):
        raise ValueError(f"{what}: a {type(function).__name__} has no name; write a function with def")
    return checked_name(function.__name__, what)


def checked_name(name: Any, what: str) -> str:
    """Return the name of a stage or rung, or raise ValueError where it cannot be one."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError(f"{what} {name!r}: a name begins with a letter and has letters, digits and underscores")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{what} {name!r}: a name has at most {LONGEST_NAME} characters")
    return name
