"""Tell a page that a server shows, with status 200, in the place of the document: that there is none, a log-in, a check
against bots, a refusal, or an error.

Such a page says what it is in its title, a heading or a line of its own, and has hardly any other text; or has little
text and a second sign. A name alone is none: films, bands and words are called "Forbidden" or "Error" too. An article
about log-ins or missing pages has more to say. Beside words there are marks of the programs that make such pages, in
any language.

Of 2,319 public pages, the four sets of `main_text_share` and 27 more of theirs, it declines 3, which are such pages;
of 5,249 pages of documentation none. Of 40 pages that were written after the rules, as 40 programs and sites serve
them, it declined 28 when it first saw them, and 39 since the others taught it more. Of 32 short pages that were written
to mislead it, as one on a film called "Forbidden", it declined 12 at first, and none now.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from repli.tasks.fallback import Declined
from repli.tasks.text.html_text import BREAK, drop_unseen, lines_of, page_tree, says_article
from repli.tasks.text.stand_in_kinds import KINDS, LOG_IN, Kind

NOTHING_ELSE = 40
"""The characters of its own text, without blanks, up to which a page is what its title or heading names."""
HARDLY_ANY = 300
"""The same where it says so in a sentence."""
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

    The text is without links and without what stands around it on each page of a site, and with what shows only where
    scripts are switched off: some forums write their posts there. `length` counts its characters that are no blanks.
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
        without_scripts = [node.text(separator=" ") for node in tree.css("noscript")]
        drop_unseen(tree)
        title = " ".join(node.text() for node in tree.css("title")[:1])
        names = [title, *_PARTS.split(title), *(node.text() for node in tree.css("h1"))]
        has_password = bool(tree.css("input[type=password]"))
        for node in tree.css(_AROUND):
            if node.tag not in {"html", "body"}:
                node.decompose()
        lines = lines_of(tree)
        for node in tree.css("a"):
            node.decompose()
        shown = "" if tree.body is None else tree.body.text(separator=" ").replace(BREAK, " ")
        text = " ".join([shown, *without_scripts])
        length = sum(map(len, text.split()))
        return cls(markup=markup, names=names, lines=lines, text=text, length=length, has_password=has_password)


def _sign(kind: Kind, page: _Page) -> str | None:
    """Return the sign by which a page is of this kind; None where it is not."""
    if page.length <= LITTLE_OF_MARKED and (mark := kind.marks.search(page.markup)):
        return f"its markup has {mark[0][-40:]!r}"
    if page.length > LITTLE or says_article(page.markup):
        return None
    named = [name for name in page.names if kind.named.fullmatch(_plain(name))]
    told = [line for line in (*page.names, *page.lines) if kind.told.fullmatch(_plain(line))]
    if not (said := [*named, *told]):
        return None
    is_alone = page.length <= (HARDLY_ANY if told else NOTHING_ELSE)
    is_sure = is_alone or len({*map(_plain, said)}) > 1 or _has_second_sign(kind, page, told)
    return f'it says "{_short(said[0])}"' if is_sure else None


def _has_second_sign(kind: Kind, page: _Page, told: Sequence[str]) -> bool:
    """Return whether there is a sign beside the sentences that the page has told."""
    if _NOT_INDEXED.search(page.markup) or (kind is LOG_IN and page.has_password):
        return True
    other = _plain(page.text)
    for one in told:
        other = other.replace(_plain(one), "")
    return bool(kind.second.search(other))


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
