"""Text and JSON that both databases can keep and query.

PostgreSQL refuses null bytes and half surrogate pairs, and JSON functions fail on NaN. An error message may quote any
of these, so they are replaced here, when a column is written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Dialect, String, Text, TypeDecorator

from repli.tasks.items import clean_text

_BAD = re.compile(r"[\ud800-\udfff]|\\u0000")


def dumps(value: Any) -> str:
    """Return `value` as JSON text: bad characters become U+FFFD, NaN and the infinities null."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # NaN, an infinity, or a circular value, at which `_clean` would not end
        json.dumps(value)
        return json.dumps(_clean(value), ensure_ascii=False)
    return json.dumps(_clean(value), ensure_ascii=False) if _BAD.search(text) else text


def _clean(value: Any) -> Any:
    match value:
        case str():
            return clean_text(value)
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {_clean(key): _clean(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_clean(inner) for inner in value]
    return value


class StorableString(TypeDecorator[str]):
    """A text in which bad characters are replaced when it is written, or compared with."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return clean_text(value) if isinstance(value, str) else value


class StorableText(StorableString):
    """The same for a text of any length."""

    impl = Text
    cache_ok = True
