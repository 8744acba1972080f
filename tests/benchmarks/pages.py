"""Pages of which the main text is known: articles between navigation, banners, teasers, comments and footers.

Twelve layouts: what stands around an article, in which tags, and before or after it, differs from page to page as it
does from site to site. Teasers and comments are sentences of other articles, so that words alone do not give them away.
Besides: the same articles as PDF, with a running head and numbers of pages, and as plain text.
"""

from __future__ import annotations

import html
import random
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.files import pdf_of_lines

PDF, PLAIN = "pdf", "plain"
_SECTIONS = (
    *("Home", "News", "Shop", "Travel", "Culture", "Science", "Sport", "Opinion", "Weather", "Jobs", "Video"),
    *("Archive", "Contact", "Help"),
)
_SMALL_PRINT = (
    "We and our partners use cookies. You can accept all of them, or change your choice in the privacy settings.",
    "Sign up for our newsletter and never miss a story. By signing up you agree to our terms and conditions.",
    "© 2026 The Example Group. All rights reserved. No part of this site may be reproduced without permission.",
    "Free delivery on orders over 30. Returns within 30 days. Secure payment by card, transfer or invoice.",
    "Advertisement. Compare prices for insurance, energy and broadband, and save up to 300 a year.",
    "Share this page by mail, print it, or save it for later. Report an error in this article.",
)
_NAMES = ("anna87", "tom_k", "lighthouse", "mrs.green", "traveller62", "q_", "j.doe", "kestrel")


@dataclass(frozen=True, slots=True)
class Page:
    """A document with its suffix, its layout, and its main text."""

    content: bytes
    suffix: str
    layout: str
    main_text: str


def page(title: str, paragraphs: Sequence[str], others: Sequence[str], layout: int | str, seed: int) -> Page:
    """Return an article as a page.

    Args:
        others: sentences of other articles.
        layout: the number of a layout of HTML, or `PDF` or `PLAIN`.
        seed: of what the layout leaves open.
    """
    main_text = "\n".join([title, *paragraphs])
    if layout == PDF:
        return Page(_pdf(title, paragraphs), ".pdf", PDF, main_text)
    if layout == PLAIN:
        return Page(main_text.encode(), ".txt", PLAIN, main_text)
    draw = random.Random(seed)
    content = _LAYOUTS[int(layout) % len(_LAYOUTS)](_Parts(title, paragraphs, list(others), draw))
    return Page(content.encode(), ".html", f"layout {layout}", main_text)


LAYOUTS = 12


def f1(text: str, gold: str) -> float:
    """Return the harmonic mean of precision and recall of a text's words, each as often as it stands there."""
    found, wanted = (Counter(re.findall(r"\w+", one.casefold())) for one in (text, gold))
    shared = (found & wanted).total()
    return 2 * shared / (found.total() + wanted.total()) if shared else 0.0


class _Parts:
    """The parts of a page, in HTML."""

    def __init__(self, title: str, paragraphs: Sequence[str], others: list[str], draw: random.Random) -> None:
        self.title = html.escape(title)
        self.paragraphs = [html.escape(paragraph) for paragraph in paragraphs]
        self._others, self._draw = others, draw

    @property
    def head(self) -> str:
        return (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{self.title} | Example</title>'
            "<style>body { margin: auto }</style><script>var page = {};</script></head>"
        )

    def body(self, tag: str = "p") -> str:
        return "\n".join(f"<{tag}>{paragraph}</{tag}>" for paragraph in self.paragraphs)

    def links(self, count: int) -> str:
        chosen = self._draw.sample(_SECTIONS, count)
        return "<ul>" + "".join(f'<li><a href="/{name.lower()}">{name}</a></li>' for name in chosen) + "</ul>"

    def small_print(self, count: int = 1) -> str:
        return " ".join(f"<p>{text}</p>" for text in self._draw.sample(_SMALL_PRINT, count))

    def teasers(self, count: int) -> str:
        """Return the beginnings of other articles, each a link."""
        cards = (f'<h4><a href="/a">{text[:50]}</a></h4><p>{text[:160]}…</p>' for text in self._sentences(count))
        return "".join(f'<div class="card">{card}</div>' for card in cards)

    def comments(self, count: int) -> str:
        """Return what readers say, in whole sentences."""
        names = (self._draw.choice(_NAMES) for _ in range(count))
        said = (
            f'<div class="comment"><b>{name}</b> <span>2 days ago</span><p>{text}</p><a href="#">Reply</a></div>'
            for name, text in zip(names, self._sentences(count), strict=True)
        )
        return f'<div id="comments" class="comments"><h3>{count} comments</h3>{"".join(said)}</div>'

    def _sentences(self, count: int) -> list[str]:
        return [html.escape(text) for text in self._draw.sample(self._others, count)]


def _semantic(p: _Parts) -> str:
    return (
        f"{p.head}<body><header><nav>{p.links(6)}</nav></header><main><article><h1>{p.title}</h1>{p.body()}</article>"
        f"<aside>{p.teasers(3)}</aside></main><footer>{p.small_print(2)}</footer></body></html>"
    )


def _boxes(p: _Parts) -> str:
    return (
        f'{p.head}<body><div id="top">{p.links(8)}</div><div class="wrap"><div class="content"><h1>{p.title}</h1>'
        f'{p.body()}</div><div class="sidebar">{p.teasers(4)}</div></div><div id="footer">{p.small_print(2)}</div>'
        "</body></html>"
    )


def _banner_first(p: _Parts) -> str:
    return (
        f'{p.head}<body><div class="cookie-banner">{p.small_print(2)}<button>Accept</button></div><nav>{p.links(5)}'
        f"</nav><article><h1>{p.title}</h1>{p.body()}</article><footer>{p.links(5)}</footer></body></html>"
    )


def _with_comments(p: _Parts) -> str:
    return (
        f'{p.head}<body><nav>{p.links(4)}</nav><main><article><h1>{p.title}</h1><div class="text">{p.body()}</div>'
        f"</article><section>{p.comments(6)}</section></main><footer>{p.small_print()}</footer></body></html>"
    )


def _tables(p: _Parts) -> str:
    return (
        f"{p.head}<body><table><tr><td>{p.links(7)}</td><td><h1>{p.title}</h1>{p.body()}</td><td>{p.teasers(2)}</td>"
        f"</tr><tr><td colspan=3>{p.small_print(2)}</td></tr></table></body></html>"
    )


def _plain_boxes(p: _Parts) -> str:
    return (
        f"{p.head}<body><div>{p.links(9)}</div><div>{p.small_print()}</div><div><h2>{p.title}</h2>{p.body('div')}</div>"
        f"<div>{p.teasers(3)}</div><div>{p.small_print(2)}</div></body></html>"
    )


def _shop(p: _Parts) -> str:
    return (
        f'{p.head}<body><header>{p.links(6)}<form><input placeholder="Search"></form></header><main><h1>{p.title}</h1>'
        f'<p class="price">12.90 <button>Add to cart</button></p><div class="description">{p.body()}</div>'
        f'<h3>Customers also bought</h3>{p.teasers(4)}<div class="delivery">{p.small_print(2)}</div></main></body>'
        "</html>"
    )


def _blog(p: _Parts) -> str:
    return (
        f'{p.head}<body><div class="post"><h1>{p.title}</h1><p class="meta">Posted on 3 May by anna87 in Science</p>'
        f'<div class="entry-content">{p.body()}</div><div class="share">{p.small_print()}</div></div>{p.comments(8)}'
        f'<div class="widget">{p.links(10)}</div></body></html>'
    )


def _ads_between(p: _Parts) -> str:
    between = f'<div class="ad">{p.small_print()}</div>'
    halves = p.body().split("\n")
    return (
        f"{p.head}<body><nav>{p.links(6)}</nav><article><h1>{p.title}</h1>{between.join(halves)}</article>"
        f"<aside>{p.teasers(2)}</aside><footer>{p.small_print()}</footer></body></html>"
    )


def _breaks(p: _Parts) -> str:
    return (
        f"{p.head}<body><center>{p.links(8)}</center><h1>{p.title}</h1>{'<br><br>'.join(p.paragraphs)}<hr>"
        f"{p.small_print(3)}</body></html>"
    )


def _forum(p: _Parts) -> str:
    return (
        f'{p.head}<body><nav>{p.links(5)}</nav><div class="thread"><h1>{p.title}</h1><div class="post first">{p.body()}'
        f"</div>{p.comments(10)}</div><footer>{p.small_print()}</footer></body></html>"
    )


def _portal(p: _Parts) -> str:
    return (
        f'{p.head}<body><header>{p.links(12)}</header><div class="teasers">{p.teasers(6)}</div><div class="main">'
        f'<h1>{p.title}</h1><p class="lead">{p.paragraphs[0]}</p>'
        + "".join(f"<p>{paragraph}</p>" for paragraph in p.paragraphs[1:])
        + f'</div><div class="teasers">{p.teasers(6)}</div><footer>{p.small_print(3)}{p.links(10)}</footer></body>'
        + "</html>"
    )


_LAYOUTS = (
    *(_semantic, _boxes, _banner_first, _with_comments, _tables, _plain_boxes),
    *(_shop, _blog, _ads_between, _breaks, _forum, _portal),
)


def _pdf(title: str, paragraphs: Sequence[str]) -> bytes:
    lines = [line for paragraph in [title, *paragraphs] for line in [*textwrap.wrap(paragraph, 90), ""]]
    pages = [lines[start : start + 40] for start in range(0, len(lines), 40)]
    feet = [f"Page {number} of {len(pages)}" for number in range(1, len(pages) + 1)]
    return pdf_of_lines([["The Example Reader", "", *page, "", foot] for page, foot in zip(pages, feet, strict=True)])
