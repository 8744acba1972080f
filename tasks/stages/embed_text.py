"""Embed text: a vector of the text with the image's label, of the text alone, or of hashed words; or skip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from repli.tasks.comparison.metrics import VECTORS
from repli.tasks.fallback import Breaker, Chain, Failed, ItemError, Outcome, Rung, Served, Skip
from repli.tasks.items import Embedding, ItemState
from repli.tasks.pipeline import Stage, StageContext

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HASHED_DIMENSIONS = 1024
HASHED_SPACE = f"hashing-vectorizer:1:{HASHED_DIMENSIONS}-words-l2"
HASHED_MAX_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """The input of an embedding. `label` is None for an item without an image, or whose label was withheld."""

    name: str
    text: str | None
    label: str | None

    def words(self, *, with_label: bool) -> str:
        """Return the name, the label if asked for, and the text, as one string."""
        parts = (self.name, self.label if with_label else None, self.text if self.text != self.name else None)
        return ". ".join(part for part in parts if part)


def text_and_label(passages: Sequence[Passage], context: StageContext) -> Sequence[Outcome[Embedding]]:
    """Embed name, label and text as one vector. An item without an image needs no label."""
    return _by_model([passage.words(with_label=True) for passage in passages], context)


def text_only(passages: Sequence[Passage], context: StageContext) -> Sequence[Outcome[Embedding]]:
    """Embed name and text with the same model, and so in the same space, without the label."""
    return _by_model([passage.words(with_label=False) for passage in passages], context)


def hashed(passages: Sequence[Passage], context: StageContext) -> Sequence[Outcome[Embedding]]:
    """Hash the words without a model, into a space of their own (scikit-learn's HashingVectorizer)."""
    return [
        Served(Embedding(space=HASHED_SPACE, vector=vector))
        if vector.any()
        else Failed.because(ItemError("name and text contain no word to hash; give the item a name in words"))
        for vector in hashed_words([passage.words(with_label=False) for passage in passages])
    ]


def hashed_words(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return unit vectors of `HASHED_SPACE`, of shape (texts, `HASHED_DIMENSIONS`); zeros for a text without a word."""
    import numpy as np

    shortened = [text[:HASHED_MAX_CHARACTERS] for text in texts]
    return np.asarray(_vectorizer().transform(shortened).toarray(), dtype=np.float32)


def check(embedding: Embedding) -> None:
    """Raise ValueError unless the answer is a unit vector of a named space."""
    import numpy as np

    if not isinstance(embedding, Embedding):
        raise ValueError("the answer is not an Embedding")
    if not embedding.space:
        raise ValueError("the space has no name, so the vector cannot be compared with others")
    if embedding.vector.ndim != 1 or embedding.vector.dtype != np.float32:
        raise ValueError("the vector is not a one-dimensional float32 array")
    length = float(np.linalg.norm(embedding.vector))
    if not abs(length - 1) < 1e-3:  # NaN too
        raise ValueError(f"the vector has length {length}, not 1")


CHAIN = Chain(
    "embed_text",
    Rung("text_and_label", text_and_label, breaker=Breaker(scope="host"), time_limit_s=300),
    Rung("text_only", text_only, penalty="0.95", breaker=Breaker(scope="host"), time_limit_s=300),
    Rung("hashed", hashed, penalty="0.8", time_limit_s=60),
    Skip(penalty="0.7"),
    check=check,
)


def _input(state: ItemState) -> Passage:
    return Passage(
        name=str(state.item.name),
        text=(state.value("extract_text") or {}).get("text"),
        label=(state.value("classify_image") or {}).get("label"),
    )


def _unrelated_passage(passage: Passage, context: StageContext) -> Passage:
    """Return a passage that is unlike those of any catalogue."""
    return Passage(name="Nothing that a catalogue would say", text=None, label=None)


STAGE = Stage(CHAIN, _input, replace(VECTORS, unrelated_input=_unrelated_passage))


def _by_model(texts: Sequence[str], context: StageContext) -> Sequence[Served[Embedding]]:
    if not texts:
        return []
    from repli.tasks.models import text_embedder

    embedder = text_embedder.load(context.settings.models.text)
    return [Served(Embedding(space=embedder.space, vector=vector)) for vector in embedder.embed(texts)]


@lru_cache(maxsize=1)
def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=HASHED_DIMENSIONS, token_pattern=r"(?u)\w+", norm="l2")  # noqa: S106
