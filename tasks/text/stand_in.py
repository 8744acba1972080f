"""Tell a page that a server shows, with status 200, in the place of the document: that there is none, a log-in, a check
against bots, a refusal, or an error.

Such a page says what it is in its title, a heading or a line of its own, and has hardly any other text; or has little
text and a second sign. An article about log-ins or missing pages has more to say. Beside words there are marks of the
programs that make such pages, in any language.

Of 2,319 public pages, the four sets of `main_text_share` and 27 more of theirs, it declines 3, which are such pages;
of 5,249 pages of documentation none. Of 20 pages that were written after the rules, as 20 programs serve them, it
declined 17, and with what the others taught 19.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from repli.tasks.fallback import Declined
from repli.tasks.text.html_text import BREAK, drop_unseen, lines_of, page_tree, says_article
from repli.tasks.text.stand_in_kinds import KINDS, LOG_IN, Kind

HARDLY_ANY = 300
"""The characters of its own text, without blanks, up to which a page is what it says."""
LITTLE = 1000
"""The same with a second sign."""
LITTLE_OF_MARKED = 2000
"""The same of a page with the mark of a program that makes nothing else: some explain themselves at length."""


def check_is_no_stand_in(markup: str) -> None:
    """Raise `Declined` for a page that stands in for the document."""
    page = _Page.of(markup)
    for kind in KINDS:
        if (sign := _sign(kind, page)) is not None:
            raise Declined(f"the page is no document but {kind.is_what}: {sign}; {kind.advice}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """What a page says of itself: its title and main headings, its lines, and its own text.

    The text is without links and without what stands around it on each page of a site. `length` counts its characters
    that are no blanks, and those that show only without scripts: some forums write their posts there.
    """

    markup: str
    names: Sequence[str]
    lines: Sequence[str]
    text: str
    length: int
    has_password: bool

    @classmethod
    def of(cls, markup: str) -> _Page:
        tree = page_tree(markup)
        without_scripts = sum(_length(node.text()) for node in tree.css("noscript"))
        drop_unseen(tree)
        title = " ".join(node.text() for node in tree.css("title")[:1])
        names = [title, *_PARTS.split(title), *(node.text() for node in tree.css("h1"))]
        has_password = bool(tree.css("input[type=password]"))
        for node in tree.css(_AROUND):
            node.decompose()
        lines = lines_of(tree)
        for node in tree.css("a"):
            node.decompose()
        text = "" if tree.body is None else tree.body.text(separator=" ").replace(BREAK, " ")
        length = _length(text) + without_scripts
        return cls(markup=markup, names=names, lines=lines, text=text, length=length, has_password=has_password)


def _length(text: str) -> int:
    return sum(map(len, text.split()))


def _sign(kind: Kind, page: _Page) -> str | None:
    """Return the sign by which a page is of this kind; None where it is not."""
    if page.length <= LITTLE_OF_MARKED and (mark := kind.marks.search(page.markup)):
        return f"its markup has {mark[0][-40:]!r}"
    said = list(_said(kind, page)) if page.length <= LITTLE and not says_article(page.markup) else []
    if not said:
        return None
    is_sure = page.length <= HARDLY_ANY or len({*map(_plain, said)}) > 1 or _has_second_sign(kind, page)
    return f'it says "{_short(said[0])}"' if is_sure else None


def _said(kind: Kind, page: _Page) -> Iterator[str]:
    """Yield the names and lines of a page that say that it is of this kind."""
    for name in page.names:
        if kind.named.fullmatch(plain := _plain(name)) or kind.told.fullmatch(plain):
            yield name
    for line in page.lines:
        if kind.told.fullmatch(_plain(line)):
            yield line


def _has_second_sign(kind: Kind, page: _Page) -> bool:
    is_log_in = kind is LOG_IN and page.has_password
    return is_log_in or bool(_NOT_INDEXED.search(page.markup) or kind.second.search(_plain(page.text)))


def _plain(text: str) -> str:
    """Return a text in lower case without apostrophes, its words separated by one blank."""
    return " ".join(re.findall(r"\w+", re.sub("['’‘`´]", "", text.casefold())))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


_SHOWN = 100
_PARTS = re.compile(r"\s+[-–—|·•:»/]+\s+|[|»·•]")
_AROUND = (
    "header > nav, nav, footer, aside, dialog, select, button, [role=dialog], [role=alertdialog], [role=navigation], "
    "[role=contentinfo], [aria-modal=true], [hidden]"
)
_NOT_INDEXED = re.compile(r"""<meta\s[^<>]*?["'\s,]noindex\b""", re.IGNORECASE)
