"""Embed text: a vector of the text with the image's label, of the text alone, or of hashed words; or skip.

The model of the first two runs here, or behind an API.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from repli.tasks.comparison.metrics import VECTORS
from repli.tasks.fallback import AnyChain, AnyRung, Breaker, ItemError, RungError, Served, StoreError, Unavailable
from repli.tasks.fallback.devices import note_device
from repli.tasks.items import Embedding, Label, Text
from repli.tasks.models.cards import call_where_it_fits, card_or_processor
from repli.tasks.models.word_hashing import HASHED_DIMENSIONS, HASHED_SPACE, hash_words
from repli.tasks.pipeline import EnrichedItem, Stage, StageContext, StageHooks
from repli.tasks.settings import ModelSettings, Settings, TextApi
from repli.tasks.stages.rates import RATES
from repli.tasks.storage import usage
from repli.tasks.storage.usage import ApiUsage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from repli.tasks.models.text_embedder import TextEmbedder
    from repli.tasks.remote.text_vectors import TextVectors, Usage

_logger = logging.getLogger(__name__)

HASHED_MAX_CHARACTERS = 100_000
API_BREAKER = "embed_text.text_and_label"
"""The breaker of an API, also where `text_only` calls it: that is the same API."""
API_LIMIT_S = 3600.0
"""Seconds for a batch by an API. Each of its requests has a limit of its own, and waits for its turn in the fleet."""
QUERY_LIMIT_S = 8.0
"""Seconds for the request of a search, which searches by keywords and other vectors where there is no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """The input of an embedding. `label` is None for an item without an image, or of whose image no rung was sure."""

    name: str
    text: str | None
    label: str | None

    def words(self, *, with_label: bool) -> str:
        """Return the name, the label if asked for, and the text, as one string."""
        parts = (self.name, self.label if with_label else None, self.text if self.text != self.name else None)
        return ". ".join(part for part in parts if part)


def _input(item: EnrichedItem) -> Passage:
    text, label = item.value(Text), item.value(Label)
    return Passage(name=str(item.name), text=text.text if text else None, label=label.label if label else None)


def query_passage(text: str) -> Passage:
    """Return the passage of a search."""
    return Passage(name=text, text=None, label=None)


def _unrelated_passage(passage: Passage, context: StageContext) -> Passage:
    """Return a passage that is unlike those of any catalogue."""
    return query_passage("Nothing that a catalogue would say")


def _warm_up(settings: Settings) -> None:
    models = settings.models
    if models.text_api:
        return
    from repli.tasks.models import text_embedder

    text_embedder.load.start(models.text, card_or_processor(models.gpu_device), models.runtime)


def _imports(settings: Settings) -> tuple[str, ...]:
    models = settings.models
    if models.text_api:
        return ("repli.tasks.remote.text_vectors",)
    from repli.tasks.models import text_embedder

    return text_embedder.modules(models.text, card_or_processor(models.gpu_device), models.runtime)


def _embed_query(text: str, settings: Settings) -> Iterator[Embedding | RungError]:
    """Yield the vectors of a search's text: of its hashed words, and of the model by its API or in numpy."""
    words = query_passage(text).words(with_label=False)
    vector = hash_words(words[:HASHED_MAX_CHARACTERS], HASHED_DIMENSIONS)
    if vector.any():
        yield Embedding(HASHED_SPACE, vector)
    if api := settings.models.text_api:
        api = replace(api, time_limit_s=min(api.time_limit_s, QUERY_LIMIT_S))
        yield from _by_api([words], api, _text_vectors(api))
        return
    from repli.tasks.models import query_encoder

    encoder = query_encoder.load(settings.models.text)
    if encoder is None:
        raise Unavailable(f"text model {settings.models.text!r} is none that can be run in numpy")
    yield Embedding(encoder.space, encoder.embed(words))
    if not vector.any():
        raise ItemError("the query contains no word to hash")


def _embed_in_space(text: str, space: str, sources: Sequence[str], settings: Settings) -> Embedding | None:
    """Return the vector of a search's text in the space of an older model, by that model."""
    from repli.tasks.models import older_models

    vector = older_models.embed(query_passage(text).words(with_label=False), space, sources, settings.models.runtime)
    return None if vector is None else Embedding(space, vector)


def _with_models(chain: AnyChain, models: ModelSettings) -> AnyChain:
    """Return the chain for these models: an API has one breaker, for all workers and for both of its rungs."""
    if models.text_api is None:
        return chain
    breaker = Breaker(scope="key", lease_s=max(60.0, 2 * models.text_time_limit_s))
    rungs = [replace(rung, breaker=breaker, time_limit_s=API_LIMIT_S) if rung.breaker else rung for rung in chain.rungs]
    return chain.with_rungs(*rungs, *([chain.skip] if chain.skip else []))


def _version(rung: AnyRung, models: ModelSettings) -> str | None:
    if rung.name == "hashed":
        return rung.version
    if api := models.text_api:
        return f"{api.url}#{api.model}"
    from repli.tasks.models.model_versions import text_version

    return text_version(models.text)


STAGE = Stage(
    "embed_text",
    input=_input,
    produces=Embedding,
    query_input=query_passage,
    comparison=replace(VECTORS, unrelated_input=_unrelated_passage),
    hooks=StageHooks(
        imports=_imports,
        warm_up=_warm_up,
        embed_query=_embed_query,
        embed_in_space=_embed_in_space,
        with_models=_with_models,
        version=_version,
    ),
)


@STAGE.rung(time_limit_s=300, breaker=Breaker(scope="host"))
def text_and_label(passages: Sequence[Passage], context: StageContext) -> Sequence[Embedding | RungError]:
    """Embed name, label and text as one vector. An item without an image needs no label."""
    return _by_model([passage.words(with_label=True) for passage in passages], context)


@STAGE.rung(penalty="0.95", time_limit_s=300, breaker=Breaker(scope="host"))
def text_only(passages: Sequence[Passage], context: StageContext) -> Sequence[Embedding | RungError]:
    """Embed name and text with the same model, and so in the same space, without the label."""
    return _by_model([passage.words(with_label=False) for passage in passages], context)


@STAGE.rung(penalty="0.8", time_limit_s=60)
def hashed(passages: Sequence[Passage]) -> Sequence[Served[Embedding] | ItemError]:
    """Hash the words without a model, into a space of their own (scikit-learn's HashingVectorizer)."""
    return [
        Served(Embedding(HASHED_SPACE, vector), RATES["embed_text.hashed"].value)
        if vector.any()
        else ItemError("name and text contain no word to hash; give the item a name in words")
        for vector in hashed_words([passage.words(with_label=False) for passage in passages])
    ]


STAGE.skip(penalty="0.7")


def hashed_words(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return unit vectors of `HASHED_SPACE`, of shape (texts, `HASHED_DIMENSIONS`); zeros for a text without a word."""
    import numpy as np

    shortened = [text[:HASHED_MAX_CHARACTERS] for text in texts]
    return np.asarray(_vectorizer().transform(shortened).toarray(), dtype=np.float32)


def _by_model(texts: Sequence[str], context: StageContext) -> Sequence[Embedding | RungError]:
    models = context.settings.models
    if not texts:
        return []
    if models.text_api:
        return _by_api_in_run(texts, models.text_api, context)
    from repli.tasks.models import text_embedder

    def load(device: str) -> TextEmbedder:
        return text_embedder.load(models.text, device, models.runtime)

    def embed(embedder: TextEmbedder) -> list[Embedding]:
        return [Embedding(embedder.space, vector) for vector in embedder.embed(texts)]

    return call_where_it_fits(load, embed, card_or_processor(models.gpu_device), items=len(texts))


def _by_api_in_run(texts: Sequence[str], api: TextApi, context: StageContext) -> Sequence[Embedding | RungError]:
    """Embed texts by an API, under its breaker, and count what that has used."""
    note_device(api.host)
    vectors = _text_vectors(api, run_id=context.run_id, call=replace(context.call, name=API_BREAKER))
    try:
        return list(_by_api(texts, api, vectors))
    finally:
        _count_usage(vectors.usage, api, context)


def _by_api(texts: Sequence[str], api: TextApi, vectors: TextVectors) -> Iterator[Embedding | RungError]:
    from repli.tasks.remote.text_vectors import space_of

    for answer in vectors.embed(texts):
        yield answer if isinstance(answer, RungError) else Embedding(space_of(api, len(answer)), answer)


def _text_vectors(api: TextApi, **options: Any) -> TextVectors:
    from repli.tasks.remote.text_vectors import TextVectors  # takes 0.3 s, and a model that runs here does not need it

    return TextVectors(api, **options)


def _count_usage(used: Usage, api: TextApi, context: StageContext) -> None:
    cost = None if api.price is None else used.tokens * api.price / 1e6
    counts = ApiUsage(model=f"{api.url}#{api.model}", **asdict(used), cost=cost)
    try:
        usage.add(context.database, context.run_id, counts)
    except StoreError as error:  # the vectors are there, and paid
        _logger.warning("the usage is not counted (%s): %s", error, counts)


@lru_cache(maxsize=1)
def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=HASHED_DIMENSIONS, token_pattern=r"(?u)\w+", norm="l2")  # noqa: S106
