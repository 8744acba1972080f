"""Classify image: a larger model on the accelerator, a smaller one on the CPU, or words and pixels; or skip."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from repli.tasks.comparison.image_perturbations import PICTURE_MISTAKES, noise_picture
from repli.tasks.comparison.metrics import LABELS
from repli.tasks.fallback import (
    AnyRung,
    Breaker,
    Declined,
    Failed,
    ItemError,
    NoInput,
    Outcome,
    OutOfMemory,
    Served,
    each,
    note_device,
)
from repli.tasks.items import Assets, Guess, Label
from repli.tasks.models.cards import card_or_processor, has_card
from repli.tasks.models.imagenet_labels import labels, synonyms
from repli.tasks.models.masters import Masters
from repli.tasks.pipeline import EnrichedItem, Stage, StageContext, StageHooks
from repli.tasks.runtime.ahead import made_ahead
from repli.tasks.runtime.processors import processors_of_machine, processors_of_worker
from repli.tasks.settings import ModelSettings, Settings
from repli.tasks.stages.rates import RATES
from repli.tasks.storage.blobs import Blobs

if TYPE_CHECKING:
    from repli.tasks.models.image_classifier import ImageClassifier, PreparedPicture
    from repli.tasks.models.image_reading import Classification

CHUNK = 32
"""The pictures that a model gets at once, at least. On a processor also at most: larger chunks exceed its caches."""
MAX_CARD_CHUNK = 512
"""The pictures that a card gets at once, at the most: an H100 classifies 5,500 a second by 128, 11,500 by 512."""
NO_IMAGE = "the image was not fetched; see the error of the fetch stage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The input of a classification. `sha256` is None for an image that was declared and could not be fetched."""

    name: str
    sha256: str | None


def _input(item: EnrichedItem) -> Picture | None:
    if item.image is None:
        return None
    fetched = item.value(Assets)
    asset = fetched.image if fetched else None
    return Picture(name=str(item.name), sha256=asset.sha256 if asset else None)


def _check(answer: Label) -> None:
    """Raise ValueError for a label that is not the one at its index in ImageNet's vocabulary."""
    if answer.vocabulary == "imagenet-1k":
        names = [(answer.label, answer.label_index), *((guess.label, guess.label_index) for guess in answer.top)]
        if unknown := [label for label, index in names if not _is_in_imagenet(label, index)]:
            raise ValueError(f"{unknown[0]!r} is not the label at its index in the vocabulary imagenet-1k")


def _warm_up(settings: Settings) -> None:
    from repli.tasks.models import image_classifier

    image_classifier.load.start(settings.models.image_cpu, "cpu", settings.models.runtime)


def _imports(settings: Settings) -> tuple[str, ...]:
    from repli.tasks.models import image_classifier

    models = settings.models
    on_card = image_classifier.modules(models.image_gpu, card_or_processor(models.gpu_device), models.runtime)
    return (*on_card, *image_classifier.modules(models.image_cpu, "cpu", models.runtime))


def _version(rung: AnyRung, models: ModelSettings) -> str | None:
    if rung.name == "rules":
        return rung.version
    from repli.tasks.models.model_versions import image_version

    return image_version(models.image_gpu if rung.name == "gpu" else models.image_cpu)


STAGE = Stage(
    "classify_image",
    input=_input,
    produces=Label,
    check=_check,
    comparison=replace(
        LABELS,
        is_empty=lambda picture: picture.sha256 is None,
        unrelated_input=noise_picture,
        mistakes=PICTURE_MISTAKES,
    ),
    hooks=StageHooks(imports=_imports, warm_up=_warm_up, version=_version),
)


@STAGE.rung(time_limit_s=300, breaker=Breaker(scope="host"), resources={"GPU": 1})
def gpu(pictures: Sequence[Picture], context: StageContext) -> Sequence[Outcome[Label]]:
    """Classify with the larger model on the accelerator: `cuda` by default; the setting `cpu` emulates one."""
    models = context.settings.models
    return _by_model(pictures, context, models.image_gpu, models.gpu_device, keeps_masters=False)


# Where `gpu` was not sure, 0.85 (0.78 to 0.94) of what `cpu` claims is right: 443 of 3,900 pictures, 1,300 photos of
# ImageNet's validation set and each cut, small, dark or blurred twice. Of 361 pictures of another source 0.96 is.
@STAGE.rung(penalty="0.9", time_limit_s=300, breaker=Breaker(scope="host"), after_decline=0.85)
def cpu(pictures: Sequence[Picture], context: StageContext) -> Sequence[Outcome[Label]]:
    """Classify with the smaller model on the CPU."""
    settings = context.settings
    may_be_lifted = settings.is_gpu_emulated or has_card()  # elsewhere `gpu` never serves these pictures
    return _by_model(pictures, context, settings.models.image_cpu, "cpu", keeps_masters=may_be_lifted)


@STAGE.rung(penalty="0.8", time_limit_s=60)
def rules(pictures: Sequence[Picture], context: StageContext) -> Sequence[Outcome[Label]]:
    """Classify without a model: by the one ImageNet class that the item's name contains, unless the image is blank."""
    blobs = Blobs(context.settings.blobs)
    return each(pictures, lambda picture: _by_words_and_pixels(picture, blobs))


STAGE.skip(penalty="0.7")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Preparer:
    """Prepares pictures for a model, from masters that are kept on disk where `keeps_masters`. Threads may share it."""

    classifier: ImageClassifier
    blobs: Blobs
    masters: Masters
    keeps_masters: bool

    def __call__(self, picture: Picture) -> PreparedPicture | ItemError:
        """Return the model's input, or why there is none: a bad picture fails alone."""
        side = self.classifier.master_side
        try:
            if picture.sha256 is None:
                raise NoInput(NO_IMAGE)
            master = self.masters.get(picture.sha256, side, lambda: _content(picture, self.blobs))
        except ItemError as error:
            return error
        if self.keeps_masters:
            self.masters.keep(picture.sha256, side)
        return self.classifier.prepare_master(master)

    def keep_masters(self, pictures: Sequence[Picture]) -> None:
        """Keep the masters of these pictures, as far as they have been made."""
        for picture in pictures:
            if picture.sha256 is not None:
                self.masters.keep(picture.sha256, self.classifier.master_side)


def _by_model(
    pictures: Sequence[Picture], context: StageContext, source: str, device: str, *, keeps_masters: bool
) -> Sequence[Outcome[Label]]:
    from repli.tasks.models import image_classifier

    classifier = image_classifier.load(source, device, context.settings.models.runtime)
    note_device(device)
    return classify_by(classifier, device, pictures, context.settings, keeps_masters=keeps_masters)


def classify_by(
    classifier: ImageClassifier, device: str, pictures: Sequence[Picture], settings: Settings, *, keeps_masters: bool
) -> Sequence[Outcome[Label]]:
    """Classify all pictures that can be decoded; the others fail, each with its error.

    Args:
        keeps_masters: whether masters are kept on disk: of a fallback's pictures, which `reprocess` classifies again.

    Raises:
        OutOfMemory: a chunk does not fit on the device; and whatever else the classifier raises.
    """
    masters = Masters(settings.picture_cache)
    masters.prune()
    prepare = _Preparer(
        classifier=classifier, blobs=Blobs(settings.blobs), masters=masters, keeps_masters=keeps_masters
    )
    outcomes: list[Outcome[Label]] = []
    try:
        with _prepared_ahead(prepare, pictures, device) as chunks:
            for chunk in chunks:
                outcomes += _classify(classifier, chunk)
    except OutOfMemory:  # a smaller call or the next rung of this process takes over, and has the masters in memory
        raise
    except Exception:  # it may be the end of this process
        prepare.keep_masters(pictures)
        raise
    return outcomes


def _prepared_ahead(
    prepare: _Preparer, pictures: Sequence[Picture], device: str
) -> AbstractContextManager[Iterator[list[PreparedPicture | ItemError]]]:
    """Return a context that yields the inputs of a model, or errors, in chunks of the size that suits the device."""
    if device.startswith("cuda"):
        return made_ahead(prepare, pictures, threads=processors_of_machine(), at_least=CHUNK, at_most=MAX_CARD_CHUNK)
    return made_ahead(prepare, pictures, threads=processors_of_worker(), at_least=CHUNK, at_most=CHUNK)


def _classify(classifier: ImageClassifier, chunk: Sequence[PreparedPicture | ItemError]) -> Iterator[Outcome[Label]]:
    """Yield the outcome of each input, in order, after one call of the model."""
    images = [one for one in chunk if not isinstance(one, ItemError)]
    answers = iter(classifier.classify(images) if images else [])
    for one in chunk:
        yield Failed.because(one) if isinstance(one, ItemError) else _sure(next(answers), classifier.threshold)


def _sure(answer: Classification, threshold: float) -> Outcome[Label]:
    """Return the label if its score reaches the threshold of its model; else the rung declines."""
    label, confidence, score = answer
    if score >= threshold:
        return Served(label, confidence)
    digits = 2 if confidence >= 0.1 else 3  # a drill compares confidences, also where all are close to 0
    of_size = f"its score of {score:.2f} " if score != confidence else ""
    return Failed.because(
        Declined(f"best guess {label.label} at {confidence:.{digits}f}, {of_size}below the threshold of {threshold:g}")
    )


def _content(picture: Picture, blobs: Blobs) -> bytes:
    if picture.sha256 is None:
        raise NoInput(NO_IMAGE)
    try:
        return blobs.read(picture.sha256)
    except OSError as error:
        raise ItemError(f"the fetched image cannot be read ({error}); run again with --refresh") from error


def _is_in_imagenet(label: str, index: int | None) -> bool:
    return index is not None and 0 <= index < len(labels()) and labels()[index] == label


_THUMBNAIL = 64  # pixels a side, of which 32 × 32 are made
_BLANK_BELOW = 4.0  # standard deviation of grey values in [0, 255]: a blank or broken scan, not a photo


def _by_words_and_pixels(picture: Picture, blobs: Blobs) -> Served[Label]:
    """Return the class that the name contains.

    Raises:
        Declined: the name contains none or several, or the image is blank.
    """
    from PIL import ImageStat

    from repli.tasks.models.pictures import open_image

    thumbnail = open_image(_content(picture, blobs), at_least=_THUMBNAIL).convert("L").resize((32, 32))
    if ImageStat.Stat(thumbnail).stddev[0] < _BLANK_BELOW:
        raise Declined("the image is blank")
    classes = classes_named_in(picture.name)
    if not classes:
        raise Declined("the name names no class")
    label, confidence = synonyms()[classes[0]][0], RATES["classify_image.rules"].value / len(classes)
    if len(classes) > 1:
        raise Declined(f"best guess {label} at {confidence:.2f}, one of {len(classes)} classes that the name may mean")
    guess = Guess(label=label, label_index=classes[0], confidence=confidence)
    return Served(Label(label, label_index=classes[0], top=(guess,), vocabulary="imagenet-1k"), confidence)


def classes_named_in(name: str) -> tuple[int, ...]:
    """Return the ImageNet classes named by the longest word or phrase in `name`, at most five.

    Several classes share a word such as 'crane'.
    """
    words = re.findall(r"\w+", name.casefold())
    for length in range(min(len(words), 5), 0, -1):
        found = {
            index
            for start in range(len(words) - length + 1)
            for index in _classes_by_words().get(tuple(words[start : start + length]), ())
        }
        if found:
            return tuple(sorted(found))[:5]
    return ()


@lru_cache(maxsize=1)
def _classes_by_words() -> dict[tuple[str, ...], tuple[int, ...]]:
    table: dict[tuple[str, ...], tuple[int, ...]] = {}
    for index, names in enumerate(synonyms()):
        for name in names:
            words = tuple(re.findall(r"\w+", name.casefold()))
            table[words] = (*table.get(words, ()), index)
    return table
