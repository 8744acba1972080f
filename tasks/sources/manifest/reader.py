"""Open a manifest of any format, and read its items as a stream."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from repli.tasks.fallback import UsageError
from repli.tasks.items import Item
from repli.tasks.sources.manifest.columns import Columns, choose_columns, explain_contents, unique_columns
from repli.tasks.sources.manifest.csv_encoding import Encoding, given_encoding, marked_encoding
from repli.tasks.sources.manifest.csv_format import find_format
from repli.tasks.sources.manifest.csv_rows import read_header, read_rows
from repli.tasks.sources.manifest.folder import COLUMNS, explain_passed_over, read_images
from repli.tasks.sources.manifest.jsonl import keys_of, read_jsonl
from repli.tasks.sources.manifest.options import ManifestOptions
from repli.tasks.sources.manifest.parquet import read_schema, read_table
from repli.tasks.sources.manifest.records import Record, RecordReader
from repli.tasks.sources.manifest.short_rows import ShortRows
from repli.tasks.sources.manifest.signatures import check_is_text_file

FOLDER = ""
PARQUET = ".parquet"
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", PARQUET)
GZIP = ".gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that can be read.

    Args:
        source: Its file, or the directory of images.
        notes: What was found out, assumed or left out, a line each.
    """

    source: Path
    notes: tuple[str, ...]
    _reader: RecordReader = field(repr=False)
    _records: Callable[[], Iterator[Record]] = field(repr=False)

    def items(self, short_rows: ShortRows | None = None) -> Iterator[Item]:
        """Yield the items in the manifest's order. An invalid record becomes an item with a `problem`.

        Args:
            short_rows: Counts the rows with fewer cells than the first, as they are read.

        Raises:
            UsageError: The rest of the file cannot be read.
        """
        try:
            yield from self._reader.items((short_rows or ShortRows()).counted(self._records()))
        except _BROKEN as error:
            raise _broken(self.source, error) from None


def open_manifest(source: Path, options: ManifestOptions = ManifestOptions()) -> Manifest:
    """Return the manifest, once it is clear that it can be read and has the columns that it needs.

    Raises:
        UsageError: The manifest does not exist, has an unsupported format, is empty, or lacks a column; the message
            says what to do.
    """
    suffix = _check(source)
    shown = f"the manifest {source}"
    try:
        if suffix not in {FOLDER, PARQUET}:
            check_is_text_file(_open_file(source), shown, is_unpacked=_is_gzip(source))
        present, notes, records = _openers[suffix](source, options, shown)
        if next(records(), None) is None:
            raise UsageError(f"{shown} holds no items; add some, or name another")
    except _BROKEN as error:
        raise _broken(source, error) from None
    columns = choose_columns(present, options, shown) if present else Columns(by_field={})
    if present:
        notes = [*notes, *explain_contents(columns, present, shown)]
    if _openers[suffix] is _open_jsonl:  # whose first records may lack what later ones have
        columns = columns.with_later_keys()
    folder = Path(options.folder or (source if source.is_dir() else source.parent)).absolute()
    reader = RecordReader(source=source, columns=columns, folder=folder)
    return Manifest(source=source, notes=tuple(notes), _reader=reader, _records=records)


_Opened = tuple[list[str], list[str], Callable[[], Iterator[Record]]]
"""The columns, notes, and a function that reads the records from the first on."""

_BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)


def _broken(source: Path, error: Exception) -> UsageError:
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error):
        return UsageError(f"the manifest {source} is not gzip data; take {GZIP} off its name")
    return UsageError(f"the manifest {source} is damaged gzip data ({error}); copy it again")


def _check(source: Path) -> str:
    """Return the suffix that says how to read a manifest; `FOLDER` for a directory."""
    if source.is_dir():
        return FOLDER
    if not source.exists():
        raise UsageError(
            f"there is no manifest {source}; name a JSONL, CSV, TSV or Parquet file, a directory of images, or - for "
            "JSONL on standard input"
        )
    if not os.access(source, os.R_OK):
        raise UsageError(f"the manifest {source} is not readable by this user; change its permissions")
    suffix = _suffix(source)
    if suffix not in SUFFIXES:
        raise UsageError(f"the manifest {source} is none of {', '.join(SUFFIXES)}, with or without .gz; convert it")
    return suffix


def _suffix(source: Path) -> str:
    path = source.with_suffix("") if _is_gzip(source) else source
    return path.suffix.lower()


def _is_gzip(source: Path) -> bool:
    return source.suffix.lower() == GZIP


def _open_file(source: Path) -> BinaryIO:
    if _is_gzip(source):
        return cast(BinaryIO, gzip.open(source, "rb"))
    return source.open("rb")


def _open_jsonl(source: Path, options: ManifestOptions, shown: str) -> _Opened:
    if options.encoding:
        encoding = given_encoding(options.encoding)
    else:
        with _open_file(source) as file:
            encoding = marked_encoding(file.read(1000)) or Encoding(name="utf-8-sig")

    def records() -> Iterator[Record]:
        return read_jsonl(_open_file(source), encoding)

    notes = [] if encoding.name == "utf-8-sig" else [f"{shown} is read in {encoding} (--encoding changes it)"]
    return keys_of(records()), notes, records


def _open_csv(source: Path, options: ManifestOptions, shown: str) -> _Opened:
    usual = "\t" if _suffix(source) == ".tsv" else ","
    written = find_format(partial(_open_file, source), options, usual)
    columns, repeated = unique_columns(read_header(_open_file(source), written, shown))

    def records() -> Iterator[Record]:
        return read_rows(_open_file(source), written, columns, shown)

    return columns, [written.explained(shown), *(f"{shown}: {line}" for line in repeated)], records


def _open_parquet(source: Path, options: ManifestOptions, shown: str) -> _Opened:
    columns, repeated = unique_columns(read_schema(_open_file(source), shown))

    def records() -> Iterator[Record]:
        return read_table(_open_file(source), columns, shown)

    return columns, [f"{shown}: {line}" for line in repeated], records


def _open_folder(source: Path, options: ManifestOptions, shown: str) -> _Opened:
    return list(COLUMNS), explain_passed_over(source), partial(read_images, source)


_openers: dict[str, Callable[[Path, ManifestOptions, str], _Opened]] = {
    FOLDER: _open_folder,
    ".jsonl": _open_jsonl,
    ".ndjson": _open_jsonl,
    ".csv": _open_csv,
    ".tsv": _open_csv,
    PARQUET: _open_parquet,
}
