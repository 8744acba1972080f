"""An image classifier of one's own: a timm checkpoint, and the files beside it that say what its outputs mean.

::

    pets.safetensors    the weights; or pets.pth, or pets.pt
    pets.labels.txt     one label a line, in the order of the classes
    pets.json           {"vocabulary": "pets", "threshold": 0.4, "temperature": 0.9}, each of them optional
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import Unavailable
from repli.tasks.items import clean_text
from repli.tasks.models.reason import reason
from repli.tasks.models.vocabulary import IMAGENET, Vocabulary

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".pth", ".pt")
DEFAULT_THRESHOLD = 0.3
_KEYS = ("vocabulary", "threshold", "temperature")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """How the outputs of a checkpoint are read. Build it with `read_settings`.

    Args:
        vocabulary: the labels; None for a checkpoint without a file of labels.
        threshold: the score below which the rung declines, see `repli.tasks.models.image_reading`.
        temperature: the divisor of the logits. Above 1 it lowers confidences, below 1 it raises them.
        least_side: the shorter side of a picture in pixels below which it is small. No file sets it.

    Example:
        >>> read_settings(Path("pets.safetensors")).vocabulary.name
        'pets'
    """

    vocabulary: Vocabulary | None = None
    threshold: float = DEFAULT_THRESHOLD
    temperature: float = 1.0
    least_side: int = 0


def read_settings(checkpoint: Path) -> OutputSettings:
    """Read the files beside a checkpoint.

    Raises:
        Unavailable: the checkpoint does not exist, or a file is invalid; the message names it and says what to do.
    """
    if checkpoint.suffix not in SUFFIXES:
        raise Unavailable(f"{checkpoint} cannot be loaded: a checkpoint is a file *{', *'.join(SUFFIXES)}; convert it")
    if not checkpoint.is_file():
        raise Unavailable(f"{checkpoint} cannot be loaded: there is no such file; correct its path")
    _, labels_file, options_file = files_of(checkpoint)
    labels = _read_labels(labels_file) if labels_file.exists() else None
    options = _read_options(options_file) if options_file.exists() else {}
    name = options.get("vocabulary", checkpoint.stem)
    if labels and name == IMAGENET:
        raise Unavailable(
            f"{labels_file}: the vocabulary {IMAGENET} has ImageNet's labels; set another vocabulary in {options_file}"
        )
    if not labels and "vocabulary" in options:
        raise Unavailable(f"{options_file} names a vocabulary without labels; write them, one a line, to {labels_file}")
    return OutputSettings(
        vocabulary=Vocabulary(name=name, labels=labels) if labels else None,
        threshold=options.get("threshold", DEFAULT_THRESHOLD),
        temperature=options.get("temperature", 1.0),
    )


def files_of(checkpoint: Path) -> tuple[Path, ...]:
    """Return the paths of a checkpoint and of the files beside it, whether they exist or not."""
    return checkpoint, labels_beside(checkpoint), checkpoint.with_suffix(".json")


def labels_beside(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's file of labels, whether it exists or not."""
    return checkpoint.with_name(f"{checkpoint.stem}.labels.txt")


def build_model(architecture: str, checkpoint: Path, vocabulary: Vocabulary | None) -> torch.nn.Module:
    """Return the model with the checkpoint's weights. Code in the checkpoint is never run.

    Args:
        architecture: a name of timm.
        checkpoint: a file of tensors; timm's training checkpoints are accepted too.
        vocabulary: a label for each class; None for the architecture's own number of classes.

    Raises:
        Unavailable: the checkpoint holds other things than tensors, or not those of this model.
    """
    import timm

    labels = vocabulary.labels if vocabulary else None
    model = timm.create_model(architecture, num_classes=len(labels) if labels else None)
    try:
        state = timm.models.load_state_dict(str(checkpoint), device="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  a broken file raises exceptions of any type
        raise Unavailable(
            f"{checkpoint} cannot be loaded as weights ({reason(error)}); save model.state_dict() as safetensors"
        ) from None
    _check_classes(model, state, checkpoint, has_labels=bool(labels))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise Unavailable(
            f"{checkpoint} does not hold the weights of {architecture} ({reason(error)}); name its architecture"
        ) from None
    return model


def _check_classes(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], checkpoint: Path, *, has_labels: bool
) -> None:
    import torch

    heads = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    weights = [state.get(f"{head}.weight") for head in ([heads] if isinstance(heads, str) else heads)]
    found = {int(weight.shape[0]) for weight in weights if isinstance(weight, torch.Tensor) and weight.ndim}
    count = int(model.num_classes)  # type: ignore[arg-type]
    if not found or found == {count}:
        return
    file, classes = labels_beside(checkpoint), max(found)
    if not has_labels:
        raise Unavailable(f"{checkpoint} has {classes} classes, not {count}; write their labels, one a line, to {file}")
    raise Unavailable(f"{file} has {count} labels, but {checkpoint.name} has {classes} classes; write one for each")


def _read_labels(file: Path) -> tuple[str, ...]:
    lines = [line.strip() for line in _read_text(file).removesuffix("\n").split("\n")]
    first: dict[str, int] = {}
    for number, label in enumerate(lines, 1):
        if not label:
            raise Unavailable(f"{file}, line {number}: the label is empty; write one label a line")
        if clean_text(label) != label:
            raise Unavailable(f"{file}, line {number}: the label has a null character; save the file as UTF-8 text")
        if label in first:
            raise Unavailable(
                f"{file}, line {number}: {label!r} is the label of line {first[label]} too; make the labels distinct"
            )
        first[label] = number
    return tuple(lines)


def _read_options(file: Path) -> dict[str, Any]:
    try:
        options = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise Unavailable(f"{file} is not JSON ({error}); correct it") from None
    if not isinstance(options, dict):
        raise Unavailable(f'{file} is not a JSON object; write, for example, {{"threshold": 0.4}}')
    if unknown := [key for key in options if key not in _KEYS]:
        raise Unavailable(f"{file}: unknown key {unknown[0]!r}; choose from {', '.join(_KEYS)}")
    vocabulary = options.get("vocabulary", "-")
    if not isinstance(vocabulary, str) or not vocabulary.strip() or clean_text(vocabulary) != vocabulary:
        raise Unavailable(f"{file}: vocabulary is {vocabulary!r}; write the name of the set of labels")
    threshold, temperature = options.get("threshold", 0), options.get("temperature", 1)
    if not (_is_number(threshold) and 0 <= threshold <= 1):
        raise Unavailable(f"{file}: threshold is {threshold!r}; write a number from 0 to 1")
    if not (_is_number(temperature) and 0 < temperature < math.inf):
        raise Unavailable(f"{file}: temperature is {temperature!r}; write a number above 0")
    return options


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_text(file: Path) -> str:
    """Return a text in UTF-8, without the byte order mark that some editors write."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise Unavailable(f"{file} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise Unavailable(f"{file} cannot be read ({error.strerror}); correct it") from None
