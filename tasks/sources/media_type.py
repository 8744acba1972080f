"""Tell what fetched bytes are: their media type, and the encoding of text."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping

from repli.tasks.fallback import Declined
from repli.tasks.sources.locate import Content
from repli.tasks.text.encoding import decode, find_charset
from repli.tasks.text.html_text import begins_as_html
from repli.tasks.text.readable import check_is_text
from repli.tasks.text.xml_text import begins_as_xml

SNIFFED_BYTES = 1024
"""The bytes at the start that tell a media type, as for browsers (https://mimesniff.spec.whatwg.org)."""
JUDGED_BYTES = 64 * 1024
"""The bytes at the start of a file without a type that must be readable for it to be text."""

_UNKNOWN = "application/octet-stream"
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_MARKUP = _PAGES | {"application/xml", "text/xml"}
_TEXT = frozenset(
    {"application/json", "application/javascript", "application/yaml", "application/toml", "application/sql"}
)
_OF_A_PROGRAM = re.compile(r"(?!application/pdf$)(?:application|chemical)/")
_APPLICATION_OF_XML = re.compile(r"application/.*\+xml")
_MAGIC: Mapping[bytes, str] = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"%PDF-": "application/pdf",
    b"%!PS": "application/postscript",
    b"{\\rtf": "application/rtf",
}
_WEBP = re.compile(rb"RIFF.{4}WEBP", re.DOTALL)
_BEFORE_MARKUP = rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?>(?:<!--.*?-->\s*)*)"
_HTML = re.compile(_BEFORE_MARKUP + rb"<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE | re.DOTALL)
_SVG = re.compile(_BEFORE_MARKUP + rb"(?:<!doctype\s+svg[^>]*>\s*)?<svg[\s>]", re.IGNORECASE | re.DOTALL)


def is_markup(media_type: str) -> bool:
    """Return whether a media type is HTML, or XML in general."""
    return media_type in _MARKUP or bool(_APPLICATION_OF_XML.fullmatch(media_type))


def is_xml(media_type: str) -> bool:
    """Return whether a media type is XML that is no page."""
    return is_markup(media_type) and media_type not in _PAGES


def is_text(media_type: str) -> bool:
    """Return whether a media type is text, so that it has an encoding."""
    return (
        media_type.startswith("text/") or is_markup(media_type) or media_type in _TEXT or media_type.endswith("+json")
    )


def media_type_of(content: Content, name: str) -> str:
    """Return the media type of `content` that was read from the URI `name`, without parameters.

    The signature of the bytes comes first, then the declared type, then the suffix of the name, since wrongly named
    files are common, and so are servers that declare everything as octet-stream. Where the suffix says nothing, or only
    which program opens the file, as `.texi` or `.bat` do, bytes that can be read as text are text, HTML where they
    begin with a tag, or XML where they say so.
    """
    if sniffed := _sniff_media_type(content.data[:SNIFFED_BYTES]):
        return sniffed
    if content.media_type and not content.media_type.endswith("/octet-stream"):
        return content.media_type
    guessed, encoding = mimetypes.guess_type(re.split("[?#]", name, maxsplit=1)[0], strict=False)
    if encoding:
        return _UNKNOWN
    if guessed and (is_text(guessed) or not _OF_A_PROGRAM.match(guessed)):
        return guessed
    return _type_of_text(content) or guessed or _UNKNOWN


def charset_of(content: Content, media_type: str) -> str | None:
    """Return the encoding of text by its WHATWG name; None for other types, and where it is not known."""
    if not is_text(media_type):
        return None
    try:
        return find_charset(content.data, content.charset, is_markup=is_markup(media_type))
    except Declined:
        return None


def _type_of_text(content: Content) -> str | None:
    """Return the media type of bytes that can be read as text; None for others."""
    start = content.data[:JUDGED_BYTES]
    try:
        text = decode(start, find_charset(start, content.charset))
        check_is_text(text, "it")
    except Declined:
        return None
    if begins_as_html(text):
        return "text/html"
    return "application/xml" if begins_as_xml(text) else "text/plain"


def _sniff_media_type(start: bytes) -> str | None:
    """Return the media type that the first bytes identify, or None."""
    for magic, media_type in _MAGIC.items():
        if start.startswith(magic):
            return media_type
    for pattern, media_type in ((_WEBP, "image/webp"), (_HTML, "text/html"), (_SVG, "image/svg+xml")):
        if pattern.match(start):
            return media_type
    return None
