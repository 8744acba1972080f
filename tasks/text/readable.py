"""Check that text is text: characters that can be read, words, and no bytes read in the wrong encoding.

The limits are measured on clean text: 9,500 samples of 30 to 600 characters in 106 languages (the translations under
/usr/share/locale) and 2,846 files of code, tables and prose under /usr. The same texts read in a wrong encoding, in 36
pairs of encodings, stand for damage.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

from repli.tasks.fallback import Declined

MAX_UNREADABLE = 0.05
"""The share of visible characters that may be replacement, control, private-use or unassigned characters. Clean text
has none; bullets and icons of a font cost a page some 1 %."""
MAX_ZERO_WIDTH = 0.33
"""The share of visible characters that may have no width. Khmer, which marks its words so, has up to 17 %."""
MAX_BADNESS = 0.005
"""The share of visible characters that may be signs of mojibake by `ftfy.badness`. Clean text has none; UTF-8 or a CJK
encoding that was read as windows-1252 has 0.6 to 39 %."""
ONE_SIGN_CHARACTERS = 40
"""The length of a text below which one such sign is enough."""
MAX_ACCENTED = 0.2
"""The share of visible characters that may stand in sequences of four accented Latin letters and more. Clean text has
none; Cyrillic, Greek, Hebrew or Arabic that was read as windows-1252 has at least 53 %."""
MAX_GLYPH_NAMES = 0.3
"""The share of visible characters that may be names of glyphs, as `/g12` or `(cid:12)`, which a PDF without Unicode
values gives in the place of letters."""
MAX_TWICE_DAMAGE = 0.2
"""The share of characters that must be lost where a text, written in a legacy encoding, is read as UTF-8. Clean text
loses at least 30 % in each encoding; UTF-8 that was read in a wrong encoding mostly loses less than 20 %."""
MIN_TWICE_CHARACTERS = 6
MIN_TWICE_SHARE = 0.02
"""The characters beyond ASCII, and their share of the visible ones, from which on they are judged so. Below this, a
readable text only holds a piece of mojibake."""

_UNREADABLE = frozenset({"Cc", "Cn", "Co", "Cs"})
_READABLE_CONTROLS = frozenset("\t\n\v\f\r\x85")
_BLANK = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")  # letters, marks and symbols that show nothing
_GLYPH_NAME = re.compile(r"/[A-Za-z]{1,3}\d{1,5}(?=[/\s]|$)|\(cid:\d+\)")
_ACCENTED_WORD = re.compile("[\u00c0-\u00ff]{4,}")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_MISREAD_AS = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp437", "cp866", "mac_roman"),
    *("gb18030", "cp932"),
)
_SAMPLE_CHARACTERS = 100_000
_SAMPLE_PARTS = 10


def check_is_text(text: str, what: str, *, needs_words: bool = True) -> None:
    """Raise `Declined` for a text that nobody can read.

    Args:
        what: what the text is, for the message, such as `the text`.
        needs_words: whether the text must have a letter or a digit.
    """
    if problem := _problem(Counter(text), needs_words=needs_words) or _mojibake(_sample(text)):
        raise Declined(f"{what} {problem}")


def _problem(counts: Mapping[str, int], *, needs_words: bool) -> str | None:
    """Return what is wrong with the characters of a text, given how often each stands in it."""
    unreadable = {character: count for character, count in counts.items() if _is_unreadable(character)}
    visible = sum(count for character, count in counts.items() if character in unreadable or not character.isspace())
    if not visible:
        return "is empty"
    if (damaged := sum(unreadable.values())) > MAX_UNREADABLE * visible:
        worst = max(unreadable, key=lambda character: unreadable[character])
        return (
            f"cannot be read: {damaged / visible:.0%} of it are replacement, control, private-use or unassigned "
            f"characters, most often U+{ord(worst):04X}"
        )
    if sum(count for character, count in counts.items() if _is_zero_width(character)) > MAX_ZERO_WIDTH * visible:
        return "is made of characters that show nothing"
    if needs_words and not any(character.isalnum() and character not in _BLANK for character in counts):
        return "has no words"
    return None


def _is_unreadable(character: str) -> bool:
    if character in _READABLE_CONTROLS:
        return False
    return character == "\ufffd" or unicodedata.category(character) in _UNREADABLE


def _is_zero_width(character: str) -> bool:
    is_selector = "\ufe00" <= character <= "\ufe0f"
    return is_selector or character in _BLANK or unicodedata.category(character) == "Cf"


def _mojibake(text: str) -> str | None:
    """Return the sign that shows that the bytes of `text` were read in a wrong encoding, or as no encoding at all."""
    visible = sum(map(len, text.split())) or 1
    if _length(_GLYPH_NAME, text) > MAX_GLYPH_NAMES * visible:
        return "is made of names of glyphs: its letters have no meaning in Unicode"
    if text.isascii():
        return None
    from ftfy.badness import badness  # takes 0.1 s, which a text in ASCII does not need

    signs = badness(text)
    is_misread = signs > MAX_BADNESS * visible and (signs > 1 or visible < ONE_SIGN_CHARACTERS)
    if is_misread or _length(_ACCENTED_WORD, text) > MAX_ACCENTED * visible:
        return "was read in a wrong encoding, as its sequences of accented letters and symbols show"
    if encoding := _misread_as(text, visible):
        return f"was written in UTF-8 and read as {encoding}"
    return None


def _misread_as(text: str, visible: int) -> str | None:
    """Return the encoding in which UTF-8 was read, if writing `text` in it gives UTF-8 again."""
    joined = " ".join(_NOT_ASCII.findall(text))
    if len(joined) < MIN_TWICE_SHARE * visible:
        return None
    for encoding in _MISREAD_AS:
        written = joined.encode(encoding, errors="ignore")
        again = written.decode("utf-8", errors="replace")
        damaged = again.count("\ufffd")
        characters = sum(character > "\x7f" for character in again)
        lost = 1 - len(written.decode(encoding, errors="ignore")) / len(joined)
        if characters - damaged >= MIN_TWICE_CHARACTERS and damaged / characters + lost < MAX_TWICE_DAMAGE:
            return encoding
    return None


def _sample(text: str) -> str:
    """Return the text, or as much of it from all its parts as is enough to judge by."""
    if len(text) <= _SAMPLE_CHARACTERS:
        return text
    step, length = len(text) // _SAMPLE_PARTS, _SAMPLE_CHARACTERS // _SAMPLE_PARTS
    return "".join(text[start : start + length] for start in range(0, step * _SAMPLE_PARTS, step))


def _length(pattern: re.Pattern[str], text: str) -> int:
    return sum(len(found[0]) for found in pattern.finditer(text))
