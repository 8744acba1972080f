"""Pictures as the input of a model: JPEGs decoded at a part of their size, and masters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from repli.tasks.models.pictures import MASTER_SIDE, Preparation, make_master, open_image
from tests.support import files

SMALLER_MODEL = Preparation(size=224, crop=0.875)
LARGER_MODEL = Preparation(size=260, crop=0.89)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def photo(width: int = 1600, height: int = 1200) -> Image.Image:
    """A large picture with soft edges, as a camera makes it."""
    return files.picture(width=160, height=120).resize((width, height), Image.Resampling.BICUBIC)


@lru_cache(maxsize=1)
def large_jpegs() -> Mapping[str, bytes]:
    return {
        "plain": files.encoded(photo(), "JPEG", quality=95),
        "progressive": files.encoded(photo(), "JPEG", quality=95, progressive=True),
        "grey": files.encoded(photo().convert("L"), "JPEG", quality=95),
        "cmyk": files.encoded(photo().convert("CMYK"), "JPEG", quality=95),
        "turned": files.encoded(photo(), "JPEG", quality=95, exif=TURNED),
        "two of a camera": files.encoded(photo(), "MPO", quality=95, save_all=True, append_images=[photo()]),
    }


def difference(first: Any, second: Any) -> float:
    """The mean difference of two images' values, of 255."""
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).mean())


class TestDraft:
    """JPEGs decoded at a part of their size."""

    @pytest.mark.parametrize("name", large_jpegs())
    def test_a_part_shows_what_the_whole_shows(self, name: str) -> None:
        """Every kind of JPEG, upright and in its colours: nearly the pixels of the whole, scaled."""
        whole, part = open_image(large_jpegs()[name]), open_image(large_jpegs()[name], at_least=300)
        assert sorted(part.size) == [300, 400]
        assert (part.width > part.height) == (whole.width > whole.height) == (name != "turned")
        assert difference(part, whole.resize(part.size, Image.Resampling.BOX)) < 1.0

    @pytest.mark.parametrize(
        ("size", "decoded"), [((599, 400), (599, 400)), ((601, 600), (301, 300)), ((4000, 3000), (500, 375))]
    )
    def test_no_part_is_smaller_than_asked_for(self, size: tuple[int, int], decoded: tuple[int, int]) -> None:
        """The smallest of 1/8, 1/4, 1/2 and 1/1 that has the pixels, on its shorter side."""
        assert open_image(files.encoded(photo(*size), "JPEG"), at_least=300).size == decoded

    def test_other_formats_are_decoded_whole(self) -> None:
        """Only JPEG can do with a part."""
        assert open_image(files.encoded(photo()), at_least=300).size == (1600, 1200)

    def test_a_broken_half_is_no_part(self) -> None:
        """A file that ends in its middle fails at every size."""
        content = large_jpegs()["plain"]
        with pytest.raises(Exception, match="the image cannot be decoded"):
            open_image(content[: len(content) // 2], at_least=300)


class TestMaster:
    """The form from which the inputs of all models are made."""

    @pytest.mark.parametrize(
        ("size", "side"),
        [((1600, 1200), 300), ((900, 599), 599), ((300, 900), 300), ((96, 80), 80), ((1, 1), 1), ((9000, 10), 10)],
    )
    def test_it_is_the_central_square(self, size: tuple[int, int], side: int) -> None:
        """Scaled down where it is twice as large as asked for, and never up."""
        assert make_master(files.encoded(Image.new("RGB", size, "teal")), 300).shape == (side, side, 3)

    def test_its_centre_is_the_pictures(self) -> None:
        """A spot in the middle of a wide picture is in the middle, and what is at its ends is not there."""
        wide = Image.new("RGB", (1800, 600), "red")
        wide.paste("blue", (600, 0, 1200, 600))
        wide.paste("lime", (850, 250, 950, 350))
        master = make_master(files.encoded(wide), 300)
        assert [tuple(master[y, x]) for y, x in ((150, 150), (5, 5), (295, 295))] == [
            (0, 255, 0),
            (0, 0, 255),
            (0, 0, 255),
        ]

    @pytest.mark.parametrize("preparation", [SMALLER_MODEL, LARGER_MODEL])
    def test_both_default_models_share_it(self, preparation: Preparation) -> None:
        """Their inputs are made from one master, without an enlargement."""
        assert preparation.master_side == MASTER_SIDE
        assert MASTER_SIDE * preparation.crop >= preparation.size

    @pytest.mark.parametrize(("size", "crop", "side"), [(384, 1.0, 384), (300, 0.9, 334)])
    def test_a_model_that_needs_more_gets_a_larger_one(self, size: int, crop: float, side: int) -> None:
        """No input is an enlargement of its master."""
        assert Preparation(size=size, crop=crop).master_side == side

    @pytest.mark.parametrize("preparation", [SMALLER_MODEL, LARGER_MODEL])
    @pytest.mark.parametrize("size", [(1600, 1200), (640, 480), (320, 300), (96, 80)])
    def test_an_input_is_nearly_what_the_file_itself_gives(
        self, preparation: Preparation, size: tuple[int, int]
    ) -> None:
        """The way over the master costs less than two of 255 values, on edges as sharp as a file's get."""
        image = photo(*size).filter(ImageFilter.UnsharpMask(2, 200))
        content = files.encoded(image, "JPEG", quality=90)
        side = min(size) * preparation.crop
        left, top = (size[0] - side) / 2, (size[1] - side) / 2
        direct = open_image(content).resize(
            (preparation.size, preparation.size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
        assert difference(preparation.prepare(content), direct) < 2.0

    def test_an_input_is_made_of_the_master_alone(self) -> None:
        """Whether the master was found or made, the input is the same, to the bit."""
        content = large_jpegs()["plain"]
        master = make_master(content, SMALLER_MODEL.master_side)
        assert np.array_equal(SMALLER_MODEL.prepare(content), SMALLER_MODEL.prepare_master(master))


def test_a_transparent_value_of_a_grey_picture_is_white() -> None:
    """The other values keep their brightness."""
    ramp = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    pixels = np.asarray(open_image(files.encoded(ramp, transparency=0)))[..., 0]
    assert (pixels[0, 0], pixels[0, 1], pixels[-1, -1]) == (255, 0, 255)
    assert 126 < pixels.mean() < 129


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_grey_picture_of_16_bits_has_as_many_as_it_needs(bits: int) -> None:
    """Cameras write 10 or 12 of them; by the scale of all 16 such a picture is black, whatever it shows."""
    ramp = np.linspace(0, 2**bits - 1, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = np.asarray(open_image(files.encoded(Image.fromarray(ramp))))[..., 0]
    assert (pixels[0, 0], pixels[-1, -1]) == (0, 255)
    assert 126 < pixels.mean() < 129


def test_a_dark_grey_picture_of_16_bits_stays_dark() -> None:
    """Half of the brightness is a picture, and is left as it is."""
    ramp = np.linspace(0, 32767, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = np.asarray(open_image(files.encoded(Image.fromarray(ramp))))[..., 0]
    assert (pixels[0, 0], pixels[-1, -1]) == (0, 127)


def test_a_transparent_value_does_not_darken_the_others() -> None:
    """It is no part of what the picture shows."""
    values = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    values[0] = 65535
    pixels = np.asarray(open_image(files.encoded(Image.fromarray(values), transparency=65535)))[..., 0]
    assert (pixels[0, 0], pixels[-1, -1]) == (255, 255)
    assert 126 < pixels[1:].mean() < 131


@pytest.mark.parametrize("hot", [1e9, -1e9, np.inf, np.nan])
def test_a_hot_pixel_leaves_the_others_as_they_are(hot: float) -> None:
    """A picture of floats is scaled by what most of its pixels are."""
    values = np.linspace(0, 1, 64 * 64).reshape(64, 64).astype(np.float32)
    values[3, 3] = hot
    pixels = np.asarray(open_image(files.encoded(Image.fromarray(values), "TIFF")))[..., 0]
    assert 125 < pixels.mean() < 130
    assert pixels.std() > 70


def test_a_file_that_the_decoder_warns_of_is_read_without_a_word() -> None:
    """A cut list of notes in its EXIF data costs no picture, and no line on the terminal of a run."""
    exif = Image.Exif()
    exif[0x010E] = "a long description of a lamp"
    whole = files.encoded(photo(60, 40), "JPEG", exif=exif)
    at = whole.index(b"a long")
    damaged = whole[: at - 10] + b"\xff" * 4 + whole[at - 6 :]
    assert open_image(damaged).size == (60, 40)
