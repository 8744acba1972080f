"""Image models of timm, as torch runs them. Import this module only where they are needed: it takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import timm
import torch
from timm.data import resolve_data_config

from repli.tasks.fallback import Unavailable
from repli.tasks.models.memory_errors import raise_out_of_memory
from repli.tasks.models.pictures import Preparation


class PixelNetwork(torch.nn.Module):
    """A timm model that takes pixels: uint8 of shape (images, size, size, 3). It returns logits, float32."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        config = resolve_data_config({}, model=model)
        self.preparation = Preparation(size=int(config["input_size"][-1]), crop=float(config["crop_pct"]))
        self.model = model.eval()
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1) * 255)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        batch = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        logits: torch.Tensor = self.model(batch.contiguous(memory_format=torch.channels_last))
        return logits.float()


class TorchClassifierNetwork:
    """A `PixelNetwork` on a device, called with arrays. On a card it computes in half precision where that is safe."""

    def __init__(self, network: PixelNetwork, device: str) -> None:
        self._device = torch.device(device)
        with raise_out_of_memory(f"the image model and {device}"):
            self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the logits, float32 of shape (images, classes)."""
        is_card = self._device.type == "cuda"
        with torch.inference_mode(), torch.autocast("cuda", enabled=is_card):
            logits: npt.NDArray[np.float32] = self._network(torch.from_numpy(pixels).to(self._device)).cpu().numpy()
        return logits


def from_package(weights: Path, architecture: str) -> torch.nn.Module:
    """Return the model of an installed package of weights.

    Raises:
        Unavailable: the weights are not those of the architecture.
    """
    model = timm.create_model(architecture)
    state = model.state_dict()
    # The package's weights are a port with other names in the same order, which the check of the shapes confirms.
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    tensors = [tensor for name, tensor in stored.items() if not name.endswith("num_batches_tracked")]
    if [state[name].shape for name in names] != [tensor.shape for tensor in tensors]:
        raise Unavailable(f"{weights} does not hold the weights of {architecture}; install the pinned version")
    model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    return model
