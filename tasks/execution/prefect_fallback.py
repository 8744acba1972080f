"""Give a task of any Prefect flow a chain of fallbacks: statuses, shared breakers and a trail, without a catalogue."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from typing import Any

from prefect import Task, task
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run, task_run
from prefect.states import Completed, Failed

from repli.tasks.execution.dask_slots import fleet_slots
from repli.tasks.execution.shared_breakers import STORE_RETRY_S, BreakerRegistry, process_breakers
from repli.tasks.execution.stage_task import as_subtask, report_move
from repli.tasks.fallback import (
    AnyChain,
    Breaker,
    Chain,
    ChainInput,
    Rung,
    RungError,
    Skip,
    Status,
    StepResult,
    StoreError,
    run_chain,
)
from repli.tasks.fallback.breaker_client import without_breakers
from repli.tasks.fallback.keyed_calls import without_slots
from repli.tasks.pipeline.declaration import refused_in_place
from repli.tasks.pipeline.rung_functions import own_copy, run_of
from repli.tasks.pipeline.stage import name_of_function
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import Settings
from repli.tasks.storage import pipelines
from repli.tasks.storage.database import Database

NO_FLOW = "no flow run"
"""The run id of the result of a task that was called outside of a flow."""


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of one call of the task, which each rung gets."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def fallback(
    fallbacks: Mapping[Callable[..., Any], str],
    *,
    time_limit_s: float,
    skip: str | None = None,
    breaker: Breaker | None = None,
    store: str | None = None,
) -> Callable[[Task[..., Any] | Callable[..., Any]], Task[..., Any]]:
    """Decorate a task, or a plain function, which becomes the primary of a chain.

    A call of the decorated task returns a `StepResult`: the value, the rung that served, the penalty and the trail. Its
    state is named *Degraded* where a fallback served, and *Skipped* where none did; without `skip` it fails then. Each
    fallback is shown as a sub-task.

    Args:
        fallbacks: the other rungs, best first, each with its penalty, such as `"0.8"`. They have the task's parameters.
        time_limit_s: seconds after which one call of a rung is cut off.
        skip: the penalty of giving up. None: the task is required.
        breaker: the settings of a breaker for each rung, shared by all processes that use the store. Its `key` is a
            function of what the task takes.
        store: the URL of the store that keeps the breakers; by default, that of the environment. Not used without a
            breaker.

    Raises:
        DeclarationError: the rungs cannot form a chain, a fallback does not take what the task takes, or one of them is
            asynchronous; the message has the line.

    Example:
        >>> @fallback({dictionary: "0.8"}, skip="0.7", time_limit_s=30, breaker=Breaker(scope="fleet"))
        ... @task
        ... def translate(name: str) -> str:
        ...     return ask_the_service(name)
        >>> @flow
        ... def nightly(names: list[str]) -> list[StepResult]:
        ...     return translate.map(names).result()
    """

    def decorate(primary: Task[..., Any] | Callable[..., Any]) -> Task[..., Any]:
        decorated: Task[..., Any] = primary if isinstance(primary, Task) else task(primary)
        with refused_in_place():
            if not isinstance(fallbacks, Mapping):
                raise ValueError(f"fallback takes a dict of functions and penalties, not a {type(fallbacks).__name__}")
            name = name_of_function(decorated.fn, "task")
            for function in fallbacks:
                _check_parameters(name, function, decorated.fn)
            by_key, by_any_key = _of_arguments(breaker), _of_arguments(breaker, is_fallback=True)
            chain = Chain(
                name,
                _rung(name, decorated.fn, "1", time_limit_s, by_key),
                *(_rung(name, function, penalty, time_limit_s, by_any_key) for function, penalty in fallbacks.items()),
                *([Skip(penalty=str(skip))] if skip is not None else []),
            )
        return _with_chain(decorated, chain, breaker is not None, store)

    return decorate


def _rung(
    stage: str, function: Callable[..., Any], penalty: str, time_limit_s: float, breaker: Breaker | None
) -> Rung[_Call, Any, Any]:
    name = name_of_function(function, f"rung of {stage}")
    plain = function.fn if isinstance(function, Task) else function
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise ValueError(f"{stage}.{name} is async; write a plain function, and call asyncio.run in it")
    if inspect.isgeneratorfunction(plain):
        raise ValueError(f"{stage}.{name} is a generator; return a list, so that an error in it is seen in the rung")
    called = run_of(_spread(function), f"{stage}.{name}", per_item=True, convert=lambda value: value, takes_none=True)
    return Rung(name, called, penalty=str(penalty), time_limit_s=time_limit_s, per_item=True, breaker=breaker)


def _of_arguments(breaker: Breaker | None, *, is_fallback: bool = False) -> Breaker | None:
    """Return the breaker with a key that is told by the arguments of a call of the task.

    A fallback is called as well where the key cannot be told: that is no reason to give up.
    """
    if not isinstance(breaker, Breaker) or breaker.scope != "key":
        return breaker
    if breaker.key is None:
        raise ValueError("a task's breaker of scope 'key' needs key=..., a function of what the task takes")
    key = _spread(breaker.key)

    def any_key(arguments: _Call) -> Any:
        try:
            return key(arguments)
        except Exception:  # noqa: BLE001  the error is that of the primary
            return None

    return replace(breaker, key=any_key if is_fallback else key)


def _check_parameters(stage: str, function: Callable[..., Any], primary: Callable[..., Any]) -> None:
    """Raise ValueError where a fallback cannot take what Prefect passes to the task: each parameter that it has."""
    try:
        taken, given = inspect.signature(function), inspect.signature(primary)
    except (TypeError, ValueError):  # no function, which is refused later, or one of C without a signature
        return
    parameters = given.parameters.values()
    positional = [one for one in parameters if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}]
    keywords = {one.name: None for one in parameters if one.kind is one.KEYWORD_ONLY}
    try:
        taken.bind(*positional, **keywords)
    except TypeError:
        name = getattr(function, "__name__", "a fallback")
        raise ValueError(f"{stage}.{name} takes {taken}, and the task takes {given}; give it the same") from None


def _spread(function: Callable[..., Any]) -> Callable[[_Call], Any]:
    def call(arguments: _Call) -> Any:
        return function(*map(own_copy, arguments.args), **own_copy(dict(arguments.kwargs)))

    return call


def _with_chain(decorated: Task[..., Any], chain: AnyChain, has_breakers: bool, store: str | None) -> Task[..., Any]:
    """Return the task with the chain in the place of its function."""

    @wraps(decorated.fn)
    def run(*args: Any, **kwargs: Any) -> State[StepResult]:
        breakers = _breakers(store, chain) if has_breakers else None
        breaker_of = breakers.of if breakers else without_breakers
        slot_of = fleet_slots().of if breakers else without_slots
        runtime = process_runtime(may_exit=False, around_fallback=as_subtask, breaker_of=breaker_of, slot_of=slot_of)
        call = ChainInput(str(task_run.get_id() or task_run.get_name()), _Call(args, kwargs))
        [result] = run_chain(chain, [call], None, run_id=str(flow_run.get_id() or NO_FLOW), runtime=runtime)
        for note in breakers.drain_notes() if breakers else ():
            get_run_logger().warning(note)
        return _state(result)

    changed = copy.copy(decorated)
    changed.fn = run
    changed.__class__ = FallbackTask
    return changed


class FallbackTask(Task[Any, Any]):
    """A task whose call returns the result in its state: Prefect's own returns a state that a task returns as it is."""

    def __call__(self, *args: Any, return_state: bool = False, **kwargs: Any) -> Any:
        """Run the chain and return a `StepResult`, or the state with `return_state`."""
        state = super().__call__(*args, return_state=True, **kwargs)
        if return_state:
            return state
        return state.result(_sync=True)  # an async flow would get a coroutine

    def with_options(self, *args: Any, **kwargs: Any) -> Any:
        """Return the task with other options."""
        changed = super().with_options(*args, **kwargs)
        changed.__class__ = FallbackTask
        return changed


def _breakers(store: str | None, chain: AnyChain) -> BreakerRegistry:
    """Return the breakers of this store, which is made where it does not exist.

    Where it cannot be reached, this process counts failures by itself until it can, and a note says so.
    """
    url = store or Settings.from_environment().database_url
    if time.monotonic() >= _retry_at.get(url, 0):
        try:
            _declare(url, chain)
        except StoreError:
            _retry_at[url] = time.monotonic() + STORE_RETRY_S
    return process_breakers(url, report_move)


_retry_at: dict[str, float] = {}
"""When a store that could not be reached is tried again, by its URL: a store that hangs must not hold up each call."""


@lru_cache(maxsize=256)
def _declare(url: str, chain: AnyChain) -> None:
    """Make the store where it does not exist, and record the chain there, once per process."""
    database = Database(url)
    database.migrate()
    pipelines.declare_task(database, chain)


def _state(result: StepResult) -> State[StepResult]:
    reason = result.error.line if result.error else ""
    if result.status is Status.FAILED:
        return Failed(message=reason, data=RungError(f"{result.stage}: no rung served: {reason}"))
    if result.status is Status.SUCCEEDED:
        return Completed(message=f"{result.stage}.{result.rung} served", data=result)
    if result.status is Status.SKIPPED:
        return Completed(name="Skipped", message=f"{result.stage}: no rung served: {reason}", data=result)
    return Completed(name="Degraded", message=f"{result.stage}.{result.rung} served: {reason}", data=result)
