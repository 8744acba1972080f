"""The extract_text stage: HTML, PDF and plain text, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest

from repli.tasks.fallback import Directives, Status, StepResult
from repli.tasks.items import Asset, Item, ItemState, Text
from repli.tasks.pipeline import StageContext
from repli.tasks.settings import Settings
from repli.tasks.stages.extract_text import STAGE, Document
from repli.tasks.storage.blobs import Blobs
from tests.support import files
from tests.support.default_pipeline import PIPELINE
from tests.support.in_process import open_context, run_rungs
from tests.support.stand_in_pages import FIRST, SECOND

CHAIN = STAGE.chain
check = CHAIN.check

LATIN = "Café crème à la française, servi dans une tasse en grès."
GREEK = "Λάμπα από ορείχαλκο στέκεται στο τραπέζι"  # too short to be guessed
RUSSIAN = (
    "Лампа стоит на столе и освещает комнату тёплым светом. Она сделана из латуни и стекла, а её высота сорок "
    "сантиметров. Абажур снимается, и лампу легко почистить мягкой сухой тканью."
)
ARTICLE = "<p>A brass lamp is a lamp that is made of brass, and it gives light to those who sit near it.</p>" * 3
PAGE = f"""<!doctype html><html><head><title>Lamps</title><style>p {{color: red}}</style></head><body>
<nav><a href="/">Home</a> <a href="/cart">Cart</a></nav><article><h1>Brass lamp</h1>{ARTICLE}</article>
<script>alert("no text")</script><footer>Imprint</footer></body></html>""".encode()


@pytest.fixture
def context(settings: Settings) -> Iterator[StageContext]:
    with open_context(settings) as context:
        yield context


def document(context: StageContext, content: bytes, media_type: str = "text/html") -> Document:
    """A fetched document."""
    sha256 = Blobs(context.settings.blobs).put(content)
    asset = Asset(uri="file:///lamp", sha256=sha256, size=len(content), media_type=media_type, source="origin")
    return Document(name="A brass lamp", asset=asset)


def between(context: StageContext, bad: Document, directives: Directives = Directives()) -> StepResult:
    """The result of a document between two good ones, which the first rung that may serves."""
    good = document(context, PAGE)
    first, result, last = run_rungs(CHAIN, [good, bad, good], context, directives)
    assert first.rung == last.rung == directives.forced.get("extract_text", "full")
    assert "made of brass" in first.value.text
    return result


def reasons(result: StepResult) -> list[str]:
    return [attempt.error.message for attempt in result.attempts if attempt.error]


def test_the_main_content_is_without_its_page(context: StageContext) -> None:
    """The article is taken; navigation, scripts and the footer are not."""
    [result] = run_rungs(CHAIN, [document(context, PAGE)], context)
    assert (result.status, result.rung) == (Status.SUCCEEDED, "full")
    assert "Brass lamp" in result.value.text
    assert not any(word in result.value.text for word in ("Cart", "alert", "Imprint", "color", "<"))


@pytest.mark.parametrize(("rung", "text"), [("full", "made of brass"), ("name_only", "A brass lamp")])
def test_an_items_own_text_goes_before_its_documents(context: StageContext, rung: str, text: str) -> None:
    """Nothing that the manifest gives is left out, by any rung."""
    own = replace(document(context, PAGE), text=" Sold in pairs. ")
    [result] = run_rungs(CHAIN, [own], context, Directives(forced={"extract_text": rung}))
    assert result.value.text.startswith("Sold in pairs.\n\n")
    assert text in result.value.text


def test_all_text_is_what_shows(context: StageContext) -> None:
    """The second rung takes navigation along, and still no script and no style."""
    forced = Directives(forced={"extract_text": "plain"})
    [result] = run_rungs(CHAIN, [document(context, PAGE)], context, forced)
    assert (result.status, result.penalty) == (Status.DEGRADED, Decimal("0.95"))
    assert all(word in result.value.text for word in ("Cart", "made of brass", "Imprint"))
    assert not any(word in result.value.text for word in ("alert", "color", "<"))


@pytest.mark.parametrize("rung", ["full", "plain"])
def test_a_pdf_is_read_by_both_rungs(context: StageContext, rung: str) -> None:
    """Each of the two libraries finds the line on the page."""
    pdf = document(context, files.pdf("A brass lamp on paper"), "application/pdf")
    result = between(context, pdf, Directives(forced={"extract_text": rung}))
    assert (result.rung, result.value.text) == (rung, "A brass lamp on paper")


def test_a_pdf_behind_a_password(context: StageContext) -> None:
    """It is told by both libraries, and the item goes on by its name."""
    result = between(context, document(context, files.locked_pdf("secret"), "application/pdf"))
    assert (result.rung, result.value.text, result.penalty) == ("name_only", "A brass lamp", Decimal("0.85"))
    assert reasons(result) == ["the PDF is encrypted; give a copy that opens without a password"] * 2


def test_a_pdf_that_is_none(context: StageContext) -> None:
    """Bytes that only claim to be a PDF are told as such."""
    result = between(context, document(context, b"%PDF-1.7 and then nothing", "application/pdf"))
    assert result.rung == "name_only"
    assert reasons(result)[0].startswith("the document file:///lamp cannot be read (PdfiumError")


@pytest.mark.parametrize(
    ("content", "media_type", "text"),
    [
        ("Plain – and simple".encode(), "text/plain", "Plain – and simple"),
        ("\ufeffWith a mark".encode(), "text/plain", "With a mark"),
        ("Sixteen bits: ö".encode("utf-16"), "text/plain", "Sixteen bits: ö"),
        (LATIN.encode("latin-1"), "text/plain", LATIN),
        ("Café".encode("latin-1"), "text/plain", "Café"),
        (RUSSIAN.encode("windows-1251"), "text/plain", RUSSIAN),
        (b"A brass lamp with a null\0byte", "text/plain", "A brass lamp with a null\ufffdbyte"),
        (b'{"a": "lamp"}', "application/json", '{"a": "lamp"}'),
        (b"# A *lamp*", "text/markdown", "# A *lamp*"),
    ],
)
def test_plain_text_is_taken_as_it_is(context: StageContext, content: bytes, media_type: str, text: str) -> None:
    """Whatever its encoding, and with nothing in it that no database takes."""
    result = between(context, document(context, content, media_type))
    assert (result.status, result.value) == (Status.SUCCEEDED, Text(text=text))


@pytest.mark.parametrize("rung", ["full", "plain"])
@pytest.mark.parametrize(
    ("text", "encoding", "head"),
    [
        (LATIN, "latin-1", '<meta charset="iso-8859-1">'),
        (LATIN, "latin-1", '<meta http-equiv="Content-Type" content="text/html; charset=ISO-8859-1">'),
        (GREEK, "iso-8859-7", '<meta charset="iso-8859-7">'),
        (RUSSIAN, "windows-1251", ""),
        (RUSSIAN, "windows-1251", '<meta charset="no-such-encoding">'),
        (RUSSIAN, "utf-8", '<meta charset="windows-1251">'),
        (RUSSIAN, "utf-16", ""),
    ],
)
def test_html_of_any_encoding(context: StageContext, rung: str, text: str, encoding: str, head: str) -> None:
    """By its declaration, or by its bytes where it has none or a wrong one, no letter is lost."""
    page = f"<html><head>{head}</head><body><article><p>{text}</p></article></body></html>".encode(encoding)
    result = between(context, document(context, page), Directives(forced={"extract_text": rung}))
    assert result.rung == rung
    assert text in result.value.text


@pytest.mark.parametrize(
    ("content", "media_type", "message"),
    [
        (b"<html></html>", "text/html", "has no text that this extractor finds"),
        (b"<html><body><script>x()</script></body></html>", "text/html", "has no text"),
        (b" \n\t ", "text/plain", "is empty; put its text there"),
        (files.png(), "image/png", "is image/png, which is not supported; convert it to HTML, PDF or plain text"),
        (b"\x7fELF\x02\x01\x01", "application/octet-stream", "is application/octet-stream, which is not supported"),
        (b"PK\x03\x04", "application/zip", "is application/zip, which is not supported"),
        (b"{\\rtf1 A lamp}", "application/rtf", "is application/rtf, which is not supported"),
    ],
)
def test_a_document_without_text_leaves_the_name(
    context: StageContext, content: bytes, media_type: str, message: str
) -> None:
    """Both reading rungs decline and say why, and the name serves; waiting changes nothing."""
    result = between(context, document(context, content, media_type))
    assert (result.status, result.rung, result.value.text) == (Status.DEGRADED, "name_only", "A brass lamp")
    assert not result.retryable
    assert [attempt.outcome.value for attempt in result.attempts] == ["declined", "declined", "served"]
    assert [reason.startswith(f"the document file:///lamp {message}") for reason in reasons(result)] == [True, True]


GARBAGE = [
    b"\x01\x02" * 20,
    ("\ufffd" * 20).encode(),
    "\u200b\u200d\u2060".encode(),
    ("\ue000\uf0b7" * 9).encode(),
    b"--- ... ---",
    RUSSIAN.encode("cp1251").decode("cp1252").encode(),
    RUSSIAN.encode().decode("gb18030", errors="ignore").encode(),
    b"\x81\x8d\x8f",
]


@pytest.mark.parametrize("content", GARBAGE)
@pytest.mark.parametrize("media_type", ["text/plain", "text/html"])
def test_text_that_nobody_can_read_is_declined(context: StageContext, content: bytes, media_type: str) -> None:
    """By each rung, with the reason; the name serves, and trying again changes nothing."""
    page = b"<html><body><p>%s</p></body></html>" % content if media_type == "text/html" else content
    result = between(context, document(context, page, media_type))
    assert (result.rung, result.value.text, result.retryable) == ("name_only", "A brass lamp", False)
    assert [attempt.outcome.value for attempt in result.attempts] == ["declined", "declined", "served"]


def test_a_page_in_the_place_of_the_document_is_declined(context: StageContext) -> None:
    """By both rungs, with what was seen; the item goes on by its name. A fragment is no such page."""
    walls = "board that asks to log in", "shop"
    for name, reason in zip(walls, ("a log-in: it says", "one that says there is no such page: it"), strict=True):
        result = between(context, document(context, {**FIRST, **SECOND}[name].encode()))
        assert (result.status, result.rung, result.value.text) == (Status.DEGRADED, "name_only", "A brass lamp")
        assert [message[: len(reason) + 28] for message in reasons(result)] == [
            f"the page is no document but {reason}"
        ] * 2
    [result] = run_rungs(CHAIN, [document(context, b"<h1>Access denied</h1> is the name of a lamp")], context)
    assert result.rung == "full"


def test_where_no_rung_has_text_the_item_is_skipped(context: StageContext) -> None:
    """With no value, no confidence, the reason of the best rung, and no place in the retry queue."""
    nameless = replace(document(context, b"\x01\x02" * 20, "text/plain"), name="\ufffd\ufffd\ufffd")
    [result] = run_rungs(CHAIN, [nameless], context)
    assert (result.status, result.value, result.confidence) == (Status.SKIPPED, None, 0.0)
    assert not result.retryable
    assert result.error is not None
    assert result.error.message.startswith("no rung was sure; the text cannot be read: 100% of it")


def test_pypdf_reads_what_pdfium_cannot(context: StageContext) -> None:
    """A font whose codes PDFium does not know has a table that pypdf follows: the next rung serves."""
    result = between(context, document(context, files.pdf_for_pypdf("Lorem ipsum"), "application/pdf"))
    assert (result.rung, result.value.text) == ("plain", "Lorem ipsum")


def test_a_document_that_was_not_fetched(context: StageContext) -> None:
    """It was declared, so the stage applies; the reason points to fetch."""
    result = between(context, Document(name="A brass lamp", asset=None))
    assert result.rung == "name_only"
    assert reasons(result)[0] == "the document was not fetched; see the error of the fetch stage"
    assert not result.retryable, "only a better result of fetch can help"


def test_a_copy_that_is_gone_from_the_disk(context: StageContext) -> None:
    """A deleted blob is one document's failure."""
    gone = document(context, b"soon gone")
    assert gone.asset is not None
    Blobs(context.settings.blobs).path(gone.asset.sha256).unlink()
    assert between(context, gone).rung == "name_only"


def test_a_nameless_document_is_skipped(context: StageContext) -> None:
    """Where not even the name shows anything, there is no text."""
    [result] = run_rungs(CHAIN, [Document(name=" ", asset=None)], context)
    assert (result.status, result.value, result.confidence) == (Status.SKIPPED, None, 0.0)


def test_five_megabytes_of_text(context: StageContext) -> None:
    """They are kept whole."""
    text = "A brass lamp. " * 375_000
    result = between(context, document(context, text.encode(), "text/plain"))
    assert (result.status, result.value.characters) == (Status.SUCCEEDED, len(text.strip()))


def test_html_of_ten_thousand_levels(context: StageContext) -> None:
    """No parser overflows: a page that is all nesting costs its own time and nobody else's result."""
    page = b"<html><body>" + b"<b>" * 10_000 + b"deep" + b"</b>" * 10_000
    assert between(context, document(context, page)).value.text


@pytest.mark.parametrize("answer", [None, "text", Text(text=""), Text(text=" \n"), {"text": "x"}])
def test_what_is_no_text_is_refused(answer: object) -> None:
    """Nonsense falls to the next rung instead of into the store."""
    with pytest.raises(ValueError, match="no visible character"):
        check(answer)  # type: ignore[arg-type]


def test_an_item_without_a_document_is_not_concerned() -> None:
    """Nothing declared is nothing to do; the rest of the item is looked at by others."""
    fetched = StepResult(item_id="a", stage="fetch", status=Status.SUCCEEDED, value={"document": None, "image": {}})
    state = ItemState(item=Item(id="a", name="n", image="i.png"), results={"fetch": fetched})
    assert PIPELINE.input("extract_text", state) is None
