"""XML that is no page: feeds, articles, lists of products."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from repli.tasks.text.xml_text import text_of_xml

FEED = """<?xml version="1.0" encoding="windows-1251"?>
<!-- made by a shop -->
<rss><channel><title>Lamps &amp; more</title>
<item><title>Desk lamp</title><description><![CDATA[<p>Of <b>brass</b>,<br>with a shade</p>]]></description></item>
<item><title>Lamp</title><description>&lt;p&gt;Of glass&lt;/p&gt;</description></item>
</channel></rss>"""


def test_each_element_has_its_line() -> None:
    """Words of two elements do not run together, and HTML in CDATA or in references is text, not lost."""
    assert text_of_xml(FEED) == "Lamps & more\nDesk lamp\nOf brass, with a shade\nLamp\nOf glass"


def test_an_element_within_text_is_a_part_of_it() -> None:
    """As `<italic>` in an article."""
    article = (
        "<article><p>A <i>br</i>ass lamp, <b>green</b></p><p>and heavy</p>\n<sec><p>Its <q>base</q></p></sec></article>"
    )
    assert text_of_xml(article) == "A brass lamp, green\nand heavy\nIts base"


@pytest.mark.parametrize("levels", [10, 250, 3_000])
def test_many_levels_are_read(levels: int) -> None:
    """Beyond those that the parser takes, as HTML."""
    assert text_of_xml("<a>" * levels + "deep" + "</a>" * levels) == "deep"


def test_what_is_not_well_formed_is_read_all_the_same() -> None:
    """A cut-off feed costs its end alone."""
    assert "Desk lamp" in text_of_xml(FEED[: FEED.index("</channel>")])


def test_a_page_is_a_page() -> None:
    """Its scripts are no text."""
    page = '<html xmlns="http://www.w3.org/1999/xhtml"><body><script>x()</script><p>A lamp</p></body></html>'
    assert text_of_xml(page) == "A lamp"


def test_an_entity_opens_no_file_and_grows_to_no_gigabytes(tmp_path: Path) -> None:
    """The classic attacks on parsers of XML."""
    (tmp_path / "secret").write_text("secret words")
    outside = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{(tmp_path / "secret").as_uri()}">]><a>A &x; lamp</a>'
    assert "secret words" not in text_of_xml(outside)
    names = "abcdefgh"
    entities = "".join(f'<!ENTITY {new} "{f"&{old};" * 100}">' for old, new in pairwise(names))
    began = time.thread_time()
    assert len(text_of_xml(f'<!DOCTYPE r [<!ENTITY a "lamp">{entities}]><r>&h;</r>')) < 10_000
    assert time.thread_time() - began < 0.5
