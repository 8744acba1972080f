"""The pages of `tests.benchmarks.pages` hold what they say."""

from __future__ import annotations

import pytest

from repli.tasks.text.html_text import all_text
from repli.tasks.text.pdf import by_pypdf
from tests.benchmarks.pages import LAYOUTS, PDF, PLAIN, f1, page

PARAGRAPHS = ["The harp is plucked by hand & has many strings.", "It is older than the lute."]
OTHERS = [f"Sentence number {number} is of another article." for number in range(20)]


@pytest.mark.parametrize("layout", range(LAYOUTS))
def test_a_page_has_its_main_text_and_more(layout: int) -> None:
    """Every paragraph stands in it; and what is no main text."""
    made = page("Harp", PARAGRAPHS, OTHERS, layout, seed=1)
    shown = all_text(made.content.decode()) or ""
    assert all(paragraph in shown for paragraph in PARAGRAPHS)
    assert made.main_text == "\n".join(["Harp", *PARAGRAPHS])
    assert 0 < f1(shown, made.main_text) < 0.8


def test_the_layouts_differ() -> None:
    """No two pages of one article are alike, and the same seed makes the same page."""
    pages = [page("Harp", PARAGRAPHS, OTHERS, layout, seed=1).content for layout in [*range(LAYOUTS), PDF, PLAIN]]
    assert len(set(pages)) == LAYOUTS + 2
    assert pages == [
        page("Harp", PARAGRAPHS, OTHERS, layout, seed=1).content for layout in [*range(LAYOUTS), PDF, PLAIN]
    ]


def test_other_documents_have_the_text_too() -> None:
    """A PDF with a running head, over as many pages as it takes; and a plain text."""
    long = page("Harp", PARAGRAPHS * 30, OTHERS, PDF, seed=1)
    text = " ".join(by_pypdf(long.content).split())
    assert text.count("plucked by hand & has many strings.") == 30
    assert text.count("The Example Reader") > 1
    assert page("Harp", PARAGRAPHS, OTHERS, PLAIN, seed=1).content.decode() == "\n".join(["Harp", *PARAGRAPHS])


@pytest.mark.parametrize(
    ("text", "wanted"), [("a b", 1.0), ("A, b!", 1.0), ("a", 2 / 3), ("a a b b", 2 / 3), ("c", 0.0), ("", 0.0)]
)
def test_f1_counts_words(text: str, wanted: float) -> None:
    """Whatever their case; each as often as it stands there."""
    assert f1(text, "a b") == pytest.approx(wanted)
