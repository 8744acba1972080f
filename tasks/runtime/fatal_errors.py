"""Errors after which every call of a process fails: only a new process helps.

CUDA keeps such an error in the context of the process ("sticky"), and answers each later call with it. The table holds
the errors of which NVIDIA says that "the process must be terminated and relaunched" (cudaError_t in the CUDA Runtime
API), with those that Triton's onnxruntime backend takes for fatal (triton-inference-server/onnxruntime_backend, pull
request 365). Running out of memory is not among them: the next call may fit.
"""

from __future__ import annotations

from collections.abc import Iterator

from repli.tasks.fallback.errors import message_of

FATAL_MESSAGES = (
    "device-side assert triggered",  # cudaErrorAssert, 710
    "illegal memory access was encountered",  # cudaErrorIllegalAddress, 700
    "unspecified launch failure",  # cudaErrorLaunchFailure, 719
    "the launch timed out and was terminated",  # cudaErrorLaunchTimeout, 702
    "hardware stack error",  # cudaErrorHardwareStackError, 714
    "illegal instruction was encountered",  # cudaErrorIllegalInstruction, 715
    "misaligned address",  # cudaErrorMisalignedAddress, 716
    "operation not supported on global/shared address space",  # cudaErrorInvalidAddressSpace, 717
    "invalid program counter",  # cudaErrorInvalidPc, 718
    "uncorrectable ECC error encountered",  # cudaErrorECCUncorrectable, 214
    "uncorrectable NVLink error detected",  # cudaErrorNvlinkUncorrectable, 220
)
"""Parts of the texts of cudaGetErrorString, which torch, CuPy, onnxruntime and HIP put into their exceptions."""
_DEVICE_WORDS = ("cuda", "hip", "gpu", "device")


def is_fatal(error: BaseException) -> bool:
    """Return whether no call of this process can succeed after `error`, or one of its causes.

    Example:
        >>> is_fatal(RuntimeError("CUDA error: device-side assert triggered"))
        True
        >>> is_fatal(RuntimeError("CUDA out of memory"))
        False
    """
    return any(_is_fatal_message(message_of(cause)) for cause in _chain_of(error))


def _is_fatal_message(message: str) -> bool:
    is_of_device = any(word in message.lower() for word in _DEVICE_WORDS)
    return is_of_device and any(fatal in message for fatal in FATAL_MESSAGES)


def _chain_of(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        yield current
        seen.add(id(current))
        current = current.__cause__ or current.__context__
