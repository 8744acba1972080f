"""The cards of this machine, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from repli.tasks.fallback import NotHere
from repli.tasks.models.cards import check_device, visible_devices


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
