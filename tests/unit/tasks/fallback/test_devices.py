"""Where an attempt ran: the host, and the device that the rung noted in the call that served the item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from repli.tasks.fallback import (
    Attempt,
    Breaker,
    Chain,
    Directives,
    ItemError,
    OutOfMemory,
    Rung,
    Served,
    Skip,
    StepResult,
    TimedOut,
    Unavailable,
    note_device,
    run_chain,
)
from repli.tasks.fallback.devices import DeviceNote, noting
from repli.tasks.runtime.time_limit import TimeLimiter
from tests.support.fakes import RUN_ID, LocalGates, ManualClock, runtime, works

Run = Callable[[Sequence[str], None], Any]
HERE = replace(runtime(), host="node7")


def rung(name: str, run: Run, penalty: str = "1", resources: Mapping[str, float] | None = None) -> Rung[str, str, None]:
    return Rung(name, run, penalty=penalty, time_limit_s=60, resources=resources or {})


def results_of(*rungs: Rung[str, str, None] | Skip, items: int = 1, **options: Any) -> list[StepResult]:
    chain: Chain[str, str, None] = Chain("stage", *rungs)
    return run_chain(chain, works(items), None, run_id=RUN_ID, **{"runtime": HERE, **options})


def places(result: StepResult) -> list[str | None]:
    return [attempt.where for attempt in result.attempts]


def serve(inputs: Sequence[str], context: None) -> list[Served[str]]:
    return [Served(value) for value in inputs]


def on_card(inputs: Sequence[str], context: None) -> list[Served[str]]:
    note_device("cuda:0")
    return serve(inputs, context)


def fail(error: Exception) -> Run:
    def run(inputs: Sequence[str], context: None) -> list[Served[str]]:
        note_device("cuda:0")
        raise error

    return run


def test_a_rung_that_notes_its_device_ran_there() -> None:
    """The trail names the host and the device that the rung noted."""
    assert places(*results_of(rung("gpu", on_card))) == ["node7/cuda:0"]


def test_a_rung_that_notes_nothing_ran_on_the_processor() -> None:
    """A rung without resources that notes no device ran on `cpu`."""
    assert places(*results_of(rung("plain", serve))) == ["node7/cpu"]


@pytest.mark.parametrize(("accelerator", "place"), [("0", "node7/0"), (None, "node7")])
def test_a_rung_with_resources_that_notes_nothing_ran_on_the_devices_of_its_process(
    accelerator: str | None, place: str
) -> None:
    """It ran on what the process may use; where that is not known, the host alone is named."""
    gpu = rung("gpu", serve, resources={"GPU": 1})
    assert places(*results_of(gpu, runtime=replace(HERE, accelerator=accelerator))) == [place]


@pytest.mark.parametrize(
    ("error", "place"), [(Unavailable("no CUDA device"), "node7"), (RuntimeError("it broke"), "node7/cuda:0")]
)
def test_a_rung_that_is_unavailable_names_the_host_alone(error: Exception, place: str) -> None:
    """An unavailable device is none, whatever the rung noted before; a rung that failed names its device."""
    [result] = results_of(rung("gpu", fail(error)), rung("cpu", serve, "0.9"))
    assert places(result) == [place, "node7/cpu"]


def test_a_call_that_is_refused_names_the_host_alone() -> None:
    """An open breaker refuses a rung at a host: no device was used."""
    broken = Rung(
        "gpu", fail(Unavailable("no CUDA device")), time_limit_s=60, breaker=Breaker(scope="host", failures=1)
    )
    here = replace(HERE, breaker_of=LocalGates().of)
    results_of(broken, Skip(penalty="0.7"), runtime=here)
    [result] = results_of(broken, Skip(penalty="0.7"), runtime=here)
    assert [(attempt.outcome.value, attempt.where) for attempt in result.attempts] == [
        ("refused", "node7"),
        ("served", None),
    ]


def test_a_rung_that_is_not_called_is_nowhere() -> None:
    """Rungs that were forced past, and `skip`, did not run."""
    cpu = rung("cpu", serve, "0.9")
    assert places(*results_of(rung("gpu", on_card), cpu, directives=Directives(forced={"stage": "cpu"}))) == [
        None,
        "node7/cpu",
    ]
    [skipped] = results_of(rung("gpu", fail(ItemError("no"))), Skip(penalty="0.7"))
    assert skipped.attempts[-1] == Attempt(rung="skip", outcome=skipped.attempts[-1].outcome)


def test_each_item_names_the_device_of_the_call_that_served_it() -> None:
    """After a split, items that the card had room for ran there, and those that the processor took ran on it."""

    def fits_two(inputs: Sequence[str], context: None) -> list[Served[str]]:
        note_device("cuda:0")
        if len(inputs) > 2:
            raise OutOfMemory("it does not fit")
        if "3" in inputs:
            note_device("cpu")
        return serve(inputs, context)

    results = results_of(rung("gpu", fits_two), items=4)
    assert [places(result) for result in results] == [["node7/cuda:0"]] * 2 + [["node7/cpu"]] * 2


def test_items_that_a_slow_call_lets_go_name_its_device() -> None:
    """An item that is let go while its call runs on has the device that the call noted."""
    clock, let_go = ManualClock(), []

    def answers_one(inputs: Sequence[str], context: None) -> Iterator[tuple[int, Served[str]]]:
        note_device("cuda:1")
        yield 0, Served(inputs[0])
        raise TimeoutError

    def call_within(
        function: Callable[[], Any], limit_s: float, name: str, *, while_waiting: Callable[[], None]
    ) -> Any:
        try:
            return function()
        except TimeoutError:
            for _ in range(5):
                clock.advance(1)
                while_waiting()
            raise TimedOut("cut off") from None

    [kept] = results_of(
        rung("stream", answers_one),
        rung("other", serve, "0.9"),
        items=2,
        runtime=replace(runtime(clock=clock, call_within=call_within), host="node7"),
        let_go=lambda finished, untouched: let_go.extend(finished),
    )
    assert [places(result) for result in let_go] == [["node7/cuda:1"]]
    assert places(kept) == ["node7/cuda:1", "node7/cpu"]


def test_a_device_is_noted_from_the_thread_of_a_time_limit() -> None:
    """Calls within a time limit run in a thread of their own, and their note reaches the trail."""
    limited = replace(HERE, call_within=TimeLimiter())
    assert places(*results_of(rung("gpu", on_card), runtime=limited)) == ["node7/cuda:0"]


def test_a_process_without_a_host_names_no_place() -> None:
    """The engine invents no host: the place is None where the runtime has none."""
    assert places(*results_of(rung("gpu", on_card), runtime=runtime())) == [None]


def test_calls_do_not_share_their_notes() -> None:
    """The last note within a block counts, and a note outside of any block is lost, not kept for the next."""
    note_device("cuda:0")
    with noting(outer := DeviceNote()):
        with noting(inner := DeviceNote()):
            note_device("cuda:1")
            note_device("cuda:2")
        assert (outer.device, inner.device) == (None, "cuda:2")
