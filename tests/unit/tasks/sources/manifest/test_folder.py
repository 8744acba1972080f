"""A directory of images as a manifest."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from repli.tasks.models.pictures import FORMATS
from repli.tasks.sources.manifest.folder import IMAGE_SUFFIXES, explain_passed_over, read_images


def test_every_format_that_is_decoded_is_taken() -> None:
    """By at least one suffix, and no suffix of another format is."""
    Image.init()
    formats = {suffix: name for suffix, name in Image.EXTENSION.items() if suffix in IMAGE_SUFFIXES}
    assert set(FORMATS) <= set(formats.values())
    assert set(formats.values()) <= {*FORMATS, "MPO"}


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    """By suffix, in the folders within it too."""
    (tmp_path / "more").mkdir()
    for name in ("a.JPG", "b.jfif", "c.tga", "more/d.avif", "notes.txt", "more/x.TXT", "movie.mp4", "README"):
        (tmp_path / name).write_bytes(b"x")
    assert [record.values["id"] for record in read_images(tmp_path)] == ["a.JPG", "b.jfif", "c.tga", "more/d.avif"]
    assert explain_passed_over(tmp_path) == [
        "4 files are passed over, since no decoder reads their suffix: 2 .txt, 1 .mp4, 1 without a suffix"
    ]


def test_a_folder_of_images_alone_has_no_note(tmp_path: Path) -> None:
    """There is nothing to say."""
    (tmp_path / "a.png").write_bytes(b"x")
    assert explain_passed_over(tmp_path) == []


def test_hidden_files_and_links_to_folders_are_passed_over_and_counted(tmp_path: Path) -> None:
    """What macOS and photo programs keep beside photos is no item, and no folder is left out unsaid."""
    source = tmp_path / "photos"
    for name in ("photos/.cache", "photos/more", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a.png", "._a.png", ".DS_Store", ".cache/b.png", "more/c.png", "notes.txt"):
        (source / name).write_bytes(b"x")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "d.png").symlink_to("a.png")
    assert [record.values["id"] for record in read_images(source)] == ["a.png", "d.png", "more/c.png"]
    assert explain_passed_over(source) == [
        "1 file is passed over, since no decoder reads its suffix: 1 .txt",
        "3 hidden files and folders are passed over",
        "1 link to a folder is not followed; name that folder itself",
    ]
