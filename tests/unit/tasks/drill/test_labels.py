"""People answer the questions of a drill, and the next drill knows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from repli.tasks.drill.judge import judge_stage
from repli.tasks.drill.labelling import give_label, questions_of_latest
from repli.tasks.drill.questions import QUESTIONS, Question
from repli.tasks.drill.verdict import DrillVerdict, RungVerdict
from repli.tasks.fallback import Declined, RepliError, UsageError
from repli.tasks.items import Label, Text
from repli.tasks.pipeline import Pipeline, Stage
from repli.tasks.settings import Settings
from repli.tasks.storage import drills, labels
from repli.tasks.storage.database import Database
from tests.support.in_process import enrich, fresh_runtime

ITEMS = 60
NOW = datetime(2026, 11, 27, tzinfo=UTC)
DISAGREE = set(range(0, ITEMS, 5))
"""The items on which the two models disagree: the first is right on those that 10 divides."""


def model(name: str, wrong: Callable[[int], bool]) -> Callable[[str], Label]:
    """A model of animals. It calls a tench a tabby where it is wrong."""

    def classify(text: str) -> Label:
        number = int(text.split()[1])
        return Label("tabby" if wrong(number) else "tench", vocabulary="imagenet-1k")

    classify.__name__ = name
    return classify


def named_by(name: str, answer: Callable[[int], str]) -> Callable[[str], Text]:
    def extract(text: str) -> Text:
        return Text(answer(int(text.split()[1])))

    extract.__name__ = name
    return extract


def never(text: str) -> Label:
    """A rung that knows nothing."""
    raise Declined("best guess tench at 0.10, below the threshold of 0.3")


@dataclass(frozen=True)
class Shop:
    """A store of items whose names say what is right, and the pipeline that fills it."""

    settings: Settings
    pipeline: Pipeline
    ids: Sequence[str]

    @property
    def database(self) -> Database:
        return Database(self.settings.database_url)

    def drill(self, ids: Sequence[str] | None = None, labelled: Sequence[str] = ()) -> dict[str, RungVerdict]:
        """Drill all stages that have two rungs, keep the report, and return the verdicts by STAGE.RUNG."""
        verdicts = [
            judge_stage(self.pipeline, stage, ids or self.ids, self.settings, fresh_runtime(), labelled)
            for stage in ("look", "read")
        ]
        rungs = [rung for verdict in verdicts for rung in verdict.rungs]
        questions = [question for verdict in verdicts for question in verdict.questions]
        whole = DrillVerdict(sample=len(self.ids), rungs=rungs, rules=[], questions=questions)
        drills.keep(self.database, None, NOW, datetime.now(UTC), whole.as_json())
        return {rung.name: rung for rung in rungs}

    def questions(self, stage: str) -> list[Question]:
        """The open questions of a stage."""
        found = questions_of_latest(self.database)
        assert found
        return [question for question, given in found.questions if given is None and question.stage == stage]

    def label(self, item_id: str, value: str, stage: str | None = None) -> str:
        """Answer, and return the stage that the answer is about."""
        return give_label(self.database, self.pipeline, item_id, value, stage).stage


@pytest.fixture
def shop(settings: Settings, tmp_path: Path) -> Shop:
    look: Stage = Stage("look", input=lambda item: item.name, produces=Label)
    for penalty, rung in (
        ("1", model("large", lambda number: number in DISAGREE and number % 10 != 0)),
        ("0.9", model("small", lambda number: number in DISAGREE and number % 10 == 0)),
        ("0.8", never),
    ):
        look.rung(time_limit_s=5, per_item=True, penalty=penalty)(rung)
    look.skip(penalty="0.7")
    read: Stage = Stage("read", input=lambda item: item.name, produces=Text)
    read.rung(time_limit_s=5, per_item=True)(named_by("good", lambda number: f"all about number {number}"))
    read.rung(time_limit_s=5, per_item=True, penalty="0.9")(
        named_by("rough", lambda number: f"menu home number {number}" if number < 30 else f"all about number {number}")
    )
    read.skip(penalty="0.7")
    manifest = tmp_path / "items.jsonl"
    manifest.write_text("".join(json.dumps({"id": f"i{n}", "name": f"Thing {n}"}) + "\n" for n in range(ITEMS)))
    ids = list(enrich(settings, manifest, stages=(look, read), forced={}))
    return Shop(settings, Pipeline([look, read]), ids)


def test_the_disagreements_are_asked_about(shop: Shop) -> None:
    """Each with what every rung said; at most so many of a stage. Where both agree, or one declined, nothing is."""
    shop.drill()
    asked = shop.questions("look")
    assert {question.item_id for question in asked} == {f"i{number}" for number in DISAGREE}
    first = next(question for question in asked if question.item_id == "i0")
    assert [(said.rung, said.answer) for said in first.said] == [("large", "tench"), ("small", "tabby")]
    assert (first.kind, first.name, first.vocabulary) == ("label", "Thing 0", "imagenet-1k")
    texts = shop.questions("read")
    assert len(texts) == QUESTIONS
    assert {int(question.item_id[1:]) < 30 for question in texts} == {True}
    assert {said.answer for said in texts[0].said} == {
        f"all about number {texts[0].item_id[1:]}",
        f"menu home number {texts[0].item_id[1:]}",
    }


def test_the_next_drill_uses_the_answers(shop: Shop) -> None:
    """It measures by them, does not ask again, and says what share of the answers of each rung is right."""
    before = shop.drill()
    assert before["look.small"].answered == 0
    for question in shop.questions("look"):
        assert shop.label(question.item_id, "tench", "look") == "look"
    assert shop.questions("look") == []
    after = shop.drill()
    assert shop.questions("look") == []
    small, large = after["look.small"], after["look.large"]
    assert small.measured
    assert (small.measured.basis, small.answered, large.answered) == ("answers", len(DISAGREE), len(DISAGREE))
    assert small.measured.relative.value == pytest.approx(1)
    assert small.penalty_justified == 1
    assert small.accuracy
    assert large.accuracy
    assert small.accuracy.low < 0.9 < small.accuracy.high
    document = small.as_json()
    assert (document["basis"], document["answered"], document["relative_accuracy"]) == ("answers", len(DISAGREE), 1.0)
    assert document["accuracy"] is not None
    assert after["look.never"].as_json()["relative_accuracy"] is None


def test_a_text_is_answered_by_its_rung(shop: Shop) -> None:
    """Whose text is right; none, or both."""
    shop.drill()
    asked = shop.questions("read")
    for question in asked[:10]:
        assert shop.label(question.item_id, "Good", "read") == "read"
    shop.label(asked[10].item_id, "both", "read")
    shop.label(asked[11].item_id, "none", "read")
    with pytest.raises(UsageError, match="'god' answered nothing for read of this item; choose from good, rough, none"):
        shop.label(asked[12].item_id, "god", "read")
    rough = shop.drill()["read.rough"]
    assert rough.measured
    assert (rough.measured.basis, rough.answered) == ("answers", 12)
    assert rough.measured.relative.high < 0.85


def test_items_that_were_labelled_before_are_used_beside_the_sample(shop: Shop) -> None:
    """They say who is right, not how often the rungs disagree, and count nowhere else."""
    shop.drill()
    for number in sorted(DISAGREE):
        shop.label(f"i{number}", "tench", "look")
    sample = [id_ for id_ in shop.ids if int(id_[1:]) not in DISAGREE or id_ == "i5"]
    others = labels.latest_items(shop.database, shop.pipeline.names, 100)
    assert set(others) == {f"i{number}" for number in DISAGREE}
    small = shop.drill(sample, others)["look.small"]
    assert (small.items, small.answered, small.agreement) == (len(sample), len(DISAGREE), 1 - 1 / len(sample))
    assert small.measured
    assert small.measured.relative.low > 0.9


def test_a_label_of_a_changed_input_is_not_used(shop: Shop, tmp_path: Path) -> None:
    """The label was about another picture."""
    shop.drill()
    shop.label("i0", "tench", "look")
    manifest = tmp_path / "changed.jsonl"
    manifest.write_text(json.dumps({"id": "i0", "name": "Thing 0 anew"}) + "\n")
    enrich(shop.settings, manifest, stages=shop.pipeline.stages[:2], forced={})
    assert shop.drill()["look.small"].answered == 0
    assert "i0" in {question.item_id for question in shop.questions("look")}


def test_the_later_answer_counts(shop: Shop) -> None:
    """A person may think again."""
    shop.drill()
    shop.label("i0", "tabby", "look")
    shop.label("i0", "none", "look")
    [given] = labels.of_items(shop.database, ["i0"]).values()
    assert given.value == {"label": None, "wrong": ["tench", "tabby"]}


@pytest.mark.parametrize(
    ("text", "label"), [("TENCH", "tench"), ("Tinca_tinca", "tench"), ("tabby cat", "tabby"), ("Hen", "hen")]
)
def test_a_label_is_understood(text: str, label: str, shop: Shop) -> None:
    """By a synonym, in any case, also where no rung said it."""
    shop.drill()
    shop.label("i0", text, "look")
    [given] = labels.of_items(shop.database, ["i0"]).values()
    assert given.value == {"label": label}


def test_the_stage_need_not_be_named_where_the_answer_says_it(shop: Shop) -> None:
    """An item with questions of two stages: a rung is of the one, a label of the other; `none` may be of either."""
    shop.drill()
    both = {question.item_id for question in shop.questions("look")} & {
        question.item_id for question in shop.questions("read")
    }
    item_id = min(both)
    assert shop.label(item_id, "good") == "read"
    assert shop.label(item_id, "tench") == "look"
    with pytest.raises(UsageError, match="has questions of look and read; add --stage"):
        shop.label(item_id, "none")


def test_a_wrong_answer_says_what_is_meant(shop: Shop) -> None:
    """The nearest names, the stages, or where the questions are."""
    shop.drill()
    with pytest.raises(UsageError, match=r"'tenches' is no label of imagenet-1k; did you mean tench.*`none` says"):
        shop.label("i0", "tenches", "look")
    with pytest.raises(UsageError, match="--stage 'store': choose from look, read"):
        shop.label("i0", "tench", "store")
    with pytest.raises(RepliError, match="there is no item 'nobody'"):
        shop.label("nobody", "tench")
    with pytest.raises(RepliError, match="the latest drill asks nothing about read of the item 'i59'"):
        shop.label("i59", "good", "read")
    assert labels.of_items(shop.database, shop.ids) == {}
