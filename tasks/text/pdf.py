"""Read the text of a PDF by pypdf, and judge what a reader of PDFs has read. `repli.tasks.text.pdfium` is the other."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import Declined

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

SCAN_CHARACTERS = 10
"""Letters and digits a page, on average, below which a PDF of pictures is a scan: it has page numbers and stamps."""
ENCRYPTED = "the PDF is encrypted; give a copy that opens without a password"

_ON = frozenset({"", "yes", "on", "off", "true", "1", "0"})
PASSWORD_FIELD = 1 << 13  # PDF 32000-1, table 228
_NOT_NOTES = frozenset({"/Widget", "/Popup", "/Link"})


def by_pypdf(content: bytes) -> str:
    """Return the text of a PDF, page by page, with what is filled into its form and noted in its margins.

    Raises:
        Declined: the PDF is encrypted, a scan, or its letters have no meaning in Unicode.
    """
    from pypdf import PdfReader

    from repli.tasks.text.pdfium import is_guessed

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # a damaged PDF has hundreds of messages
    reader = PdfReader(BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Declined(ENCRYPTED)
    text = "\n".join(map(_text_of, reader.pages))
    text = with_notes(text, [*_form_values(reader), *_notes(reader)])
    if is_guessed(content):
        check_guess(text)
    check_not_scanned(text, len(reader.pages), lambda: any(len(page.images) for page in reader.pages))
    return text


def _text_of(page: PageObject) -> str:
    """Return the text of a page; where most of it runs from right to left or down, of the page turned upright.

    pypdf finds no blanks between the words of such lines, where each is drawn by itself.
    """
    quarters: Counter[int] = Counter()

    def look(text: str, page_matrix: Sequence[float], text_matrix: Sequence[float], *_font: Any) -> None:
        along = page_matrix[0] * text_matrix[0] + page_matrix[2] * text_matrix[1]
        up = page_matrix[1] * text_matrix[0] + page_matrix[3] * text_matrix[1]
        quarters[round(math.atan2(up, along) / (math.pi / 2)) % 4] += len(text.strip())

    text: str = page.extract_text(visitor_text=look)
    quarter = max(quarters, key=lambda one: quarters[one], default=0)
    if quarter < 2:
        return text
    from pypdf import PdfWriter, Transformation

    turned = PdfWriter().add_page(page)
    turned.add_transformation(Transformation().rotate(-90 * quarter))
    return turned.extract_text()


def with_notes(text: str, notes: Iterable[str]) -> str:
    """Return the text with those notes and values of a form at its end that it does not have already."""
    seen = " ".join(text.split())
    missing = []
    for note in notes:
        plain = " ".join(note.split())
        if plain and plain not in seen:
            missing.append(plain)
            seen += f" {plain}"
    return "\n".join([text.rstrip(), *missing]) if missing else text


def is_filled_in(value: str) -> bool:
    """Return whether the value of a box says more than that it is ticked."""
    return value.strip("/ ").lower() not in _ON


def check_guess(text: str) -> None:
    """Raise `Declined` for a text of characters without a Unicode value, unless their codes happen to be right.

    They often are: fonts of TeX and of old printers number their letters as ASCII does. Where they are not, the letters
    are shifted (`9ROXPHV` for `Volumes`) or stand for numbers of glyphs. Of 74 such files in the tests of pdf.js and
    pdfminer.six, this kept the 26 that can be read but one, and let 2 others pass.
    """
    letters = [character for character in text if character.isalpha()]
    latin = [letter for letter in letters if _LATIN_LETTER.match(letter)]
    words = [word.strip(_PUNCTUATION) for word in text.split()]
    if not letters:
        is_natural = sum(bool(_NUMBER.fullmatch(word)) for word in words) > 0.8 * len(words)
    elif len(latin) + sum(bool(_CJK_LETTER.match(letter)) for letter in letters) < 0.9 * len(letters):
        is_natural = False
    elif len(latin) < 0.5 * len(letters) or sum(map(str.islower, latin)) >= 0.4 * len(latin):
        is_natural = True
    else:  # in capitals, as shifted letters are
        are_words = sum(word.isalpha() or bool(_NUMBER.fullmatch(word)) for word in words) > 0.8 * len(words)
        is_natural = are_words and sum(letter in "AEIOU" for letter in latin) > 0.15 * len(latin)
    if not is_natural:
        raise Declined(
            "the characters of the PDF have no Unicode value, so nothing tells what they mean; give a copy with a text "
            "layer"
        )


_LATIN_LETTER = re.compile("[A-Za-z\u00c0-\u017f]")
_CJK_LETTER = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
_NUMBER = re.compile(r"[+-]?\d[\d.,:/%-]*")
_PUNCTUATION = ".,:;!?()[]\"'"


def check_not_scanned(text: str, pages: int, has_pictures: Callable[[], bool]) -> None:
    """Raise `Declined` for a PDF of pictures with next to no text."""
    if sum(map(str.isalnum, text)) < SCAN_CHARACTERS * pages and has_pictures():
        shown = f"its {pages} pages show pictures and have" if pages > 1 else "its only page shows pictures and has"
        raise Declined(f"the PDF is a scan: {shown} no text; add a text layer by OCR")


def _form_values(reader: PdfReader) -> Iterator[str]:
    for field in (reader.get_fields() or {}).values():
        value, flags = field.get("/V"), field.get("/Ff") or 0
        if field.get("/FT") == "/Tx" and flags & PASSWORD_FIELD:
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and is_filled_in(one):
                yield one.removeprefix("/")


def _notes(reader: PdfReader) -> Iterator[str]:
    for page in reader.pages:
        for reference in page.get("/Annots") or []:
            annotation: Any = reference.get_object()
            if annotation.get("/Subtype") not in _NOT_NOTES and isinstance(annotation.get("/Contents"), str):
                yield annotation["/Contents"]
