"""Read the records of a CSV manifest. A row that is no CSV has a problem, and costs no other row."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from repli.tasks.fallback import UsageError
from repli.tasks.sources.manifest.csv_encoding import DAMAGED
from repli.tasks.sources.manifest.csv_format import CsvFormat, has_cells
from repli.tasks.sources.manifest.options import DELIMITERS
from repli.tasks.sources.manifest.records import Record

MAX_FIELD_CHARACTERS = 64 * 1024 * 1024


def read_header(file: BinaryIO, written: CsvFormat, shown: str) -> list[str]:
    """Return the names in the header; none for an empty file.

    Raises:
        UsageError: The header is not CSV.
    """
    with _text(file, written) as text:
        return _header(_Lines(text), written, shown)


def read_rows(file: BinaryIO, written: CsvFormat, columns: Sequence[str], shown: str) -> Iterator[Record]:
    """Yield the records after the header. An empty cell is None, and a row without any other is a blank line.

    A row may be shorter than the header; what it has no cell for is `missing`. A column without a name at the header's
    end is not missed.

    Args:
        columns: The columns, a different name each, in the order of the header.
    """
    with _text(file, written) as text:
        lines = _Lines(text)
        named = _without_blank_end(_header(lines, written, shown))
        while True:
            number = lines.begin_record()
            try:
                row = next(_reader(lines, written), None)
            except csv.Error as error:
                # An unclosed quote swallows the lines after it: unread them.
                lines.unread_all_but_first()
                yield Record(number=number, problem=f"is not CSV ({error}); correct it, and check its quotes")
                continue
            if row is None:
                return
            if len(row) > len(columns):  # delimiters at the end, as spreadsheets write them
                row = [*row[: len(columns)], *_without_blank_end(row[len(columns) :])]
            if len(row) > len(columns):
                delimiter = DELIMITERS.get(written.delimiter, repr(written.delimiter))
                problem = f"has more fields than the first line; quote the fields that contain {delimiter}"
                yield Record(number=number, problem=problem)
            elif has_cells(row):
                values = {name: value or None for name, value in zip(columns, row, strict=False)}
                yield Record(number=number, values=values, missing=tuple(columns[len(row) : len(named)]))


def _without_blank_end(row: Sequence[str]) -> Sequence[str]:
    """Return a row without the empty cells at its end."""
    end = len(row)
    while end and not row[end - 1].strip():
        end -= 1
    return row[:end]


def _text(file: BinaryIO, written: CsvFormat) -> io.TextIOWrapper:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    return io.TextIOWrapper(file, written.encoding.name, errors=DAMAGED, newline="")


def _header(lines: _Lines, written: CsvFormat, shown: str) -> list[str]:
    if written.has_separator_line:
        next(lines)
    try:
        return next(filter(has_cells, _reader(lines, written)), [])
    except csv.Error as error:
        raise UsageError(f"the first line of {shown} is not CSV ({error}); correct it") from None


def _reader(lines: Iterable[str], written: CsvFormat) -> Iterator[list[str]]:
    return csv.reader(
        lines, delimiter=written.delimiter, skipinitialspace=written.has_blanks_after_delimiter, strict=True
    )


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
