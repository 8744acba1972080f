"""Decode bytes to text. The encoding is found as browsers find it, and detected only where nothing declares it.

The order: a byte order mark, the server's declaration, UTF-8 where the bytes are valid UTF-8, the page's own
declaration, detection. Labels are those of the WHATWG Encoding Standard (https://encoding.spec.whatwg.org/#names-and-labels),
so that `iso-8859-1` and `ascii` mean windows-1252, and `gb2312` means GBK. A declaration that the bytes contradict is
no declaration.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

import webencodings

from repli.tasks.fallback import Declined
from repli.tasks.text.misread import is_misread

SURE_FROM = 0.1
"""The detector's confidence below which a text is declined, unless windows-1252 reads the same.

Measured with chardet 7.6.0 on 3,124 snippets of 12 to 2,000 characters in 31 languages and 22 encodings, cut from the
translations under /usr/share/locale: at 0.1 or more 98 % are right and 90 % remain, from 0.05 to 0.1 87 % are right,
below that 70 %. charset-normalizer 3.5.2 had 59 to 81 % right, whatever its confidence.
"""
MAX_DAMAGE = 0.05
"""The share of non-ASCII characters that an encoding may fail to read before it is taken to be wrongly declared."""
MIN_BREAKS = 0.005
"""The share of blanks, line ends and stops below which a detected UTF-16 or UTF-32 is a table of numbers, not a text.

Of 180,070 pieces of 200 characters, cut from the translations under /usr/share/locale, none has less than 0.01; two
tables of 16-bit numbers, read in the wrong order, have 0.0012 and 0.0023.
"""
JUDGED_FROM_CHARACTERS = 200
DETECTED_BYTES = 64 * 1024
"""The bytes at the start of a document that the detector reads."""
MAX_SCANNED_BYTES = 4096
"""The bytes at the start of a page in which its own declaration is looked for; browsers look at 1,024."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32be"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
)
# Labels that browsers refuse to decode, because a page in them may hide a script. Here it is only text.
_REFUSED_BY_BROWSERS = {"hz-gb-2312": "hz", "iso-2022-kr": "iso-2022-kr", "csiso2022kr": "iso-2022-kr"}
_CODECS = {"gbk": "gb18030", "hz": "hz", "iso-2022-kr": "iso2022_kr", "utf-32le": "utf-32-le", "utf-32be": "utf-32-be"}
# Encodings in which every other byte may be ASCII, or none: that the bytes are valid UTF-8 says nothing.
_NOT_OVER_ASCII = frozenset({"utf-16le", "utf-16be", "utf-32le", "utf-32be", "iso-2022-jp", "iso-2022-kr", "hz"})
# Encodings in which a few letters are often valid UTF-8 by chance.
_OFTEN_VALID_UTF_8 = frozenset({"gbk", "gb18030", "big5", "euc-kr", "euc-jp", "shift_jis", "windows-874"})
_CERTAIN_SEQUENCES = 4
"""UTF-8's sequences from which on the chance is below one in a hundred: a letter of GBK is one with 3 in 10."""

_DETECTABLE = {
    "utf-8": "utf-8",
    "utf-16-le": "utf-16le",
    "utf-16-be": "utf-16be",
    "utf-32-le": "utf-32le",
    "utf-32-be": "utf-32be",
    **{f"cp{number}": f"windows-{number}" for number in (*range(1250, 1259), 874)},
    **{f"iso8859-{number}": f"iso-8859-{number}" for number in (2, 5, 7, 15)},
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "mac-cyrillic": "x-mac-cyrillic",
    "gb18030": "gb18030",
    "big5hkscs": "big5",
    "cp949": "euc-kr",
    "euc_jis_2004": "euc-jp",
    "cp932": "shift_jis",
    "iso2022_jp_2": "iso-2022-jp",
}
"""What the detector may answer, with its name here: the web's encodings without the rarest, which cost more than they
find."""

_ONE_BYTE = frozenset(
    charset for charset in _DETECTABLE.values() if charset.startswith(("windows-125", "iso-8859-", "koi8-", "x-mac-"))
)
_BREAKS = frozenset(" \t\r\n、。，．,.!?！？")
_CONTROLS = re.compile(rb"[\0-\x08\x0b\x0e-\x1f]")
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_PAGE_CHARSET = re.compile(
    rb"""<(?:meta\b[^>]{0,400}?\bcharset|\?xml\b[^>]{0,200}?\bencoding)\s*=\s*["']?\s*([\w.:+-]+)""", re.IGNORECASE
)
_DECLARATION = re.compile(rb"\b(?:charset|encoding|coding)\s*[=:]", re.IGNORECASE)
_UTF_8_SEQUENCE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")


def find_charset(content: bytes, declared: str | None = None, *, is_markup: bool = False) -> str:
    """Return the name of the encoding of `content`, such as `utf-8`, `windows-1252` or `gbk`.

    Args:
        declared: the encoding that the server declares, by any label.
        is_markup: whether to look for a declaration in the page itself, a `<meta>` or an XML declaration.

    Raises:
        Declined: nothing declares the encoding, and the detector is not sure.
    """
    for mark, charset in _MARKS:
        if content.startswith(mark):
            return charset
    page = _declared_by_page(content) if is_markup else None
    declared_as = [charset for charset in (_by_label(declared or ""), page) if charset]
    for charset in declared_as:
        if charset in _NOT_OVER_ASCII and _reads_well(content, charset):
            return _in_order(content, charset)
    utf_8_sequences = _utf_8_sequences(content)
    if utf_8_sequences is not None and not _CONTROLS.search(content):
        rival = next((charset for charset in declared_as if charset in _OFTEN_VALID_UTF_8), None)
        is_by_chance = 0 < utf_8_sequences < _CERTAIN_SEQUENCES and rival and _reads_well(content, rival)
        return rival if rival and is_by_chance else "utf-8"
    for charset in declared_as:
        if _reads_well(content, charset):
            return charset
    guess = _detect(content)
    if guess and guess.is_sure:
        return guess.charset
    if utf_8_sequences is not None:
        return "utf-8"
    if declared_as:
        return declared_as[0]  # damaged: the check of the text says how far
    best = f"the best guess, {guess.charset}, is not sure (confidence {guess.confidence:.2f})" if guess else "none fits"
    raise Declined(f"the encoding of the text is not declared, and {best}; save it as UTF-8, or declare its encoding")


def decode(content: bytes, charset: str) -> str:
    """Return `content` as text, without a byte order mark. Bytes that the encoding does not have become U+FFFD."""
    return content.decode(_codec(charset), errors="replace").removeprefix("\ufeff")


def _by_label(label: str) -> str | None:
    """Return the name of the encoding that a label means; None for an unknown label."""
    plain = label.strip().strip("\"'").strip().lower()
    if plain in _REFUSED_BY_BROWSERS:
        return _REFUSED_BY_BROWSERS[plain]
    encoding = webencodings.lookup(plain) if plain.isascii() else None
    return encoding.name if encoding and encoding.name not in {"replacement", "x-user-defined"} else None


def _declared_by_page(content: bytes) -> str | None:
    found = _PAGE_CHARSET.search(_COMMENT.sub(b"", content[:MAX_SCANNED_BYTES]))
    charset = _by_label(found[1].decode("ascii", "replace")) if found else None
    # A declaration that can be read as ASCII is not in UTF-16, whatever it says: browsers take UTF-8.
    return "utf-8" if charset in {"utf-16le", "utf-16be"} else charset


def _in_order(content: bytes, charset: str) -> str:
    """Return the charset; for UTF-16 without a mark, in the byte order in which its NULs stand."""
    if charset not in {"utf-16le", "utf-16be"}:
        return charset
    first, second = content[0::2].count(0), content[1::2].count(0)
    return charset if first == second else "utf-16be" if first > second else "utf-16le"


def _utf_8_sequences(content: bytes) -> int | None:
    """Return the number of characters beyond ASCII in valid UTF-8; None for anything else."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return 0 if content.isascii() else len(_UTF_8_SEQUENCE.findall(content))


def _reads_well(content: bytes, charset: str) -> bool:
    text = decode(content, charset)
    damaged = text.count("\ufffd")
    return damaged <= MAX_DAMAGE * sum(not character.isascii() for character in text) if damaged else True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guess:
    charset: str
    confidence: float
    is_sure: bool


def _detect(content: bytes) -> _Guess | None:
    """Return the detector's best guess; None where no encoding fits, as for a picture.

    It is sure from `SURE_FROM` on, and where mostly ASCII letters read the same in windows-1252, the web's default: of
    such short texts 91 to 98 % are right, of others below `SURE_FROM` 74 %.
    """
    import chardet

    start = _DECLARATION.sub(b"", content[:DETECTED_BYTES])  # which the detector would believe
    found = chardet.detect(start, compat_names=False, include_encodings=_DETECTABLE)
    charset, confidence = _DETECTABLE.get(found["encoding"] or ""), found["confidence"]
    if charset is None or not _reads_well(start, charset):
        return None
    text = decode(start, charset)
    if charset.startswith(("utf-16", "utf-32")) and not _has_breaks(text):
        return None
    if charset in _OTHER_ORDER and _in_common(turned := decode(start, _OTHER_ORDER[charset])) > _in_common(text):
        charset, text = _OTHER_ORDER[charset], turned
    is_default = _is_mostly_ascii(text) and text == decode(start, "windows-1252")
    if confidence < SURE_FROM and is_default:
        charset = "windows-1252"
    is_sure = (confidence >= SURE_FROM or is_default) and not (charset in _ONE_BYTE and is_misread(text, charset))
    return _Guess(charset=charset, confidence=confidence, is_sure=is_sure)


def _in_common(text: str) -> int:
    """Count characters that many texts have, which are none or rare ones in the other order of the bytes."""
    return len(_COMMON.findall(text))


_COMMON = re.compile("[ -~\r\n\u3001\u3002\u3040-\u30ff\uff00-\uffef]")
_OTHER_ORDER = {"utf-16le": "utf-16be", "utf-16be": "utf-16le"}


def _has_breaks(text: str) -> bool:
    """Return whether a text has blanks, line ends or stops, as far as it is long enough to say."""
    return len(text) < JUDGED_FROM_CHARACTERS or sum(map(_BREAKS.__contains__, text)) >= MIN_BREAKS * len(text)


def _is_mostly_ascii(text: str) -> bool:
    letters = [character.isascii() for character in text if character.isalpha()]
    return sum(letters) > 0.6 * len(letters)


def _codec(charset: str) -> str:
    return _CODECS.get(charset) or webencodings.lookup(charset).codec_info.name
