"""What `repli show` begins with: label, text, files and quality, of real results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from repli.flows.cli.render import item_page
from repli.tasks.settings import Settings
from tests.support.in_process import enrich

LINES = """\
{"id": "espresso", "name": "Espresso", "image": "espresso.png", "text": "A coffee.\\nSmall, black.\\n\\n\
\\u001b[31mHot.\\nBitter."}
{"id": "lost", "name": "Lost", "document": "gone.txt", "image": "lost.png"}
{"id": "bare", "name": "Bare"}
{"id": "nameless"}
{"id": "long", "name": "Long", "image": "LONG.png"}
""".replace("LONG", "l" * 220)


def beginning(settings: Settings, folder: Path, item_id: str) -> list[str]:
    """The lines of the item's page before its table, without trailing blanks."""
    folder.mkdir()
    Image.effect_noise((64, 64), 80).save(folder / "espresso.png")
    (folder / "items.jsonl").write_text(LINES)
    view = enrich(settings, folder / "items.jsonl")[item_id]
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(item_page(view))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return lines[: lines.index("")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "catalogue"


def test_it_begins_with_what_people_came_for(settings: Settings, folder: Path) -> None:
    """The first three lines of the text, without what a terminal would act on."""
    head, label, *text, image, document, quality = beginning(settings, folder, "espresso")
    assert head == "espresso · Espresso"
    assert label.startswith("label     espresso (0.")
    assert text == ["text      A coffee.", "          Small, black.", "          [31mHot. …"]
    assert image.startswith(f"image     {(folder / 'espresso.png').as_uri()} (image/png, ")
    assert document == "document  in the manifest itself (text/plain, 42 bytes)"
    assert quality == "quality   0.64 · expected accuracy 0.07"


def test_what_is_not_there_says_why(settings: Settings, folder: Path) -> None:
    """The reason stands where the value would."""
    head, label, text, image, document, quality = beginning(settings, folder, "lost")
    assert head == "lost · Lost"
    assert label.startswith("label     none, skipped: ")
    assert text == "text      Lost"
    assert image == "image     lost.png (not fetched)"
    assert document == "document  gone.txt (not fetched)"
    assert re.fullmatch(r"quality   0\.[0-5]\d* · expected accuracy 0\.00", quality)


def test_an_item_of_a_name_alone(settings: Settings, folder: Path) -> None:
    """Nothing was declared, and no place is shown."""
    assert beginning(settings, folder, "bare") == [
        "bare · Bare",
        "label    none, not applicable",
        "text     none, not applicable",
        "quality  0.8 · expected accuracy 0.25",
    ]


def test_an_item_that_failed(settings: Settings, folder: Path) -> None:
    """Its later stages have not run."""
    assert beginning(settings, folder, "nameless")[-1] == "quality  none: not stored"


def test_a_long_address_is_cut(settings: Settings, folder: Path) -> None:
    """It has no blanks to be cut at, and was left out as a whole."""
    page = " ".join(beginning(settings, folder, "long"))
    shown = re.search(r"image +([l ]+) … ?\(not fetched\)", page)
    assert shown and shown[1].count("l") == 200
