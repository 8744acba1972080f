"""Photos for tests and benchmarks: the sample photos of `foolbox` and `scikit-image`, as many and as large as wanted.

Each file is another cut-out of its photo, moved by a pixel or more, so that no two files have the same SHA-256 and
nothing is fetched, prepared or cached once for two items.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps

from repli.flows.cli.demo.catalogue import package_data

LARGE = (1600, 1200)
"""Two megapixels: what a phone or a shop's camera sends after a first reduction."""
_MARGIN = 16
"""Pixels, in width and height, by which the cut-outs of one photo are moved."""
_QUALITY = 90
_SCIKIT_IMAGE = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png"),
    *("color.png", "grass.png", "gravel.png", "motorcycle_left.png", "rocket.jpg"),
)


def originals() -> list[Path]:
    """Return the files of the photos, each of at least 300 pixels a side: those with ImageNet's labels first.

    Raises:
        UsageError: `foolbox` or `scikit-image` is not installed.
    """
    skimage = package_data("skimage")
    return [*sorted(package_data("foolbox").glob("imagenet_*.jpg")), *(skimage / name for name in _SCIKIT_IMAGE)]


def write_photos(folder: Path, count: int, size: tuple[int, int] | None = None) -> list[Path]:
    """Write `count` JPEG files of quality 90, no two alike, and return their paths in order.

    The photos take turns: file `number` shows photo `number` modulo their number. The same arguments write the same
    files.

    Args:
        folder: It is created if it is missing.
        count: The number of files; at most 289 of each photo.
        size: Width and height in pixels, which the photos are enlarged to cover. None leaves them as they are but for a
            margin, most of them 496 × 496.

    Raises:
        UsageError: `foolbox` or `scikit-image` is not installed.
        ValueError: `count` is too large for files that are not alike.
    """
    sources = originals()
    if count > (most := len(sources) * (_MARGIN + 1) ** 2):
        raise ValueError(f"{count} photos would not all differ; ask for at most {most}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photo-{number:05}.jpg" for number in range(count)]

    def write(start: int) -> None:
        for path, cut_out in zip(paths[start :: len(sources)], _cut_outs(sources[start], size), strict=False):
            cut_out.save(path, quality=_QUALITY)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow scales and compresses outside the interpreter's lock
        list(pool.map(write, range(len(sources))))
    return paths


def clear_photo(number: int) -> Image.Image:
    """Return a photo of a folding chair, 96 pixels wide, like which no other number's is.

    Both default models are sure of it, at confidences of 0.99 and 0.98.
    """
    photo = _folding_chair().copy()
    photo.putpixel((0, 0), (number % 256, number // 256 % 256, number // 65_536))
    return photo


@lru_cache(maxsize=1)
def _folding_chair() -> Image.Image:
    with Image.open(package_data("foolbox") / "imagenet_01_559.jpg") as file:
        photo = file.convert("RGB")
    photo.thumbnail((96, 96))
    return photo


def _cut_outs(source: Path, size: tuple[int, int] | None) -> Iterator[Image.Image]:
    """Yield cut-outs of a photo, each at another place."""
    with Image.open(source) as file:
        photo = file.convert("RGB")
    if size is not None:
        photo = ImageOps.fit(photo, (size[0] + _MARGIN, size[1] + _MARGIN), Image.Resampling.BICUBIC)
    width, height = photo.width - _MARGIN, photo.height - _MARGIN
    for top in range(_MARGIN + 1):
        for left in range(_MARGIN + 1):
            yield photo.crop((left, top, left + width, top + height))
