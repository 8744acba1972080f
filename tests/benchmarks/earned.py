"""Whether the scores of an item are earned: what they claim, beside how often its label, text and vector are right.

``python -m tests.benchmarks.earned`` (2 minutes) makes items of which the truth is known: photos with a label from
installed packages, each in cuts, sizes and lights of its own, and pages that it builds around articles
(`tests.benchmarks.pages`). They go through the stages of Repli in this process, by the primaries and, in portions, by
each fallback. Then it prints, for each rung and for whole items, what was claimed and what happened.

* A label is right if it is the photo's class. No photo is of one class of several.
* A text is right to the degree of its F1 of words against the main text; in yes and no: from 0.8 on.
* A vector is right if it is the nearest, of 50 of its space, to the sentence that the article begins with, without the
  words of its title; the page leaves that sentence out. Only articles are taken whose whole text is the nearest: what
  the text model cannot find at all says nothing about a fallback.

The photos are few (20, in variants that are not independent), and the layouts of the pages are made up: other photos
and pages have other figures. Repli's temperatures and rates were measured on others; its thresholds, and what `cpu`
counts after `gpu` has declined, on other variants of these photos. Half of the names that `rules` goes by lie, by
construction: read its line so. Vectors are counted where the text is right, since what they claim is to be multiplied
with what the text claims.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean

import numpy as np
import sqlalchemy as sa
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from repli.flows.cli.demo.catalogue import Article, package_data, read_articles
from repli.tasks.models import image_classifier, text_embedder
from repli.tasks.models.imagenet_labels import labels
from repli.tasks.models.word_hashing import HASHED_SPACE
from repli.tasks.settings import ModelSettings, Settings
from repli.tasks.stages.embed_text import hashed_words
from repli.tasks.storage.database import Database
from repli.tasks.storage.schema import documents
from repli.tasks.storage.search.matrices import Matrices
from repli.tasks.storage.views.lookup import ItemView
from tests.benchmarks import pages
from tests.benchmarks.calibration import (
    Pair,
    auroc,
    bands,
    calibration_error,
    calibration_interval,
    is_monotone,
    precision_and_coverage,
)

DOUBTFUL = {"imagenet_12_741", "imagenet_14_129"}
"""Photos whose label in the data set is wrong, as was seen by eye."""
CATS, ESPRESSO = frozenset({281, 282, 285}), frozenset({967})
RIGHT_FROM = 0.8
CANDIDATES = 50
FIFTHS = 5
SEED = 20
PORTIONS: Sequence[tuple[Mapping[str, str], int]] = (
    ({}, 200),
    ({"classify_image": "cpu"}, 100),
    ({"extract_text": "plain"}, 100),
    ({"embed_text": "hashed"}, 100),
    ({"extract_text": "name_only"}, 60),
    ({"classify_image": "rules"}, 100),
    ({"extract_text": "plain", "embed_text": "hashed"}, 60),
    ({"classify_image": "cpu", "embed_text": "hashed"}, 60),
)
"""The rungs that are forced, and the number of items."""
LIES = 0.5
"""The share of items by `rules` whose name is of another class than their photo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known of an item."""

    classes: frozenset[int]
    main_text: str
    left_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The scores of an item, what its stages claim, and how right each is: 1, 0, or the F1 of its text."""

    view: ItemView
    rightness: Mapping[str, float]

    @property
    def quality(self) -> float:
        return self.view.quality or 0.0

    @property
    def expected_accuracy(self) -> float:
        return self.view.expected_accuracy or 0.0

    @property
    def share(self) -> float:
        """Return how much of the item is right: the product of its stages."""
        return float(np.prod(list(self.rightness.values())))

    @property
    def is_right(self) -> float:
        """Return whether the whole item is right."""
        return float(all(value >= RIGHT_FROM for value in self.rightness.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of items")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    print_models()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(Path(folder), arguments.scale)
    print_rungs(outcomes)
    print_items(outcomes)


def photos() -> list[tuple[Path, frozenset[int]]]:
    """Return the photos with the ImageNet classes that are right."""
    foolbox, skimage = package_data("foolbox"), package_data("skimage")
    named = [file for file in sorted(foolbox.glob("imagenet_*.jpg")) if file.stem not in DOUBTFUL]
    of_foolbox = [(file, frozenset({int(file.stem.rpartition("_")[2])})) for file in named]
    return [*of_foolbox, (skimage / "chelsea.png", CATS), (skimage / "coffee.png", ESPRESSO)]


def variant(file: Path, draw: random.Random) -> bytes:
    """Return a photo as another camera and another shop would have it: cut, mirrored, small, dark, blurred."""
    photo = _opened(file)
    share = draw.uniform(0.7, 1)  # a smaller cut may miss what the label names
    width, height = int(photo.width * share), int(photo.height * share)
    left, top = draw.randint(0, photo.width - width), draw.randint(0, photo.height - height)
    photo = photo.crop((left, top, left + width, top + height))
    if draw.random() < 0.5:
        photo = ImageOps.mirror(photo)
    side = draw.choice((64, 96, 160, 300, 500))
    photo.thumbnail((side, side))
    photo = ImageEnhance.Brightness(photo).enhance(draw.uniform(0.3, 1.4))
    photo = photo.filter(ImageFilter.GaussianBlur(draw.choice((0, 0, 0.5, 1))))
    content = io.BytesIO()
    photo.save(content, "JPEG", quality=draw.randint(40, 95))
    return content.getvalue()


@lru_cache(maxsize=32)
def _opened(file: Path) -> Image.Image:
    with Image.open(file) as photo:
        return photo.convert("RGB")


def print_models() -> None:
    """Print the calibration of each image model, and precision and coverage at its threshold."""
    draw = random.Random(SEED)
    taken = [(variant(file, draw), classes) for file, classes in photos() for _ in range(20)]
    print(f"{len(taken)} photos, by the models themselves\n")
    print("| model | right | says | calibration error (95 % interval) | threshold | precision | coverage |")
    print("|---|---|---|---|---|---|---|")
    sources = [number for number in range(len(photos())) for _ in range(20)]
    for rung, source in (("gpu", ModelSettings().image_gpu), ("cpu", ModelSettings().image_cpu)):
        classifier = image_classifier.load(source, "cpu")
        answers = classifier.classify([classifier.prepare(content) for content, _ in taken])
        events = [
            float(answer.label.label_index in classes) for answer, (_, classes) in zip(answers, taken, strict=True)
        ]
        pairs = [(answer.confidence, event) for answer, event in zip(answers, events, strict=True)]
        says, right = (fmean(values) for values in zip(*pairs, strict=True))
        scores = [(answer.score, event) for answer, event in zip(answers, events, strict=True)]
        precision, coverage = precision_and_coverage(scores, classifier.threshold)
        print(
            f"| `{rung}` | {right:.3f} | {says:.3f} | {_error(pairs, sources)} | {classifier.threshold:g} "
            f"| {precision:.3f} | {coverage:.3f} |",
            flush=True,
        )


def run(folder: Path, scale: float) -> list[Outcome]:
    """Enrich the items, each portion by its rungs, and compare what is stored with the truth."""
    from tests.support.in_process import enrich

    settings = Settings.from_environment({"REPLI_HOME": str(folder / "home"), "REPLI_GPU_DEVICE": "cpu"})
    draw = random.Random(SEED)
    made = _Maker(folder, draw)
    truths: dict[str, Truth] = {}
    views: dict[str, ItemView] = {}
    for number, (forced, count) in enumerate(PORTIONS):
        portion = dict(made.items(number, round(count * scale), by_rules=forced.get("classify_image") == "rules"))
        manifest = folder / f"portion-{number}.jsonl"
        manifest.write_text("\n".join(json.dumps(record) for record, _ in portion.values()), encoding="utf-8")
        truths |= {item_id: truth for item_id, (_, truth) in portion.items()}
        views |= enrich(settings, manifest, forced=forced)
    found = _found(settings, truths, draw)
    return [
        Outcome(view=view, rightness=_rightness(view, truths[item_id], is_found=item_id in found))
        for item_id, view in views.items()
        if view.quality is not None
    ]


class _Maker:
    """Makes items: the photo of one thing, the page of another."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self._folder, self._draw = folder, draw
        articles = [article for article in read_articles() if len(_sentences(article.text)) > 2]
        draw.shuffle(articles)
        self._others = [_sentences(article.text)[0] for article in articles[:500]]
        self._texts = _findable(articles[500:])
        self._photos = photos()

    def items(self, portion: int, count: int, *, by_rules: bool) -> Iterator[tuple[str, tuple[dict[str, str], Truth]]]:
        """Yield the id of each item of a portion, its record and the truth of it."""
        for number in range(count):
            item_id = f"{portion}-{number:03}"
            file, classes = self._photos[number % len(self._photos)]
            image = self._write(f"{item_id}.jpg", variant(file, self._draw))
            text = next(self._texts)
            layout = [*range(pages.LAYOUTS), pages.PDF, pages.PLAIN][number % (pages.LAYOUTS + 2)]
            page = pages.page(text.title, text.paragraphs, self._others, layout, self._draw.randrange(10**6))
            document = self._write(f"{item_id}{page.suffix}", page.content)
            name = self._name_of_class(classes) if by_rules else text.title
            record = {"id": item_id, "name": name, "image": image, "document": document}
            yield item_id, (record, Truth(classes=classes, main_text=page.main_text, left_out=text.left_out))

    def _write(self, name: str, content: bytes) -> str:
        (self._folder / name).write_bytes(content)
        return name

    def _name_of_class(self, classes: frozenset[int]) -> str:
        """Return a name with the word of the photo's class, or of another."""
        if self._draw.random() < LIES:
            classes = self._draw.choice([other for _, other in self._photos if other != classes])
        return f"{labels()[min(classes)]}, no. {self._draw.randrange(1000)}"


@dataclass(frozen=True, slots=True)
class _MainText:
    """The main text of a page, and the sentence that is left out of it, without the words of the title."""

    title: str
    paragraphs: Sequence[str]
    left_out: str


def _findable(articles: Sequence[Article]) -> Iterator[_MainText]:
    """Yield main texts, each of three articles, that the text model finds among `CANDIDATES` by what is left out."""
    embedder = text_embedder.load(ModelSettings().text)
    for start in range(0, len(articles) - 3 * CANDIDATES + 1, 3 * CANDIDATES):
        texts = [_main_text(articles[first : first + 3]) for first in range(start, start + 3 * CANDIDATES, 3)]
        vectors = embedder.embed([". ".join([text.title, *text.paragraphs]) for text in texts])
        nearest = (embedder.embed([text.left_out for text in texts]) @ vectors.T).argmax(axis=1)
        yield from (text for place, text in enumerate(texts) if nearest[place] == place)


def _main_text(articles: Sequence[Article]) -> _MainText:
    first, *more = articles
    beginning, *sentences = _sentences(first.text)
    left_out = " ".join(word for word in beginning.split() if word not in first.title)
    return _MainText(first.title, [" ".join(sentences), *(article.text for article in more)], left_out)


def _sentences(text: str) -> list[str]:
    return [part.strip() + "." for part in text.replace("\n", " ").split(". ") if len(part.split()) > 5]


def _found(settings: Settings, truths: Mapping[str, Truth], draw: random.Random) -> set[str]:
    """Return the items whose vector is the nearest to what their page leaves out, of `CANDIDATES` of its space."""
    embedder = text_embedder.load(ModelSettings().text)
    embed = {embedder.space: embedder.embed, HASHED_SPACE: hashed_words}
    with Matrices(Database(settings.database_url)).open() as matrices, Database(settings.database_url).read() as read:
        ids = dict(read.execute(sa.select(documents.c.number, documents.c.item_id)).tuples().all())
        found: set[str] = set()
        for space, matrix in matrices.items():
            present = [ids[int(number)] for number in matrix.numbers]
            queries = embed[space]([truths[item_id].left_out for item_id in present])
            for place, item_id in enumerate(present):
                others = [other for other in range(len(present)) if other != place]
                chosen = draw.sample(others, min(CANDIDATES - 1, len(others)))
                cosines = matrix.vectors[[place, *chosen]] @ queries[place]
                if cosines[0] > cosines[1:].max():
                    found.add(item_id)
    return found


def _rightness(view: ItemView, truth: Truth, *, is_found: bool) -> dict[str, float]:
    """Return how right each stage is; a stage without a value is not."""
    return {
        "extract_text": pages.f1(view.produced("text").get("text", ""), truth.main_text),
        "classify_image": float(view.produced("label").get("label_index") in truth.classes),
        "embed_text": float(is_found),
    }


def print_rungs(outcomes: Sequence[Outcome]) -> None:
    """Print, by rung, what it claims and how right it is: a vector, of a text that is right."""
    by_rung: dict[str, list[Pair]] = defaultdict(list)
    for outcome in outcomes:
        for stage, right in outcome.rightness.items():
            if stage == "embed_text" and outcome.rightness["extract_text"] < RIGHT_FROM:
                continue
            result = outcome.view.stages[stage]
            by_rung[f"{stage}.{result.rung}"].append((result.confidence or 0.0, right))
    print(f"\n{len(outcomes)} items, by rung\n")
    print("| rung | answers | says | right | calibration error (95 % interval) |\n|---|---|---|---|---|")
    for rung, pairs in sorted(by_rung.items()):
        says, right = (fmean(values) for values in zip(*pairs, strict=True))
        print(f"| `{rung}` | {len(pairs)} | {says:.3f} | {right:.3f} | {_error(pairs, range(len(pairs)))} |")


def _error(pairs: Sequence[Pair], sources: Sequence[int]) -> str:
    """Return the calibration error with its interval: some is there by chance, more where sources are few."""
    low, high = calibration_interval(pairs, sources)
    return f"{calibration_error(pairs):.3f} ({low:.3f} to {high:.3f})"


def print_items(outcomes: Sequence[Outcome]) -> None:
    """Print how the two scores of whole items compare with the truth."""
    scores: dict[str, Callable[[Outcome], float]] = {
        "expected accuracy": lambda outcome: outcome.expected_accuracy,
        "quality": lambda outcome: outcome.quality,
    }
    print("\n| score | says | share that is right | error | whole item right | error | AUROC | monotone |")
    print("|---|---|---|---|---|---|---|---|")
    for name, score in scores.items():
        shares = [(score(outcome), outcome.share) for outcome in outcomes]
        wholes = [(score(outcome), outcome.is_right) for outcome in outcomes]
        figures = (
            fmean(claim for claim, _ in shares),
            fmean(event for _, event in shares),
            calibration_error(shares),
            fmean(event for _, event in wholes),
            calibration_error(wholes),
            auroc(wholes),
        )
        order = "yes" if is_monotone(bands(wholes, FIFTHS)) else "no"
        print(f"| {name} | {' | '.join(f'{cell:.3f}' for cell in figures)} | {order} |")
    for name, score in scores.items():
        print(f"\n| {name} | items | says | share that is right | whole item right |\n|---|---|---|---|---|")
        shares = [(score(outcome), outcome.share) for outcome in outcomes]
        wholes = [(score(outcome), outcome.is_right) for outcome in outcomes]
        for band, whole in zip(bands(shares, FIFTHS), bands(wholes, FIFTHS), strict=True):
            cells = f"{band.claimed:.3f} | {band.happened:.3f} | {whole.happened:.3f}"
            print(f"| {band.low:.1f} to {band.high:.1f} | {band.count} | {cells} |")


if __name__ == "__main__":
    main()
