"""The check that text is text: it declines what nobody can read, and nothing else."""

from __future__ import annotations

import pytest

from repli.tasks.fallback import Declined
from repli.tasks.text.readable import MAX_UNREADABLE, check_is_text
from tests.support import ROOT
from tests.support.scripts import SENTENCES

CODE = "def f(x: int) -> str:\n    return f'{x!r:>8}' if x & 0xff else '\\x00'  # ≥ 0\n"
TABLE = "a\tb\tc\n1\t2.5\t-3e-7\n4\t5\t6\n" * 20
GLYPHS = "/g2/g18/g1/g19/g19/g12/g1/g13/g16/g23/g9"


@pytest.mark.parametrize("text", [*SENTENCES.values(), CODE, TABLE, "1984", "A lamp 💡 👨‍👩‍👧", "½ ™ © № ℃ → α ≤ β"])
def test_text_passes(text: str) -> None:
    """In any script, and code, tables and symbols too."""
    check_is_text(text, "it")


def test_all_files_of_this_repository_pass() -> None:
    """Whatever is written in them, tests of encodings included."""
    for path in sorted(ROOT.glob("tasks/**/*.py")):
        check_is_text(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("language", SENTENCES)
@pytest.mark.parametrize("length", [12, 30])
def test_a_few_words_pass(language: str, length: int) -> None:
    """The beginning of a sentence is as good as the whole."""
    check_is_text(SENTENCES[language][:length], "it")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "\x01\x02\x01\x02",
            "100% of it are replacement, control, private-use or unassigned characters, most often U+00",
        ),
        ("\ufffd" * 5, "most often U+FFFD"),
        ("A lamp \ufffd\ufffd of brass", "14% of it"),
        ("\uf0b7\uf0a7\ue001", "most often U+"),
        ("\U000e0fff\U0003ffff\u0378", "unassigned"),
        ("\x1c\x1d\x1e", "most often U+001C"),
        ("\u200b\u200d\ufeff\u2060", "characters that show nothing"),
        ("lamp\u200b\u200c\u200b", "characters that show nothing"),
        ("\u3164\u115f\u2800", "characters that show nothing"),
        (" \n\t\xa0", "is empty"),
        ("", "is empty"),
        ("--- *** ... ???", "has no words"),
        (GLYPHS, "names of glyphs"),
        ("(cid:12)(cid:7)(cid:44) (cid:3)", "names of glyphs"),
    ],
)
def test_garbage_is_declined(text: str, problem: str) -> None:
    """The message says what is wrong with it."""
    with pytest.raises(Declined) as declined:
        check_is_text(text, "it")
    assert problem in str(declined.value)


def test_a_small_share_passes() -> None:
    """A bullet of a font here and there, or a byte that was lost, leaves a text that can be read."""
    words = "lamp " * 19
    check_is_text(words + "\uf0b7" * 4, "it")
    assert 4 / (19 * 4 + 4) <= MAX_UNREADABLE < 5 / (19 * 4 + 5)
    with pytest.raises(Declined, match="6% of it"):
        check_is_text(words + "\uf0b7" * 5, "it")


def test_a_name_needs_no_words() -> None:
    """But it must show something."""
    check_is_text("★", "the name", needs_words=False)
    with pytest.raises(Declined, match="the name is made of characters that show nothing"):
        check_is_text("\u200b", "the name", needs_words=False)


@pytest.mark.parametrize(
    ("language", "written", "read"),
    [
        ("french", "utf-8", "cp1252"),
        ("german", "utf-8", "cp1252"),
        ("french", "utf-8", "mac_roman"),
        ("polish", "utf-8", "cp1252"),
        ("polish", "utf-8", "cp1250"),
        ("russian", "utf-8", "cp1252"),
        ("russian", "utf-8", "cp1251"),
        ("russian", "utf-8", "koi8_r"),
        ("russian", "cp1251", "cp1252"),
        ("russian", "koi8_r", "latin-1"),
        ("greek", "cp1253", "cp1252"),
        ("hebrew", "cp1255", "cp1252"),
        ("arabic", "cp1256", "cp1252"),
        ("arabic", "utf-8", "cp1256"),
        ("thai", "cp874", "cp1252"),
        ("chinese", "gb18030", "cp1252"),
        ("chinese", "utf-8", "gb18030"),
        ("japanese", "cp932", "cp1252"),
        ("japanese", "utf-8", "cp1252"),
        ("korean", "cp949", "cp1252"),
    ],
)
def test_mojibake_is_declined(language: str, written: str, read: str) -> None:
    """Text that was read in another encoding than it was written in shows it."""
    mojibake = SENTENCES[language].encode(written, errors="ignore").decode(read, errors="ignore")
    with pytest.raises(Declined, match=r"wrong encoding|was written in UTF-8 and read as"):
        check_is_text(mojibake, "it")


def test_a_quoted_piece_of_mojibake_passes() -> None:
    """A page about encodings is a page."""
    check_is_text(f"{SENTENCES['english'] * 5} They had written cafÃ© there. {SENTENCES['english'] * 5}", "it")


def test_the_end_of_a_long_text_counts() -> None:
    """Damage anywhere in it is seen."""
    text = SENTENCES["english"] * 3000
    check_is_text(text, "it")
    with pytest.raises(Declined):
        check_is_text(text + SENTENCES["russian"].encode("cp1251").decode("cp1252") * 3000, "it")
