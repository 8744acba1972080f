"""Catalogues to measure with: a page of text and a photo of its own for each item."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repli.flows.cli.demo.catalogue import build
from tests.support.photos import write_photos


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An item of a catalogue, as a program reads it that knows nothing of Repli."""

    id: str
    name: str
    page: Path
    photo: Path

    def text(self) -> str:
        """Return the article's text. It takes a microsecond: where it stands in the page is known here."""
        return self.page.read_text(encoding="utf-8").partition("<p>")[2].partition("</p>")[0]


def photo_catalogue(folder: Path, items: int, size: tuple[int, int] | None = None) -> Path:
    """Write a catalogue of Wikipedia introductions under `folder`, and return its manifest.

    Args:
        folder: It is created if it is missing.
        items: At most 8,817, which is all introductions.
        size: Width and height of all photos; None leaves them as they are, some 500 pixels a side.

    Raises:
        UsageError: A package of the demo's data is not installed.
    """
    manifest = build(folder, items=items, broken=False, every_item_with_photo=True)
    photos = write_photos(folder / "photos", items, size)
    records = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    for record, photo in zip(records, photos, strict=True):
        record["image"] = f"photos/{photo.name}"
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    manifest.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return manifest


def read_catalogue(manifest: Path) -> list[Listed]:
    """Return the items of a catalogue that `photo_catalogue` wrote, in order."""
    records = (json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines())
    return [
        Listed(
            id=record["id"],
            name=record["name"],
            page=manifest.parent / record["document"],
            photo=manifest.parent / record["image"],
        )
        for record in records
    ]


def in_batches(items: Sequence[Listed], size: int) -> Iterator[Sequence[Listed]]:
    """Yield the items in batches of `size`; the last one may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
