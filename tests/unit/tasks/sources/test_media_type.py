"""What fetched bytes are: their media type and encoding."""

from __future__ import annotations

import time

import pytest

from repli.tasks.sources.locate import Content
from repli.tasks.sources.media_type import charset_of, media_type_of
from tests.support import files


@pytest.mark.parametrize(
    ("data", "declared", "name", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n...", "text/html", "a.jpg", "image/png"),
        (b"\xff\xd8\xff\xe0", None, "a.png", "image/jpeg"),
        (b"GIF89a", None, "a", "image/gif"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", None, "a.png", "image/webp"),
        (b"%PDF-1.7", "text/plain", "a", "application/pdf"),
        (b"{\\rtf1\\ansi A lamp}", None, "a", "application/rtf"),
        (b"%!PS-Adobe-3.0", "text/plain", "a.txt", "application/postscript"),
        (b"\xef\xbb\xbf \n<!-- hi --><!DOCTYPE html>", "text/plain", "a.txt", "text/html"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "text/xml", "a.xml", "image/svg+xml"),
        (b"<htmlish>", "application/xml", "a", "application/xml"),
        (b"words", "text/markdown", "a.html", "text/markdown"),
        (b"words", "application/octet-stream", "http://h/a.txt", "text/plain"),
        (b"words", None, "http://h/a.html?b=c", "text/html"),
        (b"words", None, "a.txt.gz", "application/octet-stream"),
    ],
)
def test_the_media_type_is_what_the_bytes_say(data: bytes, declared: str | None, name: str, expected: str) -> None:
    """Else what was declared, else what the name says."""
    assert media_type_of(Content(data, declared), name) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"words", "text/plain"),
        ("Größe".encode("utf-16"), "text/plain"),
        ("Eine Lampe aus Messing, größer als üblich".encode("cp1252"), "text/plain"),
        (b"A lamp\nof brass\n" * 10_000, "text/plain"),
        (b"<div>A lamp</div>", "text/html"),
        (b" \n<p class=x>A lamp", "text/html"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><lamp>brass</lamp>', "application/xml"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "application/octet-stream"),
        (b"PK\x03\x04\x14\x00\x00\x00", "application/octet-stream"),
        (bytes(range(256)), "application/octet-stream"),
        (files.bomb()[8:], "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
@pytest.mark.parametrize("declared", [None, "application/octet-stream"])
def test_a_file_without_a_type_is_text_if_it_can_be_read(data: bytes, expected: str, declared: str | None) -> None:
    """Or HTML where it begins with a tag; any other bytes are octets."""
    assert media_type_of(Content(data, declared), "README") == expected


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (b"@chapter A lamp", "notes.texi", "text/plain"),
        (b"<div>A lamp</div>", "http://h/page.man?x", "text/html"),
        (bytes(range(256)), "notes.texi", "application/x-texinfo"),
        (b"A lamp", "lamp.doc", "text/plain"),
        (b"1 0 obj << /Type /Catalog >>", "lamp.pdf", "application/pdf"),
        (b"P3 1 1 255 0 0 0", "lamp.ppm", "image/x-portable-pixmap"),
        (b"{}", "lamp.json", "application/json"),
    ],
)
def test_a_suffix_of_a_program_does_not_make_a_text_unreadable(data: bytes, name: str, expected: str) -> None:
    """Which suffixes a machine has a program for differs: such a type counts where the bytes are no text."""
    assert media_type_of(Content(data), name) == expected


@pytest.mark.parametrize(
    ("content", "media_type", "expected"),
    [
        (Content("Ž".encode("iso8859_2"), None, "iso-8859-2"), "text/html", "iso-8859-2"),
        (Content(b'<meta charset="latin1">\xe9'), "text/html", "windows-1252"),
        (Content(b'<meta charset="latin1">\xe9t\xe9 \xe9'), "text/plain", "windows-1252"),
        (Content("é".encode()), "text/plain", "utf-8"),
        (Content(b"{}"), "application/json", "utf-8"),
        (Content(b"{}"), "application/ld+json", "utf-8"),
        (Content(b"\x81\x81"), "text/plain", None),
        (Content(b"%PDF", None, "utf-8"), "application/pdf", None),
        (Content(b"GIF89a"), "image/gif", None),
    ],
)
def test_the_encoding_of_text_is_known_with_it(content: Content, media_type: str, expected: str | None) -> None:
    """By its name in the standard; other bytes have none."""
    assert charset_of(content, media_type) == expected


def test_comments_before_anything_else_are_soon_passed() -> None:
    """Each comment doubled the time, in a search that no time limit ends: 24 of them took seconds."""
    began = time.thread_time()
    assert media_type_of(Content(b"<!---->" * 24 + b"A lamp", "text/plain"), "a.txt") == "text/plain"
    assert time.thread_time() - began < 0.5
