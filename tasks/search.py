"""Search stored items by keyword, by vector, or by both.

The rungs of the stage that produces embeddings make the vector of a query in each of their spaces. A space that none of
them reaches now, for example because its model is missing, is not searched; keywords and the other spaces still are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

from repli.tasks.execution.run_pipeline import choose
from repli.tasks.fallback import AnyChain, AnyRung, Failed, RepliError, RungError, UsageError
from repli.tasks.items import Embedding, clean_text
from repli.tasks.models.word_hashing import HASHED_SPACE
from repli.tasks.pipeline import Pipeline, Stage, StageContext
from repli.tasks.runtime.process import process_runtime
from repli.tasks.settings import ModelSettings, Settings
from repli.tasks.storage import pipelines, runs
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

OLDER_LIMIT_S = 30.0
"""Seconds for a query's vector by an older model, which may have to be loaded by torch."""


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
        return store.parse_choice(cls, name, "--mode")


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
class SpaceCoverage:
    """One vector space of the store, with the number of its items.

    Args:
        is_present: whether the models in use have this space; None where that is not known, because they are out of
            reach.
        is_searched: whether the search has compared the query with its vectors.
    """

    space: str
    items: int
    is_present: bool | None
    is_searched: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "space": self.space,
            "items": self.items,
            "is_present": self.is_present,
            "is_searched": self.is_searched,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The hits of a search, best first. `notes` name the vector spaces that were not searched, and why.

    `spaces` are all vector spaces of the store; none in a search by keyword.
    """

    query: Query
    hits: Sequence[Hit]
    notes: Sequence[str] = ()
    spaces: Sequence[SpaceCoverage] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "query": self.query.text,
            "mode": self.query.mode.value,
            "hits": [hit.as_json() for hit in self.hits],
            "notes": list(self.notes),
            "spaces": [space.as_json() for space in self.spaces],
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
    covered: list[SpaceCoverage] = []
    if query.mode is not Mode.KEYWORD:
        embedded = _query_vectors(text, spaces(database), settings, database)
        vectors, notes = {**embedded.present, **embedded.older}, [*embedded.notes]
        covered = _coverage(embedded, neighbours.sizes(database))
        notes += _notes_on(covered, embedded.stage) or ([] if notes else _notes_on_unsearched(covered))
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
    covered = [replace(one, is_searched=one.space in vectors) for one in covered]
    return SearchResult(query=query, hits=hits, notes=notes, spaces=covered)


def _explain_no_search(database: Database, text: str, notes: Sequence[str]) -> str:
    """Return why a query has nothing to compare with, and the next step."""
    reasons = "; ".join(notes)
    if not reasons:
        reasons = f"{text[:40]!r} has no vector" if spaces(database) else "no stored item has a vector"
    return f"{reasons}; {'try --mode keyword' if store.words_of(text) else 'give a word to look for'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Embedded:
    """The vectors of a query by space: of the models in use, and of older ones.

    Args:
        notes: why the models in use, or one of them, have no vector.
        is_present_known: whether the models in use have said which spaces are theirs.
        stage: the stage that makes the vectors.
    """

    present: Vectors = field(default_factory=dict)
    older: Vectors = field(default_factory=dict)
    notes: Sequence[str] = ()
    is_present_known: bool = False
    stage: str = ""


def _query_vectors(text: str, stored_spaces: Collection[str], settings: Settings, database: Database) -> _Embedded:
    """Return the query's vector in each stored space that can be searched, and notes on the other spaces."""
    remaining = set(stored_spaces)
    if not remaining:
        return _Embedded()
    try:
        stored = pipelines.read(database)
        pipeline = choose(replace(settings, pipeline=stored.name if stored else None), database).declared
    except UsageError as error:
        return _Embedded(notes=[f"no vector search: {error}"])
    stage = _embedding_stage(pipeline)
    if stage is None or stage.query_input is None:
        return _Embedded(notes=[_explain_no_query(stage)])
    context = StageContext(settings=settings, database=database, run_id="search", now=database.now())
    try:
        value = stage.query_input(text)
    except Exception as error:  # noqa: BLE001  the pipeline's own function; keywords are still searched
        raised = f"the query_input of {stage.name} raised {type(error).__name__}: {error}"
        return _Embedded(notes=[f"no vector search: {raised}"])
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
    older = _older_vectors(stage, text, remaining - {HASHED_SPACE}, settings, database)
    is_of_block = settings.models.text == ModelSettings().text and runs.text_model_of_block(database)
    return _Embedded(
        present=vectors,
        older=older,
        notes=notes if remaining else [],
        is_present_known=not (notes or is_of_block),
        stage=stage.name,
    )


def _older_vectors(
    stage: Stage, text: str, wanted: Collection[str], settings: Settings, database: Database
) -> dict[str, Vector]:
    """Return the query's vectors in spaces that the models in use do not have, by the models that made them."""
    embed_in_space = stage.hooks.embed_in_space
    if embed_in_space is None or not wanted:
        return {}
    sources, vectors = runs.text_models(database), dict[str, Vector]()
    for space in sorted(wanted):
        embed = partial(embed_in_space, text, space, sources, settings)
        try:
            embedded = process_runtime(may_exit=False).call_within(embed, OLDER_LIMIT_S, f"{stage.name}: the query")
        except RepliError:  # the space is not searched, and said not to be
            continue
        if embedded is not None:
            stage.chain.check(embedded)
            vectors[space] = embedded.vector
    return vectors


def _coverage(embedded: _Embedded, sizes: Mapping[str, int]) -> list[SpaceCoverage]:
    """Return the spaces of the store, those with most items first."""
    known = embedded.is_present_known
    return [
        SpaceCoverage(
            space=space,
            items=sizes[space],
            is_present=True if space in embedded.present or space == HASHED_SPACE else (False if known else None),
            is_searched=space in embedded.present or space in embedded.older,
        )
        for space in sorted(sizes, key=lambda space: (-sizes[space], space))
    ]


def _notes_on(covered: Sequence[SpaceCoverage], stage: str) -> list[str]:
    """Return what share of the vectors is in the space of the present model, where some are in an older one."""
    older = [one for one in covered if one.is_present is False]
    if not older:
        return []
    total, present = sum(one.items for one in covered), sum(one.items for one in covered if one.is_present)
    parts = [f"{present:,} of {total:,} items are in the space of the present model"]
    parts += [f"{one.items:,} in the older one {one.space}, {_how_searched(one)}" for one in older]
    return [f"{'; '.join(parts)}; `repli reprocess --outdated {stage}` makes their vectors anew"]


def _notes_on_unsearched(covered: Sequence[SpaceCoverage]) -> list[str]:
    """Return the spaces of which it is not known whether the next run has them, and whose model is not here."""
    unsearched = [one for one in covered if one.is_present is None and not one.is_searched]
    return [f"the space {one.space} is not searched: its model is not the one in use here" for one in unsearched]


def _how_searched(one: SpaceCoverage) -> str:
    return "which is searched by its own model" if one.is_searched else "which is not searched: its model is not here"


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
