"""Which errors only a new process helps against."""

from __future__ import annotations

import pytest

from repli.tasks.runtime.fatal_errors import FATAL_MESSAGES, is_fatal


@pytest.mark.parametrize("message", FATAL_MESSAGES)
def test_a_sticky_error_is_fatal(message: str) -> None:
    """As torch says it, and as the cause of another error."""
    error = RuntimeError(
        f"CUDA error: {message}\nCUDA kernel errors might be asynchronously reported at some other call"
    )
    assert is_fatal(error)
    try:
        raise ValueError("the batch failed") from error
    except ValueError as raised:
        assert is_fatal(raised)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        ValueError("the document says 'illegal instruction was encountered', and no more"),
        KeyError("device"),
    ],
)
def test_any_other_error_is_not(error: Exception) -> None:
    """Neither what the next call may not meet, nor words that no device has said."""
    assert not is_fatal(error)


def test_an_error_without_words_is_not_fatal() -> None:
    """Its class is anybody's, and may raise where its message is asked for."""

    class Speechless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert not is_fatal(Speechless())
