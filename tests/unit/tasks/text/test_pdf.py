"""PDF by both readers: text, forms and notes, scans, and letters that mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import FreeText, Text
from pypdf.generic import ArrayObject, DictionaryObject, FloatObject, NameObject, NumberObject, TextStringObject

from repli.tasks.fallback import Declined
from repli.tasks.text.pdf import by_pypdf, check_guess
from repli.tasks.text.pdfium import by_pdfium
from repli.tasks.text.readable import check_is_text
from tests.support import files

Reader = Callable[[bytes], str]
READERS = pytest.mark.parametrize("read", [by_pdfium, by_pypdf])


def written(writer: PdfWriter) -> bytes:
    file = BytesIO()
    writer.write(file)
    return file.getvalue()


def with_field(content: bytes, name: str, kind: str, value: str | list[str], flags: int = 0) -> bytes:
    """The PDF with a field of a form at its bottom that has a value and no picture of it."""
    writer = PdfWriter(clone_from=PdfReader(BytesIO(content)))
    values = [TextStringObject(one) for one in value] if isinstance(value, list) else None
    field = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Annot"),
            NameObject("/Subtype"): NameObject("/Widget"),
            NameObject("/FT"): NameObject(kind),
            NameObject("/T"): TextStringObject(name),
            NameObject("/V"): ArrayObject(values) if values else TextStringObject(value),
            NameObject("/Ff"): NumberObject(flags),
            NameObject("/Rect"): ArrayObject(FloatObject(edge) for edge in (10, 10, 200, 30)),
        }
    )
    reference = writer._add_object(field)
    writer.pages[0][NameObject("/Annots")] = ArrayObject([reference])
    writer.root_object[NameObject("/AcroForm")] = DictionaryObject({NameObject("/Fields"): ArrayObject([reference])})
    return written(writer)


@READERS
@pytest.mark.parametrize("page_degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("text_degrees", [0, 90, 180, 270])
def test_lines_and_words_keep_their_order_however_a_page_is_turned(
    read: Reader, text_degrees: int, page_degrees: int
) -> None:
    """A table set sideways, a scan that was turned or put in upside down; text is drawn turned, the page, or both."""
    lines = ["Alpha one two", "Beta three four", "Gamma five six"]
    text = read(files.turned_pdf(lines, text_degrees, page_degrees))
    assert text.split() == " ".join(lines).split()


@READERS
def test_a_line_in_the_margin_does_not_turn_its_page(read: Reader) -> None:
    """As the stamp of a preprint server, which runs up or down beside the text and is drawn first."""
    for degrees in (90, 270):
        stamp, page = files.turned_pdf(["stamp"], degrees, 0), files.turned_pdf(["the text", "of a page"], 0, 0)
        writer = PdfWriter(clone_from=PdfReader(BytesIO(stamp)))
        writer.pages[0].merge_page(PdfReader(BytesIO(page)).pages[0])
        assert read(written(writer)).split() == ["stamp", "the", "text", "of", "a", "page"]


@READERS
def test_values_of_a_form_are_text(read: Reader) -> None:
    """As its reader would see them: the case that a form holds its words in its fields alone."""
    text = read(files.form_pdf("Product:", "Brass desk lamp with green shade"))
    assert " ".join(text.split()) == "Product: Brass desk lamp with green shade"


@READERS
@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("/Tx", "Größe: 40 cm – grün", "Größe: 40 cm – grün"),
        ("/Ch", "brass", "brass"),
        ("/Ch", ["brass", "glass"], "brass"),
    ],
)
def test_a_value_without_a_picture_is_text(read: Reader, kind: str, value: str | list[str], words: str) -> None:
    """A field that no program has drawn yet has a value all the same."""
    text = read(with_field(files.pdf("A lamp"), "size", kind, value, 1 << 21 if isinstance(value, list) else 0))
    assert text.startswith("A lamp")
    assert words in text


@READERS
def test_a_password_in_a_form_is_no_text(read: Reader) -> None:
    """What a form hides is not stored."""
    assert "hush" not in read(with_field(files.pdf("A lamp of brass"), "password", "/Tx", "hush", 1 << 13))


@READERS
def test_notes_are_text(read: Reader) -> None:
    """A note in the margin and a text written over the page, each once."""
    writer = PdfWriter(clone_from=PdfReader(BytesIO(files.pdf("A brass lamp"))))
    writer.add_annotation(0, Text(text="Shade is missing", rect=(10, 10, 30, 30)))
    writer.add_annotation(0, FreeText(text="Sold in May", rect=(50, 50, 200, 80)))
    text = read(written(writer))
    assert [text.count(words) for words in ("A brass lamp", "Shade is missing", "Sold in May")] == [1, 1, 1]


@READERS
def test_letters_without_a_meaning_are_declined(read: Reader) -> None:
    """A font that names its letters g1, g2, ... tells no reader what they are."""
    with pytest.raises(Declined, match=r"have no Unicode value, so nothing|its letters have no meaning in Unicode"):
        check_is_text(read(files.no_unicode_pdf()), "the text")


@READERS
def test_a_scan_is_declined(read: Reader) -> None:
    """A page that is a picture has no text, and the message says how to get one."""
    with pytest.raises(Declined, match=r"the PDF is a scan: its only page shows pictures and has no text; add"):
        read(files.scanned_pdf())


@READERS
def test_a_pdf_behind_a_password_is_declined(read: Reader) -> None:
    """Waiting does not open it."""
    with pytest.raises(Declined, match="encrypted; give a copy that opens without a password"):
        read(files.locked_pdf("secret"))


@pytest.mark.parametrize(
    "text",
    [
        "Booked and interest",
        "KEY INVESTOR INFORMATION",
        "0 2 4 6 8\n-1.5 3,000",
        "Výbava na přání",
        "甲方：中国饮料公司",
    ],
)
def test_a_guess_that_reads_naturally_passes(text: str) -> None:
    """Fonts often number their letters as ASCII or Unicode does, without saying so."""
    check_guess(text)


@pytest.mark.parametrize(
    "text",
    ["9ROXPHV", "5(&20('$&,Ï1", "'(6&5,37,21", "ɍɝɥɨɜɚɹ", "άϭϰ͘ϬϬ", "!:. /-,0 1 23'',4", "ǡǼǱǺ ǓǯǯǱǿǿ"],
)
def test_a_guess_that_reads_like_nothing_is_declined(text: str) -> None:
    """Letters that are shifted, or numbers of glyphs; each as a reader has it from a public file."""
    with pytest.raises(Declined, match="no Unicode value"):
        check_guess(text)


@READERS
def test_a_damaged_pdf_writes_nothing_into_the_log(read: Reader, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is read in spite of its damage, or whose item says why not, needs no hundred lines of warnings."""
    damaged = files.pdf("a brass lamp").replace(b"startxref\n", b"startxref\n1")
    assert read(damaged).strip() == "a brass lamp"
    assert not caplog.records
