"""The accelerator cards of this machine: which this process may use, and which are full."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from repli.tasks.fallback import NotHere


def visible_devices(environ: Mapping[str, str] = os.environ, folder: Path = Path("/dev")) -> list[str]:
    """Return the CUDA devices of this machine that `CUDA_VISIBLE_DEVICES` leaves visible, without importing torch."""
    present = sorted(path.name.removeprefix("nvidia") for path in folder.glob("nvidia[0-9]*"))
    if "CUDA_VISIBLE_DEVICES" not in environ:
        return present
    wanted = [device.strip() for device in environ["CUDA_VISIBLE_DEVICES"].split(",") if device.strip()]
    return wanted if present else []


def has_card() -> bool:
    """Return whether this machine has a card, also one that is not this process's."""
    return bool(visible_devices({}))


def check_device(device: str) -> None:
    """Raise NotHere where a device of torch is a card that this process does not have. Imports torch only for a card.

    Example:
        >>> check_device("cpu")
    """
    if device.startswith("cuda") and not (visible_devices() and _is_usable()):
        raise NotHere("there is no CUDA device here; set REPLI_GPU_DEVICE=cpu to emulate one")


def _is_usable() -> bool:
    import torch

    return torch.cuda.is_available()
