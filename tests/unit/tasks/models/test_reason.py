"""The reason of a library's error in one line."""

from __future__ import annotations

import pickle

import pytest

from repli.tasks.models.reason import MAX_CHARACTERS, reason


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such\n  model"), "no such model"),
        (KeyError("modules"), "KeyError: 'modules'"),
        (EOFError(), "EOFError"),
        (RuntimeError("x" * 999), "x" * MAX_CHARACTERS + "…"),
        (pickle.UnpicklingError("use weights_only=False"), "it is damaged, or holds other Python objects than tensors"),
    ],
)
def test_it_is_one_short_line(error: Exception, text: str) -> None:
    """Without line ends, never empty, and without advice that nobody here can follow."""
    assert reason(error).startswith(text)
    assert "\n" not in reason(error)
    assert len(reason(error)) <= MAX_CHARACTERS + 1
