"""Signs that bytes of one letter each were read in another encoding than they were written in."""

from __future__ import annotations

import pytest

from repli.tasks.fallback import Declined
from repli.tasks.text.encoding import decode, find_charset
from repli.tasks.text.misread import is_misread
from tests.support.scripts import LEGACY, SENTENCES

JAPANESE = SENTENCES["japanese"]


OF_ONE_BYTE = [one for one in LEGACY if one[1].startswith(("windows-", "iso-8859-", "koi8-"))]


@pytest.mark.parametrize(("language", "charset", "codec"), OF_ONE_BYTE)
def test_a_text_in_its_own_encoding_has_none(language: str, charset: str, codec: str) -> None:
    """Whatever its script."""
    assert not is_misread(SENTENCES[language].encode(codec).decode(codec), charset)


@pytest.mark.parametrize("charset", ["windows-1252", "windows-1250", "windows-1255"])
@pytest.mark.parametrize(
    "text", ["l·l", "le\xa0chat", "mot…mot", "l’été", "word—word", "צה״ל", "10 µm², 20 °C", "naïve™"]
)
def test_a_symbol_that_may_stand_so_is_none(text: str, charset: str) -> None:
    """Each of them is usual somewhere, and may be all that a text has beyond ASCII."""
    assert not is_misread(text, charset)


@pytest.mark.parametrize(
    ("language", "written", "read"),
    [
        ("german", "mac_roman", "windows-1252"),
        ("french", "mac_roman", "windows-1252"),
        ("german", "cp850", "windows-1252"),
        ("polish", "cp1250", "windows-1252"),
        ("arabic", "iso8859_6", "windows-1256"),
        ("turkish", "cp857", "windows-1254"),
    ],
)
def test_a_text_that_was_misread_has_some(language: str, written: str, read: str) -> None:
    """Of old Macs, of DOS, and of the rarer standards."""
    misread = SENTENCES[language].encode(written, "ignore").decode(read, "replace")
    assert is_misread(misread, read)


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        (SENTENCES["german"], "mac_roman"),
        (SENTENCES["german"], "cp850"),
        (SENTENCES["french"], "mac_roman"),
        (SENTENCES["arabic"], "iso8859_6"),
        (JAPANESE[:20], "utf-16-le"),
        (JAPANESE[:20], "utf-16-be"),
        (SENTENCES["russian"][:20], "utf-16-le"),
        (SENTENCES["chinese"][:20], "utf-16-be"),
    ],
)
def test_undeclared_text_is_read_or_declined(text: str, codec: str) -> None:
    """And never claimed to be what it is not."""
    content = text.encode(codec, "ignore")
    try:
        read = decode(content, find_charset(content))
    except Declined:
        return
    assert read == content.decode(codec)
