"""The encoding of a document: mark, server, page, and only then a guess."""

from __future__ import annotations

import random
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repli.tasks.fallback import Declined
from repli.tasks.text.encoding import decode, find_charset
from tests.support.scripts import LEGACY, SENTENCES

QUOTES = "“It’s a fine lamp” – the café, 20 €"
RUSSIAN = SENTENCES["russian"]


def page(charset: str, text: str = RUSSIAN) -> str:
    return f'<html><head><meta charset="{charset}"></head><body><p>{text}</p></body></html>'


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("iso-8859-1", "cp1252"),
        ("latin1", "cp1252"),
        ("us-ascii", "cp1252"),
        ("ANSI_X3.4-1968", "cp1252"),
        ("windows-1252", "cp1252"),
        (" 'Cp1252' ", "cp1252"),
    ],
)
def test_latin_1_and_ascii_mean_windows_1252(label: str, codec: str) -> None:
    """Browsers read them so, because pages hold its quotes and its euro under these names."""
    content = QUOTES.encode(codec)
    assert find_charset(content, label) == "windows-1252"
    assert decode(content, "windows-1252") == QUOTES


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("gb2312", "gbk", "联系电话和手机，朱镕基"),
        ("x-sjis", "cp932", "ランプ①と㈱"),
        ("ks_c_5601-1987", "cp949", "똠방각하 램프"),
        ("big5", "big5hkscs", "檯燈放在桌子上"),
        ("iso-8859-9", "cp1254", "ışık ve ağaç"),
        ("tis-620", "cp874", "โคมไฟตั้งอยู่"),
        ("koi8", "koi8_r", RUSSIAN),
        ("iso-2022-jp", "iso2022_jp", "ランプは机の上"),
        ("iso-2022-kr", "iso2022_kr", "램프는 책상 위에"),
        ("hz-gb-2312", "hz", "台灯放在桌子上"),
        ("utf-16", "utf-16-le", "A lamp"),
        ("utf-16", "utf-16-be", "A lamp"),
    ],
)
def test_labels_mean_what_the_standard_says(label: str, codec: str, text: str) -> None:
    """The names that servers and pages use stand for wider encodings than their letter."""
    content = text.encode(codec)
    assert decode(content, find_charset(content, label)) == text


def test_the_server_goes_before_the_page_and_the_mark_before_both() -> None:
    """The server knows what it sends; a copied page still declares what it was once in."""
    in_iso = page("windows-1251").encode("iso8859_5")
    assert find_charset(in_iso, "iso-8859-5", is_markup=True) == "iso-8859-5"
    assert find_charset(in_iso, None, is_markup=True) == "windows-1251"
    marked = page("windows-1251").encode("utf-8-sig")
    assert decode(marked, find_charset(marked, "iso-8859-5", is_markup=True)) == page("windows-1251")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_is_believed(codec: str) -> None:
    """Whatever is declared, and it is no part of the text."""
    content = RUSSIAN.encode(codec)
    assert decode(content, find_charset(content, "windows-1252")) == RUSSIAN


@pytest.mark.parametrize(
    "head",
    [
        '<meta charset="koi8-r">',
        "<META  CHARSET = koi8-r />",
        '<meta http-equiv="Content-Type" content="text/html; charset=KOI8-R">',
        '<?xml version="1.0" encoding="koi8-r"?>',
        '<!-- <meta charset="windows-1251"> --><meta charset="koi8-r">',
    ],
)
def test_the_page_declares_its_encoding(head: str) -> None:
    """In one of its forms, and not in a comment."""
    assert find_charset(f"{head}<p>{RUSSIAN}".encode("koi8_r"), is_markup=True) == "koi8-r"


def test_a_text_about_pages_declares_nothing() -> None:
    """What is no markup is read as it is, whatever tags it is about."""
    content = f'Write <meta charset="windows-1252"> into it. {RUSSIAN}'.encode("cp1251")
    assert find_charset(content) == "windows-1251"


@pytest.mark.parametrize("declared", ["windows-1252", "windows-1251", "utf-16", "no-such-encoding", ""])
def test_utf_8_is_seen(declared: str) -> None:
    """Bytes that are valid UTF-8 are nothing else, whatever a page claims, even in a single letter."""
    for text in (RUSSIAN, "Café"):
        content = page(declared, text).encode()
        assert find_charset(content, is_markup=True) == "utf-8"


def test_two_chinese_letters_are_what_they_are_declared_as() -> None:
    """Few letters of GBK may be valid UTF-8 by chance; many are not."""
    content = "鲁".encode("gbk") * 2
    assert content.decode("utf-8")
    assert find_charset(content, "gb2312") == "gbk"
    assert find_charset(content * 3, "gb2312") == "utf-8"


@pytest.mark.parametrize("declared", ["utf-8", "euc-kr", "shift_jis"])
def test_a_declaration_that_the_bytes_contradict_is_none(declared: str) -> None:
    """Then the page's own counts, or a guess."""
    assert find_charset(page("windows-1251").encode("cp1251"), declared, is_markup=True) == "windows-1251"
    assert find_charset(RUSSIAN.encode("cp1251"), declared) == "windows-1251"


def test_a_broken_byte_contradicts_nothing() -> None:
    """It becomes one replacement character, in the encoding that is declared."""
    content = page("utf-8").encode() + b"\xff"
    assert decode(content, find_charset(content, is_markup=True)) == page("utf-8") + "\ufffd"


@pytest.mark.parametrize(("language", "charset", "codec"), LEGACY)
def test_undeclared_text_is_detected(language: str, charset: str, codec: str) -> None:
    """Two sentences are enough in each language and encoding."""
    content = SENTENCES[language].encode(codec, errors="ignore")
    assert decode(content, find_charset(content)) == content.decode(codec)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["A desk lamp with a green shade.", RUSSIAN])
def test_wide_encodings_without_a_mark(codec: str, text: str) -> None:
    """Their zeros tell them, and their order."""
    content = text.encode(codec)
    assert decode(content, find_charset(content)) == text


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_table_of_numbers_is_no_text_in_utf_16(order: str) -> None:
    """Its zeros stand where those of text would, and no blank does: the case of a graph in two bytes a node."""
    numbers = random.Random(0).choices(range(200), k=1200)
    with pytest.raises(Declined, match="none fits"):
        find_charset(struct.pack(f"{order}1200H", *numbers))


@pytest.mark.parametrize("language", ["english", "russian", "greek", "hebrew", "arabic", "korean", "vietnamese"])
@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_long_text_in_utf_16_has_blanks_enough(language: str, codec: str) -> None:
    """Text of more than one script is still found without a mark."""
    content = (SENTENCES[language] * 10).encode(codec)
    assert decode(content, find_charset(content)) == content.decode(codec)


@pytest.mark.parametrize("text", ["Café", "Straße", "Crème brûlée"])
def test_a_few_accents_among_latin_letters_are_windows_1252(text: str) -> None:
    """Where the detector's guess reads the same as the web's default."""
    assert find_charset(text.encode("cp1252")) == "windows-1252"


@pytest.mark.parametrize(
    "content", [bytes(range(128, 256)), b"\x81", "na\xefve".encode("latin-1"), random.Random(0).randbytes(300)]
)
def test_an_unsure_guess_is_declined(content: bytes) -> None:
    """Bytes that may be anything are not claimed to be something; the message says what to do."""
    with pytest.raises(
        Declined, match=r"the encoding of the text is not declared, and .*; save it as UTF-8, or declare"
    ):
        find_charset(b"\x81" + content)


def test_the_message_names_the_best_guess() -> None:
    """With its confidence, so that its owner can judge."""
    with pytest.raises(Declined, match=re.compile(r"the best guess, [\w-]+, is not sure \(confidence 0\.0\d\)")):
        find_charset("na\xefve".encode("latin-1"))


@given(
    st.binary(max_size=200), st.sampled_from([None, "utf-8", "gbk", "utf-16", "iso-2022-jp", "nonsense"]), st.booleans()
)
def test_no_bytes_raise_anything_else(content: bytes, declared: str | None, is_markup: bool) -> None:
    """Each document has an encoding, or is declined."""
    try:
        charset = find_charset(content, declared, is_markup=is_markup)
    except Declined:
        return
    assert isinstance(decode(content, charset), str)
