"""Find out how a CSV is written: its encoding, its delimiter, and a first line `sep=`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from repli.tasks.sources.manifest.columns import unique_columns
from repli.tasks.sources.manifest.csv_encoding import DAMAGED, Encoding, detect_encoding, given_encoding
from repli.tasks.sources.manifest.options import DELIMITERS, FIELDS, ManifestOptions

SAMPLE_CHARACTERS = 200_000
SAMPLE_RECORDS = 50

_SEPARATOR_LINE = re.compile(r"sep=(?P<delimiter>[^\r\n])\r?\n?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFormat:
    """How a CSV is written.

    Args:
        has_separator_line: Its first line is `sep=` and not its header.
        has_blanks_after_delimiter: Blanks before a cell, and before the quotes around it, are no part of it.
    """

    encoding: Encoding
    delimiter: str
    has_separator_line: bool = False
    has_blanks_after_delimiter: bool = False

    def explained(self, shown: str) -> str:
        """Return what was found out, in one line, and the options that correct it."""
        delimiter = DELIMITERS.get(self.delimiter, repr(self.delimiter))
        problem = f"; {self.encoding.problem}" if self.encoding.problem else ""
        return (
            f"{shown} is read with the delimiter {delimiter} in {self.encoding}{problem}"
            f"{'' if problem else ' (--delimiter and --encoding change it)'}"
        )


def find_format(open_file: Callable[[], BinaryIO], options: ManifestOptions, usual: str) -> CsvFormat:
    """Return how a CSV is written. What the options say is not looked for.

    Args:
        open_file: Opens the file at its beginning.
        options: The encoding, the delimiter, and the columns that the header should have.
        usual: The delimiter that its suffix speaks for.
    """
    if options.encoding:
        encoding = given_encoding(options.encoding)
    else:
        with open_file() as file:
            encoding = detect_encoding(file)
    with open_file() as file, io.TextIOWrapper(file, encoding.name, errors=DAMAGED, newline="") as text:
        start = text.read(SAMPLE_CHARACTERS)
    separator = _SEPARATOR_LINE.match(start)
    if separator:
        start = start[separator.end() :]
    delimiter = options.delimiter or (separator and separator["delimiter"])
    if not delimiter:
        expected = {*FIELDS, *(column.strip().casefold() for column in options.columns.values())}
        delimiter = find_delimiter(start, expected, usual)
    return CsvFormat(
        encoding=encoding,
        delimiter=delimiter,
        has_separator_line=bool(separator),
        has_blanks_after_delimiter=_has_blanks(start, delimiter),
    )


def find_delimiter(start: str, expected: set[str], usual: str) -> str:
    """Return the delimiter that splits the header into most of the expected columns, and the records like the header.

    Args:
        start: The beginning of the file, from its header on.
        expected: The names of columns, in lower case.
        usual: The one to take where several are as good.
    """
    return max(DELIMITERS, key=lambda one: (*_fitness(start, one, expected), one == usual))


def _fitness(start: str, delimiter: str, expected: set[str]) -> tuple[int, float, int]:
    """Return how well a delimiter fits: the expected columns, the share of records like the header, the columns."""
    try:
        records = _records(start, delimiter)
    except csv.Error:
        return (0, 0.0, 0)
    if not records:
        return (0, 0.0, 0)
    header, *others = records
    columns = {column.casefold() for column in unique_columns(header)[0]}
    if len(header) == 1:
        return (len(columns & expected), 0.0, 1)
    alike = sum(len(record) == len(header) for record in others)
    return (len(columns & expected), alike / len(others) if others else 1.0, len(header))


def has_cells(row: Sequence[str]) -> bool:
    """Return whether a row has a cell that is not empty. Spreadsheets write rows of delimiters below a table."""
    return any(map(str.strip, row))


def _has_blanks(start: str, delimiter: str) -> bool:
    """Return whether a blank follows each delimiter of the header."""
    try:
        header = next(iter(_records(start, delimiter)), [])
    except csv.Error:
        return False
    return len(header) > 1 and all(name.startswith(" ") for name in header[1:])


def _records(start: str, delimiter: str) -> Sequence[Sequence[str]]:
    read = csv.reader(io.StringIO(start, newline=""), delimiter=delimiter)
    return list(islice(filter(has_cells, read), 1 + SAMPLE_RECORDS))
