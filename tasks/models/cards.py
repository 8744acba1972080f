"""The accelerator cards of this machine: which this process may use, and what to do where one has no room."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from repli.tasks.fallback import NotHere, OutOfMemory, note_device

M = TypeVar("M")
R = TypeVar("R")

PROCESSOR = "cpu"
FULL_AFTER = 3
"""Items in a row that do not fit on a card by themselves, after which it counts as full: one may just be too long."""
FULL_FOR_S = 30.0
"""Seconds for which a full card is left alone, and batches go to the processor whole."""


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


def card_or_processor(device: str) -> str:
    """Return the device, if it is a card that this process may see; else the processor. Imports no torch."""
    return device if device.startswith("cuda") and visible_devices() else PROCESSOR


class CardRoom:
    """The memory of this process of whether a card has room.

    Args:
        timer: a clock in seconds that only grows.

    Example:
        >>> room = CardRoom()
        >>> room.record_full()
        >>> room.is_full
        True
    """

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._misfits = 0
        self._full_until = 0.0

    @property
    def is_full(self) -> bool:
        """Return whether the card is left alone now."""
        return self._timer() < self._full_until

    def record_fit(self) -> None:
        """Note a call that the card has answered."""
        self._misfits = 0

    def record_misfit(self) -> None:
        """Note an item that did not fit by itself."""
        self._misfits += 1
        if self._misfits >= FULL_AFTER:
            self.record_full()

    def record_full(self) -> None:
        """Note that the card has no room at all."""
        self._misfits = 0
        self._full_until = self._timer() + FULL_FOR_S


ROOM = CardRoom()
"""Of the card of this process: a worker has one."""


def call_where_it_fits(
    load: Callable[[str], M], call: Callable[[M], R], device: str, *, items: int, room: CardRoom = ROOM
) -> R:
    """Return the answer of a model on a card; on the processor where the card has no room for it. Notes the device.

    Args:
        load: returns the model on a device.
        call: calls the model.
        device: where to call it; on the processor nothing else is tried.
        items: the items that the call carries.

    Raises:
        OutOfMemory: several items do not fit together: fewer may.
    """
    if device != PROCESSOR and not room.is_full:
        try:
            model = load(device)
        except OutOfMemory:
            room.record_full()
        else:
            try:
                answer = call(model)
            except OutOfMemory:
                if items > 1:
                    raise
                room.record_misfit()
            else:
                room.record_fit()
                note_device(device)
                return answer
    answer = call(load(PROCESSOR))
    note_device(PROCESSOR)
    return answer
