"""Detect the encoding of a manifest: a byte order mark, UTF-8, UTF-16 without a mark, windows-1252.

The whole file is looked at, since the one character that tells UTF-8 from windows-1252 may stand in its last line.
Bytes that an encoding does not have are decoded as lone surrogates, which `clean_text` replaces: the item says so.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from repli.tasks.text.misread import MAX_STRANGE, count_strange, words_beyond_ascii

DAMAGED = "repli-damaged"
"""The error handler that decodes each byte that is none of the encoding as a lone surrogate."""
CHUNK_BYTES = 1 << 20
MAX_LETTERS = 100_000
"""The characters beyond ASCII that are looked at to tell windows-1252 from other encodings of one byte a letter."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DAMAGE = re.compile("[\udc00-\udcff]")
_NOT_ASCII = re.compile("[^\x00-\x7f]")


def _as_surrogates(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(DAMAGED, _as_surrogates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """An encoding that Python knows. `problem` says that some bytes of the file are not of it."""

    name: str
    problem: str | None = None

    def __str__(self) -> str:
        return {"utf-8-sig": "UTF-8", "utf-8": "UTF-8", "cp1252": "windows-1252"}.get(self.name, self.name.upper())


def given_encoding(name: str) -> Encoding:
    """Return the encoding of this name; a byte order mark is no part of its text."""
    codec = codecs.lookup(name).name
    return Encoding(name="utf-8-sig" if codec == "utf-8" else codec)


def marked_encoding(start: bytes) -> Encoding | None:
    """Return the encoding that a file's first bytes tell: by a mark, or by the zero bytes of UTF-16; else None."""
    for mark, name in _MARKS:
        if start.startswith(mark):
            return Encoding(name=name)
    line = start[:1000]
    even, odd = line[::2].count(0), line[1::2].count(0)
    if max(even, odd) * 8 < len(line) or min(even, odd) * 4 > max(even, odd):  # the header's names are mostly ASCII
        return None
    return Encoding(name="utf-16-le" if odd > even else "utf-16-be")


def detect_encoding(file: BinaryIO) -> Encoding:
    """Return the encoding of a text file that is read from its beginning to its end."""
    start = file.read(CHUNK_BYTES)
    if marked := marked_encoding(start):
        return marked
    valid = damaged = 0
    sample = _Sample()
    decoder = codecs.getincrementaldecoder("utf-8")(errors=DAMAGED)
    for chunk, is_last in _chunks(start, file):
        text = decoder.decode(chunk, final=is_last)
        if text.isascii():
            continue
        bad = len(_DAMAGE.findall(text))
        damaged += bad
        valid += len(_NOT_ASCII.findall(text)) - bad
        sample.add(chunk)
    if not damaged:
        return Encoding(name="utf-8-sig")
    if valid >= damaged:
        return Encoding(name="utf-8-sig", problem=f"{damaged} bytes of it are not UTF-8")
    if sample.is_windows_1252():
        return Encoding(name="cp1252")
    return Encoding(
        name="utf-8-sig", problem=f"{damaged} bytes of it are neither UTF-8 nor windows-1252; give its --encoding"
    )


def _chunks(start: bytes, file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Yield the chunks of a file whose first is `start`, each with whether it is the last."""
    chunk = start
    while chunk:
        following = file.read(CHUNK_BYTES)
        yield chunk, not following
        chunk = following


class _Sample:
    """The words with characters beyond ASCII, read as windows-1252, up to `MAX_LETTERS` of those characters."""

    def __init__(self) -> None:
        self._strange = 0
        self._seen = 0

    def add(self, chunk: bytes) -> None:
        if self._seen < MAX_LETTERS:
            for word in words_beyond_ascii(chunk.decode("cp1252", errors=DAMAGED)):
                self._seen += len(_NOT_ASCII.findall(word))
                self._strange += count_strange(word)

    def is_windows_1252(self) -> bool:
        """Return whether few characters are strange in a text of a language that windows-1252 is for."""
        return self._strange <= MAX_STRANGE * self._seen


def damage_in(text: str) -> int | None:
    """Return the place of the first character that stands for a byte that is none of the encoding, else None."""
    found = None if text.isascii() else _DAMAGE.search(text)
    return found.start() if found else None
