"""Read the text of a PDF by PDFium: text, the values of its form and the notes in its margins, where they stand."""

from __future__ import annotations

import ctypes
import logging
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from repli.tasks.fallback import Declined, ItemError
from repli.tasks.text.pdf import ENCRYPTED, PASSWORD_FIELD, check_guess, check_not_scanned, is_filled_in, with_notes

WAIT_S = 2.0
"""Seconds to wait for another call to leave PDFium."""
MAX_GUESSED = 0.5
"""The share of the characters of a PDF without a Unicode value, for which a reader takes their codes in the font, above
which the text must look natural."""
SCAN_AREA = 0.5
"""The share of a page that a picture covers, from which on the page is a scan."""

_LOCK = threading.Lock()  # PDFium is not thread-safe, and a call that was cut off may still run in it
_JUDGED_CHARACTERS = 20_000
_SAMPLED_CHARACTERS = 500
_HYPHENATION = re.compile("[\x02\ufffe]\\s*")  # how PDFium marks a hyphen at the end of a line, within a word


def by_pdfium(content: bytes) -> str:
    """Return the text of a PDF, page by page, with what is filled into its form and noted in its margins.

    Raises:
        Declined: the PDF is encrypted, a scan, or its letters have no meaning in Unicode.
        ItemError: an earlier call still hangs in PDFium.
    """
    with _opened(content) as pdf:
        pages = [_read_page(pdf, number) for number in range(len(pdf))]
        text = _HYPHENATION.sub("", "\n".join(page.text for page in pages))
        text = with_notes(text, [note for page in pages for note in page.notes])
        if _is_guessed(pages):
            check_guess(text)
        check_not_scanned(text, len(pages), lambda: any(_is_picture(pdf[number]) for number in range(len(pages))))
        return text


def is_guessed(content: bytes) -> bool:
    """Return whether most characters of a PDF have no Unicode value; False for one that PDFium cannot read."""
    try:
        with _opened(content) as pdf:
            return _is_guessed([_read_page(pdf, number) for number in range(len(pdf))])
    except Exception:  # noqa: BLE001  pypdf may read what PDFium cannot
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """The text of a page, its notes, and how many of its characters have no Unicode value."""

    text: str
    notes: tuple[str, ...]
    characters: int
    unknown: int


def _is_guessed(pages: Sequence[_Page]) -> bool:
    return sum(page.unknown for page in pages) > MAX_GUESSED * sum(page.characters for page in pages)


@contextmanager
def _opened(content: bytes) -> Iterator[Any]:
    """Open a PDF, alone in PDFium."""
    import pypdfium2

    if not _LOCK.acquire(timeout=WAIT_S):
        raise ItemError("PDFium still hangs in an earlier document; the next rung reads the document")
    try:
        logging.getLogger("pypdfium2").setLevel(logging.ERROR)  # it warns of XFA forms, whose fields it reads
        try:
            pdf = pypdfium2.PdfDocument(content)
        except pypdfium2.PdfiumError as error:
            if "password" in str(error).lower():
                raise Declined(ENCRYPTED) from None
            raise
        with closing(pdf):
            pdf.init_forms()  # before the first page is loaded
            yield pdf
    finally:
        _LOCK.release()


def _read_page(pdf: Any, number: int) -> _Page:
    from pypdfium2 import raw

    page = pdf[number]
    notes: tuple[str, ...] = ()
    if raw.FPDFPage_GetAnnotCount(page):
        notes = tuple(_notes(raw, pdf, page))
        # Makes what the page shows of fields and notes a part of the page, in its place.
        if raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY) == raw.FLATTEN_SUCCESS:
            page.close()
            page = pdf[number]
    with closing(page):
        _turn_upright(raw, page)
        with closing(page.get_textpage()) as text:
            visible = _visible(raw, text, range(min(text.count_chars(), _JUDGED_CHARACTERS)))
            unknown = sum(raw.FPDFText_HasUnicodeMapError(text, index) == 1 for index in visible)
            return _Page(text=text.get_text_range(), notes=notes, characters=len(visible), unknown=unknown)


def _turn_upright(raw: Any, page: Any) -> None:
    """Turn a page so that most of its letters stand upright, which is how PDFium finds the order of lines and words.

    Of letters that run down the page it reads the last line first, and of those upside down the last word of a line.
    """
    with closing(page.get_textpage()) as text:
        count = text.count_chars()
        sampled = _visible(raw, text, range(0, count, count // _SAMPLED_CHARACTERS + 1))
        angles = [raw.FPDFText_GetCharAngle(text, index) for index in sampled]
    quarters = Counter(round(angle / (math.pi / 2)) % 4 for angle in angles if angle >= 0)  # -1: none
    for quarter, letters in quarters.most_common(1):
        clockwise = -quarter % 4 * 90  # what undoes the angle, which is clockwise too
        if letters > len(sampled) / 2 and clockwise != page.get_rotation():
            page.set_rotation(clockwise)


def _visible(raw: Any, text: Any, places: Iterable[int]) -> list[int]:
    """Return those of the places in a text that hold a visible character."""
    return [index for index in places if raw.FPDFText_GetUnicode(text, index) not in _SPACES]


_SPACES = frozenset(map(ord, " \t\n\r\xa0"))


def _notes(raw: Any, pdf: Any, page: Any) -> Iterator[str]:
    """Yield the values of the form's fields on a page, and the notes that its readers have left."""
    for index in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, index)
        try:
            kind = raw.FPDFAnnot_GetSubtype(annotation)
            if kind == raw.FPDF_ANNOT_WIDGET and pdf.formenv:
                yield _field_value(raw, pdf.formenv, annotation)
            elif kind not in {raw.FPDF_ANNOT_WIDGET, raw.FPDF_ANNOT_POPUP, raw.FPDF_ANNOT_LINK}:
                yield _string(raw.FPDFAnnot_GetStringValue, annotation, b"Contents")
        finally:
            raw.FPDFPage_CloseAnnot(annotation)


def _field_value(raw: Any, form: Any, annotation: Any) -> str:
    kind = raw.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind in {raw.FPDF_FORMFIELD_TEXTFIELD, raw.FPDF_FORMFIELD_COMBOBOX, raw.FPDF_FORMFIELD_LISTBOX}:
        is_password = raw.FPDFAnnot_GetFormFieldFlags(form, annotation) & PASSWORD_FIELD
        is_secret = kind == raw.FPDF_FORMFIELD_TEXTFIELD and is_password
        return "" if is_secret else _string(raw.FPDFAnnot_GetFormFieldValue, form, annotation)
    if kind in {raw.FPDF_FORMFIELD_CHECKBOX, raw.FPDF_FORMFIELD_RADIOBUTTON}:
        value = _string(raw.FPDFAnnot_GetFormFieldExportValue, form, annotation)
        return value if raw.FPDFAnnot_IsChecked(form, annotation) and is_filled_in(value) else ""
    return ""


def _string(get: Callable[..., int], *arguments: Any) -> str:
    """Return the string that a function of PDFium writes into a buffer, in UTF-16."""
    size = get(*arguments, None, 0)
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    get(*arguments, buffer, size)
    return bytes(buffer).decode("utf-16-le", errors="replace").partition("\0")[0]


def _is_picture(page: Any) -> bool:
    """Return whether one picture covers most of a page."""
    from pypdfium2 import raw

    area = page.get_width() * page.get_height()
    for picture in page.get_objects(filter=(raw.FPDF_PAGEOBJ_IMAGE,)):
        left, bottom, right, top = picture.get_bounds()
        if (right - left) * (top - bottom) >= SCAN_AREA * area:
            return True
    return False
