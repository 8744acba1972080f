"""Refuse a manifest whose first bytes show that it is another kind of file than its suffix says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import BinaryIO

from repli.tasks.fallback import UsageError

READ_BYTES = 1024

_OTHERS: Mapping[re.Pattern[bytes], tuple[str, str]] = {
    re.compile(rb"\x1f\x8b"): ("gzip data", "add .gz to its name, or unpack it"),
    re.compile(rb"PK\x03\x04"): ("a ZIP file, as .xlsx is", "unpack it, or save the table as CSV"),
    re.compile(rb"\xd0\xcf\x11\xe0"): ("an Office file, as .xls is", "save the table as CSV"),
    re.compile(rb"PAR1"): ("a Parquet file", "name it .parquet"),
    re.compile(rb"SQLite format 3\0"): ("an SQLite database", "export its table as CSV"),
    re.compile(rb"%PDF-"): ("a PDF", "write its table as CSV"),
    re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html[\s>])", re.IGNORECASE): (
        "a page of HTML, such as an error or a log-in",
        "download it again",
    ),
}
"""What a file that should be text may be instead, with what to do about it."""


def check_is_text_file(file: BinaryIO, shown: str, *, is_unpacked: bool) -> None:
    """Raise `UsageError` where the file is no table of text.

    Args:
        file: The file, from its beginning.
        shown: The manifest, for the message.
        is_unpacked: Whether a layer of gzip has been taken off.
    """
    with file:
        start = file.read(READ_BYTES)
    for pattern, (kind, remedy) in _OTHERS.items():
        if pattern.match(start):
            if is_unpacked:
                raise UsageError(f"{shown} is {kind} within gzip data; unpack it, and name it by what it is then")
            raise UsageError(f"{shown} is {kind}; {remedy}")
