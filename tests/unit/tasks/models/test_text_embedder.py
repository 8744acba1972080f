"""Text models of one's own: folders as sentence-transformers saves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repli.tasks.fallback import Unavailable
from repli.tasks.models import text_embedder, torchvision_ops
from tests.support.own_models import save_bag_of_words, save_transformer, save_word_vectors

TEXTS = ["a red boat", "the brass lamp of the dog"]


@pytest.fixture(autouse=True)
def importable() -> None:
    """What imports sentence-transformers here has to be able to."""
    torchvision_ops.declare()


def test_a_folder_is_found_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its whole path, from the current folder, as that folder, and from the home; its own name names the space."""
    save_word_vectors(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    embedders = [text_embedder.load(source) for source in (str(tmp_path / "mine"), "mine", "./mine/", "~/mine")]
    monkeypatch.chdir(tmp_path / "mine")
    embedders.append(text_embedder.load("."))
    [space] = {embedder.space for embedder in embedders}
    name, revision, preparation = space.split(":")
    assert (name, len(revision), preparation) == ("mine", 12, "inf-tokens-l2")
    for embedder in embedders:
        np.testing.assert_array_equal(embedder.embed(TEXTS), embedders[0].embed(TEXTS))


def test_other_weights_are_another_space(tmp_path: Path) -> None:
    """Two folders of one name are told apart by their weights, and equal weights are one space."""
    for folder, seed in (("a", 0), ("b", 1), ("c", 0)):
        save_word_vectors(tmp_path / folder / "mine", seed)
    first, second, third = (text_embedder.load(str(tmp_path / folder / "mine")).space for folder in "abc")
    assert first == third != second


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nothing", "there is no such folder; name a folder of sentence-transformers"),
        ("~/nothing", "there is no such folder"),
        ("/no/such/folder", "there is no such folder"),
        ("./file", "it is a file; name a folder of sentence-transformers"),
        ("empty", r"the folder has no modules\.json; name one that SentenceTransformer\.save wrote"),
    ],
)
def test_a_folder_that_is_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    """It is never taken for the name of a model to download."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=rf"text model '{source}' cannot be loaded: {message}"):
        text_embedder.load(source)


@pytest.mark.parametrize(
    "content", ["", "[", "{}", '[{"idx": 0}]', '[{"idx": 0, "name": "0", "path": "", "type": "x.Y"}]']
)
def test_a_broken_folder_is_told(tmp_path: Path, content: str) -> None:
    """Whatever the library raises, the model is unavailable, and the message names the folder."""
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(
        Unavailable, match=rf"text model '{tmp_path}' cannot be loaded \(.*\); check its name or folder"
    ):
        text_embedder.load(str(tmp_path))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_vectors_are_of_unit_length_whatever_the_weights_are(tmp_path: Path, dtype: str) -> None:
    """A transformer in half precision gives float32 vectors of length 1, of long texts too."""
    save_transformer(tmp_path / "mine", dtype)
    embedder = text_embedder.load(str(tmp_path / "mine"))
    vectors = embedder.embed([*TEXTS, "a boat of the sea " * 1000])
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, 16))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert embedder.space.endswith(":32-tokens-l2")


def test_lengths_that_are_not_one_are_made_so(tmp_path: Path) -> None:
    """Means of word vectors of any length become unit vectors."""
    save_word_vectors(tmp_path / "mine")
    vectors = text_embedder.load(str(tmp_path / "mine")).embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_model_without_a_limit_of_tokens_works(tmp_path: Path) -> None:
    """Its space says that there is none."""
    save_bag_of_words(tmp_path / "mine")
    embedder = text_embedder.load(str(tmp_path / "mine"))
    assert embedder.space.endswith(":None-tokens-l2")
    assert embedder.embed(TEXTS) @ embedder.embed(TEXTS).T == pytest.approx(np.array([[1, 0], [0, 1]]), abs=0.3)
