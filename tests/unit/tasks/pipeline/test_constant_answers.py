"""A rung that gives one answer for a whole batch, whatever it is shown, fails; one that may rightly do so does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import repli
from repli.tasks.comparison.metrics import LABELS, VECTORS
from repli.tasks.fallback import ChainInput, Directives, ItemError, Position, Status, StepResult, run_chain
from repli.tasks.items import Guess
from repli.tasks.pipeline import StageContext
from repli.tasks.pipeline.constant_answers import LARGE_BATCH
from repli.tasks.settings import Settings
from repli.tasks.stages import classify_image
from repli.tasks.storage.blobs import Blobs
from tests.support.fakes import LocalGates, runtime
from tests.support.files import encoded
from tests.support.in_process import open_context, run_rungs
from tests.support.photos import clear_photo

NAMES = [f"thing {number}" for number in range(LARGE_BATCH)]
SURE = Guess(label="cat", label_index=0, confidence=1.0)
UNSURE = Guess(label="dog", label_index=1, confidence=0.0)
Rung = Callable[[Sequence[Any]], Sequence[Any]]


def label(name: str = "cat", confidence: float = 0.9) -> repli.Served[repli.Label]:
    return repli.Served(repli.Label(name), confidence)


def vector(angle: float = 0.0) -> repli.Embedding:
    return repli.Embedding("test:1", np.array([np.cos(angle), np.sin(angle)], np.float32))


def stage_of(first: Rung, produces: type | None = repli.Label, **options: Any) -> repli.Stage:
    """A stage of the rung `first`, and of `second`, which tells the inputs apart."""
    stage = repli.Stage("kind", input=lambda item: item.name, produces=produces, **options)

    def second(inputs: Sequence[Any]) -> Sequence[Any]:
        if produces is repli.Embedding:
            return [vector(number / 100) for number in range(len(inputs))]
        return [label(f"kind of {given}") for given in inputs]

    stage.rung(time_limit_s=5, breaker=repli.Breaker(scope="fleet"))(first)
    stage.rung(time_limit_s=5, penalty="0.9")(second)
    stage.skip(penalty="0.7")
    return stage


def rungs_of(results: Sequence[StepResult]) -> set[str | None]:
    return {result.rung for result in results}


def constant_label(inputs: Sequence[Any]) -> Sequence[Any]:
    return [label() for _ in inputs]


def saturated(inputs: Sequence[Any]) -> Sequence[Any]:
    """A broken model: sure, of the same, always."""
    return [repli.Served(repli.Label("cat", top=(SURE, UNSURE)), 1.0) for _ in inputs]


def constant_vector(inputs: Sequence[Any]) -> Sequence[Any]:
    return [vector() for _ in inputs]


@pytest.mark.parametrize(
    ("first", "produces"),
    [(constant_label, repli.Label), (saturated, repli.Label), (constant_vector, repli.Embedding)],
)
def test_one_answer_for_a_large_mixed_batch_is_a_failure(first: Rung, produces: type) -> None:
    """All items go to the next rung, and each says why."""
    results = stage_of(first, produces).try_on(NAMES)
    assert rungs_of(results) == {"second"}
    for result in results:
        assert result.error
        assert result.error.line == (
            f"BadAnswer: kind.{first.__name__}: it gave the same answer for all {LARGE_BATCH} items, which differ"
        )
        assert result.retryable


def one_other(inputs: Sequence[Any]) -> Sequence[Any]:
    return [*constant_label(inputs[1:]), label("dog")]


def one_less_sure(inputs: Sequence[Any]) -> Sequence[Any]:
    return [*constant_label(inputs[1:]), label(confidence=0.8999)]


def one_declined(inputs: Sequence[Any]) -> Sequence[Any]:
    return [*constant_label(inputs[1:]), repli.Declined("no cat")]


def no_confidence(inputs: Sequence[Any]) -> Sequence[Any]:
    return ["en" for _ in inputs]


def one_other_vector(inputs: Sequence[Any]) -> Sequence[Any]:
    return [*constant_vector(inputs[1:]), vector(0.01)]


@pytest.mark.parametrize(
    ("first", "names"),
    [
        (constant_label, NAMES[1:]),
        (constant_label, ["the same"] * 2 * LARGE_BATCH),
        (constant_label, [*NAMES[1:], *NAMES[1:]]),
        (one_other, [*NAMES, "the other"]),
        (one_less_sure, [*NAMES, "the other"]),
        (one_declined, [*NAMES, "the other"]),
        (no_confidence, NAMES),
    ],
)
def test_what_may_rightly_be_the_same_is_served(first: Rung, names: Sequence[str]) -> None:
    """A small batch, equal inputs, answers that differ in anything, and a catalogue of one kind."""
    declined = {"second"} if first is one_declined else set()
    assert rungs_of(stage_of(first).try_on(names)) == {first.__name__, *declined}


def test_vectors_that_differ_are_served() -> None:
    """One of them is enough to tell that the rung looks at its input."""
    assert rungs_of(stage_of(one_other_vector, repli.Embedding).try_on([*NAMES, "the other"])) == {"one_other_vector"}


def test_other_values_may_be_the_same() -> None:
    """All texts of a catalogue may have 0 words in common with a list."""

    def zero(inputs: Sequence[Any]) -> Sequence[Any]:
        return [0.0 for _ in inputs]

    assert rungs_of(stage_of(zero, None).try_on(NAMES)) == {"zero"}


def test_item_by_item_is_a_batch_too() -> None:
    """The answers are compared, not the calls."""
    stage = repli.Stage("kind", input=lambda item: item.name, produces=repli.Label)

    @stage.rung(time_limit_s=5, per_item=True)
    def service(name: str) -> repli.Served[repli.Label]:
        if name == NAMES[0]:
            raise ItemError("no such item")
        return label()

    stage.skip(penalty="0.7")
    results = stage.try_on([*NAMES, "one more"])
    assert rungs_of(results) == {"skip"}
    assert [result.error.type for result in results if result.error] == ["ItemError", *["BadAnswer"] * LARGE_BATCH]


def test_the_breaker_counts_a_failure_a_batch() -> None:
    """So that the model is not called all night long."""
    gates, calls = LocalGates(), []

    def counted(inputs: Sequence[Any]) -> Sequence[Any]:
        calls.append(len(inputs))
        return constant_label(inputs)

    chain = stage_of(counted).chain
    inputs = [ChainInput(name, name) for name in NAMES]
    within = runtime(clock=gates.clock, breaker_of=gates.of)
    for batch in range(1, 8):
        results = run_chain(chain, inputs, None, run_id="run", runtime=within)
        assert rungs_of(results) == {"second"}
        is_open = gates.by_name["kind.counted"].state.position is Position.OPEN
        assert is_open == (batch >= 5)
    assert calls == [LARGE_BATCH] * 5


class TestUnrelatedInput:
    """Where a stage can make an input unlike all others, the rung is shown it before it is judged."""

    def run(self, first: Rung) -> set[str | None]:
        comparison = replace(LABELS, unrelated_input=lambda given, context: "unlike all others")
        return rungs_of(stage_of(first, comparison=comparison).try_on(NAMES))

    def test_a_rung_that_answers_it_otherwise_is_served(self) -> None:
        """The items are of one kind for it, though their inputs differ."""

        def first(inputs: Sequence[Any]) -> Sequence[Any]:
            return [label("nothing" if given == "unlike all others" else "cat") for given in inputs]

        assert self.run(first) == {"first"}

    @pytest.mark.parametrize("first", [constant_label, saturated])
    def test_a_rung_that_answers_it_as_all_others_has_failed(self, first: Rung) -> None:
        """It ignores what it is shown."""
        assert self.run(first) == {"second"}

    @pytest.mark.parametrize(("count", "served"), [(1, True), (2, False), (LARGE_BATCH, False)])
    def test_two_texts_with_one_vector_are_suspect(self, count: int, served: bool) -> None:
        """So the last batch of a catalogue, and a small one, hold no vector of a model that ignores its input."""
        comparison = replace(VECTORS, unrelated_input=lambda given, context: "unlike all others")
        stage = stage_of(constant_vector, repli.Embedding, comparison=comparison)
        assert rungs_of(stage.try_on(NAMES[:count])) == {"constant_vector" if served else "second"}

    def test_two_texts_that_are_rightly_the_same_are_served(self) -> None:
        """Such as two that differ in their capitals alone."""

        def first(inputs: Sequence[Any]) -> Sequence[Any]:
            return [vector(0.5 if given == "unlike all others" else 0.0) for given in inputs]

        comparison = replace(VECTORS, unrelated_input=lambda given, context: "unlike all others")
        stage = stage_of(first, repli.Embedding, comparison=comparison)
        assert rungs_of(stage.try_on(NAMES[:2])) == {"first"}

    def test_sure_of_everything_is_no_answer(self) -> None:
        """A bare label is suspect where the rung gives it to anything at all."""
        assert self.run(no_confidence) == {"second"}

    @pytest.mark.parametrize(
        "error", [ValueError("what is this?"), repli.Unavailable("gone"), repli.OutOfMemory("full")]
    )
    def test_a_rung_that_cannot_answer_it_is_not_judged(self, error: Exception) -> None:
        """Nothing is proven, and nothing is lost."""

        def first(inputs: Sequence[Any]) -> Sequence[Any]:
            if "unlike all others" in inputs:
                raise error
            return constant_label(inputs)

        assert self.run(first) == {"first"}


@pytest.fixture
def context(settings: Settings) -> Any:
    with open_context(settings) as context:
        yield context


def test_pictures_of_one_kind_are_served(context: StageContext) -> None:
    """One photo in many files, as shops have it: the models, and `rules` by its name, answer the same, rightly."""
    blobs = Blobs(context.settings.blobs)
    pictures = [
        classify_image.Picture(name="Folding chair", sha256=blobs.put(encoded(clear_photo(number))))
        for number in range(LARGE_BATCH)
    ]
    chain = classify_image.STAGE.chain
    for rung in ("gpu", "cpu", "rules"):
        results = run_rungs(chain, pictures, context, Directives(forced={"classify_image": rung}))
        assert rungs_of(results) == {rung}
        assert {result.value.label for result in results} == {"folding chair"}
        assert {result.status for result in results} == {Status.SUCCEEDED if rung == "gpu" else Status.DEGRADED}
        assert len({result.confidence for result in results}) == 1, "these answers are the same: they were suspect"
