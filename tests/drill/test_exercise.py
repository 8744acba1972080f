"""A drill finds the bugs that were planted, names the rung, and touches nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from flows.demo_catalogue import build
from tasks import classify_image, embed_text
from tasks.compatibility import RULES
from tasks.drill.exercise import exercise
from tasks.drill.pictures import PICTURE_MISTAKES
from tasks.drill.verdict import RungVerdict
from tasks.fallback import Chain, Outcome, Rule, Rung, Served, Unavailable
from tasks.items import Classification, Embedding
from tasks.settings import Settings
from tasks.stage import AnyStage, Pipeline, Stage, StageContext
from tasks.stages import PIPELINE, STAGES
from tasks.storage.database import Database
from tasks.storage.schema import metadata
from tests.in_process import enrich, fresh_runtime

pytestmark = pytest.mark.timeout(300)

PHOTOS = 76
Run = Callable[[Sequence[Any], StageContext], Sequence[Outcome[Any]]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[str]]:
    """A store of real pictures with real texts, degraded, and the ids in it."""
    folder = tmp_path_factory.mktemp("drill")
    settings = Settings.from_environment({"REPLI_HOME": str(folder / "home"), "REPLI_GPU_DEVICE": "cpu"})
    manifest = build(folder / "catalogue", items=PHOTOS, broken=False, every_item_with_photo=True, min_words=0)
    return settings, list(enrich(settings, manifest))


def with_rung(stage: AnyStage, name: str, run: Run) -> Pipeline:
    """The pipeline, with another function in the place of one rung's."""
    chain = stage.chain
    rungs = [replace(rung, run=run) if rung.name == name else rung for rung in chain.rungs]
    skip = [chain.skip] if chain.skip else []
    planted = replace(stage, chain=Chain(chain.stage, *rungs, *skip, check=chain.check))
    return Pipeline([planted if other is stage else other for other in STAGES], RULES)


def drill(
    pipeline: Pipeline, stage: AnyStage, shop: tuple[Settings, list[str]], items: int = 20
) -> dict[str, RungVerdict]:
    """The verdict on each rung of a stage, over the first of the items."""
    settings, ids = shop
    rungs, _ = exercise(pipeline, stage.name, ids[:items], settings, fresh_runtime())
    return {rung.rung: rung for rung in rungs}


def content(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with database.read() as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(sa.select(table)).all()), key=repr)
            for table in metadata.sorted_tables
        }


@pytest.mark.parametrize("stage", STAGES, ids=[stage.name for stage in STAGES])
def test_what_is_sound_passes_and_nothing_is_touched(stage: AnyStage, shop: tuple[Settings, list[str]]) -> None:
    """Every rung of every stage is reached and passes, every rule holds, and the store is the same after it."""
    settings, ids = shop
    database = Database(settings.database_url)
    before, blobs = content(database), sorted(settings.blobs.rglob("*"))
    rungs, rules = exercise(PIPELINE, stage.name, ids[:20], settings, fresh_runtime())
    assert [(rung.rung, rung.reason, rung.is_reached) for rung in rungs] == [
        (name, "", True) for name in stage.chain.rung_names
    ]
    assert [rule.reason for rule in rules] == [""] * sum(rule.forbidden_stage == stage.name for rule in RULES)
    assert (content(database), sorted(settings.blobs.rglob("*"))) == (before, blobs)


def test_swapped_colour_channels_are_found(shop: tuple[Settings, list[str]]) -> None:
    """A `cpu` rung that takes BGR for RGB answers, and mostly well; the drill still sees it, and says what it is."""

    def swapped(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Classification]]:
        swap = PICTURE_MISTAKES["swapping the colour channels"]
        return classify_image.on_cpu([swap(picture, context) for picture in pictures], context)

    verdicts = drill(with_rung(classify_image.STAGE, "cpu", swapped), classify_image.STAGE, shop, PHOTOS)
    assert "swapping the colour channels brings it nearer to the primary" in verdicts["cpu"].reason
    assert {name for name, verdict in verdicts.items() if verdict.reason} == {"cpu"}


def test_sound_models_are_not_suspected(shop: tuple[Settings, list[str]]) -> None:
    """On the same pictures the real `cpu` rung passes, with an agreement inside its interval."""
    cpu = drill(PIPELINE, classify_image.STAGE, shop, PHOTOS)["cpu"]
    assert cpu.reason == ""
    assert cpu.agreement is not None
    assert cpu.interval is not None
    assert 0 < cpu.interval[0] < cpu.agreement < cpu.interval[1] < 1
    assert cpu.penalty_justified == round(cpu.agreement, 2)
    assert cpu.seconds_per_item
    assert cpu.penalty == 0.9


def test_one_label_for_everything_is_found(shop: tuple[Settings, list[str]]) -> None:
    """A rung that answers the same for whatever it is shown fails."""

    def tench(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Classification]]:
        answer = Classification(label="tench", label_index=0, unknown=False, top=(), vocabulary="imagenet-1k")
        return [Served(answer, 0.9) for _ in pictures]

    verdict = drill(with_rung(classify_image.STAGE, "cpu", tench), classify_image.STAGE, shop)["cpu"]
    assert verdict.reason == "it gave the same answer for all 20 items"


def test_a_label_out_of_the_vocabulary_is_found(shop: tuple[Settings, list[str]]) -> None:
    """A label that is not that of its index is no answer."""

    def shifted(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Classification]]:
        answer = Classification(label="tench", label_index=1, unknown=False, top=(), vocabulary="imagenet-1k")
        return [Served(answer, 0.9) for _ in pictures]

    verdict = drill(with_rung(classify_image.STAGE, "cpu", shifted), classify_image.STAGE, shop)["cpu"]
    assert "'tench' is not in the vocabulary" in verdict.reason
    assert not verdict.is_reached


def test_vectors_that_are_no_numbers_are_found(shop: tuple[Settings, list[str]]) -> None:
    """NaN is no vector, whatever the shape."""

    def nan(passages: Sequence[Any], context: StageContext) -> Sequence[Outcome[Embedding]]:
        return [Served(Embedding(space="s", vector=np.full(384, np.nan, dtype=np.float32))) for _ in passages]

    verdict = drill(with_rung(embed_text.STAGE, "text_only", nan), embed_text.STAGE, shop)["text_only"]
    assert "it served none of 20 items: BadAnswer: embed_text.text_only: the vector has length nan" in verdict.reason


def test_vectors_of_another_space_than_the_stores_are_found(shop: tuple[Settings, list[str]]) -> None:
    """The store's items were embedded by `hashed`: its vectors may not come from somewhere else today."""

    def moved(passages: Sequence[Any], context: StageContext) -> Sequence[Outcome[Embedding]]:
        found = embed_text.hashed(passages, context)
        return [Served(replace(one.value, space="hashing:2")) for one in found if isinstance(one, Served)]

    verdict = drill(with_rung(embed_text.STAGE, "hashed", moved), embed_text.STAGE, shop)["hashed"]
    assert verdict.reason.startswith("its vectors live in hashing:2, those in the store in hashing-vectorizer")


def test_a_first_call_that_raises_is_found(shop: tuple[Settings, list[str]]) -> None:
    """The engine makes up for it, item by item; the drill does not let it pass."""
    calls: list[int] = []

    def forgetful(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Classification]]:
        calls.append(len(pictures))
        if len(calls) == 1:
            raise AttributeError("the model is not loaded")
        return classify_image.on_cpu(pictures, context)

    verdict = drill(with_rung(classify_image.STAGE, "cpu", forgetful), classify_image.STAGE, shop)["cpu"]
    assert verdict.items == 20
    assert verdict.reason.startswith("it raised in 1 of ")
    assert verdict.reason.endswith("AttributeError: the model is not loaded")


def test_a_rung_that_cannot_be_reached_is_found(shop: tuple[Settings, list[str]]) -> None:
    """What is not there is not reached: the drill fails, and the coverage says so."""

    def gone(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Classification]]:
        raise Unavailable("the rules are not installed")

    verdicts = drill(with_rung(classify_image.STAGE, "rules", gone), classify_image.STAGE, shop)
    assert verdicts["rules"].reason == "it is unavailable: the rules are not installed"
    assert [name for name, verdict in verdicts.items() if not verdict.is_reached] == ["rules"]


def test_a_stage_of_ones_own_is_drilled(shop: tuple[Settings, list[str]]) -> None:
    """A chain that a project adds is covered like the six, without a word about how to compare."""

    def shout(names: Sequence[str], context: StageContext) -> Sequence[Outcome[str]]:
        return [Served(name.upper()) for name in names]

    def whisper(names: Sequence[str], context: StageContext) -> Sequence[Outcome[str]]:
        return [Served(name.upper() if number % 4 else name) for number, name in enumerate(names)]

    rungs = (Rung("loud", shout, time_limit_s=5), Rung("low", whisper, penalty="0.9", time_limit_s=5))
    stage: Stage[str, str] = Stage(Chain("shout", *rungs), lambda state: str(state.item.name))
    verdicts = drill(Pipeline([*STAGES[:-1], stage, STAGES[-1]], RULES), stage, shop)
    assert verdicts["low"].agreement == 0.75
    assert verdicts["low"].penalty_justified == 0.75


def test_a_rule_that_is_not_kept_is_found(shop: tuple[Settings, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the merge takes what a rule forbids, the rule fails."""
    settings, ids = shop
    pipeline = Pipeline(STAGES, RULES)
    pipeline.rules.broken = lambda rungs: []  # type: ignore[method-assign]
    _, rules = exercise(pipeline, "embed_text", ids[:6], settings, fresh_runtime())
    assert [rule.reason for rule in rules] == [
        "the merge took embed_text.text_and_label after classify_image.rules",
        "the merge took embed_text.hashed after extract_text.name_only",
    ]


def test_items_that_have_nothing_to_do_cover_nothing(settings: Settings, tmp_path: Path) -> None:
    """A sample without a picture cannot drill pictures, and that is no pass."""
    manifest = tmp_path / "items.jsonl"
    manifest.write_text("".join(json.dumps({"id": str(n), "name": f"Thing {n}"}) + "\n" for n in range(3)))
    ids = list(enrich(settings, manifest))
    rungs, _ = exercise(PIPELINE, "classify_image", ids, settings, fresh_runtime())
    assert {rung.reason for rung in rungs} == {"no item of the sample has this stage to do"}
    assert not any(rung.is_reached for rung in rungs)


def test_a_rule_names_what_it_forbids() -> None:
    """The verdict on a rule stands under the rule's own words."""
    assert str(Rule("a", {"x"}, forbids="b.y", because="no")) == "b.y does not go with a by x: no"
