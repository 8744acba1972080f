"""Embed the text of a search by an older text model, in whose space vectors still are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from repli.tasks.fallback import RungError
from repli.tasks.models import query_encoder, text_embedder


def embed(text: str, space: str, sources: Sequence[str], runtime: str) -> npt.NDArray[np.float32] | None:
    """Return the vector of a text in this space; None where the model of the space is not on this machine.

    Args:
        sources: text models that may be the one, as `text_embedder.load` takes them. An installed package is found
            without them.
        runtime: see `text_embedder.load`.
    """
    name = space.partition(":")[0]
    for source in _candidates(name, sources):
        try:
            encoder = query_encoder.load(source)
            if encoder is not None:
                if encoder.space == space:
                    return encoder.embed(text)
                continue
            embedder = text_embedder.load(source, "cpu", runtime)
            if embedder.space == space:
                vector: npt.NDArray[np.float32] = embedder.embed([text])[0]
                return vector
        except (RungError, OSError, ValueError, LookupError):  # gone, or another model by now
            continue
    return None


def _candidates(name: str, sources: Sequence[str]) -> Iterator[str]:
    """Yield the sources that have the model's name and are on this machine."""
    for source in (f"package:{name}", *sources):
        try:
            folder, found = text_embedder.locate(source)
        except RungError:
            continue
        if found == name and folder is not None:  # a name would be downloaded
            yield source
