"""Read the text of HTML: of a whole page, or of a fragment without a page around it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser

_TAGS = (
    "a abbr address article aside b blockquote body br center code dd del details div dl dt em fieldset figcaption "
    "figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img ins kbd label li link main mark meta "
    "nav ol p picture pre q s script section small span strong style sub summary sup table tbody td template th thead "
    "title tr tt u ul video"
).replace(" ", "|")
_START_TAG = rf"<(?:{_TAGS})(?:\s[^<>]*+|/)?>"
# Atomic and possessive groups: what they have passed is not tried again, which would take exponential time.
_BEFORE_MARKUP = r"\A\ufeff?\s*(?:<\?xml[^>]*>\s*)?(?>(?:<!--.*?-->\s*)*)"
_BEGINS_WITH_TAG = re.compile(rf"{_BEFORE_MARKUP}(?:<!doctype\s+html|{_START_TAG})", re.IGNORECASE | re.DOTALL)
_HAS_TAG = re.compile(rf"</(?:{_TAGS})\s*>|<(?:br|hr|img)(?:\s[^<>]*+|/)?>", re.IGNORECASE)
_HAS_REFERENCE = re.compile(r"&(?:#\d+|#x[\da-f]+|[a-z]{2,}\d*);", re.IGNORECASE)
_BEFORE_FIRST_TAG = re.compile(_BEFORE_MARKUP, re.DOTALL | re.IGNORECASE)
_PAGE = re.compile(r"<(?:html|body|article|main)[\s>]", re.IGNORECASE)
_META = re.compile(r"<meta\s[^<>]*+>", re.IGNORECASE)
_SCHEMA_ARTICLE = re.compile(
    r"""(?:"@type"\s*+:\s*+\[?\s*+"|itemtype=["']https?://schema\.org/)\w*(?:Article|BlogPosting)["']""", re.IGNORECASE
)


def begins_as_html(text: str) -> bool:
    """Return whether the text begins with a tag of HTML, as a file that is a page or a part of one does."""
    return bool(_BEGINS_WITH_TAG.match(text))


def has_markup(text: str) -> bool:
    """Return whether a text that somebody wrote into a table holds HTML: a tag, or a character reference."""
    return any(pattern.search(text) for pattern in (_BEGINS_WITH_TAG, _HAS_TAG, _HAS_REFERENCE))


def is_page(markup: str) -> bool:
    """Return whether markup is a page, which has more than its main content; else it is a fragment."""
    return bool(_PAGE.search(markup))


def main_content(markup: str) -> str | None:
    """Return the main content of a page, without its navigation and footer; None where there is none.

    A fragment is main content as a whole. What is shown only where scripts are switched off is no content: mostly it
    asks to switch them on.
    """
    import trafilatura

    if not is_page(markup):
        return all_text(markup)
    tree = trafilatura.load_html(_beginning_as_html(markup))
    if tree is None:
        return None
    for node in list(tree.iter("noscript")):
        node.drop_tree()
    text: str | None = trafilatura.extract(tree, include_comments=False, include_tables=True)
    return text


def _beginning_as_html(markup: str) -> str:
    """Return a page with a mark of HTML in its first characters, where trafilatura looks for one."""
    page = _BEFORE_FIRST_TAG.sub("", markup)
    return page if "html" in page[:_LOOKED_AT].lower() else f"<!doctype html>\n{page}"


_LOOKED_AT = 50


def all_text(markup: str) -> str | None:
    """Return all text that a page shows, a line for each block; None where there is none."""
    tree = _shown_tree(markup)
    return None if tree.body is None else "\n".join(lines_of(tree))


def lines_of(tree: LexborHTMLParser) -> list[str]:
    """Return the lines that a page shows, one for each block. Changes the tree."""
    if tree.body is None:
        return []
    for node in tree.body.css(_BLOCKS):
        node.insert_before(BREAK)
        node.insert_after(BREAK)
    for node in tree.body.css("td, th"):
        node.insert_after(" ")
    lines = (" ".join(line.split()) for line in tree.body.text().split(BREAK))
    return [line for line in lines if line]


def text_outside_links(markup: str) -> str:
    """Return what a page shows and does not link, in no form for a reader. What is no main text is mostly links."""
    tree = _shown_tree(markup)
    if tree.body is None:
        return ""
    for node in tree.body.css("a"):
        node.decompose()
    return tree.body.text(separator=" ")


def says_article(markup: str) -> bool:
    """Return whether a page says that it is an article, by Open Graph or schema.org."""
    metas = (meta.lower() for meta in _META.findall(markup))
    return any("og:type" in meta and "article" in meta for meta in metas) or bool(_SCHEMA_ARTICLE.search(markup))


def page_tree(markup: str) -> LexborHTMLParser:
    """Return the tree of a page."""
    from selectolax.lexbor import LexborHTMLParser

    return LexborHTMLParser(markup)


def drop_unseen(tree: LexborHTMLParser) -> None:
    """Take out of a tree what its page does not show."""
    for node in tree.css("script, style, noscript, template"):
        node.decompose()


def _shown_tree(markup: str) -> LexborHTMLParser:
    tree = page_tree(markup)
    drop_unseen(tree)
    return tree


BREAK = "\x00"  # the parser replaces it where the page itself has one
_BLOCKS = (
    "address, article, aside, blockquote, body, br, caption, center, dd, details, div, dl, dt, fieldset, figcaption, "
    "figure, footer, form, h1, h2, h3, h4, h5, h6, header, hr, li, main, nav, ol, option, p, pre, section, summary, "
    "table, tr, ul"
)
