"""Images that a drill makes: images with a typical mistake of a rung, and one that is like no other.

They are kept in the blob folder, by their content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any

from repli.tasks.fallback import ItemError
from repli.tasks.storage.blobs import Blobs


def _changed_picture(change: Callable[[Any], Any], picture: Any, context: Any) -> Any:
    """Return the picture with `change` applied to its pixels; unchanged where it cannot be read."""
    import numpy as np

    from repli.tasks.models.pictures import open_image

    blobs = Blobs(context.settings.blobs)
    if picture.sha256 is None:
        return picture
    try:
        pixels = np.asarray(open_image(blobs.read(picture.sha256)).convert("RGB"))
    except (ItemError, OSError):
        return picture
    return replace(picture, sha256=blobs.put(_uncompressed(np.ascontiguousarray(change(pixels)))))


def noise_picture(picture: Any, context: Any) -> Any:
    """Return a picture of coloured noise without a name."""
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    return replace(picture, name="", sha256=Blobs(context.settings.blobs).put(_uncompressed(noise)))


def _uncompressed(pixels: Any) -> bytes:
    """Return a file with the pixels that costs a twentieth of a PNG's time."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


PICTURE_MISTAKES: Mapping[str, Callable[[Any, Any], Any]] = {
    "swapping the colour channels": partial(_changed_picture, lambda pixels: pixels[:, :, ::-1]),
    "turning the picture upside down": partial(_changed_picture, lambda pixels: pixels[::-1]),
    "inverting the colours": partial(_changed_picture, lambda pixels: 255 - pixels),
}
