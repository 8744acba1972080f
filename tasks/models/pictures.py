"""Image files: decoded to RGB, reduced to a master, and prepared as the input of a model.

A file becomes an input in two steps: file → master → input. The first takes nearly all of the time and is the same for
every model of usual size, so that masters are kept, see `repli.tasks.models.masters`. Both steps are always taken: an
input does not depend on whether its master was found or made.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from repli.tasks.fallback import InvalidItem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_PIXELS = 100_000_000
"""Images with more pixels are refused before they are decoded: 100 megapixels take 300 MB of memory."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000", "TGA")
"""The formats that are decoded. Pillow supports more, but starts other programs for some (PostScript)."""
MASTER_SIDE = 320
"""The least side of a master in pixels, unless the picture is smaller, or a model needs more; the most is below twice.

From 320 pixels up both default models make their inputs of 224 and 260 by scaling down. Against inputs scaled from
whole files, 32 photos of foolbox and scikit-image (`originals` of tests.support.photos) as they are, and as JPEGs with
shorter sides of 600 and 1200: of 192 labels (lite0 and lite2) none became another, two crossed the threshold;
confidences moved by 0.0045 (lite0) and 0.0029 (lite2) on average. Masters scaled to 300 at once changed three labels of
lite0 in 192. Processor time per input on a busy machine: 26 → 11 ms for two megapixels, 121 → 21 ms for twelve.

Masters are kept raw: to write and read one of 1 MB takes 1.4 ms. To encode and decode one of a third of that took 25 ms
as PNG, and 3 as JPEG, which every input would have to pass, whether its master is found or made."""
_SVG = re.compile(
    rb"\A(?:\xef\xbb\xbf)?\s*(?>(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!doctype\s+svg[^>]*>\s*)*)<svg[\s>/]",
    re.IGNORECASE | re.DOTALL,
)
_REDUCING_GAP = 3.0  # Pillow's value for a result that is nearly that of a full resampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How pictures are prepared for a model: the central square, scaled to the model's input.

    Args:
        size: the side of the model's input, in pixels.
        crop: the side of the square that is cut out, as a fraction of the picture's shorter side.

    Example:
        >>> Preparation(size=224, crop=0.875).prepare(content).shape
        (224, 224, 3)
    """

    size: int
    crop: float

    @property
    def master_side(self) -> int:
        """Return the side of the masters that inputs are made from: no input is an enlargement of its master."""
        return max(MASTER_SIDE, math.ceil(self.size / self.crop))

    def prepare(self, content: bytes) -> npt.NDArray[np.uint8]:
        """Return the centre of an image file as the model's input: uint8 of shape (size, size, 3).

        Raises:
            InvalidItem: the file cannot be decoded, or has more than `MAX_PIXELS`.
        """
        return self.prepare_master(make_master(content, self.master_side))

    def prepare_master(self, master: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the centre of a master of side `master_side` as the model's input: uint8 of shape (size, size, 3)."""
        import numpy as np
        from PIL import Image

        side = max(1.0, len(master) * self.crop)
        margin = max(0.0, (len(master) - side) / 2)
        scaled = _scale_square(Image.fromarray(master), margin, margin, side, self.size, Image.Resampling.BICUBIC)
        return np.asarray(scaled)


def make_master(content: bytes, side: int) -> npt.NDArray[np.uint8]:
    """Return the master of an image file: its central square, scaled down to `side` where it is twice as large or more.

    A square between one and two sides stays as it is: to scale it takes longer than to decode it, and costs detail.

    Returns:
        uint8 of shape (n, n, 3), with n below twice the `side`.

    Raises:
        InvalidItem: the file cannot be decoded, or has more than `MAX_PIXELS`.
    """
    import numpy as np
    from PIL import Image

    image = open_image(content, at_least=side)
    # The central square is cut before it is scaled, so that a strip of 20,000 × 10 pixels stays small.
    shorter = min(image.size)
    left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
    if shorter >= 2 * side:
        # Lanczos, because the master is scaled again: it keeps more of the detail than the models' own bicubic.
        return np.asarray(_scale_square(image, left, top, shorter, side, Image.Resampling.LANCZOS))
    return np.asarray(image.crop((int(left), int(top), int(left) + shorter, int(top) + shorter)))


def _scale_square(image: Any, left: float, top: float, side: float, size: int, kernel: Any) -> Any:
    """Return a square of the image, scaled to `size` pixels a side."""
    box = (left, top, min(image.width, left + side), min(image.height, top + side))
    return image.resize((size, size), kernel, box=box, reducing_gap=_REDUCING_GAP)


def open_image(content: bytes, *, at_least: int | None = None) -> Any:
    """Decode an image file to an RGB image: transparency on white, the first frame of an animation.

    Args:
        at_least: the pixels a side that are needed. A JPEG is then decoded at the smallest of 1/8, 1/4, 1/2 and 1/1 of
            its size that has as many, in a fraction of the time.

    Raises:
        InvalidItem: the file cannot be decoded; the message says what to do.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a file is its item's error, or does no harm
    if not content:
        raise InvalidItem("the image file is empty; replace it")
    if _SVG.match(content[:4096]):
        raise InvalidItem("the image is an SVG drawing, which has no pixels; convert it to PNG or JPEG")
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS:
        raise InvalidItem("the image is HEIC, which is not decoded; convert it to JPEG or PNG")
    try:
        image: Image.Image = Image.open(BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InvalidItem(
                f"the image has {image.width} × {image.height} pixels, above the limit of {MAX_PIXELS:,}; scale it down"
            )
        if at_least is not None:
            image.draft(None, (at_least, at_least))  # does nothing to other formats than JPEG
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):
            return _to_8_bits(image).convert("RGB")
        if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            return Image.alpha_composite(white, rgba).convert("RGB")
        return image.convert("RGB")
    except InvalidItem:
        raise
    except Image.DecompressionBombError as error:
        raise InvalidItem(f"the image is too large to decode ({error}); scale it down") from None
    except UnidentifiedImageError:
        raise InvalidItem(
            f"the file is not in a supported image format ({', '.join(FORMATS)}), or in a variant of one that is not "
            "decoded; convert it to PNG or JPEG"
        ) from None
    except Exception as error:  # noqa: BLE001  Pillow's decoders raise exceptions of any type
        raise InvalidItem(f"the image cannot be decoded ({type(error).__name__}: {error}); replace the file") from None


_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})


_BLACK_ON_16_BITS = 12
"""Values of so few bits are at most a sixteenth of white."""


def _to_8_bits(image: Any) -> Any:
    """Scale a grey image of 16 or 32 bits per pixel to 8. Pillow's own conversion turns all values above 255 white.

    A value that is declared transparent becomes white. Values of 16 bits that need at most 12 are scaled by as many as
    they need: cameras and scanners write 10 or 12, which are black on the scale of 16. Values of 32 bits are scaled
    between their 1st and 99th percentile, so that one hot pixel does not turn the others black.
    """
    import numpy as np
    from PIL import Image

    raw = np.asarray(image, dtype=np.float32)
    pixels = np.nan_to_num(raw)
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        shown = raw[raw != transparent] if isinstance(transparent, int) else raw
        bits = int(shown.max(initial=0)).bit_length()
        low, high = 0.0, float(2 ** (max(8, bits) if bits <= _BLACK_ON_16_BITS else 16) - 1)
    else:
        finite = raw[np.isfinite(raw)]
        finite = finite if finite.size else np.zeros(1, dtype=np.float32)
        low, high = float(np.percentile(finite, 1, method="higher")), float(np.percentile(finite, 99, method="lower"))
        if low >= high:
            low, high = float(finite.min()), float(finite.max())
    scaled = ((np.clip(pixels, low, high) - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)
    if isinstance(transparent, int):
        scaled[raw == transparent] = 255
    return Image.fromarray(scaled)
