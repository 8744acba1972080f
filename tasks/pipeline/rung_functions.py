"""Make a rung of a plain function: of a batch or of one item, with or without the context, that answers or raises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

from repli.tasks.fallback import Failed, ItemError, Outcome, RungError, Served, StepError
from repli.tasks.fallback.errors import BadAnswer
from repli.tasks.runtime.time_limit import CutOff

Run = Callable[[Sequence[Any], Any], Sequence[Outcome[Any]] | Iterator[tuple[int, Outcome[Any]]]]
"""A rung as a chain calls it: with a batch of inputs and the context."""


def run_of(
    function: Callable[..., Any], name: str, *, per_item: bool, convert: Callable[[Any], Any], takes_none: bool = False
) -> Run:
    """Return the function as a chain calls it.

    A function of a batch gets a list of inputs, and returns as many answers in their order; a generator yields each
    answer as it gets it, as `(position, answer)`, so that a slow item holds up no other. With `per_item` a function
    gets one input and returns one answer. A second parameter gets the context. An answer is a value, a `Served` with a
    confidence, or an exception, which fails its item.

    Args:
        name: the rung, as `stage.rung`, for the messages.
        convert: turns a plain value into the stage's own type, such as a string into a `Text`.
        takes_none: whether None is an answer.

    Raises:
        ValueError: the function cannot be called so.
    """
    takes_context = _takes_context(function, name, per_item=per_item)
    if not per_item:
        _check_takes_batch(function, name)

    def call(argument: Any, context: Any) -> Any:
        own = own_copy(argument)
        with _no_end_of_process(name):
            return function(own, context) if takes_context else function(own)

    def outcome_of(answer: Any) -> Outcome[Any]:
        if isinstance(answer, Failed):
            return answer
        if isinstance(answer, Exception):
            return Failed.because(answer)
        served = answer if isinstance(answer, Served) else Served(answer)
        if served.value is None and not takes_none:
            return Failed.because(
                BadAnswer(f"{name} answered None; raise or return Declined(...) for an item that it has no answer for")
            )
        return replace(served, value=convert(served.value))

    @wraps(function)
    def run_batch(inputs: Sequence[Any], context: Any) -> Sequence[Outcome[Any]]:
        return [outcome_of(answer) for answer in _answers(call(list(inputs), context), len(inputs), name)]

    @wraps(function)
    def run_each(inputs: Sequence[Any], context: Any) -> Sequence[Outcome[Any]]:
        outcomes: list[Outcome[Any]] = []
        for value in inputs:
            try:
                outcomes.append(outcome_of(call(value, context)))
            except ItemError as error:
                outcomes.append(Failed.because(error))
        return outcomes

    @wraps(function)
    def run_stream(inputs: Sequence[Any], context: Any) -> Iterator[tuple[int, Outcome[Any]]]:
        open_positions = set(range(len(inputs)))
        answers = iter(call(list(inputs), context))
        while (answered := _next(answers, name)) is not _END:
            position, answer = _position_and_answer(answered, open_positions, name)
            open_positions.remove(position)
            yield position, outcome_of(answer)

    run: Run = run_each if per_item else run_stream if inspect.isgeneratorfunction(function) else run_batch
    run.takes_context = takes_context  # type: ignore[attr-defined]  # for `Stage.try_on`
    return run


@contextmanager
def _no_end_of_process(name: str) -> Iterator[None]:
    """Raise what is no `Exception` as one: neither `sys.exit` in a rung nor a cancelled task of asyncio ends a worker.

    Raises:
        RungError: The block raised such an error. That a call is cut off at its time limit is raised as it is.
    """
    try:
        yield
    except (Exception, CutOff):
        raise
    except BaseException as error:
        raise RungError(f"{name} raised {StepError.of(error).line}, which is no Exception") from error


def _next(answers: Iterator[Any], name: str) -> Any:
    with _no_end_of_process(name):
        return next(answers, _END)


_END = object()


def own_copy(value: Any) -> Any:
    """Return a value whose lists and dicts are its own: a rung that changes its input changes that of no other call."""
    if type(value) is dict:
        return {key: own_copy(inner) for key, inner in value.items()}
    return [own_copy(inner) for inner in value] if type(value) is list else value


def _answers(answered: Any, wanted: int, name: str) -> list[Any]:
    """Return the answers of a call as a list.

    Raises:
        BadAnswer: they are no list of the wanted length.
    """
    one_each = f"one answer for each of the {wanted} items, in their order"
    has_no_order = isinstance(answered, Mapping | AbstractSet)
    if has_no_order or isinstance(answered, str | bytes) or not isinstance(answered, Iterable):
        raise BadAnswer(f"{name} returned a {type(answered).__name__}; return a list with {one_each}, or set per_item")
    with _no_end_of_process(name):
        answers = list(answered)
    if len(answers) != wanted:
        raise BadAnswer(f"{name} returned {len(answers)} answers for {wanted} items; return {one_each}")
    return answers


def _position_and_answer(answered: Any, open_positions: Collection[int], name: str) -> tuple[int, Any]:
    """Return what a generator has yielded as a position and an answer.

    Raises:
        BadAnswer: it is no such pair, or the position has its answer or does not exist.
    """
    match answered:
        case (int(position), answer) if position in open_positions:
            return position, answer
    raise BadAnswer(f"{name} yielded {str(answered)[:80]}; yield (position, answer) once for each of its inputs")


def _takes_context(function: Callable[..., Any], name: str, *, per_item: bool) -> bool:
    """Return whether the function has a second parameter without a default, for the context.

    Raises:
        ValueError: the function is asynchronous, or a generator of one item, or has no parameter, or too many.
    """
    if not callable(function):
        raise ValueError(f"{name} is a {type(function).__name__}, not a function")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(f"{name} is async; write a plain function, and call asyncio.run in it")
    if inspect.isgeneratorfunction(function) and per_item:
        raise ValueError(f"{name} is a generator, and is called with one item; return the answer")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a function of C without a signature
        return False
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    takes_any = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
    required = [one for one in parameters if one.default is inspect.Parameter.empty]
    wanted = [one for one in required if one.kind in positional]
    has_one = takes_any or any(one.kind in positional for one in parameters)
    has_keywords = any(one.kind is inspect.Parameter.KEYWORD_ONLY for one in required)
    if len(wanted) > 2 or has_keywords or not has_one:
        raise ValueError(f"{name} takes {inspect.signature(function)}; write (inputs) or (inputs, context)")
    return len(wanted) == 2


def _check_takes_batch(function: Callable[..., Any], name: str) -> None:
    """Raise ValueError where a function says that it takes a single value, and not a list of them."""
    try:
        first = next(iter(inspect.signature(function).parameters.values()))
    except (ValueError, StopIteration):
        return
    for single in (str, int, float, bool, bytes):
        if first.annotation in {single, single.__name__}:
            raise ValueError(f"{name} takes one {single.__name__}, and is called with a batch; add per_item=True")
