"""Turn the memory errors of the libraries that run models into `OutOfMemory`, by which the chain splits a batch."""

from __future__ import annotations

import sys
from types import TracebackType

from repli.tasks.fallback import OutOfMemory

# The driver, cuBLAS, cuDNN, the CPU allocator and OpenVINO raise plain RuntimeErrors: only the message tells them
# apart. On a device that other processes have filled, cuBLAS has no memory for its handle and reports NOT_INITIALIZED.
_MESSAGES = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "can't alloc",  # torch's allocator and OpenVINO's nodes
    "bad_alloc",
    "bad allocation",
    "Failed to allocate",  # OpenVINO's own
    "std::future_error: Broken promise",  # OpenVINO's, where a thread of its own found no memory
)


class raise_out_of_memory:  # noqa: N801  a context manager, named like a function
    """A context that turns each kind of memory error into `OutOfMemory`, whose message names `what`.

    Example:
        >>> with raise_out_of_memory("32 images on cpu"):
        ...     raise MemoryError
        Traceback (most recent call last):
        repli.tasks.fallback.errors.OutOfMemory: 32 images on cpu do not fit in memory
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and _is_memory_error(error):
            raise OutOfMemory(f"{self._what} do not fit in memory") from None


def _is_memory_error(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # not imported for this: without it nothing of it can have been raised
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)
