"""What timm itself knows of a model's labels, from folders as timm saves them: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repli.tasks.fallback import Unavailable
from repli.tasks.items import Label
from repli.tasks.models import image_classifier
from tests.support import files
from tests.support.own_models import classifier


def answer(folder: Path, logits: list[float], **config: Any) -> Label:
    """What a model says of a picture that was saved for a hub with this configuration."""
    model = classifier(logits)
    from timm.models import save_for_hf

    save_for_hf(model, str(folder), model_config={"num_classes": len(logits), **config})
    loaded = image_classifier.load(f"timm:local-dir:{folder}", "cpu")
    [(label, *_)] = loaded.classify([loaded.prepare(files.png())])
    return label


@pytest.mark.parametrize("names", [["cat", "bird", "dog"], {"0": "cat", "1": "bird", "2": "dog"}])
def test_the_labels_of_the_configuration_are_taken(tmp_path: Path, names: Any) -> None:
    """With their index; the vocabulary is the model's name."""
    label = answer(tmp_path / "pets@home", [0.0, 5.0, 1.0], label_names=names)
    assert (label.label, label.label_index, label.vocabulary) == ("bird", 1, "pets@home")


def test_descriptions_are_better_labels_than_codes(tmp_path: Path) -> None:
    """A model whose classes have codes is read by its descriptions; a class without a name keeps its number."""
    label = answer(
        tmp_path / "pets",
        [4.0, 5.0, 3.0],
        label_names={"0": "n01", "1": "n02"},
        label_descriptions={"n01": "cat", "n02": "bird"},
    )
    assert [guess.label for guess in label.top] == ["bird", "cat", "class 2"]


def test_a_larger_set_of_imagenet_is_known(tmp_path: Path) -> None:
    """Of its 11,821 classes, the first is a plant or an animal by name, and not a number."""
    logits = [0.0] * 11821
    logits[0] = 20.0
    label = answer(tmp_path / "large", logits)
    from timm.data import ImageNetInfo

    wanted = ImageNetInfo("imagenet-12k").index_to_description(0).split(",")[0]
    assert (label.label, label.label_index, label.vocabulary) == (wanted, 0, "imagenet-12k")


def test_a_thousand_classes_without_names_are_imagenets(tmp_path: Path) -> None:
    """As timm itself takes them."""
    label = answer(tmp_path / "usual", [0.0] * 999 + [9.0])
    assert (label.label_index, label.vocabulary) == (999, "imagenet-1k")


def test_classes_that_nobody_knows_have_numbers(tmp_path: Path) -> None:
    """They have no index, since they belong to no vocabulary."""
    label = answer(tmp_path / "unknown", [0.0, 5.0, 1.0])
    assert (label.label, label.label_index, label.vocabulary) == ("class 1", None, "3 classes")


def test_other_labels_never_pass_for_imagenets(tmp_path: Path) -> None:
    """A model that is named as ImageNet's vocabulary, with names of its own, is refused."""
    with pytest.raises(Unavailable, match="a model with labels of its own is named imagenet-1k"):
        answer(tmp_path / "imagenet-1k", [0.0, 5.0], label_names=["cat", "dog"])


def test_a_model_without_classes_is_refused(tmp_path: Path) -> None:
    """What only makes features cannot classify."""
    model = classifier([0.0])
    from timm.models import save_for_hf

    model.reset_classifier(0)
    save_for_hf(model, str(tmp_path / "features"), model_config={"num_classes": 0})
    with pytest.raises(Unavailable, match="features' has no classes; choose one that was trained to classify"):
        image_classifier.load(f"timm:local-dir:{tmp_path / 'features'}", "cpu")
