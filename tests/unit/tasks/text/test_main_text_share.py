"""How much of a text of a page is its main text, by what the page links and what it says of itself."""

from __future__ import annotations

import time

import pytest

from repli.tasks.text.html_text import all_text, says_article, text_outside_links
from repli.tasks.text.main_text_share import OF_ARTICLES, of_all_text, of_main_content

MAIN = "0123456789 " * 6
LINKED = '<nav><a href="/">0123456789 0123456789</a></nav>'
PAGE = f"<html><body>{LINKED}<p>{MAIN}</p><script>var page = 1;</script></body></html>"


def test_all_text_is_main_text_as_far_as_it_is_not_linked() -> None:
    """Of eight words two are linked; what the page does not show counts for neither."""
    text = all_text(PAGE)
    assert text
    assert text_outside_links(PAGE).split() == MAIN.split()
    assert of_all_text(PAGE, text) == pytest.approx(OF_ARTICLES * 6 / 8)


def test_a_page_of_links_may_be_a_list() -> None:
    """Its estimate does not fall to 0, and stays below that of any page of text."""
    text = all_text(f"<html><body>{LINKED}</body></html>")
    assert text
    assert of_all_text(f"<html><body>{LINKED}</body></html>", text) == 0.4


@pytest.mark.parametrize(("kept", "expected"), [(6, 1.0), (3, 0.75), (0, 0.5), (8, 1.0)])
def test_main_content_that_keeps_less_is_trusted_less(kept: int, expected: float) -> None:
    """By what it keeps of the characters outside links; more than all is all."""
    assert of_main_content(PAGE, "0123456789 " * kept) == pytest.approx(OF_ARTICLES * expected)


@pytest.mark.parametrize(
    ("head", "is_article"),
    [
        ('<meta property="og:type" content="article">', True),
        ("<meta content='Article' property='og:type'>", True),
        ('<script type="application/ld+json">{"@type": "NewsArticle"}</script>', True),
        ('<script type="application/ld+json">{"@type" : ["BlogPosting", "Thing"]}</script>', True),
        ('<meta itemscope itemtype="https://schema.org/Article">', True),
        ('<meta property="og:type" content="product"><meta name="keywords" content="article">', False),
        ('<script type="application/ld+json">{"@type": "Product", "name": "Article 9"}</script>', False),
        ("<title>An article</title>", False),
    ],
)
def test_a_page_says_that_it_is_an_article(head: str, is_article: bool) -> None:
    """By Open Graph or schema.org, in any order of attributes; by no word in its text. Then it has the rate of such."""
    page = PAGE.replace("<body>", f"{head}<body>")
    assert says_article(page) is is_article
    assert (of_main_content(page, "0123456789") == OF_ARTICLES) is is_article


@pytest.mark.parametrize("part", ['"@type":' + " " * 100, "<meta " + "x" * 100, '"@type":"' + "Article" * 100])
def test_a_hostile_page_takes_no_time(part: str) -> None:
    """Of a few megabytes."""
    begun = time.process_time()
    says_article(part * 20_000)
    assert time.process_time() - begun < 2


def test_a_page_without_a_body_has_an_estimate() -> None:
    """It is no reason to fail."""
    assert of_all_text("<html><frameset></frameset></html>", "") == 0.4
    assert of_main_content("<html><frameset></frameset></html>", "lamp") == OF_ARTICLES
