"""A search as a person makes it: by words, by meaning, or by both. Where no model can be had, by words alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from repli.tasks.fallback import RepliError, RungError, UsageError
from repli.tasks.items import clean_text
from repli.tasks.models import text_embedder
from repli.tasks.settings import Settings
from repli.tasks.stages.embed_text import HASHED_SPACE, hashed_words
from repli.tasks.storage.database import Database
from repli.tasks.storage.search import query as store
from repli.tasks.storage.search.neighbours import spaces
from repli.tasks.storage.search.query import Hit, Vectors

MAX_LIMIT = 1000


class Mode(StrEnum):
    """What is looked at."""

    HYBRID = "hybrid"
    KEYWORD = "keyword"
    VECTOR = "vector"

    @classmethod
    def parse(cls, name: str) -> Mode:
        """The mode of this name. Raises `UsageError` where there is none."""
        if name not in set(cls):
            raise UsageError(f"--mode {name[:40]!r}: choose from {', '.join(cls)}")
        return cls(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is looked for. Items of a quality below `min_quality` are left out."""

    text: str
    mode: Mode = Mode.HYBRID
    limit: int = 10
    min_quality: float = 0.0

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise UsageError("there is nothing to search for; give a word, or a sentence")
        if not 1 <= self.limit <= MAX_LIMIT:
            raise UsageError(f"--limit {self.limit}: choose from 1 to {MAX_LIMIT}")
        if not 0 <= self.min_quality <= 1:
            raise UsageError(f"--min-quality {self.min_quality:g}: a quality is from 0 to 1")
        if self.mode is Mode.KEYWORD and not store.words_of(self.text):
            raise UsageError(f"there is no word in {self.text[:40]!r} to look for; give one, or try --mode vector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came to, the best first; `notes` tell what was not looked at, and why."""

    query: Query
    hits: Sequence[Hit]
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "query": self.query.text,
            "mode": self.query.mode.value,
            "hits": [hit.as_json() for hit in self.hits],
            "notes": list(self.notes),
        }


def search(settings: Settings, database: Database, query: Query) -> Found:
    """The items that go best with a query.

    Raises:
        RepliError: a search by vectors alone, and there is nothing to compare with.
    """
    text = clean_text(query.text)
    words = store.words_of(text) if query.mode is not Mode.VECTOR else []
    vectors: Vectors = {}
    notes: list[str] = []
    if query.mode is not Mode.KEYWORD:
        vectors, notes = _vectors(text, spaces(database), settings.models.text)
        if not (words or vectors):
            raise RepliError(_why_nothing(database, text, notes))
    hits = store.search(database, words, vectors, limit=query.limit, min_quality=query.min_quality)
    return Found(query=query, hits=hits, notes=notes)


def _why_nothing(database: Database, text: str, notes: Sequence[str]) -> str:
    """What keeps a query from being compared with anything, and what to do."""
    reasons = "; ".join(notes)
    if not reasons:
        reasons = f"no vector can be made of {text[:40]!r}" if spaces(database) else "no stored item has a vector"
    return f"{reasons}; {'try --mode keyword' if store.words_of(text) else 'give a word to look for'}"


def _vectors(text: str, of_store: Collection[str], model: str) -> tuple[Vectors, list[str]]:
    """The query in each of the spaces in which it can be said, and which are left out."""
    vectors: Vectors = {}
    notes: list[str] = []
    left = set(of_store)
    if HASHED_SPACE in left:
        left.discard(HASHED_SPACE)
        [hashed] = hashed_words([text])
        if hashed.any():
            vectors = {**vectors, HASHED_SPACE: hashed}
    if left:
        try:
            embedder = text_embedder.load(model)
            if embedder.space in left:
                left.discard(embedder.space)
                vectors = {**vectors, embedder.space: embedder.embed([text])[0]}
        except RungError as error:
            notes.append(f"no search by meaning: {error}")
        else:
            notes += [f"vectors of the space {space} are left out: its model is not the one in use" for space in left]
    return vectors, notes
