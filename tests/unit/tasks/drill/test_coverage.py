"""A drill says what it could not cover, and fails for it only where the policy expects it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repli.tasks.drill.judge import judge_stage
from repli.tasks.drill.verdict import DrillVerdict, RungVerdict
from repli.tasks.fallback import Chain, Failed, Outcome, Rung, Served, Skip, Unavailable
from repli.tasks.fallback.policy import Policy
from repli.tasks.items import Embedding, Label
from repli.tasks.pipeline import Pipeline, Stage, StageContext
from repli.tasks.settings import Settings
from repli.tasks.stages import classify_image, embed_text
from tests.support import files
from tests.support.default_pipeline import PIPELINE, STAGES, rung_of
from tests.support.in_process import enrich, fresh_runtime

BY_RULES = rung_of("classify_image.rules")
ON_CPU = rung_of("classify_image.cpu")
HASHED = rung_of("embed_text.hashed")

pytestmark = pytest.mark.timeout(300)

Answers = Sequence[Outcome[Label]]
Run = Callable[[Sequence[Any], StageContext], Answers]
Shop = tuple[Settings, list[str]]
PICTURES = ("Tench", "Goldfish", "Great white shark", "Hammerhead", "Hen", "Ostrich", "Brambling", "Bulbul")
STAGE = classify_image.STAGE
GONE = "the service is not configured"


def store_of(folder: Path, names: Sequence[str], *, image: str | None = None) -> Shop:
    """A store of items of these names, and their ids; each with a picture of its own, or with this `image`."""
    folder.mkdir(exist_ok=True)
    lines = []
    for number, name in enumerate(names):
        (folder / f"{number}.png").write_bytes(files.png(number))
        lines.append(json.dumps({"id": str(number), "name": name, "image": image or f"{number}.png"}))
    (folder / "items.jsonl").write_text("\n".join(lines))
    settings = Settings.from_environment({"REPLI_HOME": str(folder / "home"), "REPLI_GPU_DEVICE": "cpu"})
    return settings, list(enrich(settings, folder / "items.jsonl"))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Pictures whose names name a class each."""
    return store_of(tmp_path_factory.mktemp("named"), PICTURES)


@pytest.fixture(scope="module")
def nameless(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Pictures whose names name no class."""
    return store_of(tmp_path_factory.mktemp("nameless"), [f"IMG_{number:04}" for number in range(8)])


def unavailable(pictures: Sequence[Any], context: StageContext) -> Answers:
    raise Unavailable(GONE)


def answers_unavailable(pictures: Sequence[Any], context: StageContext) -> Answers:
    return [Failed.because(Unavailable(GONE)) for _ in pictures]


def broken(pictures: Sequence[Any], context: StageContext) -> Answers:
    raise ImportError("no module named 'onnx'")


def tench(pictures: Sequence[Any], context: StageContext) -> Answers:
    """Always label 0."""
    answer = Label(label="tench", label_index=0, top=(), vocabulary="imagenet-1k")
    return [Served(answer, 0.9) for _ in pictures]


def drilled(shop: Shop, *runs: Run, policy: Policy = Policy()) -> dict[str, RungVerdict]:
    """The verdicts on a chain of these rungs in the place of `classify_image`'s, and on its skip, by name."""
    names = zip(("first", "second", "third"), ("1", "0.9", "0.8"), runs, strict=False)
    rungs = [Rung(name, run, penalty=penalty, time_limit_s=60) for name, penalty, run in names]
    chain = Chain(STAGE.name, *rungs, Skip(penalty="0.7"), check=STAGE.chain.check)
    stages: list[Stage] = [one.with_chain(chain) if one is STAGE else one for one in STAGES]
    settings, ids = shop
    verdicts, *_ = judge_stage(Pipeline(stages), STAGE.name, ids, replace(settings, policy=policy), fresh_runtime())
    return {verdict.rung: verdict for verdict in verdicts}


def summary(verdicts: dict[str, RungVerdict]) -> dict[str, str]:
    return {name: verdict.verdict for name, verdict in verdicts.items()}


@pytest.mark.parametrize("gone", [unavailable, answers_unavailable])
def test_a_rung_that_cannot_run_here_is_not_covered(gone: Run, named: Shop) -> None:
    """Whether it raises that it is unavailable, or answers so for each item. The rungs beside it are judged as ever."""
    verdicts = drilled(named, BY_RULES, gone, BY_RULES)
    assert summary(verdicts) == {"first": "passed", "second": "not_covered", "third": "passed", "skip": "passed"}
    second = verdicts["second"]
    assert (second.not_covered, second.reason, second.is_reached) == (GONE, "", False)
    assert (second.items, second.agreement, second.penalty_justified) == (0, None, None)
    assert second.as_json()["reason"] == GONE
    assert verdicts["third"].agreement == 1


@pytest.mark.parametrize("gone", [unavailable, answers_unavailable])
def test_without_the_primary_there_is_nothing_to_compare_with(gone: Run, named: Shop) -> None:
    """The others run, are reached, and pass; their agreement is unknown."""
    verdicts = drilled(named, gone, BY_RULES, BY_RULES)
    assert summary(verdicts) == {"first": "not_covered", "second": "passed", "third": "passed", "skip": "passed"}
    for name in ("second", "third"):
        verdict = verdicts[name]
        assert (verdict.items, verdict.is_reached) == (len(PICTURES), True)
        assert (verdict.agreement, verdict.interval, verdict.penalty_justified) == (None, None, None)


def test_where_no_rung_runs_skip_is_still_judged(named: Shop) -> None:
    """It is the last resort of such a night."""
    assert summary(drilled(named, unavailable)) == {"first": "not_covered", "skip": "passed"}


def test_another_error_than_unavailable_is_a_failure(named: Shop) -> None:
    """A rung that breaks ran; only its author can say that it cannot run here."""
    verdicts = drilled(named, broken, BY_RULES)
    assert summary(verdicts) == {"first": "failed", "second": "passed", "skip": "passed"}
    assert "ImportError: no module named 'onnx'" in verdicts["first"].reason


def test_a_rung_that_is_unavailable_at_times_is_a_failure(named: Shop) -> None:
    """It can run here, and does not always."""
    calls: list[int] = []

    def flickering(pictures: Sequence[Any], context: StageContext) -> Answers:
        calls.append(len(pictures))
        if len(calls) == 1:
            raise Unavailable(GONE)
        return BY_RULES(pictures, context)

    verdict = drilled(named, BY_RULES, flickering)["second"]
    assert verdict.verdict == "failed"
    assert verdict.reason.startswith("it raised in 1 of ")
    assert not verdict.not_covered


@pytest.mark.parametrize(
    ("expect", "failed"),
    [
        ((), []),
        (("classify_image.second",), []),
        (("classify_image.first",), ["first"]),
        (("all",), ["first"]),
    ],
)
def test_what_the_policy_expects_fails_where_it_is_not_covered(
    expect: tuple[str, ...], failed: list[str], named: Shop
) -> None:
    """It is named as not covered all the same."""
    verdicts = drilled(named, unavailable, BY_RULES, policy=Policy(expect=expect))
    assert [name for name, verdict in verdicts.items() if verdict.verdict == "failed"] == failed
    whole = DrillVerdict(sample=len(PICTURES), rungs=list(verdicts.values()), rules=[])
    report = whole.as_json()
    assert (report["verdict"], report["not_covered"]) == ("failed" if failed else "passed", ["classify_image.first"])
    told = f"classify_image.first: it is not covered, and the policy expects it: {GONE}"
    assert whole.failures == ([told] if failed else [])
    assert ", not covered: classify_image.first" in str(whole)


@pytest.mark.parametrize("shop", ["named", "nameless"])
def test_one_label_for_everything_is_found_without_the_primary(shop: str, request: pytest.FixtureRequest) -> None:
    """Also where no other rung tells the items apart; and the rung beside it is not suspected."""
    verdicts = drilled(request.getfixturevalue(shop), unavailable, tench, BY_RULES)
    assert summary(verdicts) == {"first": "not_covered", "second": "failed", "third": "passed", "skip": "passed"}
    assert verdicts["second"].reason == f"it gave the same answer for all {len(PICTURES)} items"


def test_a_primary_that_answers_one_label_for_everything_is_found(named: Shop) -> None:
    """It has no other to be compared with, and does not look at what it is shown."""
    verdicts = drilled(named, tench, BY_RULES)
    assert verdicts["first"].reason == f"it gave the same answer for all {len(PICTURES)} items"


def test_one_label_that_all_names_name_is_right(tmp_path: Path) -> None:
    """Names of one class have one answer: no fault of the rules, which answer another name otherwise."""
    tenches = store_of(tmp_path / "tenches", [f"Tench, photo {number}" for number in range(8)])
    verdicts = drilled(tenches, ON_CPU, BY_RULES)
    assert summary(verdicts) == {"first": "passed", "second": "passed", "skip": "passed"}
    assert not verdicts["second"].note


def test_one_picture_for_all_items_has_one_answer(tmp_path: Path) -> None:
    """A catalogue of placeholders is drilled without a suspicion against the models."""
    shop = store_of(tmp_path / "same", PICTURES, image="0.png")
    verdicts = drilled(shop, ON_CPU, BY_RULES)
    assert summary(verdicts) == {"first": "passed", "second": "passed", "skip": "passed"}


def test_names_that_name_no_class_are_no_fault_of_the_rules(nameless: Shop) -> None:
    """The rules say that they do not know, which is noted; the models beside them are judged as ever."""
    settings, ids = nameless
    rungs, *_ = judge_stage(PIPELINE, "classify_image", ids, settings, fresh_runtime())
    verdicts = {rung.rung: rung for rung in rungs}
    assert summary(verdicts)["rules"] == "passed", verdicts["rules"].reason
    assert verdicts["rules"].note == f"it declined {len(ids)} of {len(ids)} items: Declined: the name names no class"
    assert verdicts["rules"].as_json()["note"] == verdicts["rules"].note
    assert verdicts["rules"].is_reached


def test_one_label_for_everything_is_found_among_names_that_name_none(nameless: Shop) -> None:
    """A constant is not excused by what the rules do not know."""
    verdicts = drilled(nameless, ON_CPU, tench)
    assert verdicts["second"].reason == f"it gave the same answer for all {verdicts['second'].items} items"
    assert not verdicts["second"].note


def test_one_vector_for_everything_is_found_without_the_primary(named: Shop) -> None:
    """A stage of vectors is looked at as one of labels is."""

    def gone(passages: Sequence[Any], context: StageContext) -> Sequence[Outcome[Embedding]]:
        raise Unavailable(GONE)

    def stuck(passages: Sequence[Any], context: StageContext) -> Sequence[Outcome[Embedding]]:
        return HASHED([replace(passages[0], name="stuck", text=None) for _ in passages], context)

    rungs = (Rung("first", gone, time_limit_s=60), Rung("second", stuck, penalty="0.9", time_limit_s=60))
    chain = Chain("embed_text", *rungs, Skip(penalty="0.7"), check=embed_text.STAGE.chain.check)
    stages: list[Stage] = [one.with_chain(chain) if one is embed_text.STAGE else one for one in STAGES]
    settings, ids = named
    _, second, _ = judge_stage(Pipeline(stages), "embed_text", ids, settings, fresh_runtime())[0]
    assert second.reason == f"it gave the same answer for all {len(PICTURES)} items"


def test_a_sample_without_a_picture_does_not_cover_pictures(settings: Settings, tmp_path: Path) -> None:
    """No rung of the stage is covered, skip included; none fails."""
    manifest = tmp_path / "items.jsonl"
    manifest.write_text("".join(json.dumps({"id": str(n), "name": f"Thing {n}"}) + "\n" for n in range(3)))
    assert_has_no_item(settings, list(enrich(settings, manifest)), "classify_image")


def test_files_that_were_never_fetched_cover_nothing(tmp_path: Path) -> None:
    """A picture or document that is declared, and could not be had, gives the rungs nothing to look at."""
    settings, ids = store_of(tmp_path / "gone", PICTURES, image="nowhere.png")
    assert_has_no_item(settings, ids, "classify_image")
    manifest = tmp_path / "items.jsonl"
    manifest.write_text(json.dumps({"id": "page", "name": "A page", "document": "https://127.0.0.1:9/page.html"}))
    assert_has_no_item(settings, list(enrich(settings, manifest)), "extract_text")


def assert_has_no_item(settings: Settings, ids: Sequence[str], stage: str) -> None:
    rungs, *_ = judge_stage(PIPELINE, stage, ids, settings, fresh_runtime())
    assert {(rung.verdict, rung.not_covered) for rung in rungs} == {
        ("not_covered", "the sample has no item for this stage")
    }
    assert not any(rung.is_reached for rung in rungs)
