"""The JSON form and the fingerprint of stage values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from repli.tasks.items import Asset, Assets, Embedding, Guess, Label, Text


def as_json(value: Any) -> Any:
    """Return the JSON form of a stage's value. The store keeps the vector of an embedding in a column of its own."""
    match value:
        case Text():
            return {"text": value.text, "characters": value.characters}
        case Embedding():
            return {"space": value.space, "dimensions": value.dimensions}
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _plain(value)
        case _:  # a custom stage may return plain JSON
            return value


def _plain(value: Any) -> Any:
    """Return what `dataclasses.asdict` does, which takes longer: it copies all that it finds."""
    kind: type[Any] = type(value)
    if is_dataclass(kind):
        return {name: _plain(getattr(value, name)) for name in _field_names(kind)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    return value


@lru_cache(maxsize=256)
def _field_names(of: Any) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass."""
    return tuple(field.name for field in fields(of))


def from_json(role: type, value: Mapping[str, Any]) -> Any:
    """Return the value of a role from its JSON form; None for a label that was withheld.

    Raises:
        ValueError: the role has no such form: the store keeps the vector of an embedding apart.
    """
    if role is Text:
        return Text(value["text"])
    if role is Label:
        return _label(value)
    if role is Assets:
        return Assets(**{name: asset and Asset(**asset) for name, asset in value.items()})
    raise ValueError(f"a value of the role {role.__name__} cannot be made from its JSON form")


def _label(value: Mapping[str, Any]) -> Label | None:
    """Return the label; None for a withheld one, as versions before 2026-12 stored it, with the field `unknown`."""
    if value["label"] is None:
        return None
    known = {name: value[name] for name in value if name != "unknown"}
    return Label(**{**known, "top": tuple(Guess(**guess) for guess in value.get("top", ()))})


def fingerprint(value: Any) -> str | None:
    """Return the SHA-256 of a stage's input, in hexadecimal, the same in every process.

    None for a circular input, and for one with other values than JSON types, dataclasses, decimals and mappings:
    changes of such an input cannot be detected.
    """
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=_json_default)
    except (TypeError, ValueError):
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def _json_default(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"values of type {type(value).__name__} cannot be serialised to JSON")
