"""The encoding of a manifest: found in the whole file, and not claimed where it does not fit."""

from __future__ import annotations

import io
import time

import pytest

from repli.tasks.items import clean_text
from repli.tasks.sources.manifest.csv_encoding import (
    CHUNK_BYTES,
    DAMAGED,
    Encoding,
    detect_encoding,
    given_encoding,
    marked_encoding,
)

WESTERN = {
    "French": "Crème brûlée – “à la carte”, l’été où Noël naît; cœur, œuvre, À bientôt, où ça? 20 €",
    "German": "für Gäste, Straße, Größe, Übermäßig schön – „gut“, GRÜSSE AUS KÖLN: MÄDCHEN, FRÜHSTÜCK",
    "Spanish": "¿Qué tal, señor? ¡Mañana! El niño comió jamón, Ñandú, 5 ½ años, 30ºC",
    "Portuguese": "não, São João, coração, ações, três, à noite, avô, LIGAÇÃO, REVISÕES",
    "Italian": "perché, città, è già più, così, può, l’università",
    "Swedish": "smörgåsbord, älg, ö, Åsa, på väg, räksmörgås",
    "Danish": "rødgrød med fløde, æbler, Århus, blå øje",
    "Icelandic": "Það er í góðu lagi, þú ert ágætur, æðislegt, Ísafjörður, Þingvellir",
    "Finnish": "hyvää päivää, yötyö, hääyöaie, Äänekoski, pöytä, työ, säätiö",
    "Estonian": "jää-äär, öö, õunapuu, töö, kõik, Šokolaad, Žanr",
    "Catalan": "l’àvia, col·lecció, això, müsli, perquè",
    "Dutch": "coördinatie, één, ideeën, reünie, €5, café’s",
    "English": "Lamp 20 £, £5, 5€, 30°C, Nº 5, ©2020 Acme™, ½ litre, 5×7, ±2, naïve café",
}
OTHERS = {
    "Polish": ("Zażółć gęślą jaźń, Łódź, mały, część, świątynia, ręka", ["cp1250", "iso8859-2"]),
    "Romanian": ("ţară, şapte, împărat, pământ, învăţă", ["cp1250"]),
    "Russian": ("Медная лампа, Привет, дом и сад", ["cp1251", "koi8-r", "cp866"]),
    "Greek": ("Καλημέρα κόσμε, λάμπα από ορείχαλκο", ["cp1253"]),
    "Hebrew": ("שלום עולם", ["cp1255"]),
    "Arabic": ("مصباح نحاسي قديم", ["cp1256"]),
    "Japanese": ("真鍮のランプ、カフェ", ["shift_jis", "euc-jp"]),
    "Chinese": ("黄铜灯具，咖啡馆", ["gbk", "big5"]),
    "Korean": ("황동 램프, 커피 한 잔", ["euc-kr"]),
    "French of old": ("Crème brûlée à la carte, l’été où Noël naît; À bientôt, ça?", ["mac_roman", "cp850"]),
    "German of old": ("für Gäste, Straße, Größe, Übermäßig schön", ["mac_roman", "cp850", "cp437"]),
}


def detected(content: bytes) -> Encoding:
    return detect_encoding(io.BytesIO(content))


@pytest.mark.parametrize("language", WESTERN)
def test_western_europe_is_windows_1252_where_it_is_not_utf_8(language: str) -> None:
    """In 13 languages, each by itself."""
    text = f"id,name\n1,{WESTERN[language]}\n"
    assert detected(text.encode("cp1252", "ignore")) == Encoding(name="cp1252")
    assert detected(text.encode()) == Encoding(name="utf-8-sig")


@pytest.mark.parametrize(
    ("language", "encoding"), [(language, one) for language, (_, encodings) in OTHERS.items() for one in encodings]
)
def test_what_is_neither_is_not_claimed_to_be(language: str, encoding: str) -> None:
    """It is said, with the option that helps; the damaged items show it too."""
    content = f"id,name\n1,{OTHERS[language][0]}\n".encode(encoding, "ignore")
    found = detected(content)
    assert found.name == "utf-8-sig"
    assert (found.problem or "").endswith("bytes of it are neither UTF-8 nor windows-1252; give its --encoding")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line", ["1,Lamp", "1,Crème", "1,真鍮のランプ"])
def test_utf_16_is_found_with_a_mark_and_without(encoding: str, line: str) -> None:
    """By its mark, or by the zero bytes of its header, whatever the rest is."""
    content = f"id,name\n{line}\n".encode(encoding)
    found = detected(content)
    assert found.problem is None
    assert content.decode(found.name) == f"id,name\n{line}\n"


def test_a_mark_at_the_other_end_of_the_bytes() -> None:
    """UTF-16 and UTF-32 of either order."""
    assert detected("\ufeffid,name\n1,é".encode("utf-16-be")) == Encoding(name="utf-16")
    assert detected("\ufeffid,name\n1,é".encode("utf-32-be")) == Encoding(name="utf-32")


def test_zero_bytes_amid_text_are_no_utf_16() -> None:
    """A few of them are a fault of one cell."""
    assert marked_encoding(b"id,name\n1,nu\0ll\n2,\0\0\n") is None


def test_the_whole_file_is_looked_at() -> None:
    """The first character beyond ASCII may be in the last line, and be split between two reads."""
    lines = b"7,Lamp of brass\n" * (CHUNK_BYTES // 16 + 1)
    assert detected(lines + "8,Café".encode("cp1252")) == Encoding(name="cp1252")
    assert detected(b"1" * (CHUNK_BYTES - 1) + "é".encode()) == Encoding(name="utf-8-sig")


def test_a_damaged_utf_8_file_stays_utf_8() -> None:
    """One byte that is none does not turn every other accent into mojibake."""
    content = "1,Café\n2,Crème brûlée\n".encode() + b"3,Caf\xe9\n"
    found = detected(content)
    assert (found.name, found.problem) == ("utf-8-sig", "1 bytes of it are not UTF-8")
    text = content.decode(found.name, DAMAGED)
    assert clean_text(text) == "1,Café\n2,Crème brûlée\n3,Caf\ufffd\n"


@pytest.mark.parametrize(
    ("encoding", "content"),
    [("utf-8", b"a\xff\xfeb"), ("utf-16-le", b"a\0\0\xd8b\0"), ("cp1252", b"a\x81b"), ("utf-16-le", b"a\0b")],
)
def test_bytes_that_are_none_become_lone_surrogates(encoding: str, content: bytes) -> None:
    """Of every encoding: what is cleaned later is known to be damaged."""
    text = content.decode(encoding, DAMAGED)
    assert text[0] == "a"
    assert clean_text(text) != text


def test_a_given_encoding_drops_a_mark() -> None:
    """UTF-8 from Windows begins with one."""
    assert given_encoding("UTF8") == Encoding(name="utf-8-sig")
    assert str(given_encoding("windows-1252")) == "windows-1252"


def test_a_cell_without_blanks_is_soon_read() -> None:
    """As a picture in base64 is: its time grew with the square of its length."""
    content = b"id,name\n1,Caf\xe9 " + b"a" * 30_000
    began = time.thread_time()
    assert detect_encoding(io.BytesIO(content)).name == "cp1252"
    assert time.thread_time() - began < 0.5
