"""Read a manifest as a stream of items: JSONL, CSV, Parquet, or a directory of images.

Every record becomes one item. An invalid record (not JSON, no usable id) becomes an item with a `problem`, whose id
is its file and line, so that it is counted, shown and can be corrected. Only an unreadable manifest is an error.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from repli.tasks.fallback import UsageError
from repli.tasks.items import Item, clean_text

MAX_ID_CHARACTERS = 512
MAX_FIELD_CHARACTERS = 64 * 1024 * 1024
MAX_LEVELS = 64
"""The deepest nesting of lists and objects in a record. Stored values are read recursively, so it needs a limit."""
NESTING_PROBLEM = f"holds lists or objects more than {MAX_LEVELS} deep; flatten it"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def read(source: Path) -> Iterator[Item]:
    """Yield the items of the manifest, in its order.

    Raises:
        UsageError: The manifest does not exist, has an unsupported format, or is empty.
    """
    records = _reader_for(source)(source)
    first = next(records, None)
    if first is None:
        raise UsageError(f"the manifest {source} holds no items; add some, or name another")
    yield first
    yield from records


def _reader_for(source: Path) -> Callable[[Path], Iterator[Item]]:
    if source.is_dir():
        return _images
    if not source.exists():
        raise UsageError(f"there is no manifest {source}; name a JSONL, CSV or Parquet file, or a directory of images")
    if not os.access(source, os.R_OK):
        raise UsageError(f"the manifest {source} is not readable by this user; change its permissions")
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if source.suffix.lower() not in readers:
        raise UsageError(f"the manifest {source} is none of {', '.join(readers)}; convert it")
    return readers[source.suffix.lower()]


def _jsonl(source: Path) -> Iterator[Item]:
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip())
            except UnicodeDecodeError as error:
                yield _unusable_item(source, number, f"is not UTF-8 (byte {error.start}); save the file as UTF-8")
            except RecursionError:
                yield _unusable_item(source, number, NESTING_PROBLEM)
            except json.JSONDecodeError as error:
                yield _unusable_item(
                    source, number, f"is not JSON ({error.msg}, at character {error.pos + 1}); correct it"
                )
            except ValueError as error:  # a number with thousands of digits
                yield _unusable_item(source, number, f"is not JSON ({error}); correct it")
            else:
                yield _item_from_record(record, source, number)


def _csv(source: Path) -> Iterator[Item]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    # Bytes that are not UTF-8 are read as surrogates, which `_item_from_record` replaces and records on the item.
    with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _Lines(file)
        try:
            columns = next(csv.reader(lines, strict=True), None)
        except csv.Error as error:
            raise UsageError(f"the first line of the manifest {source} is not CSV ({error}); correct it") from None
        if columns is None:
            return
        if "id" not in columns:
            raise UsageError(f"the manifest {source} has no column 'id' in its first line; add it")
        while True:
            number = lines.begin_record()
            try:
                row = next(csv.reader(lines, strict=True), None)
            except csv.Error as error:
                # An unclosed quote swallows the lines after it: unread them.
                lines.unread_all_but_first()
                yield _unusable_item(source, number, f"is not CSV ({error}); correct it, and check its quotes")
                continue
            if row is None:
                return
            if len(row) > len(columns):
                problem = "has more fields than the first line; quote the fields that contain commas"
                yield _unusable_item(source, number, problem)
            elif row:
                record = dict(zip(columns, row, strict=False))
                yield _item_from_record({name: value or None for name, value in record.items()}, source, number)


class _Lines(Iterator[str]):
    """The lines of a file. The lines of the current record can be unread."""

    def __init__(self, file: Iterable[str]) -> None:
        self._file = iter(file)
        self._unread: deque[str] = deque()
        self._record: list[str] = []
        self._number = 0

    def begin_record(self) -> int:
        """Begin a record and return the number of its first line, from 1."""
        self._record = []
        return self._number + 1

    def unread_all_but_first(self) -> None:
        """Make the lines of the current record, except its first, the next ones to read."""
        self._unread.extendleft(reversed(self._record[1:]))
        self._number -= len(self._record) - 1
        self._record = []

    def __next__(self) -> str:
        line = self._unread.popleft() if self._unread else next(self._file)
        self._number += 1
        self._record.append(line)
        return line


def _parquet(source: Path) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source)
        if "id" not in file.schema_arrow.names:
            raise UsageError(f"the manifest {source} has no column 'id'; add it")
        number = 0
        for batch in file.iter_batches(batch_size=1000):
            for record in batch.to_pylist():
                number += 1
                yield _item_from_record(record, source, number)
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise UsageError(f"the manifest {source} is not a readable Parquet file ({error}); write it again") from None


def _images(source: Path) -> Iterator[Item]:
    number = 0
    for folder, subfolders, files in os.walk(source):
        subfolders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in IMAGE_SUFFIXES:
                number += 1
                relative = path.relative_to(source).as_posix()
                words = path.stem.replace("_", " ").replace("-", " ").strip()
                record = {"id": relative, "name": words or path.name, "image": relative}
                yield _item_from_record(record, source, number, folder=source)


def _item_from_record(record: Any, source: Path, number: int, *, folder: Path | None = None) -> Item:
    """Return the item of one `record` from line `number` of `source`; paths are relative to `folder`."""
    if not isinstance(record, Mapping):
        kind = type(record).__name__
        return _unusable_item(
            source, number, f'holds a value of type {kind}, not an object; write {{"id": …, "name": …}}'
        )
    id_ = record.get("id")
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    if problem := _id_problem(id_) or _nesting_problem(record):
        return _unusable_item(source, number, problem, record)
    return _build_item(str(id_), record, folder or source.parent)


def _id_problem(id_: Any) -> str | None:
    if id_ is None or (isinstance(id_, str) and not id_.strip()):
        return "has no id; give it one"
    if not isinstance(id_, str):
        return f"has an id of type {type(id_).__name__}; make it text"
    if len(id_) > MAX_ID_CHARACTERS:
        return f"has an id of {len(id_):,} characters; the limit is {MAX_ID_CHARACTERS}"
    if clean_text(id_) != id_:
        return "has an id with a null byte, a lone surrogate or bytes that are not UTF-8; correct it"
    return None


def _nesting_problem(record: Mapping[str, Any]) -> str | None:
    level: list[Any] = [record]
    for _ in range(MAX_LEVELS):
        nested = [outer for outer in level if isinstance(outer, Mapping | list | tuple)]
        level = [inner for outer in nested for inner in (outer.values() if isinstance(outer, Mapping) else outer)]
        if not level:
            return None
    return NESTING_PROBLEM


def _build_item(id_: str, record: Mapping[str, Any], folder: Path, problem: str | None = None) -> Item:
    plain = {str(name): _to_json_types(value) for name, value in record.items() if name != "id"}
    cleaned = {name: _replace_unstorable(value) for name, value in plain.items()}
    repaired = tuple(sorted(clean_text(name) for name, value in cleaned.items() if value != plain[name]))
    return Item(
        id=id_,
        name=cleaned.pop("name", None),
        document=_blank_to_none(cleaned.pop("document", None)),
        image=_blank_to_none(cleaned.pop("image", None)),
        attributes={clean_text(name): value for name, value in cleaned.items()},
        folder=str(folder.absolute()),
        repaired=repaired,
        problem=problem,
    )


def _unusable_item(source: Path, number: int, problem: str, record: Any = None) -> Item:
    id_ = clean_text(f"{source.name[:200]}:{number}")
    problem = f"{'file' if source.is_dir() else 'line'} {number} of {clean_text(source.name)} {problem}"
    name = record.get("name") if isinstance(record, Mapping) else None
    return _build_item(id_, {"name": name if isinstance(name, str) else None}, source.parent, problem=problem)


def _blank_to_none(value: Any) -> Any:
    """Return None for a blank field, else `value`."""
    return None if isinstance(value, str) and not value.strip() else value


def _to_json_types(value: Any) -> Any:
    """Convert `value` to JSON's types: Parquet's dates, decimals and bytes become text."""
    match value:
        case Mapping():
            return {str(key): _to_json_types(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_to_json_types(inner) for inner in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _replace_unstorable(value: Any) -> Any:
    """Return `value` with its texts cleaned by `clean_text`, and None for NaN and the infinities."""
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
