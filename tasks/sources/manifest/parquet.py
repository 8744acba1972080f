"""Read the records of a Parquet manifest. A cell that Python has no value for becomes text, or costs its item."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from repli.tasks.fallback import UsageError
from repli.tasks.sources.manifest.csv_encoding import DAMAGED
from repli.tasks.sources.manifest.records import Record

if TYPE_CHECKING:  # the import takes 0.2 s
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_PER_READ = 1000
BINARY_ROWS_PER_READ = 32
"""The rows that are read at once where a column is binary: a cell may be a picture of some megabytes."""

_UNREADABLE = object()


def read_schema(file: BinaryIO, shown: str) -> list[str]:
    """Return the names of the columns.

    Raises:
        UsageError: The file is not Parquet, or cut off.
    """
    with _opened(file, shown) as parquet:
        return list(parquet.schema_arrow.names)


def read_table(file: BinaryIO, columns: Sequence[str], shown: str) -> Iterator[Record]:
    """Yield the records of a table, numbered from 1.

    Args:
        columns: The columns, a different name each, in the order of the schema.

    Raises:
        UsageError: A part of the file cannot be read.
    """
    number = 0
    with _opened(file, shown) as parquet:
        has_binary = any(_is_binary(field.type) for field in parquet.schema_arrow)
        for batch in parquet.iter_batches(batch_size=BINARY_ROWS_PER_READ if has_binary else ROWS_PER_READ):
            for row in zip(*map(_values, batch.columns), strict=True):
                number += 1
                unreadable = [name for name, value in zip(columns, row, strict=True) if value is _UNREADABLE]
                yield Record(
                    number=number,
                    values={name: None if name in unreadable else one for name, one in zip(columns, row, strict=True)},
                    repaired=tuple(f"{name}: this cell cannot be read" for name in unreadable),
                )


@contextmanager
def _opened(file: BinaryIO, shown: str) -> Iterator[pq.ParquetFile]:
    import pyarrow.parquet as pq

    try:
        with file, _seekable(file) as seekable:
            yield pq.ParquetFile(seekable)
    except Exception as error:  # noqa: BLE001  what is damaged decides which: names that are no UTF-8 raise another
        raise UsageError(f"{shown} is not a readable Parquet file ({error}); write it again") from None


@contextmanager
def _seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    """Yield the file, or a copy of it where it is compressed: the table of contents is at the end of a Parquet file."""
    if not hasattr(file, "fileobj"):  # of GzipFile
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        while chunk := file.read(1 << 20):
            copy.write(chunk)
        copy.seek(0)
        yield cast(BinaryIO, copy)


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    is_struct = pa.types.is_struct(kind) and any(_is_binary(kind.field(place).type) for place in range(kind.num_fields))
    return is_struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _values(column: pa.Array) -> list[Any]:
    """Return the values of a column in Python; where Python has none for some, the others and these as text."""
    try:
        return cast(list[Any], column.to_pylist())
    except Exception:  # noqa: BLE001  each type has errors of its own: one cell must not cost the manifest
        return [_value(column, place) for place in range(len(column))]


def _value(column: pa.Array, place: int) -> Any:
    try:
        return column[place].as_py()
    except Exception:  # noqa: BLE001
        return _as_text(column.slice(place, 1))


def _as_text(cell: pa.Array) -> Any:
    """Return a cell that has no value in Python as text, a list or a struct with such cells in it."""
    import pyarrow as pa

    kind = cell.type
    try:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            content = cell.view(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary())[0].as_py()
            return content.decode("utf-8", DAMAGED)
        if pa.types.is_timestamp(kind) and kind.tz:
            return f"{cell.cast(pa.timestamp(kind.unit)).cast(pa.string())[0].as_py()} UTC ({kind.tz})"
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return _values(cell.flatten())
        if pa.types.is_struct(kind):
            inner = zip([kind.field(at).name for at in range(kind.num_fields)], cell.flatten(), strict=True)
            return {name: _value(column, 0) for name, column in inner}
        if pa.types.is_dictionary(kind):
            return _value(cell.dictionary_decode(), 0)
        return cell.cast(pa.string())[0].as_py()
    except Exception:  # noqa: BLE001  as above
        return _UNREADABLE
