"""Text models of sentence-transformers, as torch runs them. Import this module only where needed: it takes seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers.utils import logging

from repli.tasks.models.memory_errors import raise_out_of_memory

Precision = Literal["float32", "bfloat16", "float16"]

logging.disable_progress_bar()  # stderr is for the run's own progress


class TorchTextNetwork:
    """A sentence-transformers model on a device, called with texts.

    Args:
        precision: `float16`, which suits a card, converts the weights; `bfloat16` is only that of products.
    """

    def __init__(self, model: Any, device: str, precision: Precision = "float32") -> None:
        self._device = torch.device(device)
        self._is_bfloat16 = precision == "bfloat16"
        with raise_out_of_memory(f"the text model and {device}"):
            self._model = (model.half() if precision == "float16" else model.float()).to(self._device)

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector of any length for each text."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bfloat16):
            vectors = self._model.encode(
                list(texts), batch_size=32, convert_to_numpy=True, show_progress_bar=False, device=str(self._device)
            )
        return np.asarray(vectors, dtype=np.float32)


class TokenNetwork(torch.nn.Module):
    """A sentence-transformers model that takes the numbers of tokens, and their mask, and returns a vector a text."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features: dict[str, torch.Tensor] = {"input_ids": input_ids, "attention_mask": attention_mask}
        for module in self.model:
            features = module(features)
        return features["sentence_embedding"].float()


def load_model(name: str, *, is_local: bool) -> Any:
    """Return the model of a folder, or of a name. Raises exceptions of any type."""
    return SentenceTransformer(name, device="cpu", local_files_only=is_local)


def revision(model: Any) -> str:
    """Return a hash of the weights: two models with one name have different spaces."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        # As bytes: numpy has no bfloat16.
        digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_json(model: Any) -> str | None:
    """Return the tokenizer of a model as a document of `tokenizers`; None where it takes more to prepare a text."""
    is_plain = isinstance(model[0], Transformer) and not model.default_prompt_name and model.max_seq_length
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", None) if is_plain else None
    return tokenizer.to_str() if tokenizer is not None else None
