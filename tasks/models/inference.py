"""Which library runs the models on a processor, and in which precision.

OpenVINO where it is installed, else torch. Measured on one thread of a busy Xeon with AMX, ms an item of OpenVINO and
of torch: efficientnet_lite0 14 and 49, lite2 30 and 86, MiniLM on 90 words in bfloat16 18 and 33
(`tests/benchmarks/runtimes.py`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from repli.tasks.fallback import Unavailable

Runtime = Literal["openvino", "torch"]
OPENVINO = ("repli.tasks.models.openvino_runtime",)
"""The module to import for OpenVINO, which leaves out its telemetry."""


def choose_runtime(wanted: str, device: str) -> Runtime:
    """Return the library that runs a model on a device: on a card always torch.

    Args:
        wanted: `auto`, `openvino` or `torch`; `auto` is OpenVINO where it is installed, else torch.
        device: a torch device, such as `cpu` or `cuda:0`.

    Raises:
        Unavailable: OpenVINO is wanted and not installed.

    Example:
        >>> choose_runtime("torch", "cpu")
        'torch'
    """
    if wanted == "torch" or device.startswith("cuda"):
        return "torch"
    if _is_openvino_installed():
        return "openvino"
    if wanted == "openvino":
        raise Unavailable("REPLI_RUNTIME=openvino, and OpenVINO is not installed; run: pip install 'repli[openvino]'")
    return "torch"


def modules_for(library: str, wanted: str, device: str, fingerprint: Callable[[], str | None]) -> tuple[str, ...]:
    """Return the modules that take long to import and that every process needs for a model.

    Not torch, where one process converts the model for all of this machine: that process imports it.

    Args:
        library: the module that loads the model for torch.
        wanted: as of `choose_runtime`.
        fingerprint: returns the name under which the converted network is kept; None where each process converts it.
    """
    try:
        if choose_runtime(wanted, device) == "torch":
            return (library,)
        return OPENVINO if fingerprint() else (*OPENVINO, library)
    except Unavailable:  # the rung says so
        return ()


def thread_count() -> int | None:
    """Return the number of threads that a model may use: this process's share, as its cluster set it; None: all."""
    share = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(share) if share.isdigit() and int(share) > 0 else None


@lru_cache(maxsize=1)
def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor multiplies bfloat16 matrices itself: elsewhere float32 is as fast, and exact."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return False
    names = "flags" if platform.machine() in {"x86_64", "AMD64"} else "Features"
    flags = {flag for line in text.splitlines() if line.startswith(names) for flag in line.split()}
    return bool(flags & {"amx_bf16", "avx512_bf16", "bf16"})


@lru_cache(maxsize=1)
def _is_openvino_installed() -> bool:
    return find_spec("openvino") is not None
