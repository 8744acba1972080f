"""Compare an answer of a rung with what people said about the item.

A label's value has one of these forms. The first is of a stage that produces labels:

- `{"label": "tabby"}`: this label is right, and each other one is wrong;
- `{"label": None, "wrong": [...]}`: none of the answers with these keys is right;
- `{"rungs": ["full"], "right": [...], "wrong": [...]}`: the answers of these rungs are right, by their keys.

A text is kept by its hash only. So a label says nothing about a text that nobody has judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repli.tasks.items import Label
from repli.tasks.json_values import as_json, fingerprint


def key_of(value: Any) -> str:
    """Return what identifies an answer: its label, or the hash of any other value."""
    return value.label if isinstance(value, Label) else str(fingerprint(as_json(value)))


def is_right(given: Mapping[str, Any], key: str) -> bool | None:
    """Return whether the answer with this key is right; None where the label says nothing about it."""
    label = given.get("label")
    if label is not None:
        return bool(label.casefold() == key.casefold())
    if key in given.get("right", ()):
        return True
    return False if key in given.get("wrong", ()) else None


def label_value(label: str | None, candidates: Sequence[str]) -> dict[str, Any]:
    """Return the value that says that this label is right; for None, that no candidate is."""
    return {"label": label} if label is not None else {"label": None, "wrong": list(candidates)}


def rungs_value(right: Sequence[str], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the value that says that the answers of these rungs are right, and those of the others wrong.

    Args:
        keys: the key of the answer of each rung.
    """
    is_in = {keys[rung] for rung in right}
    return {
        "rungs": list(right),
        "right": sorted(is_in),
        "wrong": sorted(set(keys.values()) - is_in),
    }
