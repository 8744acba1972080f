"""The documents: the README, and the pages of `docs`."""

from __future__ import annotations

from pathlib import Path

from tests.support import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def read(page: str | Path) -> str:
    """Return the text of a page of `docs`, by its name there."""
    return (DOCS / page).read_text(encoding="utf-8")
