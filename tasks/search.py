"""Search stored items by keyword, by vector, or by both.

The rungs of the stage that produces embeddings make the vector of a query in each of their spaces. A space that none of
them reaches now, for example because its model is missing, is not searched; keywords and the other spaces still are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

from repli.tasks.execution.run_pipeline import choose
from repli.tasks.fallback import AnyChain, AnyRung, Failed, RepliError, RungError, UsageError
from repli.tasks.items import Embedding, clean_text
from repli.tasks.models.word_hashing import HASHED_SPACE
from repli.tasks.pipeline import Pipeline, Stage, StageContext
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import Settings
from repli.tasks.storage import pipelines
from repli.tasks.storage.database import Database
from repli.tasks.storage.search import neighbours
from repli.tasks.storage.search import query as store
from repli.tasks.storage.search.neighbours import Vector, spaces
from repli.tasks.storage.search.query import Hit, Vectors
from repli.tasks.storage.search.query import RankBy as RankBy

MAX_LIMIT = 1000
MIN_COSINE_WITHOUT_WORDS = 0.5
"""The lowest cosine of a hit by a vector where no word of the query is in the catalogue.

Any vector has a nearest one. Over 3,000 Wikipedia introductions and the default model 0.3 % of 600 random words and
0.8 % of 600 random sequences of syllables are as near as that to one (5 % and 12 % at 0.4). Of the synonyms that stand
nowhere in the texts, and whose article is among the first ten, a quarter is kept (47 % at 0.4).
"""
QUICK_LIMIT_S = 10.0
"""Seconds for `StageHooks.embed_query`, after which the rungs are called. It takes less than one."""


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
    rank_by: RankBy = RankBy.QUALITY

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
        vectors, notes = _query_vectors(text, spaces(database), settings, database)
        if not (words or vectors):
            raise RepliError(_explain_no_search(database, text, notes))
    min_cosine = neighbours.ANY_COSINE
    if vectors and not store.has_any_word(database, store.words_of(text)):
        min_cosine = MIN_COSINE_WITHOUT_WORDS
        vectors = {space: vector for space, vector in vectors.items() if space != HASHED_SPACE}  # hashes that collide
    hits = store.search(
        database,
        words,
        vectors,
        limit=query.limit,
        min_quality=query.min_quality,
        min_cosine=min_cosine,
        rank_by=query.rank_by,
    )
    return SearchResult(query=query, hits=hits, notes=notes)


def _explain_no_search(database: Database, text: str, notes: Sequence[str]) -> str:
    """Return why a query has nothing to compare with, and the next step."""
    reasons = "; ".join(notes)
    if not reasons:
        reasons = f"{text[:40]!r} has no vector" if spaces(database) else "no stored item has a vector"
    return f"{reasons}; {'try --mode keyword' if store.words_of(text) else 'give a word to look for'}"


def _query_vectors(
    text: str, stored_spaces: Collection[str], settings: Settings, database: Database
) -> tuple[Vectors, list[str]]:
    """Return the query's vector in each stored space that can be searched, and notes on the other spaces."""
    remaining = set(stored_spaces)
    if not remaining:
        return {}, []
    try:
        stored = pipelines.read(database)
        pipeline = choose(replace(settings, pipeline=stored.name if stored else None), database).declared
    except UsageError as error:
        return {}, [f"no vector search: {error}"]
    stage = _embedding_stage(pipeline)
    if stage is None or stage.query_input is None:
        return {}, [_explain_no_query(stage)]
    context = StageContext(settings=settings, database=database, run_id="search", now=database.now())
    try:
        value = stage.query_input(text)
    except Exception as error:  # noqa: BLE001  the pipeline's own function; keywords are still searched
        return {}, [f"no vector search: the query_input of {stage.name} raised {type(error).__name__}: {error}"]
    vectors, notes, is_complete = _quick_vectors(stage, text, remaining, settings)
    remaining -= vectors.keys()
    for rung in reversed(stage.chain.rungs):  # the last are the cheapest: a model is loaded where it is needed
        if is_complete or not remaining:
            break
        embedded = _embed(stage.chain, rung, value, context)
        if isinstance(embedded, str):
            notes.append(f"no vector search by {stage.name}.{rung.name}: {embedded}")
        elif embedded.space in remaining:
            remaining.discard(embedded.space)
            vectors = {**vectors, embedded.space: embedded.vector}
    if not notes:
        notes = [f"the space {space} is not searched: its model is not the one in use" for space in remaining]
    return vectors, notes if remaining else []


def _quick_vectors(
    stage: Stage, text: str, wanted: Collection[str], settings: Settings
) -> tuple[dict[str, Vector], list[str], bool]:
    """Return the query's vectors that the stage makes without its rungs, and whether its rungs make no others.

    With them: a note on each space that is out of reach.
    """
    vectors: dict[str, Vector] = {}
    notes: list[str] = []
    embed_query = stage.hooks.embed_query
    if embed_query is None:
        return vectors, notes, False

    def embed() -> None:
        for embedding in embed_query(text, settings):
            if isinstance(embedding, RungError):
                notes.append(f"no vector search by {stage.name}: {embedding}")
                continue
            stage.chain.check(embedding)
            if embedding.space in wanted:
                vectors[embedding.space] = embedding.vector
            if len(vectors) == len(wanted):
                return

    try:
        process_runtime(may_exit=False).call_within(embed, QUICK_LIMIT_S, f"{stage.name}: the query")
    except Exception:  # noqa: BLE001  the rungs are called, and say what is wrong
        return dict(vectors), [], False
    return vectors, notes, True


def _embedding_stage(pipeline: Pipeline) -> Stage | None:
    return next((stage for stage in pipeline.stages if stage.produces is Embedding), None)


def _explain_no_query(stage: Stage | None) -> str:
    if stage is None:
        return "no vector search: no stage of the store's pipeline produces embeddings"
    return f"no vector search: the stage {stage.name} does not say how to embed a query; give it a `query_input`"


def _embed(chain: AnyChain, rung: AnyRung, value: Any, context: StageContext) -> Embedding | str:
    """Return the embedding of a query by one rung, or why there is none."""
    name = f"{chain.stage}.{rung.name}"
    call_within = process_runtime(may_exit=False).call_within
    try:
        [outcome] = call_within(partial(rung.call, [value], context), rung.time_limit_s, name)
    except Exception as error:  # noqa: BLE001  any failure of a rung leaves its space unsearched
        return str(error) if isinstance(error, RepliError) else f"{type(error).__name__}: {error}"
    if isinstance(outcome, Failed):
        return str(outcome.error.message)
    try:
        chain.check(outcome.value)
    except ValueError as error:
        return str(error)
    embedded: Embedding = outcome.value
    return embedded
