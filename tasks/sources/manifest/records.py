"""Turn the records of a manifest into items. An invalid record becomes an item with a `problem`."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from repli.tasks.items import INLINE, Item, clean_text
from repli.tasks.sources.manifest.columns import Columns
from repli.tasks.sources.manifest.csv_encoding import DAMAGED
from repli.tasks.sources.manifest.options import FIELDS

MAX_ID_CHARACTERS = 512
MAX_LEVELS = 64
"""The deepest nesting of lists and objects in a record. Stored values are read recursively, so it needs a limit."""
NESTING_PROBLEM = f"holds lists or objects more than {MAX_LEVELS} deep; flatten it"
ASSETS = ("document", "image")
"""The fields of which a binary cell is the content."""
MAX_EXACT_FLOAT = 2**53
"""The number from which on a float does not tell whole numbers apart."""

_INVALID = "invalid characters or numbers were replaced"
_URI = re.compile(rb"[a-z][a-z0-9+.-]{1,20}://[^\s]+\Z", re.IGNORECASE)
_ID_DAMAGED = "has an id with a null byte, a lone surrogate or bytes that are not UTF-8; correct it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a manifest as it was read.

    Args:
        number: Its line; of a table without lines, its row.
        values: Its values by column. Where it is no record, whatever stands there.
        problem: Why it cannot be read; None where it can.
        repaired: What was changed or left out so that it could be read, a column each.
        missing: The columns for which a row of a CSV is too short to have a cell.
    """

    number: int
    values: Any = None
    problem: str | None = None
    repaired: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReader:
    """Makes items of the records of one manifest; `folder` is where their relative paths start."""

    source: Path
    columns: Columns
    folder: Path

    def items(self, records: Iterable[Record]) -> Iterator[Item]:
        """Return the items of the records, in their order."""
        return map(self._item, records)

    def _item(self, record: Record) -> Item:
        if record.problem:
            return self._unusable(record, record.problem)
        if not isinstance(record.values, Mapping):
            kind = type(record.values).__name__
            return self._unusable(record, f'holds a value of type {kind}, not an object; write {{"id": …, "name": …}}')
        column = self.columns.by_field.get("id")
        id_ = None if column is None else _as_id(record.values.get(column))
        if problem := _id_problem(id_) or _nesting_problem(record.values):
            return self._unusable(record, problem)
        return self._build(str(id_), record)

    def _build(self, id_: str, record: Record) -> Item:
        values = self._by_field(record.values)
        contents = {name: content for name in ASSETS if (content := _content(values.get(name))) is not None}
        values |= {name: content_name(content) for name, content in contents.items()}
        others = {
            str(column): value
            for column, value in record.values.items()
            if column not in self.columns.by_field.values()
        }
        fields, invalid_fields = _storable(values)
        attributes, invalid_attributes = _storable(others)
        invalid = [f"{name}: {_INVALID}" for name in (*invalid_fields, *invalid_attributes)]
        return Item(
            id=id_,
            name=fields.get("name"),
            document=_blank_to_none(fields.get("document")),
            text=_blank_to_none(fields.get("text")),
            image=_blank_to_none(fields.get("image")),
            attributes=attributes,
            folder=str(self.folder),
            repaired=tuple(sorted({*invalid, *map(clean_text, record.repaired)})),
            inline=tuple(contents),
            contents=contents,
        )

    def _by_field(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the values of the fields, without the id. Where a picture has bytes and a path, the bytes count."""
        columns = self.columns.by_field
        found = {name: values.get(columns[name]) for name in FIELDS if name in columns and name != "id"}
        for name, value in found.items():
            if name in ASSETS and isinstance(value, Mapping) and set(value) == {"bytes", "path"}:
                value = value["bytes"] or value["path"]
            if isinstance(value, bytes) and (name not in ASSETS or _URI.match(value)):
                value = value.decode("utf-8", DAMAGED)
            found[name] = value
        return found

    def _unusable(self, record: Record, problem: str) -> Item:
        kind = "file" if self.source.is_dir() else "line"
        column = self.columns.by_field.get("name")
        name = record.values.get(column) if isinstance(record.values, Mapping) else None
        return Item(
            id=clean_text(f"{self.source.name[:200]}:{record.number}"),
            name=clean_text(name) if isinstance(name, str) else None,
            folder=str(self.folder),
            problem=f"{kind} {record.number} of {clean_text(self.source.name)} {problem}",
        )


def content_name(content: bytes) -> str:
    """Return the name by which a record refers to bytes that its manifest carries: their SHA-256."""
    return INLINE + hashlib.sha256(content).hexdigest()


def _content(value: Any) -> bytes | None:
    return value if isinstance(value, bytes) and value else None


def _as_id(value: Any) -> Any:
    """Return an id as text where that is safe: whole numbers of any type, decimals, and binary text."""
    match value:
        case bool():
            return value
        case int():
            return str(value)
        case float() if math.isnan(value):
            return None
        case float() if value.is_integer() and abs(value) < MAX_EXACT_FLOAT:
            return str(int(value))
        case Decimal() if value.is_finite():
            return str(int(value)) if value == value.to_integral_value() else str(value)
        case bytes():
            return value.decode("utf-8", DAMAGED)
        case _ if type(value).__name__ == "UUID":
            return str(value)
        case _:
            return value


def _id_problem(id_: Any) -> str | None:
    if id_ is None or (isinstance(id_, str) and not id_.strip()):
        return "has no id; give it one"
    if not isinstance(id_, str):
        return f"has an id of type {type(id_).__name__}; make it text"
    if len(id_) > MAX_ID_CHARACTERS:
        return f"has an id of {len(id_):,} characters; the limit is {MAX_ID_CHARACTERS}"
    if clean_text(id_) != id_:
        return _ID_DAMAGED
    return None


def _nesting_problem(record: Mapping[str, Any]) -> str | None:
    level: list[Any] = [record]
    for _ in range(MAX_LEVELS):
        nested = [outer for outer in level if isinstance(outer, Mapping | list | tuple)]
        level = [inner for outer in nested for inner in (outer.values() if isinstance(outer, Mapping) else outer)]
        if not level:
            return None
    return NESTING_PROBLEM


def _storable(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the values as JSON that every database stores, and the names of those that had to be changed for it."""
    plain = {name: _to_json_types(value) for name, value in values.items()}
    cleaned = {name: _replace_unstorable(value) for name, value in plain.items()}
    changed = [clean_text(name) for name, value in cleaned.items() if value != plain[name]]
    return {clean_text(name): value for name, value in cleaned.items()}, changed


def _blank_to_none(value: Any) -> Any:
    """Return None for a blank field, else `value`."""
    return None if isinstance(value, str) and not value.strip() else value


def _to_json_types(value: Any) -> Any:
    """Convert `value` to JSON's types, without loss: dates, decimals and bytes become text, NaN (no value) None."""
    match value:
        case Mapping():
            return {str(key): _to_json_types(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_to_json_types(inner) for inner in value]
        case float() if math.isnan(value):
            return None
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return _text_of(value)
        case _:
            return str(value)


def _text_of(content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return base64.b64encode(content).decode()
    return base64.b64encode(content).decode() if "\0" in text else text


def _replace_unstorable(value: Any) -> Any:
    """Return `value` with its texts cleaned by `clean_text`, and None for the infinities."""
    match value:
        case str():
            return clean_text(value)
        case dict():
            return {clean_text(key): _replace_unstorable(inner) for key, inner in value.items()}
        case list():
            return [_replace_unstorable(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
