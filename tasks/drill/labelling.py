"""Answer a question of a drill: say which value of a stage is right for an item."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from repli.tasks.drill.answers import label_value, rungs_value
from repli.tasks.drill.questions import Question
from repli.tasks.execution.stage_runner import input_hash_of
from repli.tasks.fallback import RepliError, UsageError
from repli.tasks.items import clean_text
from repli.tasks.models.imagenet_labels import synonyms
from repli.tasks.models.vocabulary import IMAGENET
from repli.tasks.pipeline import Pipeline
from repli.tasks.storage import drills, labels, results
from repli.tasks.storage.database import Database
from repli.tasks.storage.drills import Drill
from repli.tasks.storage.labels import GivenLabel

NONE, BOTH = "none", "both"
"""The answers that no candidate is right, and that each is."""
SUGGESTIONS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestions:
    """The questions of the latest drill, each with the label that a person gave, or None."""

    drill: Drill
    questions: Sequence[tuple[Question, GivenLabel | None]]

    @property
    def answered(self) -> int:
        return sum(given is not None for _, given in self.questions)

    def as_json(self) -> dict[str, Any]:
        """Return the document of `drill --questions --json`."""
        return {
            "drill": self.drill.id,
            "finished_at": self.drill.finished_at.isoformat(),
            "asked": len(self.questions),
            "answered": self.answered,
            "questions": [
                {**question.as_json(), "answer": None if given is None else given.said}
                for question, given in self.questions
            ],
        }


def questions_of_latest(database: Database) -> OpenQuestions | None:
    """Return the questions of the latest drill, the open ones that tell most first; None where there was no drill."""
    latest = drills.latest(database, 1)
    if not latest:
        return None
    asked = [Question.from_json(document) for document in latest[0].report["questions"]]
    given = labels.of_items(database, {question.item_id for question in asked})
    found: list[tuple[Question, GivenLabel | None]] = []
    for question in asked:
        label = given.get((question.item_id, question.stage, question.input_hash))
        found.append((question, label if label and question.is_answered(label.value) else None))
    found.sort(key=lambda pair: (pair[1] is not None, -pair[0].tells, pair[0].stage, pair[0].item_id))
    return OpenQuestions(drill=latest[0], questions=found)


def give_label(
    database: Database, pipeline: Pipeline, item_id: str, value: str, stage: str | None = None
) -> GivenLabel:
    """Keep the right value of a stage for an item, and return it.

    Args:
        value: of a stage that produces labels: a label, a synonym of it, or `none` where no candidate is right. Of any
            other stage: the rungs that are right, separated by commas, `none` or `both`.
        stage: the stage; None where the item has questions of one stage only, or one stage produces labels.

    Raises:
        RepliError: there is no such item, or nothing that could be answered about it.
        UsageError: the value is no answer, or the stage is not the only one.
    """
    item_id = clean_text(item_id)
    states = results.load(database, [item_id], with_trail=False)
    if not states:
        raise RepliError(f"there is no item {item_id[:200]!r} in {database}; see `repli drill --questions`")
    latest = questions_of_latest(database)
    asked = {one.stage: one for one, _ in latest.questions if one.item_id == item_id} if latest else {}
    name = _choose_stage(pipeline, asked, value, stage)
    input_hash = input_hash_of(pipeline, name, states[0])
    if input_hash is None or pipeline.input(name, states[0]) is None:
        raise RepliError(f"{name} has nothing to do for the item {item_id[:200]!r}, so there is nothing to label")
    question = asked.get(name)
    if question and question.input_hash != input_hash:
        question = None  # it is about an earlier picture or document
    if pipeline.stage(name).comparison.question == "label":
        stored = states[0].value(name) or {}
        candidates = [one.answer for one in question.said] if question else [stored["label"]] if stored else []
        vocabulary = question.vocabulary if question else stored.get("vocabulary", "")
        given = _label_of(database, name, value, candidates, vocabulary)
    else:
        given = _rungs_of(item_id, name, value, question)
    label = GivenLabel(item_id=item_id, stage=name, input_hash=input_hash, value=given, at=database.now())
    labels.give(database, label)
    return label


def _choose_stage(pipeline: Pipeline, asked: Mapping[str, Question], value: str, stage: str | None) -> str:
    """Return the stage that a label is about.

    Of several that the item has questions of, it is the one with the rung that the value names; else one of labels.
    """
    possible = {one.name: one.comparison.question for one in pipeline.stages if len(one.chain.rungs) > 1}
    possible = {name: kind for name, kind in possible.items() if kind is not None}
    if stage is not None:
        if stage not in possible:
            raise UsageError(f"--stage {stage[:80]!r}: choose from {', '.join(possible) or 'none'}")
        return stage
    of_item = list(asked) or [name for name, kind in possible.items() if kind == "label"]
    if len(of_item) > 1 and _plain(value) not in {NONE, BOTH}:
        rungs = {name: {said.rung.casefold() for said in asked[name].said} for name in of_item}
        by_rung = [name for name in of_item if possible.get(name) == "rung" and rungs[name].issuperset(_names(value))]
        of_item = by_rung or [name for name in of_item if possible.get(name) == "label"]
    if len(of_item) == 1:
        return of_item[0]
    if not (asked or of_item):
        raise RepliError("no stage of the pipeline can be labelled: none produces labels, and no question is open")
    raise UsageError(f"the item has questions of {' and '.join(asked or of_item)}; add --stage")


def _label_of(
    database: Database, stage: str, text: str, candidates: Sequence[str], vocabulary: str
) -> Mapping[str, Any]:
    """Return the value for a label that a person wrote."""
    if text in candidates:
        return label_value(text, candidates)
    if _plain(text) == NONE:
        if not candidates:
            raise UsageError(f"{stage} has no answer that `{NONE}` could be about; name the right label")
        return label_value(None, candidates)
    names = {_plain(one): {one} for one in candidates}
    if vocabulary in {IMAGENET, ""}:
        for lemmas in synonyms():
            for lemma in lemmas:
                names.setdefault(_plain(lemma), set()).add(lemmas[0])
    else:
        for one in labels.served(database, stage):
            names.setdefault(_plain(one), set()).add(one)
    return label_value(_resolve(text, names, vocabulary or IMAGENET), candidates)


def _resolve(text: str, names: Mapping[str, set[str]], vocabulary: str) -> str:
    """Return the label that a text names, whatever its case, or raise UsageError."""
    plain = _plain(text)
    found = names.get(plain, set())
    if len(found) == 1:
        return next(iter(found))
    if found:
        raise UsageError(f"{text[:80]!r} may be {' or '.join(sorted(found))}; write which")
    near = [name for name in names if set(plain.split()) & set(name.split())]
    near += get_close_matches(plain, names, SUGGESTIONS, 0.8)
    meant = list(dict.fromkeys(label for name in near for label in sorted(names[name])))[:SUGGESTIONS]
    hint = f"did you mean {', '.join(meant)}? " if meant else ""
    raise UsageError(f"{text[:80]!r} is no label of {vocabulary}; {hint}`{NONE}` says that no candidate is right")


def _rungs_of(item_id: str, stage: str, text: str, question: Question | None) -> Mapping[str, Any]:
    """Return the value for the rungs that a person named."""
    if question is None:
        raise RepliError(
            f"the latest drill asks nothing about {stage} of the item {item_id[:200]!r}; see `repli drill --questions`"
        )
    keys = {one.rung: one.key for one in question.said}
    wanted = _names(text)
    if wanted == [NONE]:
        return rungs_value([], keys)
    if wanted == [BOTH]:
        return rungs_value(list(keys), keys)
    by_name = {rung.casefold(): rung for rung in keys}
    if unknown := [name for name in wanted if name not in by_name]:
        choices = ", ".join([*keys, NONE, BOTH])
        raise UsageError(f"{unknown[0][:80]!r} answered nothing for {stage} of this item; choose from {choices}")
    return rungs_value([by_name[name] for name in wanted], keys)


def _names(text: str) -> list[str]:
    return [name.strip().casefold() for name in text.split(",")]


def _plain(text: str) -> str:
    """Return a name without differences of case, hyphens and spaces."""
    return " ".join(re.sub(r"[\s_-]+", " ", text.casefold()).split())
