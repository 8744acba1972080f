"""Text and JSON as both databases can keep and query them, whoever wrote them.

PostgreSQL refuses null bytes and half surrogate pairs, and JSON functions fail on their escapes and on NaN. An error
message may quote any of these. So they are replaced here, at the columns, and no caller has to think of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Dialect, String, Text, TypeDecorator

from repli.tasks.items import clean_text

_BAD_ESCAPE = re.compile(
    r"\\u0000"
    r"|\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})"  # the first half of a surrogate pair without the second
    r"|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}"  # the second half without the first
)


def dumps(value: Any) -> str:
    """Return `value` as JSON text: bad characters become U+FFFD, NaN and the infinities null."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:  # NaN, an infinity, or a circular value, at which `_clean` would not end
        json.dumps(value)
        return json.dumps(_clean(value))
    return json.dumps(_clean(value)) if _BAD_ESCAPE.search(text) else text


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
