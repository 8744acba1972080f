"""A plain function as a rung: how it is called, and what its answers are taken for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from repli.tasks.fallback import (
    Declined,
    Failed,
    InvalidItem,
    ItemError,
    Outcome,
    OutOfMemory,
    RungError,
    Served,
    TimedOut,
    Unavailable,
)
from repli.tasks.fallback.errors import BadAnswer
from repli.tasks.pipeline import Stage
from repli.tasks.pipeline.rung_functions import run_of
from repli.tasks.runtime.time_limit import CutOff
from tests.support.own_pipeline import stage_by

INPUTS = ["a", "b", "c"]
CONTEXT = object()


def outcomes(
    function: Callable[..., Any],
    *,
    per_item: bool = False,
    convert: Callable[[Any], Any] = lambda value: value,
    inputs: Sequence[Any] = tuple(INPUTS),
) -> Sequence[Outcome[Any]]:
    """Call the function as a chain does."""
    return run_of(function, "stage.rung", per_item=per_item, convert=convert)(inputs, CONTEXT)


def answering(answer: Any) -> Callable[[Any], Any]:
    def rung(given: Any) -> Any:
        return answer

    return rung


class TestCalled:
    """The arguments of a rung."""

    def test_with_a_list(self) -> None:
        """A function of a batch may change its list: the chain's own inputs stay."""

        def rung(names: list[str]) -> list[str]:
            names.reverse()
            return names

        inputs = ("a", "b")
        assert outcomes(rung, inputs=inputs) == [Served("b"), Served("a")]
        assert inputs == ("a", "b")

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("late")], ids=repr)
    @pytest.mark.parametrize("how", ["item", "batch", "lazy", "stream"])
    def test_what_would_end_the_process_is_an_error_of_the_rung(self, error: BaseException, how: str) -> None:
        """`sys.exit` in a library killed its worker, once for each try."""

        def raising(given: Any) -> Any:
            raise error

        def lazy(given: Any) -> Any:
            return map(raising, given)

        def stream(given: Any) -> Any:
            yield 0, "first"
            raise error

        rung = {"item": raising, "batch": raising, "lazy": lazy, "stream": stream}[how]
        message = rf"stage.rung raised {type(error).__name__}: .*, which is no Exception"
        with pytest.raises(RungError, match=message):
            list(outcomes(rung, per_item=how == "item"))

    def test_a_call_that_is_cut_off_ends(self) -> None:
        """Its thread must not go on."""

        def cut(given: Any) -> Any:
            raise CutOff

        with pytest.raises(CutOff):
            outcomes(cut)

    @pytest.mark.parametrize("per_item", [True, False])
    def test_what_it_changes_in_its_input_it_changes_for_itself(self, per_item: bool) -> None:
        """A second call, of another rung or of half a batch, gets what the stage has made."""

        def change(value: Any) -> Any:
            value["tags"].append("x")
            return value.pop("kind")

        def rung(given: Any) -> Any:
            return change(given) if per_item else [change(one) for one in given]

        inputs: list[Any] = [{"kind": "lamp", "tags": []}]
        for _ in range(2):
            assert outcomes(rung, per_item=per_item, inputs=inputs) == [Served("lamp")]
        assert inputs == [{"kind": "lamp", "tags": []}]

    def test_with_the_context(self) -> None:
        """A second parameter without a default gets it, whatever its name is."""

        def of_batch(names: list[str], about: object) -> list[bool]:
            return [about is CONTEXT for _ in names]

        def of_item(name: str, about: object, /) -> bool:
            return about is CONTEXT

        assert outcomes(of_batch) == [Served(True)] * 3
        assert outcomes(of_item, per_item=True) == [Served(True)] * 3

    def test_without_the_context(self) -> None:
        """Parameters that have a default keep it."""

        def rung(names: list[str], end: str = "!", *, begin: str = "?") -> list[str]:
            return [begin + name + end for name in names]

        assert outcomes(rung, inputs=["a"]) == [Served("?a!")]

    def test_any_callable_with_room_for_the_inputs(self) -> None:
        """A variable number of parameters, and a function of C without a signature, take the inputs alone."""

        def rung(*given: Any) -> list[str]:
            return [f"{len(given)}"] * len(given[0])

        assert outcomes(rung) == [Served("1")] * 3
        assert outcomes(max, per_item=True, inputs=[[1, 3, 2]]) == [Served(3)]

    def test_it_keeps_its_name_and_docstring(self) -> None:
        """Forms show the docstring of a rung."""

        def rung(names: list[str]) -> list[str]:
            """Ask the service."""
            return names

        for per_item in (False, True):
            run = run_of(rung, "stage.rung", per_item=per_item, convert=str)
            assert (run.__name__, run.__doc__) == ("rung", "Ask the service.")  # type: ignore[attr-defined]

    def test_a_number_is_refused(self) -> None:
        """What cannot be called is named by its type."""
        with pytest.raises(ValueError, match=r"^stage\.rung is a int, not a function$"):
            run_of(3, "stage.rung", per_item=False, convert=str)  # type: ignore[arg-type]


class TestAnswersOfABatch:
    """One answer for each item, in their order."""

    @pytest.mark.parametrize(
        "answer",
        [["x", "y", "z"], ("x", "y", "z"), (letter for letter in "xyz"), np.array(["x", "y", "z"])],
        ids=["list", "tuple", "generator", "array"],
    )
    def test_anything_in_an_order(self, answer: Any) -> None:
        """A list, a tuple, a generator and an array are read from their beginning."""
        assert outcomes(answering(answer)) == [Served("x"), Served("y"), Served("z")]

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            ("xyz", "str"),
            (b"xyz", "bytes"),
            ({"a": "x", "b": "y", "c": "z"}, "dict"),
            ({"x", "y", "z"}, "set"),
            (frozenset("xyz"), "frozenset"),
            (None, "NoneType"),
            (3, "int"),
        ],
    )
    def test_nothing_without_an_order(self, answer: Any, kind: str) -> None:
        """A text has letters and a dict has keys in place of answers, and a set would give items those of others."""
        one_each = "return a list with one answer for each of the 3 items, in their order, or set per_item"
        with pytest.raises(BadAnswer, match=rf"^stage\.rung returned a {kind}; {one_each}$"):
            outcomes(answering(answer))

    @pytest.mark.parametrize("count", [0, 2, 4])
    def test_as_many_as_there_are_items(self, count: int) -> None:
        """Too few or too many could be anybody's."""
        reason = (
            f"^stage.rung returned {count} answers for 3 items; return one answer for each of the 3 items, in their"
        )
        with pytest.raises(BadAnswer, match=reason):
            outcomes(answering(["x"] * count))

    def test_an_error_in_a_generator_is_the_calls(self) -> None:
        """It is raised while the rung runs, within its time limit."""

        def answers() -> Iterator[str]:
            yield "x"
            raise KeyError("b")

        with pytest.raises(KeyError):
            outcomes(lambda names: answers())

    def test_a_generator_answers_in_any_order(self) -> None:
        """Each answer is handed over with the position of its input when it is yielded."""

        def answers(names: list[str]) -> Iterator[tuple[int, Any]]:
            yield 1, "second"
            yield 0, ItemError("no")

        rung = run_of(answers, "stage.rung", per_item=False, convert=str)
        (one, first), (zero, second) = rung(["a", "b"], None)
        assert (one, zero) == (1, 0)
        assert first == Served("second")
        assert isinstance(second, Failed)

    @pytest.mark.parametrize("yielded", [(2, "x"), (0, "x"), "x", ("x", 0)])
    def test_a_generator_yields_each_position_once(self, yielded: Any) -> None:
        """What is no pair, names no input, or names one again fails the call."""

        def answers(names: list[str]) -> Iterator[Any]:
            yield 0, "x"
            yield yielded

        with pytest.raises(BadAnswer, match=r"yield \(position, answer\) once for each"):
            list(run_of(answers, "stage.rung", per_item=False, convert=str)(["a", "b"], None))

    def test_a_value_has_full_confidence(self) -> None:
        """Served gives another one, of any kind of number."""
        given = ["x", Served("y", confidence=0.25), Served("z", np.float32(0.5))]
        assert outcomes(answering(given)) == [Served("x", 1.0), Served("y", 0.25), Served("z", 0.5)]

    def test_an_exception_fails_its_item(self) -> None:
        """The others are served; who is to blame and whether the rung declined go by its type."""
        given = [ValueError("broken"), Declined("not sure"), "z"]
        first, second, third = outcomes(answering(given))
        assert first == Failed.because(ValueError("broken"))
        assert second == Failed.because(Declined("not sure"))
        assert isinstance(second, Failed)
        assert (second.is_declined, second.is_item_error) == (True, True)
        assert third == Served("z")

    def test_a_failure_stays(self) -> None:
        """A failure that a rung has made itself is passed on."""
        failed = Failed.because(InvalidItem("no picture"))
        assert outcomes(answering([failed, "y", "z"]))[0] is failed

    @pytest.mark.parametrize("nothing", [None, Served(None)])
    def test_none_is_no_answer(self, nothing: Any) -> None:
        """The item has none from this rung, and the reason says what to return."""
        first, second, _ = outcomes(answering([nothing, "y", "z"]))
        assert first == Failed.because(
            BadAnswer("stage.rung answered None; raise or return Declined(...) for an item that it has no answer for")
        )
        assert second == Served("y")

    def test_values_are_converted(self) -> None:
        """Also the value of Served, whose confidence stays; what is no value is not converted."""
        given = ["x", Served("y", 0.5), Declined("z")]
        assert outcomes(answering(given), convert=str.upper) == [
            Served("X"),
            Served("Y", 0.5),
            Failed.because(Declined("z")),
        ]


class TestAnswersOfOneItem:
    """A function of one item."""

    def test_any_value(self) -> None:
        """A text is one answer here, and so are a list, Served and an exception that is returned."""
        for answer in ("x", ["x"], Served("x", 0.5)):
            served = answer if isinstance(answer, Served) else Served(answer)
            assert outcomes(answering(answer), per_item=True) == [served] * 3
        assert outcomes(answering(Declined("no")), per_item=True) == [Failed.because(Declined("no"))] * 3

    @pytest.mark.parametrize("error", [ItemError("no word"), Declined("not sure"), InvalidItem("no name")])
    def test_an_error_of_the_item_fails_it_alone(self, error: ItemError) -> None:
        """The function goes on with the next item of the call."""

        def rung(name: str) -> str:
            if name == "b":
                raise error
            return name

        assert outcomes(rung, per_item=True) == [Served("a"), Failed.because(error), Served("c")]

    @pytest.mark.parametrize("error", [ValueError("v"), Unavailable("u"), TimedOut("t"), OutOfMemory("o")])
    def test_any_other_error_is_raised(self, error: Exception) -> None:
        """The chain decides, by its type, what follows."""

        def rung(name: str) -> str:
            raise error

        with pytest.raises(type(error)):
            outcomes(rung, per_item=True)


class TestInAChain:
    """What an error comes to for the three items of a batch of which the second raises it."""

    @pytest.mark.parametrize(
        ("error", "served", "reason", "retryable"),
        [
            (ItemError("no word"), ["a", None, "c"], "ItemError: no word", True),
            (Declined("not sure"), ["a", None, "c"], "Declined: no rung was sure; not sure", False),
            (ValueError("broken"), ["a", None, "c"], "ValueError: broken", True),
            (TimedOut("too late"), ["a", None, "c"], "TimedOut: too late", True),
            (OutOfMemory("too large"), ["a", None, "c"], "OutOfMemory: too large", True),
            (Unavailable("no network"), ["a", None, None], "Unavailable: no network", True),
        ],
        ids=lambda case: type(case).__name__ if isinstance(case, Exception) else "",
    )
    def test_item_by_item(self, error: Exception, served: list[str | None], reason: str, retryable: bool) -> None:
        """It costs the one item, but for a rung that is not there: that one is not called for the items after it."""

        def answer(name: str) -> str:
            if name == "b":
                raise error
            return name

        results = stage_by("s", answer).try_on(INPUTS)
        assert [result.value for result in results] == served
        assert results[1].error
        assert (results[1].error.line, results[1].retryable) == (reason, retryable)

    def test_a_batch_that_leaves_items_out_serves_none(self) -> None:
        """Nobody knows whose the answers are: the whole call has failed, and says how many there were."""

        def filtered(names: list[str]) -> list[str]:
            return [name for name in names if name != "b"]

        stage = Stage("s", input=len)
        stage.rung(time_limit_s=5)(filtered)
        stage.skip(penalty="0.5")
        results = stage.try_on(INPUTS)
        assert [result.value for result in results] == [None] * 3
        reasons = {result.error.message for result in results if result.error}
        [reason] = reasons
        assert reason.startswith("s.filtered returned 2 answers for 3 items")

    def test_a_batch_that_raises_for_an_item_blames_no_other(self) -> None:
        """Where too many items of a batch raise to be told apart, the others may be tried again; the error says how to
        write the rung."""

        def looped(names: list[str]) -> list[str]:
            answers = []
            for name in names:
                if int(name) % 4 == 0:
                    raise Declined(f"nothing is known of {name}")
                answers.append(name)
            return answers

        stage = Stage("s", input=len)
        stage.rung(time_limit_s=5)(looped)
        stage.skip(penalty="0.5")
        results = stage.try_on([str(number) for number in range(40)])
        good = [result for number, result in enumerate(results) if number % 4]
        assert all(result.value or result.retryable for result in good)
        reasons = {result.error.message for result in good if result.error}
        assert all("put it in the list of answers, in the item's place, or set per_item" in one for one in reasons)

    def test_a_required_stage_waits_for_what_was_away(self) -> None:
        """That a fallback does not know the answer is no reason not to ask the service again."""

        def service(names: list[str]) -> list[str]:
            raise Unavailable("down")

        def guess(name: str) -> str:
            raise Declined("not sure")

        stage = Stage("s", input=len)
        stage.rung(time_limit_s=5)(service)
        stage.rung(time_limit_s=5, penalty="0.8", per_item=True)(guess)
        [result] = stage.try_on(["cat"])
        assert (result.status.value, result.retryable) == ("failed", True)
