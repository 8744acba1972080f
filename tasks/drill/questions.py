"""The questions of a drill: items on which a rung and its primary disagree. People say which of them is right."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from repli.tasks.drill.answers import is_right, key_of
from repli.tasks.drill.relative_accuracy import Pair
from repli.tasks.fallback import StepResult
from repli.tasks.items import Assets, ItemState, Label, Text
from repli.tasks.json_values import as_json

if TYPE_CHECKING:
    from repli.tasks.pipeline import Pipeline

QUESTIONS = 20
"""The most questions of a stage: their answers give the relative accuracy to a few hundredths, in some minutes."""
MAX_CHARACTERS = 240
"""The characters of a text in a question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a rung answered. `key` identifies the answer; `answer` is a label, or how a text begins."""

    rung: str
    answer: str
    key: str
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which of these answers to an item is right?

    Args:
        kind: how it is answered: by the right `label`, or by the `rung` that is right.
        input_hash: of the stage's input; where that has changed since, an answer says nothing of these.
        said: what each rung answered, the primary first.
        vocabulary: the name of the set of labels; "" for other answers.
        tells: how much an answer tells, to sort by.
        name: the item's name, and how its
        text: begins; None where it has none.
        image: the URI of its picture, and
        document: of its document; None where it has none.
    """

    item_id: str
    stage: str
    kind: str
    input_hash: str
    said: Sequence[Said]
    vocabulary: str
    tells: float
    name: str
    text: str | None
    image: str | None
    document: str | None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "tells": round(self.tells, 4)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Question:
        """Return the question of which `as_json` made the document."""
        said = [Said(**{name: one[name] for name in Said.__slots__}) for one in document["said"]]
        return cls(**{**{name: document[name] for name in cls.__slots__}, "said": said})

    def is_answered(self, given: Mapping[str, Any]) -> bool:
        """Return whether a label says of each answer whether it is right."""
        return all(is_right(given, one.key) is not None for one in self.said)


def ask(
    pipeline: Pipeline,
    stage: str,
    kind: str,
    states: Mapping[str, ItemState],
    hashes: Mapping[str, str | None],
    answers: Mapping[str, Mapping[str, StepResult]],
    pairs: Mapping[str, Mapping[str, Pair]],
) -> list[Question]:
    """Return at most `QUESTIONS` questions of a stage, those that tell most first.

    Which ones is left to chance, so that the answers speak for all disagreements; each rung has its turn.

    Args:
        answers: the results that each rung served, by rung and item; the primary's first.
        pairs: the pair of each item, by rung.
    """
    waiting = [
        sorted(
            (id_ for id_, pair in by_item.items() if not (pair.is_same or pair.is_answered) and hashes.get(id_)),
            key=_by_chance,
        )
        for by_item in pairs.values()
    ]
    chosen = list(_in_turns(waiting, QUESTIONS))
    questions = [
        Question(
            item_id=id_,
            stage=stage,
            kind=kind,
            input_hash=str(hashes[id_]),
            said=[
                Said(
                    rung=rung,
                    answer=_shown(served[id_].value),
                    key=key_of(served[id_].value),
                    confidence=round(served[id_].confidence or 0.0, 4),
                )
                for rung, served in answers.items()
                if id_ in served
            ],
            vocabulary=_vocabulary(served[id_].value for served in answers.values() if id_ in served),
            tells=sum(_tells(by_item[id_]) for by_item in pairs.values() if id_ in by_item),
            **_about(pipeline, states[id_]),
        )
        for id_ in chosen
    ]
    return sorted(questions, key=lambda question: (-question.tells, question.item_id))


def _by_chance(item_id: str) -> str:
    """Return a key that orders items at random, and the same in each drill: an open question is asked again."""
    return hashlib.sha256(item_id.encode()).hexdigest()


def _in_turns(waiting: Sequence[Sequence[str]], most: int) -> Iterable[str]:
    """Return up to `most` different ids, taking one from each sequence in turn."""
    chosen: dict[str, None] = {}
    places = [iter(ids) for ids in waiting]
    while places and len(chosen) < most:
        for place in list(places):
            taken = next((id_ for id_ in place if id_ not in chosen), None)
            if taken is None:
                places.remove(place)
            elif len(chosen) < most:
                chosen[taken] = None
    return chosen


def _tells(pair: Pair) -> float:
    """Return the variance of (rung right - primary right): 0 where both agree, or the confidences decide."""
    if pair.is_same or pair.is_answered:
        return 0.0
    rung, primary = (min(0.95, max(0.05, one)) for one in (pair.confidence, pair.primary_confidence))
    weights = rung * (1 - primary), primary * (1 - rung), (1 - primary) * (1 - rung)
    of_rung, of_primary = weights[0] / sum(weights), weights[1] / sum(weights)
    return of_rung + of_primary - (of_rung - of_primary) ** 2


def _shown(value: Any) -> str:
    if isinstance(value, Label):
        return value.label
    return _first_words(value.text if isinstance(value, Text) else str(as_json(value)))


def _vocabulary(values: Iterable[Any]) -> str:
    return next((value.vocabulary for value in values if isinstance(value, Label)), "")


def _first_words(text: str) -> str:
    line = " ".join(text[: 4 * MAX_CHARACTERS].split())
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1] + "…"


def _about(pipeline: Pipeline, state: ItemState) -> dict[str, Any]:
    """Return the item's name, the begin of its text, and the URIs of its picture and document."""
    fetched: dict[str, Any] = {}
    text = state.item.text if isinstance(state.item.text, str) else None
    for stage in pipeline.stages:
        value = state.value(stage.name)
        if stage.produces is Assets and value:
            fetched = value
        elif stage.produces is Text and value:
            text = value["text"]
    uris = {name: (fetched.get(name) or {}).get("uri") for name in ("image", "document")}
    return {
        "name": _first_words(str(state.item.name or state.item.id)),
        "text": _first_words(text) if text else None,
        **{
            name: uri or (str(declared) if (declared := getattr(state.item, name)) else None)
            for name, uri in uris.items()
        },
    }
