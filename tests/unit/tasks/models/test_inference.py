"""Which library runs a model, in which precision, with how many threads."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from repli.tasks.models import inference
from repli.tasks.models.inference import choose_runtime, has_bfloat16, thread_count


@pytest.mark.parametrize(
    ("wanted", "device", "chosen"),
    [
        ("auto", "cpu", "openvino"),
        ("openvino", "cpu", "openvino"),
        ("torch", "cpu", "torch"),
        ("auto", "cuda", "torch"),
        ("openvino", "cuda:1", "torch"),
    ],
)
def test_the_runtime_that_is_wanted_is_chosen(wanted: str, device: str, chosen: str) -> None:
    """Where it is installed, as here; a card has torch alone."""
    assert choose_runtime(wanted, device) == chosen


@pytest.mark.parametrize(("variable", "threads"), [("3", 3), ("2,1", 2), ("", None), ("0", None), ("all", None)])
def test_threads_are_those_of_the_cluster(monkeypatch: pytest.MonkeyPatch, variable: str, threads: int | None) -> None:
    """Each worker has its share of the processors."""
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert thread_count() == threads


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86")
@pytest.mark.parametrize(
    ("flags", "has"), [("fpu avx512_bf16", True), ("amx_tile amx_bf16", True), ("avx512f", False), ("", False)]
)
def test_bfloat16_is_a_flag_of_the_processor(tmp_path: Path, flags: str, has: bool) -> None:
    """Elsewhere it would be emulated, and slower."""
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert has_bfloat16(tmp_path / "cpuinfo") is has
    inference.has_bfloat16.cache_clear()
