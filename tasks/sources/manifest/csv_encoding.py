"""Detect the encoding of a manifest: a byte order mark, UTF-8, UTF-16 without a mark, windows-1252.

The whole file is looked at, since the one character that tells UTF-8 from windows-1252 may stand in its last line.
Bytes that an encoding does not have are decoded as lone surrogates, which `clean_text` replaces: the item says so.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

DAMAGED = "repli-damaged"
"""The error handler that decodes each byte that is none of the encoding as a lone surrogate."""
CHUNK_BYTES = 1 << 20
MAX_LETTERS = 100_000
"""The characters beyond ASCII that are looked at to tell windows-1252 from other encodings of one byte a letter."""
MAX_STRANGE = 0.1
"""The share of strange characters above which a text is not windows-1252. Sentences in 13 languages of western Europe
have none of them. Read as windows-1252 by mistake, Polish and Romanian in windows-1250 have 0.27 to 0.45, Japanese,
Chinese and Korean 0.12 to 0.38, French and German of old Macs and of DOS 0.42 to 0.60, Cyrillic, Greek, Hebrew and
Arabic 0.96 and more (0.25 in code page 866). Czech, Hungarian, Turkish and Lithuanian (0 to 0.06) are not told apart:
that is why the detected encoding is always told (tests/unit/tasks/sources/manifest/test_csv_encoding.py)."""

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
            words = _WORD.findall(chunk.decode("cp1252", errors=DAMAGED))
            for word in (word for word in words if not word.isascii()):
                self._seen += len(_NOT_ASCII.findall(word))
                self._strange += _count_strange(word)

    def is_windows_1252(self) -> bool:
        """Return whether few characters are strange in a text of a language that windows-1252 is for."""
        return self._strange <= MAX_STRANGE * self._seen


_WORD = re.compile(r"[^\t-\r\x1c- !-/:-@\[-`{-~]+")
"""A run without ASCII white space and punctuation."""
_BETWEEN_LETTERS = frozenset("’‘–—·\xadªº°´")
_OUTER = frozenset("“”„‚’‘«»‹›–—…•·©®™°ºª¡¿€£¥§¶±×÷½¼¾²³¹µ¢†‡‰´¨¯¸\xa0\xad")


def _count_strange(word: str) -> int:
    """Count the characters of a word that windows-1252 text of western Europe does not have there.

    Three letters with accents in a row; a symbol amid letters; a capital with an accent after a small letter; a byte
    that is none.
    """
    strange = 0
    run: list[str] = []
    for place, letter in enumerate(word):
        before, after = word[place - 1 : place], word[place + 1 : place + 2]
        is_accented = letter > "\x7f" and letter.isalpha() and letter not in _OUTER
        if is_accented:
            run.append(letter)
            strange += letter.isupper() and before.islower()
        else:
            strange += len(run) if len(run) > 2 else 0
            run = []
        if "\udc00" <= letter <= "\udcff":
            strange += 1
        elif letter > "\x7f" and not is_accented and before.isalpha() and after.isalpha():
            strange += letter not in _BETWEEN_LETTERS
        elif letter > "\x7f" and not is_accented and letter not in _OUTER:
            strange += unicodedata.category(letter)[0] not in "PZ"
    return strange + (len(run) if len(run) > 2 else 0)


def damage_in(text: str) -> int | None:
    """Return the place of the first character that stands for a byte that is none of the encoding, else None."""
    found = None if text.isascii() else _DAMAGE.search(text)
    return found.start() if found else None
