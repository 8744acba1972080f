"""Models of one's own, made from nothing: tiny classifiers whose answers are known, and tiny text models."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ARCHITECTURE = "test_resnet"
"""One of timm's own for tests: 0.5 million weights, made in milliseconds."""
WORDS = ["a", "brass", "lamp", "red", "boat", "dog", "of", "the", "sea"]


def classifier(logits: Sequence[float], architecture: str = ARCHITECTURE) -> Any:
    """A model that answers every picture with these logits, one for each class."""
    from repli.tasks.models import torchvision_ops

    torchvision_ops.declare()
    import timm
    import torch

    model = timm.create_model(architecture, num_classes=len(logits))
    head = model.get_classifier()
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor(logits))
    return model


def save_checkpoint(model: Any, file: Path, *, labels: str | bytes | None = None, options: str | None = None) -> str:
    """Write the weights, and what stands beside them; the source of the model."""
    import torch
    from safetensors.torch import save_file

    if file.suffix == ".safetensors":
        save_file(model.state_dict(), file)
    else:
        torch.save(model.state_dict(), file)
    if labels is not None:
        beside = file.with_name(f"{file.stem}.labels.txt")
        beside.write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    if options is not None:
        file.with_suffix(".json").write_text(options, encoding="utf-8")
    return f"timm:{ARCHITECTURE}@{file}"


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """The confidences of these logits, computed without a model."""
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def save_word_vectors(folder: Path, seed: int = 0) -> None:
    """A sentence-transformers folder whose vectors are means of random word vectors, far from unit length."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = torch.randn(len(vocabulary), 8, generator=torch.Generator().manual_seed(seed)) * 50
    embedding = StaticEmbedding(tokenizer, embedding_weights=vectors)
    SentenceTransformer(modules=[embedding], device="cpu").save(str(folder))


def save_bag_of_words(folder: Path) -> None:
    """A sentence-transformers folder of a model that has no limit of tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    SentenceTransformer(modules=[BoW(WORDS)], device="cpu").save(str(folder))


def save_transformer(folder: Path, dtype: str = "float32", *, tokens: int = 32) -> None:
    """A sentence-transformers folder of a transformer of one layer, with random weights of this type."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    raw = folder.with_name(f"{folder.name} before pooling")
    BertTokenizerFast(vocab={word: index for index, word in enumerate(vocabulary)}).save_pretrained(raw)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=tokens, **size)
    BertModel(config).to(getattr(torch, dtype)).save_pretrained(raw)
    SentenceTransformer(modules=[Transformer(str(raw)), Pooling(16)], device="cpu").save(str(folder))


def hanging_image_model(folder: Path) -> tuple[str, Path]:
    """The source of a checkpoint whose load hangs, and the named pipe for which it waits: its labels."""
    folder.mkdir()
    source = save_checkpoint(classifier([0.0, 9.0]), folder / "pets.pt")
    os.mkfifo(folder / "pets.labels.txt")
    return source, folder / "pets.labels.txt"


def hanging_text_model(folder: Path) -> tuple[str, Path]:
    """The source of a text model whose load hangs, and the named pipe for which it waits: one of its settings."""
    save_word_vectors(folder)
    pipe = folder / "config_sentence_transformers.json"
    pipe.unlink()
    os.mkfifo(pipe)
    return str(folder), pipe
