"""Make timm, transformers and sentence-transformers importable beside a torchvision whose operators do not load.

PyPI's torchvision is built for CUDA. Beside a CPU build of torch its compiled operators are missing, and importing any
of the three fails with ``operator torchvision::nms does not exist``. It is enough to declare the two operators that
torchvision's own Python code registers shapes for: nothing here calls them.
"""

from __future__ import annotations

import threading
from typing import Any

_lock = threading.Lock()
_library: Any = None  # torch drops the declarations when this object is collected


def declare() -> None:
    """Declare `nms` and `qnms` where they are missing. Idempotent. Call it before importing the three libraries."""
    global _library
    with _lock:
        if _library is not None:
            return
        import torch

        _load_torchvision_operators()
        missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            _library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _load_torchvision_operators() -> None:
    """Load the compiled operators where torchvision's build matches torch's, as importing torchvision would."""
    import importlib.util
    from pathlib import Path

    import torch

    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in Path(folder).glob("_C*.so"):
            try:
                torch.ops.load_library(library)
            except OSError:  # built for another torch: the declarations are needed
                continue
