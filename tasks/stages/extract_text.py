"""Extract text: the main content of an HTML page or PDF, all of its text, or the item's name; or skip."""

from __future__ import annotations

import codecs
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from repli.tasks.comparison.metrics import TEXTS
from repli.tasks.fallback import ItemError, RungError
from repli.tasks.items import Asset, Assets, Text, clean_text
from repli.tasks.pipeline import EnrichedItem, Stage, StageContext, StageHooks
from repli.tasks.storage.blobs import Blobs

WEB_ENCODING = "cp1252"
"""The encoding that browsers assume for a page that declares none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The input of an extraction. `asset` is None for a document that was declared and could not be fetched.

    `text` is the item's own text beside a document. It goes before the document's.
    """

    name: str
    asset: Asset | None
    text: str | None = None


def _input(item: EnrichedItem) -> Document | None:
    if item.document is None and item.text is None:
        return None
    fetched = item.value(Assets)
    asset = fetched.document if fetched else None
    if asset:
        asset = replace(asset, source="blob")  # the same bytes have the same text, whatever rung fetched them
    has_both = item.document is not None and isinstance(item.text, str)
    return Document(name=str(item.name), asset=asset, text=item.text if has_both else None)


STAGE = Stage(
    "extract_text",
    input=_input,
    produces=Text,
    comparison=replace(TEXTS, is_empty=lambda document: document.asset is None),
    hooks=StageHooks(imports=lambda settings: ("trafilatura",)),
)


@STAGE.rung(time_limit_s=20, per_item=True)
def full(document: Document, context: StageContext) -> Text:
    """Extract the main content: trafilatura for HTML, pypdfium2 for PDF; plain text is only decoded."""
    return _text(document, context, _html_main_content, _pdf_by_pdfium)


@STAGE.rung(penalty="0.95", time_limit_s=20, per_item=True)
def plain(document: Document, context: StageContext) -> Text:
    """Extract all visible text: selectolax for HTML, pypdf for PDF; plain text is only decoded."""
    return _text(document, context, _html_all_text, _pdf_by_pypdf)


@STAGE.rung(penalty="0.85", time_limit_s=20)
def name_only(documents: Sequence[Document]) -> Sequence[Text]:
    """Return the item's name as its text: short, but correct."""
    return [Text(_with_own_text(document, document.name)) for document in documents]


STAGE.skip(penalty="0.8")

_Extract = Callable[[bytes], str | None]
_PDFIUM = threading.Lock()  # PDFium is not thread-safe, and a call that was cut off may still run in it
PDFIUM_WAIT_S = 2.0
"""Seconds to wait for another call to leave PDFium."""


def _text(document: Document, context: StageContext, html: _Extract, pdf: _Extract) -> Text:
    if document.asset is None:
        raise ItemError("the document was not fetched; see the error of the fetch stage")
    media_type = document.asset.media_type.partition(";")[0].strip().lower()
    where = f"the document {_short(document.asset.uri)}"
    try:
        content = Blobs(context.settings.blobs).read(document.asset.sha256)
    except OSError as error:
        raise ItemError(
            f"{where} was fetched, but its blob cannot be read ({error.strerror}); run again with --refresh"
        ) from error
    if not content.strip():
        raise ItemError(f"{where} is empty; put its text there")
    try:
        if media_type in {"text/html", "application/xhtml+xml", "application/xml", "text/xml"}:
            text = html(content)
        elif media_type == "application/pdf":
            text = pdf(content)
        elif media_type.startswith("text/") or media_type == "application/json":
            text = decode(content)
        else:
            raise ItemError(f"{where} is {media_type}, which is not supported; convert it to HTML, PDF or plain text")
    except RungError:
        raise
    except Exception as error:
        raise ItemError(f"{where} cannot be read ({type(error).__name__}: {error}); replace it") from error
    if not text or not text.strip():
        raise ItemError(f"{where} has no text that this extractor finds; replace it with one that has text")
    return Text(text=_with_own_text(document, clean_text(text).strip()))


def _with_own_text(document: Document, text: str) -> str:
    return f"{document.text.strip()}\n\n{text}" if document.text else text


def _html_main_content(content: bytes) -> str | None:
    import trafilatura

    text: str | None = trafilatura.extract(decode(content), include_comments=False, include_tables=True)
    return text


def _html_all_text(content: bytes) -> str | None:
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(decode(content))
    for node in tree.css("script, style, noscript, template"):
        node.decompose()
    body = tree.body
    return re.sub(r"\s*\n\s*", "\n", body.text(separator="\n", strip=True)) if body else None


def _pdf_by_pdfium(content: bytes) -> str:
    import pypdfium2

    if not _PDFIUM.acquire(timeout=PDFIUM_WAIT_S):
        raise ItemError("PDFium still hangs in an earlier document; the next rung reads the document")
    try:
        return _pdfium_text(pypdfium2, content)
    finally:
        _PDFIUM.release()


def _pdfium_text(pypdfium2: Any, content: bytes) -> str:
    try:
        pdf = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise ItemError("the PDF is encrypted; give a copy that opens without a password") from None
        raise
    try:
        return "\n".join(page.get_textpage().get_text_range() for page in pdf)
    finally:
        pdf.close()


def _pdf_by_pypdf(content: bytes) -> str:
    from pypdf import PdfReader

    reader = PdfReader(BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise ItemError("the PDF is encrypted; give a copy that opens without a password")
    return "\n".join(page.extract_text() for page in reader.pages)


_META_CHARSET = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE
)


def decode(content: bytes) -> str:
    """Return `content` as text: by byte order mark, as UTF-8, by its own declaration, or by the likeliest encoding.

    Bytes that the encoding does not have become U+FFFD.
    """
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if declared := _META_CHARSET.search(content[:4096]):
        try:
            return content.decode(declared[1].decode("ascii"), errors="replace")
        except LookupError:
            pass
    return content.decode(_likeliest_encoding(content[:65536]), errors="replace")


def _likeliest_encoding(content: bytes) -> str:
    """Return the likeliest 8-bit encoding, `WEB_ENCODING` among equally likely ones: a few bytes fit dozens."""
    from charset_normalizer import from_bytes

    guesses = from_bytes(content)
    best = guesses.best()
    if best is None:
        return WEB_ENCODING
    equals = [guess for guess in guesses if (guess.chaos, guess.coherence) == (best.chaos, best.coherence)]
    names = {name for guess in equals for name in (guess.encoding, *guess.could_be_from_charset)}
    return WEB_ENCODING if WEB_ENCODING in names else best.encoding


def _short(uri: str) -> str:
    return uri if len(uri) <= 200 else uri[:200] + "…"
