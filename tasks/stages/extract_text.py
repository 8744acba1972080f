"""Extract text: the main content of an HTML page or PDF, all of its text, or the item's name; or skip.

No rung serves a text that nobody can read, or a page that stands in for the document: `repli.tasks.text.readable` and
`repli.tasks.text.stand_in` look at each answer, and decline it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from repli.tasks.comparison.metrics import TEXTS
from repli.tasks.fallback import Declined, ItemError, NoInput, Outcome, RungError, Served, each
from repli.tasks.items import Asset, Assets, Text, clean_text
from repli.tasks.pipeline import EnrichedItem, Stage, StageContext, StageHooks
from repli.tasks.sources.media_type import is_markup, is_text, is_xml
from repli.tasks.stages.rates import RATES
from repli.tasks.storage.blobs import Blobs
from repli.tasks.text.encoding import decode, find_charset
from repli.tasks.text.html_text import all_text, has_markup, is_page, main_content
from repli.tasks.text.main_text_share import OF_ARTICLES, of_all_text, of_main_content
from repli.tasks.text.pdf import by_pypdf
from repli.tasks.text.pdfium import by_pdfium
from repli.tasks.text.readable import check_is_text
from repli.tasks.text.stand_in import check_is_no_stand_in
from repli.tasks.text.xml_text import text_of_xml


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


@STAGE.rung(time_limit_s=20, per_item=True, version=3)
def full(document: Document, context: StageContext) -> Served[Text]:
    """Extract the main content: trafilatura for HTML, PDFium for PDF. Of XML it is all text; plain text is decoded."""
    return _text(document, context, main_content, by_pdfium, of_page=of_main_content)


@STAGE.rung(penalty="0.95", time_limit_s=20, per_item=True, version=3)
def plain(document: Document, context: StageContext) -> Served[Text]:
    """Extract all visible text: selectolax for HTML, pypdf for PDF; plain text is only decoded."""
    return _text(document, context, all_text, by_pypdf, of_page=of_all_text)


@STAGE.rung(penalty="0.85", time_limit_s=20)
def name_only(documents: Sequence[Document]) -> Sequence[Outcome[Text]]:
    """Return the item's name as its text: short, but correct."""
    return each(documents, _name)


STAGE.skip(penalty="0.8")


def _name(document: Document) -> Served[Text]:
    check_is_text(document.name, "the name", needs_words=False)
    return Served(Text(_with_own_text(document, document.name)), RATES["extract_text.name_only"].value)


def _text(
    document: Document,
    context: StageContext,
    from_html: Callable[[str], str | None],
    from_pdf: Callable[[bytes], str],
    *,
    of_page: Callable[[str, str], float],
) -> Served[Text]:
    """Return the text of a document, with the confidence that it is the document's main text, and all of it.

    A plain text is, and so is a fragment of HTML. Of a PDF both rungs return all text, running heads included; no
    public set of them was measured, and the rate of articles that were stripped of such stands in.

    Args:
        of_page: returns the confidence for the text of a page of HTML, given the page and the text.
    """
    if document.asset is None:
        raise NoInput("the document was not fetched; see the error of the fetch stage")
    where = f"the document {_short(document.asset.uri)}"
    try:
        content = Blobs(context.settings.blobs).read(document.asset.sha256)
    except OSError as error:
        raise ItemError(
            f"{where} was fetched, but its blob cannot be read ({error.strerror}); run again with --refresh"
        ) from error
    media_type = document.asset.media_type
    if not content.strip():
        raise Declined(f"{where} is empty; put its text there")
    if not (is_text(media_type) or media_type == "application/pdf"):
        raise Declined(f"{where} is {media_type}, which is not supported; convert it to HTML, PDF or plain text")
    is_pdf = media_type == "application/pdf"
    confidence = OF_ARTICLES if is_pdf else 1.0
    try:
        text = from_pdf(content) if is_pdf else _decoded(content, document.asset)
        if is_xml(media_type):
            text = text_of_xml(text)
        elif is_markup(media_type):
            check_is_text(text, "the page", needs_words=False)  # before a parser drops what cannot be read
            page, is_whole_page = text, is_page(text)
            if is_whole_page:
                check_is_no_stand_in(page)
            text = from_html(page) or ""
            confidence = of_page(page, text) if is_whole_page else 1.0
    except RungError:
        raise
    except Exception as error:
        raise Declined(f"{where} cannot be read ({type(error).__name__}: {error}); replace it") from error
    if not text.strip():
        raise Declined(f"{where} has no text that this extractor finds; replace it with one that has text")
    text = clean_text(text).strip()
    check_is_text(text, "the text")
    return Served(Text(text=_with_own_text(document, text)), confidence)


def _with_own_text(document: Document, text: str) -> str:
    if not document.text:
        return text
    own = (all_text(document.text) if has_markup(document.text) else document.text) or ""
    check_is_text(own, "the text of the manifest")
    return f"{own.strip()}\n\n{text}"


def _decoded(content: bytes, asset: Asset) -> str:
    return decode(content, asset.charset or find_charset(content, is_markup=is_markup(asset.media_type)))


def _short(uri: str) -> str:
    return uri if len(uri) <= 200 else uri[:200] + "…"
