"""Vocabularies of image classifiers: the label of each class, and the name of the set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import Unavailable
from repli.tasks.models.imagenet_labels import labels

if TYPE_CHECKING:
    import torch

IMAGENET = "imagenet-1k"
"""The vocabulary of ImageNet's 1,000 classes, the default. No other labels may have this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The labels of a classifier, by the index of the class, and the name that each result gives them.

    `labels` is None if nobody knows them: then class 3 is called "class 3", and has no index.

    Example:
        >>> Vocabulary(name="pets", labels=("cat", "dog")).label(1)
        ('dog', 1)
    """

    name: str
    labels: tuple[str, ...] | None

    def label(self, index: int) -> tuple[str, int | None]:
        """Return the label of a class, and its index in the vocabulary."""
        return (self.labels[index], index) if self.labels else (f"class {index}", None)


def known_vocabulary(model: torch.nn.Module, name: str) -> Vocabulary:
    """Return the vocabulary that timm knows for a model: the labels in its configuration, or one of ImageNet's sets.

    Args:
        model: a model of timm.
        name: the vocabulary's name, for labels from the configuration.

    Raises:
        Unavailable: the labels of the configuration would have the name of ImageNet's own.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    count = int(model.num_classes)  # type: ignore[arg-type]
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    if config.get("label_names"):
        if name == IMAGENET:
            raise Unavailable(
                f"a model with labels of its own is named {IMAGENET}, as ImageNet's labels are; rename it"
            )
        return Vocabulary(name=name, labels=_configured_labels(config, count))
    subset = infer_imagenet_subset(model)
    if subset == IMAGENET:
        return Vocabulary(name=IMAGENET, labels=labels())
    if subset:
        lemmas = ImageNetInfo(subset).label_descriptions()
        return Vocabulary(name=subset, labels=tuple(words.partition(",")[0].strip() for words in lemmas))
    return Vocabulary(name=f"{count} classes", labels=None)


def _configured_labels(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the description of each class, or its name, from a model's configuration."""
    names = config["label_names"]
    by_index = (
        {int(index): name for index, name in names.items()} if isinstance(names, Mapping) else dict(enumerate(names))
    )
    descriptions = config.get("label_descriptions") or {}
    found = (by_index.get(index, f"class {index}") for index in range(count))
    return tuple(descriptions.get(name, name) for name in found)
