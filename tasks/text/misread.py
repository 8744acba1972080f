"""Signs that bytes of a legacy encoding were read in another one: characters where no language has them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MAX_STRANGE = 0.1
"""The share of strange characters above which a text is not windows-1252. Sentences in 13 languages of western Europe
have none of them. Read as windows-1252 by mistake, Polish and Romanian in windows-1250 have 0.27 to 0.45, Japanese,
Chinese and Korean 0.12 to 0.38, French and German of old Macs and of DOS 0.42 to 0.60, Cyrillic, Greek, Hebrew and
Arabic 0.96 and more (0.25 in code page 866). Czech, Hungarian, Turkish and Lithuanian (0 to 0.06) are not told apart:
that is why the detected encoding of a manifest is always told (tests/unit/tasks/sources/manifest/test_csv_encoding.py).
"""
MAX_OUT_OF_PLACE = 0.05
"""The share of characters out of place above which a text is not of its encoding of one byte a letter.

With both limits, of 3,446 undeclared pieces of 30 to 2,000 characters in 32 languages (the translations under
/usr/share/locale) 10 more that were right are declined, all but one Icelandic. Of 22 that were wrong among 236 pieces
in 46 encodings, those of old Macs, DOS and rarer standards among them, 7 are left."""
WESTERN = frozenset({"windows-1252", "iso-8859-15"})

_WORD = re.compile(r"[^\t-\r\x1c- !-/:-@\[-`{-~]+")
"""A run without ASCII white space and punctuation."""
_BETWEEN_LETTERS = frozenset("’‘–—…·\xa0\xadªº°´׳״\u200c\u200d\u200e\u200f")
_OUTER = frozenset("“”„‚’‘«»‹›–—…•·©®™°ºª¡¿€£¥§¶±×÷½¼¾²³¹µ¢†‡‰´¨¯¸\xa0\xad")


def is_misread(text: str, charset: str) -> bool:
    """Return whether a text that was read in `charset`, an encoding of one byte a letter, has too many such signs."""
    words = [word[:_LONGEST] for word in words_beyond_ascii(text)]
    beyond_ascii = sum(character > "\x7f" for word in words for character in word)
    if charset in WESTERN:
        return sum(map(count_strange, words)) > MAX_STRANGE * beyond_ascii
    return sum(map(_count_out_of_place, words)) > MAX_OUT_OF_PLACE * beyond_ascii


_LONGEST = 1000


def words_beyond_ascii(text: str) -> Iterator[str]:
    """Yield the words that have a character beyond ASCII."""
    return (word for word in _WORD.findall(text) if not word.isascii())


def count_strange(word: str) -> int:
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


def _count_out_of_place(word: str) -> int:
    """Count symbols amid letters, and accented Latin letters in a word of Greek, Cyrillic, Hebrew or Arabic."""
    strange = sum("\xc0" <= letter <= "\u024f" for letter in word if letter.isalpha()) if _is_of_the_east(word) else 0
    for before, letter, after in zip(word, word[1:], word[2:], strict=False):
        if letter > "\x7f" and letter not in _BETWEEN_LETTERS and before.isalpha() and after.isalpha():
            strange += unicodedata.category(letter)[0] in "SPC"
    return strange


def _is_of_the_east(word: str) -> bool:
    return any("\u0370" <= letter <= "\u06ff" for letter in word)
