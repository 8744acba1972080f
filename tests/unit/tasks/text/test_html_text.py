"""HTML: whole pages, and fragments without a page around them."""

from __future__ import annotations

import time

import pytest

from repli.tasks.text.html_text import all_text, begins_as_html, has_markup, main_content

FRAGMENTS = [
    ("<p>A brass <b>lamp</b>&nbsp;", "A brass lamp"),
    ("<div>A <b>lamp</b></div>", "A lamp"),
    ("A brass <b>lamp</b>", "A brass lamp"),
    ("A lamp<br>of brass", "A lamp\nof brass"),
    ("Fish &amp; chips", "Fish & chips"),
    ("<ul><li>brass<li>glass</ul>", "brass\nglass"),
    ("<table><tr><th>Height</th><td>40 cm</td></tr><tr><th>Colour<td>green</table>", "Height 40 cm\nColour green"),
    ("<!-- from the shop -->\n<span class='x'>A lamp</span>", "A lamp"),
    ("<p>one\n  two</p><p>three</p>", "one two\nthree"),
    ("<script>x()</script><p>A lamp</p><style>p {}</style>", "A lamp"),
]


@pytest.mark.parametrize(("fragment", "text"), FRAGMENTS)
def test_a_fragment_is_main_content_as_a_whole(fragment: str, text: str) -> None:
    """Its tags are gone, its words are together, and each block has its line."""
    assert has_markup(fragment)
    assert main_content(fragment) == all_text(fragment) == text


@pytest.mark.parametrize(
    "text",
    ["a < b and c > d", "if (a<b && c>d)", "List<String> x;", "R&D; and more", "<3", "x <y> z", "1 <2> 3"],
)
def test_text_with_angles_is_no_markup(text: str) -> None:
    """A comparison, a heart or a generic type is what it is."""
    assert not has_markup(text)


@pytest.mark.parametrize(
    ("text", "is_html"),
    [
        ("<div>A lamp</div>", True),
        ("\ufeff \n<!-- hi --><!DOCTYPE html>", True),
        ('<?xml version="1.0"?>\n<html lang="en">', True),
        ("<h1>", True),
        ("A <b>lamp</b>", False),
        ("<htmlish>", False),
        ("<lamp><id>7</id></lamp>", False),
    ],
)
def test_a_file_that_begins_with_a_tag_is_html(text: str, is_html: bool) -> None:
    """A tag of HTML, not of any other markup, and not further on."""
    assert begins_as_html(text) is is_html


@pytest.mark.parametrize("page", ["", "<html></html>", "<html><head><title>Lamps</title></head></html>"])
def test_a_page_with_nothing_to_read_has_no_text(page: str) -> None:
    """A title is not what a page shows."""
    assert not main_content(page)
    assert not all_text(page)


def test_a_page_of_many_levels_is_read() -> None:
    """Blocks in blocks cost no stack."""
    assert all_text("<div>" * 5_000 + "deep" + "</div>" * 5_000) == "deep"


@pytest.mark.parametrize("text", ["<!---->" * 22 + "x", "<a" + " " * 20_000, "<br" + " " * 20_000, "<p " * 5_000])
def test_a_tag_without_an_end_is_soon_seen(text: str) -> None:
    """22 comments took seconds, each more twice as long: no time limit ends a search that lets nothing else run."""
    began = time.thread_time()
    begins_as_html(text)
    has_markup(text)
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize("tag", ["<p>", "<p/>", "<br />", "<a href='x'>", "<!-- x --><!-- y --> <p class=x>"])
def test_tags_of_each_form_begin_a_page(tag: str) -> None:
    """With and without attributes, and closed at once."""
    assert begins_as_html(tag + "A lamp")
    assert not begins_as_html(tag[:-1])


NOTHING_BUT_SCRIPT = (
    "<html><head><title>Shop</title></head><body>"
    "<noscript>You need to enable JavaScript to run this app.</noscript>{}<div id=root></div></body></html>"
)


def test_a_page_for_scripts_has_no_text() -> None:
    """What it shows without scripts is no text of the item; what else it shows is."""
    assert not main_content(NOTHING_BUT_SCRIPT.format(""))
    assert not all_text(NOTHING_BUT_SCRIPT.format(""))
    assert main_content(NOTHING_BUT_SCRIPT.format("<p>A brass lamp.</p>")) == "A brass lamp."


@pytest.mark.parametrize(
    "before", ["", "<!-- saved by a browser from the address of the page, which is long -->", " " * 60, "\ufeff\n"]
)
@pytest.mark.parametrize(
    "around", ["<!doctype html><html><body>{}</body></html>", "<body>{}</body>", "<main>{}</main>"]
)
def test_what_stands_before_a_page_costs_no_text(before: str, around: str) -> None:
    """trafilatura takes a page for one by its first 50 characters."""
    assert main_content(before + around.format("<p>A brass lamp.</p>")) == "A brass lamp."
