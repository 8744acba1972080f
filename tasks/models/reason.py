"""Why a library could not load a model, in one line."""

from __future__ import annotations

import pickle

MAX_CHARACTERS = 300
"""torch lists every tensor that does not fit."""


def reason(error: Exception) -> str:
    """Return the message of a library's error, shortened and without line ends.

    Example:
        >>> reason(KeyError("modules"))
        "KeyError: 'modules'"
    """
    if isinstance(error, pickle.UnpicklingError) or isinstance(error.__cause__, pickle.UnpicklingError):
        return "it is damaged, or holds other Python objects than tensors, which are not loaded"
    text = " ".join(str(error).split())
    if not text or isinstance(error, LookupError):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
