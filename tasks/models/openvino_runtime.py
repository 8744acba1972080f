"""Models that OpenVINO runs on the processor: converted from torch, compiled, and called.

Import this module only where OpenVINO was chosen: it imports the library, without its telemetry, which would send an
event at each import.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from repli.tasks.models.inference import thread_count
from repli.tasks.models.memory_errors import raise_out_of_memory
from repli.tasks.models.reason import reason

# Python raises ModuleNotFoundError for a module that is None here, and OpenVINO then does without telemetry.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as openvino  # noqa: E402  after the line above; other modules take it from here

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

F = TypeVar("F", bound="np.floating[Any]")

_CONVERSION = threading.Lock()
"""Held while a model is converted: the warnings of torch's tracer are silenced for the whole process."""
_TRACED_LIBRARY = logging.getLogger("transformers")


class Inconvertible(Exception):
    """OpenVINO cannot run this model, or gives other answers than torch."""


class OpenvinoNetwork:
    """A compiled network. Threads may share it.

    Args:
        network: as `convert` returns it.
        is_bfloat16: whether products are computed in bfloat16, else in float32. Inputs and outputs stay as they are.
    """

    def __init__(self, network: openvino.Model, *, is_bfloat16: bool = False) -> None:
        # Pinned threads of several processes would share the first processors, and leave the others without work.
        options: dict[str, Any] = {"NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        options["INFERENCE_PRECISION_HINT"] = "bf16" if is_bfloat16 else "f32"
        if threads := thread_count():
            options["INFERENCE_NUM_THREADS"] = threads
        self._compiled = openvino.Core().compile_model(network, "CPU", options)

    def __call__(self, *inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the network's first output."""
        request = self._compiled.create_infer_request()  # of its own: another thread's call may still be running
        try:
            result: npt.NDArray[np.float32] = request.infer(list(inputs))[0]
        except (RuntimeError, MemoryError):  # with the part of its memory that it did get, a smaller call may not fit
            self._compiled.release_memory()
            _give_memory_back()
            raise
        return result


def _give_memory_back() -> None:
    """Give freed memory back to the system: the C library of a worker keeps it otherwise, and what is mapped may not
    fit beside it."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc has it
        trim(0)


def convert(
    module: torch.nn.Module, example: Sequence[torch.Tensor], shapes: Sequence[Sequence[int]]
) -> openvino.Model:
    """Return a module of torch as a network of OpenVINO, in float32.

    Args:
        example: inputs to trace the module with.
        shapes: the shape of each input; -1 for a side of any length.

    Raises:
        Inconvertible: the module has operations that OpenVINO does not know, or cannot be traced.
    """
    try:
        with _CONVERSION, _without_warnings():
            network = openvino.convert_model(module, example_input=tuple(example))
            network.reshape(dict(zip(network.inputs, map(openvino.PartialShape, map(list, shapes)), strict=True)))
    except MemoryError:
        raise
    except Exception as error:  # tracing runs the code of any model
        raise Inconvertible(f"OpenVINO cannot convert it ({reason(error)})") from error
    return network


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence what tracing sets off: it looks at every attribute of the model, also at those for training."""
    level = _TRACED_LIBRARY.level
    _TRACED_LIBRARY.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _TRACED_LIBRARY.setLevel(level)


def answer_like(wanted: npt.NDArray[F], answer: Callable[[], npt.NDArray[F]]) -> npt.NDArray[F]:
    """Return the first answer of a converted network: some operations fail, or give nothing, only then.

    Args:
        wanted: torch's answer, of the same shape.

    Raises:
        Inconvertible: the network raises, or answers in another shape.
    """
    try:
        with raise_out_of_memory("the converted network and its first inputs"):
            found = answer()
    except RuntimeError as error:
        raise Inconvertible(f"OpenVINO cannot run it ({reason(error)})") from error
    if found.shape != wanted.shape:
        raise Inconvertible(f"OpenVINO cannot run it (it answers in the shape {found.shape}, not {wanted.shape})")
    return found
