"""Read the text of XML that is no page: a feed, an article, a list of products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from repli.tasks.text.html_text import all_text, begins_as_html, has_markup

_BEFORE_XML = "\ufeff \t\r\n"


def begins_as_xml(text: str) -> bool:
    """Return whether the text says that it is XML, and not a page of it."""
    return text.lstrip(_BEFORE_XML).startswith("<?xml") and not begins_as_html(text)


def text_of_xml(markup: str) -> str:
    """Return the text of all elements, a line for each that has no text around it; HTML in them is read as HTML.

    What is not well-formed is read as a browser reads it, as HTML: names of elements then separate nothing.
    """
    from lxml import etree

    # No entity is replaced by a file, an address, or a million copies of itself.
    parser = etree.XMLParser(encoding="utf-8", resolve_entities=False, no_network=True, remove_comments=True)
    try:
        root = etree.fromstring(markup.lstrip(_BEFORE_XML).encode("utf-8", "replace"), parser)
    except etree.XMLSyntaxError:
        return all_text(markup) or ""
    if etree.QName(root).localname == "html":
        return all_text(markup) or ""
    lines = (" ".join(_as_text(line).split()) for line in _pieces(root))
    return "\n".join(line for line in lines if line)


def _pieces(root: Any) -> Iterator[str]:
    """Yield the text of a tree in pieces: elements that stand within text belong to its piece."""
    from lxml import etree

    piece: list[str] = []
    have_own_text: list[bool] = []  # of the elements that are open, outermost first
    for event, node in etree.iterwalk(root, events=("start", "end")):
        if event == "start":
            is_within_text = bool(have_own_text) and have_own_text[-1]
            have_own_text.append(_has_own_text(node))
            text = node.text
        else:
            have_own_text.pop()
            is_within_text = bool(have_own_text) and have_own_text[-1]
            text = node.tail if have_own_text else None
        if not is_within_text:
            yield "".join(piece)
            piece.clear()
        piece.append(text or "")
    yield "".join(piece)


def _has_own_text(node: Any) -> bool:
    return bool((node.text or "").strip() or any((child.tail or "").strip() for child in node))


def _as_text(piece: str) -> str:
    return (all_text(piece) or "") if has_markup(piece) else piece
