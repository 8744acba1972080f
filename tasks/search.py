"""Search stored items by keyword, by vector, or by both.

Without its model a vector space is not searched; keywords and hashed vectors still are.
"""

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
    """The kind of search: by keyword, by vector, or both fused."""

    HYBRID = "hybrid"
    KEYWORD = "keyword"
    VECTOR = "vector"

    @classmethod
    def parse(cls, name: str) -> Mode:
        """Return the mode of this name.

        Raises:
            UsageError: There is no such mode; the message lists the modes.
        """
        if name not in set(cls):
            raise UsageError(f"--mode {name[:40]!r}: choose from {', '.join(cls)}")
        return cls(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One validated search. Items of a quality below `min_quality`, in [0, 1], are excluded.

    Raises:
        UsageError: A field is invalid; the message names the option.
    """

    text: str
    mode: Mode = Mode.HYBRID
    limit: int = 10
    min_quality: float = 0.0

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise UsageError("the query is empty; give a word or a sentence")
        if not 1 <= self.limit <= MAX_LIMIT:
            raise UsageError(f"--limit {self.limit}: choose from 1 to {MAX_LIMIT}")
        if not 0 <= self.min_quality <= 1:
            raise UsageError(f"--min-quality {self.min_quality:g}: a quality is from 0 to 1")
        if self.mode is Mode.KEYWORD and not store.words_of(self.text):
            raise UsageError(f"there is no word in {self.text[:40]!r}; give one, or try --mode vector")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The hits of a search, best first. `notes` name the vector spaces that were not searched, and why."""

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


def search(settings: Settings, database: Database, query: Query) -> SearchResult:
    """Return the stored items that match a query best.

    Raises:
        RepliError: The query has neither words nor comparable vectors.
    """
    text = clean_text(query.text)
    words = store.words_of(text) if query.mode is not Mode.VECTOR else []
    vectors: Vectors = {}
    notes: list[str] = []
    if query.mode is not Mode.KEYWORD:
        vectors, notes = _query_vectors(text, spaces(database), settings.models.text)
        if not (words or vectors):
            raise RepliError(_explain_no_search(database, text, notes))
    hits = store.search(database, words, vectors, limit=query.limit, min_quality=query.min_quality)
    return SearchResult(query=query, hits=hits, notes=notes)


def _explain_no_search(database: Database, text: str, notes: Sequence[str]) -> str:
    """Return why a query has nothing to compare with, and the next step."""
    reasons = "; ".join(notes)
    if not reasons:
        reasons = f"{text[:40]!r} has no vector" if spaces(database) else "no stored item has a vector"
    return f"{reasons}; {'try --mode keyword' if store.words_of(text) else 'give a word to look for'}"


def _query_vectors(text: str, stored_spaces: Collection[str], model: str) -> tuple[Vectors, list[str]]:
    """Return the query's vector in each stored space that can be searched, and notes on the other spaces."""
    vectors: Vectors = {}
    notes: list[str] = []
    remaining = set(stored_spaces)
    if HASHED_SPACE in remaining:
        remaining.discard(HASHED_SPACE)
        [hashed] = hashed_words([text])
        if hashed.any():
            vectors = {**vectors, HASHED_SPACE: hashed}
    if remaining:
        try:
            embedder = text_embedder.load(model)
            if embedder.space in remaining:
                remaining.discard(embedder.space)
                vectors = {**vectors, embedder.space: embedder.embed([text])[0]}
        except RungError as error:
            notes.append(f"no vector search: {error}")
        else:
            notes += [f"the space {space} is not searched: its model is not the one in use" for space in remaining]
    return vectors, notes
