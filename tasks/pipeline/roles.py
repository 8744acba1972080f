"""What a stage may produce: text, a label, an embedding, fetched assets, or any JSON value. Each has its own check."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from repli.tasks.comparison.metrics import ANYTHING, ASSETS, LABELS, TEXTS, VECTORS, Comparison
from repli.tasks.items import ROLES, Asset, Assets, Embedding, Guess, Label, Text
from repli.tasks.json_values import as_json

MAX_SPACE_CHARACTERS = 255
"""The width of the store's column."""
LARGEST_NUMBER = 2**63
"""The number from which on SQLite keeps a value that is one number as a float."""
UNIT_TOLERANCE = 1e-3
"""How far the length of an embedding may be from 1: float32 rounds."""


def check_text(value: Any) -> None:
    """Raise ValueError for a text without a visible character."""
    if not (isinstance(value, Text) and isinstance(value.text, str) and value.text.strip()):
        raise ValueError("the text has no visible character")


def check_label(value: Any) -> None:
    """Raise ValueError unless the value is a label."""
    if not isinstance(value, Label):
        raise ValueError("the answer is not a Label")
    if not (isinstance(value.label, str) and value.label.strip()):
        raise ValueError("the label is not a text with a visible character; raise Declined where there is none")
    if not (isinstance(value.top, tuple | list) and all(isinstance(guess, Guess) for guess in value.top)):
        raise ValueError("the best guesses in `top` are not each a Guess")
    if any(not 0 <= guess.confidence <= 1 for guess in value.top):
        raise ValueError("a confidence is outside [0, 1]")


def check_embedding(value: Any) -> None:
    """Raise ValueError unless the value is a unit vector of a named space."""
    import numpy as np

    if not isinstance(value, Embedding):
        raise ValueError("the answer is not an Embedding")
    if not (isinstance(value.space, str) and value.space):
        raise ValueError("the space has no name, so the vector cannot be compared with others")
    if len(value.space) > MAX_SPACE_CHARACTERS:
        raise ValueError(f"the name of the space has more than {MAX_SPACE_CHARACTERS} characters; shorten it")
    if value.vector.ndim != 1:
        raise ValueError(f"the vector has the shape {value.vector.shape}, not one dimension")
    length = float(np.linalg.norm(value.vector))
    if not abs(length - 1) < UNIT_TOLERANCE:  # NaN too
        raise ValueError(f"the vector has length {length:g}, not 1; divide it by its length")
    dimensions = _dimensions.setdefault(value.space, value.dimensions)
    if dimensions != value.dimensions:
        raise ValueError(
            f"the vector has {value.dimensions} dimensions, and others of the space {value.space} have {dimensions}; "
            "give it a space of its own"
        )


_dimensions: dict[str, int] = {}
"""The dimensions of each space, as this process has seen them first."""


def check_assets(value: Any) -> None:
    """Raise ValueError for an answer without a single asset."""
    if not isinstance(value, Assets):
        raise ValueError(f"the answer is of type {type(value).__name__}, not Assets")
    assets = [asset for asset in (value.document, value.image) if asset is not None]
    if not assets or not all(isinstance(asset, Asset) for asset in assets):
        raise ValueError("the answer contains no asset")


def check_json(value: Any) -> None:
    """Raise ValueError for a value that has no JSON form."""
    try:
        json.dumps(as_json(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the answer has no JSON form ({error}); return strings, numbers, lists and dicts") from None
    if isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
        raise ValueError("the answer is a number of more than 64 bits, which the store would round; return it as text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a stage produces, as far as the pipeline needs to know it.

    Args:
        check: raises ValueError for a value that no rung may return.
        comparison: how a drill compares the answers of two rungs.
        convert: turns a plain answer into a value of the role.
    """

    check: Callable[[Any], None]
    comparison: Comparison[Any]
    convert: Callable[[Any], Any] = lambda answer: answer


def _text_of(answer: Any) -> Any:
    return Text(str(answer)) if isinstance(answer, str) else answer  # `str` of a NumPy string, too


def _label_of(answer: Any) -> Any:
    return Label(str(answer)) if isinstance(answer, str) else answer


_JSON = Role(check=check_json, comparison=ANYTHING)
_ROLES: Mapping[type, Role] = {
    Text: Role(check=check_text, comparison=TEXTS, convert=_text_of),
    Label: Role(check=check_label, comparison=LABELS, convert=_label_of),
    Embedding: Role(check=check_embedding, comparison=VECTORS),
    Assets: Role(check=check_assets, comparison=ASSETS),
}


def role_of(produces: type | None) -> Role:
    """Return the role of this class; that of any JSON value for None.

    Raises:
        ValueError: there is no such role.
    """
    if produces is None:
        return _JSON
    if not (isinstance(produces, type) and produces in _ROLES):
        raise ValueError(f"produces={produces!r} is no role; choose Text, Label or Embedding, or leave it out for JSON")
    return _ROLES[produces]


def name_of(produces: type | None) -> str | None:
    """Return the name under which the store keeps a role; None for any JSON value."""
    return next((name for name, role in ROLES.items() if role is produces), None)
