"""Image classifiers from a checkpoint of one's own, with the files beside it."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import pytest

from repli.tasks.fallback import Unavailable
from repli.tasks.items import Guess, Label
from repli.tasks.models import image_classifier
from tests.support import files
from tests.support.own_models import ARCHITECTURE, classifier, save_checkpoint, softmax

LOGITS = (0.5, 2.0, 1.0)
LABELS = "cat\nguinea pig\ndog\n"


def answer(source: str) -> tuple[Label, float]:
    """What the model says of a picture."""
    model = image_classifier.load(source, "cpu")
    [result] = model.classify([model.prepare(files.png())])
    assert result.confidence == result.score
    return result.label, result.confidence


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_the_labels_are_those_of_the_file(tmp_path: Path, suffix: str) -> None:
    """Three classes: each has its line as label and its number as index, and the vocabulary is the file's stem."""
    source = save_checkpoint(classifier(LOGITS), tmp_path / f"pets.v2{suffix}", labels=LABELS)
    label, confidence = answer(source)
    first, second, third = (round(share, 4) for share in sorted(softmax(LOGITS), reverse=True))
    assert label == Label(
        label="guinea pig",
        label_index=1,
        top=(
            Guess(label="guinea pig", label_index=1, confidence=pytest.approx(first, abs=2e-4)),
            Guess(label="dog", label_index=2, confidence=pytest.approx(second, abs=2e-4)),
            Guess(label="cat", label_index=0, confidence=pytest.approx(third, abs=2e-4)),
        ),
        vocabulary="pets.v2",
    )
    assert confidence == label.top[0].confidence


@pytest.mark.parametrize(
    "labels",
    [
        b"cat\nguinea pig\ndog",
        b"cat\r\nguinea pig\r\ndog\r\n",
        b"\xef\xbb\xbfcat\nguinea pig\ndog\n",
        b" cat\nguinea pig \ndog\n",
    ],
    ids=["no last line end", "Windows", "byte order mark", "blanks"],
)
def test_a_label_is_its_line_as_any_editor_writes_it(tmp_path: Path, labels: bytes) -> None:
    """Line ends, a byte order mark and blanks around a label are none of its characters."""
    label, _ = answer(save_checkpoint(classifier(LOGITS), tmp_path / "pets.pt", labels=labels))
    assert [guess.label for guess in label.top] == ["guinea pig", "dog", "cat"]


@pytest.mark.parametrize("path", ["~/a.pt", "./a.pt", "a.pt"])
def test_a_path_may_be_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """From the home or from the current folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save_checkpoint(classifier(LOGITS), tmp_path / "a.pt", labels=LABELS)
    label, _ = answer(f"timm:{ARCHITECTURE}@{path}")
    assert label.label == "guinea pig"


def test_of_many_classes_five_are_told(tmp_path: Path) -> None:
    """The best five of nine, best first."""
    labels = "".join(f"kind {number}\n" for number in range(9))
    label, _ = answer(save_checkpoint(classifier([float(n) for n in range(9)]), tmp_path / "pets.pt", labels=labels))
    assert [guess.label_index for guess in label.top] == [8, 7, 6, 5, 4]


@pytest.mark.parametrize("threshold", [0.62, 0.64, 0, 1])
def test_a_threshold_is_the_files(tmp_path: Path, threshold: float) -> None:
    """The model tells its best guess and confidence in any case; the rung declines it below the threshold."""
    options = f'{{"threshold": {threshold}}}'
    source = save_checkpoint(classifier(LOGITS), tmp_path / "a.pt", labels=LABELS, options=options)
    label, confidence = answer(source)
    assert (label.label, confidence) == ("guinea pig", pytest.approx(0.6285, abs=2e-4))
    assert image_classifier.load(source, "cpu").threshold == threshold


@pytest.mark.parametrize("temperature", [0.5, 1, 4.0])
def test_a_temperature_divides_the_logits(tmp_path: Path, temperature: float) -> None:
    """The confidence, and that of each guess, is the one after it; the order stays."""
    options = f'{{"vocabulary": "my pets", "temperature": {temperature}, "threshold": 0}}'
    label, confidence = answer(save_checkpoint(classifier(LOGITS), tmp_path / "a.pt", labels=LABELS, options=options))
    wanted = sorted(softmax(LOGITS, temperature), reverse=True)
    assert [guess.confidence for guess in label.top] == pytest.approx(wanted, abs=2e-4)
    assert confidence == label.top[0].confidence
    assert [guess.label for guess in label.top] == ["guinea pig", "dog", "cat"]
    assert label.vocabulary == "my pets"


def test_without_labels_a_thousand_classes_are_imagenets(tmp_path: Path) -> None:
    """Its threshold may still be set; its vocabulary may not."""
    logits = [0.0] * 1000
    logits[1] = 9.0
    label, _ = answer(save_checkpoint(classifier(logits), tmp_path / "mine.pt", options='{"threshold": 0.1}'))
    assert (label.label, label.label_index, label.vocabulary) == ("goldfish", 1, "imagenet-1k")
    (tmp_path / "other.json").write_text('{"vocabulary": "fish"}')
    with pytest.raises(Unavailable, match=r"other\.json names a vocabulary without labels; .* to .*other\.labels\.txt"):
        image_classifier.load(save_checkpoint(classifier(logits), tmp_path / "other.pt"), "cpu")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", r"a\.labels\.txt, line 1: the label is empty; write one label a line"),
        ("cat\n\ndog\n", r"a\.labels\.txt, line 2: the label is empty"),
        ("cat\ndog\n \n", r"a\.labels\.txt, line 3: the label is empty"),
        ("cat\ndog\ncat \n", r"a\.labels\.txt, line 3: 'cat' is the label of line 1 too; make the labels distinct"),
        ("cat\ndog\n", r"a\.labels\.txt has 2 labels, but a\.pt has 3 classes; write one for each"),
        ("cat\ndog\nbird\nfish\n", r"a\.labels\.txt has 4 labels, but a\.pt has 3 classes; write one for each"),
        ("Kätzchen\n".encode("latin-1"), r"a\.labels\.txt is not UTF-8; save it as UTF-8"),
        ("cat\ndog\n".encode("utf-16-le"), r"a\.labels\.txt, line 1: the label has a null character; save the file"),
        (None, r"a\.pt has 3 classes, not 1000; write their labels, one a line, to .*a\.labels\.txt"),
    ],
)
def test_labels_that_do_not_fit_are_told(tmp_path: Path, labels: str | bytes | None, message: str) -> None:
    """The model is unavailable, and the message names the file, the line and the next step."""
    with pytest.raises(Unavailable, match=message):
        image_classifier.load(save_checkpoint(classifier(LOGITS), tmp_path / "a.pt", labels=labels), "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"treshold": 0.4}', "unknown key 'treshold'; choose from vocabulary, threshold, temperature"),
        ('{"threshold": 1.1}', "threshold is 1.1; write a number from 0 to 1"),
        ('{"threshold": -0.1}', "threshold is -0.1"),
        ('{"threshold": NaN}', "threshold is nan"),
        ('{"threshold": true}', "threshold is True"),
        ('{"threshold": "0.4"}', "threshold is '0.4'"),
        ('{"temperature": 0}', "temperature is 0; write a number above 0"),
        ('{"temperature": -1.5}', "temperature is -1.5"),
        ('{"temperature": Infinity}', "temperature is inf"),
        ('{"temperature": null}', "temperature is None"),
        ('{"vocabulary": " "}', "vocabulary is ' '; write the name of the set of labels"),
        ('{"vocabulary": ["pets"]}', r"vocabulary is \['pets'\]"),
        (
            '{"vocabulary": "imagenet-1k"}',
            "the vocabulary imagenet-1k has ImageNet's labels; set another vocabulary in ",
        ),
        ("[0.4]", 'is not a JSON object; write, for example, {"threshold": 0.4}'),
        ("{threshold: 0.4}", r"is not JSON \(.*line 1.*\); correct it"),
    ],
)
def test_options_that_are_invalid_are_told(tmp_path: Path, options: str, message: str) -> None:
    """The model is unavailable, and the message names the file, the value and the next step."""
    with pytest.raises(Unavailable, match=message) as told:
        image_classifier.load(
            save_checkpoint(classifier(LOGITS), tmp_path / "a.pt", labels=LABELS, options=options), "cpu"
        )
    assert str(tmp_path / "a.json") in str(told.value)


def test_a_file_named_as_imagenet_needs_another_vocabulary(tmp_path: Path) -> None:
    """Labels of one's own never pass for ImageNet's."""
    file = tmp_path / "imagenet-1k.pt"
    with pytest.raises(Unavailable, match=r"set another vocabulary in .*imagenet-1k\.json"):
        image_classifier.load(save_checkpoint(classifier(LOGITS), file, labels=LABELS), "cpu")
    label, _ = answer(save_checkpoint(classifier(LOGITS), file, labels=LABELS, options='{"vocabulary": "pets"}'))
    assert label.vocabulary == "pets"


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("kind", ["beside the weights", "as a bare pickle"])
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, kind: str) -> None:
    """A file with a Python object beside its tensors is refused, and the object is not built."""
    import torch

    source = save_checkpoint(classifier(LOGITS), tmp_path / "a.pt", labels=LABELS)
    trap = {"state_dict": classifier(LOGITS).state_dict(), "trap": Trap(tmp_path / "sprung")}
    if kind == "as a bare pickle":
        (tmp_path / "a.pt").write_bytes(pickle.dumps(trap["trap"], protocol=2))
    else:
        torch.save(trap, tmp_path / "a.pt")
    message = r"a\.pt cannot be loaded as weights \(it is damaged, or holds other Python objects than tensors"
    with pytest.raises(Unavailable, match=message):
        image_classifier.load(source, "cpu")
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_of_timms_training_is_loaded(tmp_path: Path) -> None:
    """The averaged weights in it are taken, and its arguments are let through."""
    import torch

    source = save_checkpoint(classifier(LOGITS), tmp_path / "a.pth", labels=LABELS)
    training = {
        "epoch": 3,
        "arch": ARCHITECTURE,
        "args": argparse.Namespace(lr=0.1),
        "state_dict": classifier((9.0, 0.0, 0.0)).state_dict(),
        "state_dict_ema": classifier(LOGITS).state_dict(),
    }
    torch.save(training, tmp_path / "a.pth")
    label, _ = answer(source)
    assert label.label == "guinea pig"


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps([1, 2])])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_broken_checkpoint_is_told(tmp_path: Path, suffix: str, content: bytes) -> None:
    """The message names the file and how to make a good one."""
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(Unavailable, match=rf"a{suffix} cannot be loaded as weights .*; save model\.state_dict\(\) as"):
        image_classifier.load(f"timm:{ARCHITECTURE}@{tmp_path / 'a'}{suffix}", "cpu")


def test_a_checkpoint_of_another_architecture_is_told(tmp_path: Path) -> None:
    """The message says so in short, although no tensor fits."""
    source = save_checkpoint(classifier(LOGITS, "test_convnext"), tmp_path / "a.pt", labels=LABELS)
    with pytest.raises(
        Unavailable, match=rf"a\.pt does not hold the weights of {ARCHITECTURE} .*name its arch"
    ) as told:
        image_classifier.load(source, "cpu")
    assert len(str(told.value)) < 700


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.pt", "there is no such file; correct its path"),
        ("folder.pt", "there is no such file"),
        ("a.bin", r"a checkpoint is a file \*\.safetensors, \*\.pth, \*\.pt; convert it"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, name: str, message: str) -> None:
    """The path is in the message."""
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "a.bin").touch()
    with pytest.raises(Unavailable, match=rf"{name} cannot be loaded: {message}"):
        image_classifier.load(f"timm:{ARCHITECTURE}@{tmp_path / name}", "cpu")


def test_an_unknown_architecture_is_told(tmp_path: Path) -> None:
    """The whole source is in the message."""
    save_checkpoint(classifier(LOGITS), tmp_path / "a.pt", labels=LABELS)
    with pytest.raises(Unavailable, match=r"'timm:no_such_net@.*a\.pt' cannot be loaded \(Unknown model"):
        image_classifier.load(f"timm:no_such_net@{tmp_path / 'a.pt'}", "cpu")


def test_pixels_are_scaled_as_timm_configures_the_architecture(tmp_path: Path) -> None:
    """Its size, and its mean and deviation, which are not the usual ones: a grey picture gives timm's own answer."""
    import timm
    import torch
    from PIL import Image

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3).eval()
    model.head.weight.data.mul_(50)
    config = model.pretrained_cfg
    source = save_checkpoint(model, tmp_path / "a.pt", labels=LABELS, options='{"threshold": 0}')
    mine = image_classifier.load(source.replace(ARCHITECTURE, "test_vit"), "cpu")
    prepared = mine.prepare(files.encoded(Image.new("RGB", (300, 200), (200, 60, 90))))
    assert prepared.pixels.shape == (160, 160, 3)
    [(label, *_)] = mine.classify([prepared])
    channels = zip((200, 60, 90), config["mean"], config["std"], strict=True)
    pixels = torch.tensor([(value / 255 - mean) / std for value, mean, std in channels])
    with torch.inference_mode():
        wanted = model(pixels.view(1, 3, 1, 1).expand(1, 3, 160, 160)).softmax(-1)[0]
    by_index = {guess.label_index: guess.confidence for guess in label.top}
    assert [by_index[index] for index in range(3)] == pytest.approx(wanted.tolist(), abs=2e-4)
