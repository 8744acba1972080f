"""The measured rates of the default pipeline's rungs: the share of a rung's answers that are right.

A rung that cannot tell its answers apart has its rate as the confidence of each. The others have confidences of their
own, and their rates are for comparison: the models of images, see `repli.tasks.models.image_classifier`, and the texts
of pages, see `repli.tasks.text.main_text_share`.
"""

from __future__ import annotations

from collections.abc import Mapping

from repli.tasks.fallback import Rate

_PAGES = "F1 of the words of the main text, {:,} public pages with a gold standard"
_PHOTOS = "600 photos of ImageNet's validation set"
_RETRIEVAL = "mean reciprocal rank of the described item, relative to text_and_label"

RATES: Mapping[str, Rate] = {
    "extract_text.full": Rate(value=0.858, interval=(0.849, 0.868), items=2284, source=_PAGES.format(2284)),
    "extract_text.plain": Rate(value=0.711, interval=(0.702, 0.721), items=2250, source=_PAGES.format(2250)),
    # Its interval is that of a share of the same size, which is at least as wide as that of a mean of values in [0, 1].
    "extract_text.name_only": Rate(value=0.035, interval=(0.016, 0.073), items=181, source=_PAGES.format(181)),
    "classify_image.gpu": Rate(value=0.792, interval=(0.758, 0.823), items=600, source=_PHOTOS),
    "classify_image.cpu": Rate(value=0.797, interval=(0.763, 0.827), items=600, source=_PHOTOS),
    "classify_image.rules": Rate(
        value=0.3, interval=(0.0, 0.61), items=None, source="the middle of catalogues whose names lie, and do not"
    ),
    "embed_text.text_and_label": Rate(value=1.0, interval=None, items=None, source="the rung that others are held to"),
    "embed_text.text_only": Rate(value=1.0, interval=None, items=None, source=f"{_RETRIEVAL}: 1.02"),
    "embed_text.hashed": Rate(value=0.25, interval=None, items=None, source=f"{_RETRIEVAL}: 0.25"),
}
"""By `STAGE.RUNG`. A drill with answers of people replaces them, see `repli.tasks.storage.accuracy`."""
