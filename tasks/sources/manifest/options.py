"""Options for reading a manifest: its columns, its delimiter, its encoding."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from repli.tasks.fallback import UsageError

FIELDS = ("id", "name", "document", "text", "image")
"""The fields of an item that a column may be."""
DELIMITERS: Mapping[str, str] = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
"""The delimiters of a CSV that are detected, each with its name in messages."""
_NAMES = {"tab": "\t", "\\t": "\t"}
_NO_DELIMITERS = {'"', "\r", "\n", "\0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestOptions:
    """How to read a manifest, as far as its reader is not left to find out.

    Args:
        columns: The manifest's column for each field that is not found under its own name.
        delimiter: The delimiter of a CSV, one character. None: detected.
        encoding: The encoding of a CSV or JSONL, one that Python knows. None: detected.
        folder: The folder in which relative paths start. None: the manifest's own.

    Example:
        >>> ManifestOptions.parse(["name=Title"], delimiter="tab").columns
        {'name': 'Title'}
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    encoding: str | None = None
    folder: str | None = None

    @classmethod
    def parse(
        cls,
        columns: Iterable[str] = (),
        *,
        delimiter: str | None = None,
        encoding: str | None = None,
        folder: str | None = None,
    ) -> ManifestOptions:
        """Return the options that the command line or a form gives; '' is as good as None.

        Raises:
            UsageError: A column, the delimiter or the encoding cannot be used; the message names the option.
        """
        return cls(
            columns=_parse_columns(columns),
            delimiter=_parse_delimiter(delimiter) if delimiter else None,
            encoding=_parse_encoding(encoding) if encoding else None,
            folder=folder or None,
        )

    @classmethod
    def from_run(cls, options: Mapping[str, Any]) -> ManifestOptions:
        """Return the options that a run's record keeps, see `as_options`. Older records have none."""
        kept = {name: options.get(name) or None for name in ("delimiter", "encoding")}
        return cls.parse(options.get("columns") or (), **kept)

    @property
    def is_default(self) -> bool:
        """Return whether all is left to the reader, but for the folder."""
        return not (self.columns or self.delimiter or self.encoding)

    @property
    def column_specs(self) -> list[str]:
        """Return the columns as `FIELD=COLUMN`, as the command line takes them."""
        return [f"{name}={column}" for name, column in self.columns.items()]

    def as_options(self) -> dict[str, Any]:
        """Return what a run's record keeps, as JSON."""
        return {"columns": self.column_specs, "delimiter": self.delimiter, "encoding": self.encoding}


def _parse_columns(specs: Iterable[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for spec in specs:
        name, equals, column = spec.partition("=")
        name = name.strip().lower()
        if not (equals and column.strip()):
            raise UsageError(f"--column {spec[:200]!r} is not of the form FIELD=COLUMN, such as name=title")
        if name not in FIELDS:
            raise UsageError(f"--column {spec[:200]!r}: there is no field {name!r}; choose from {', '.join(FIELDS)}")
        if columns.setdefault(name, column) != column:
            raise UsageError(f"--column {spec[:200]!r}: {name} is the column {columns[name]!r} already; choose one")
    return columns


def _parse_delimiter(given: str) -> str:
    delimiter = _NAMES.get(given.lower(), given)
    if len(delimiter) != 1 or delimiter in _NO_DELIMITERS:
        raise UsageError(f"--delimiter {given[:40]!r}: give one character, such as ';', or tab")
    return delimiter


def _parse_encoding(given: str) -> str:
    try:
        codec = codecs.lookup(given.strip())
        "".encode(codec.name)  # refuses codecs that are no encodings of text, such as base64
    except (LookupError, ValueError):
        raise UsageError(
            f"--encoding {given[:40]!r}: Python knows no such encoding; give one such as utf-8, utf-16 or windows-1252"
        ) from None
    return codec.name
