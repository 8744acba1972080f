"""Links, commands and paths in the documents lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest
import typer

from repli.flows.cli.app import app
from tests.docs.pages import DOCS, PAGES, README, read
from tests.support import ROOT

DOCUMENTS = [
    README,
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *(ROOT / folder / "README.md" for folder in ("infra", "deployments")),
]
SITE = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FOLDERS = "blocks|deployments|docs|flows|infra|tasks|tests"


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """The text of a document, without its blocks of code."""
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


@lru_cache
def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub and MkDocs make them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link of a document leads to a file, and every anchor to a heading."""
    for link in _LINK.findall(re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", prose(document))):
        if link.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), f"{named(document)}: {link}"
        assert not anchor or anchor in anchors(target), f"{named(document)}: {link}"


def test_every_page_is_in_the_navigation() -> None:
    """The site and the index have every page, and no other."""
    pages = sorted(str(page.relative_to(DOCS)) for page in PAGES)
    assert sorted(re.findall(r"^ +- (\S+\.md)$", SITE, re.MULTILINE)) == pages
    linked = {name.partition("#")[0] for name in _LINK.findall(read("index.md"))}
    assert linked - {"../README.md"} == set(pages) - {"index.md"}


def shown_commands() -> list[tuple[str, str]]:
    """Every `repli` command in a block of code, with the document that shows it."""
    found = []
    for document in (README, *PAGES):
        if document.name == "cli.md":  # made from the commands
            continue
        for block in _FENCED.findall(document.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.removeprefix("$ ")
                if words.startswith("repli "):
                    found.append((named(document), words.partition(" #")[0]))
    return found


@pytest.mark.parametrize(("document", "command"), shown_commands())
def test_commands_are_accepted(document: str, command: str) -> None:
    """Every command that a document shows has these arguments and options."""
    words = shlex.split(command)[1:]
    context = typer.main.get_command(app).make_context("repli", [])
    while words and isinstance(context.command, typer.core.TyperGroup):
        name, found, words = context.command.resolve_command(context, words)
        is_group = isinstance(found, typer.core.TyperGroup)
        context = found.make_context(name, [] if is_group else words, parent=context)


def test_paths_are_there() -> None:
    """Every path of this repository that a document names in code exists, and so does every benchmark."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for path in re.findall(rf"`((?:{_FOLDERS})/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{named(document)}: {path}"
        for module in re.findall(r"python -m (tests\.[\w.]+\w|infra\.\w+)", text):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"{named(document)}: {module}"


def test_the_readme_is_short() -> None:
    """A first reader knows after two minutes what Repli does. What is longer has a page."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_the_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    """Every number of its tables of costs stands in the page that says how it was measured."""
    costs = re.search(r"^## What it costs.*?(?=^## )", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert costs
    figures = re.findall(r"\d[\d,.]*\d", costs[0])
    assert len(figures) > 30
    assert set(figures) <= set(re.findall(r"\d[\d,.]*\d", read("benchmarks.md")))
