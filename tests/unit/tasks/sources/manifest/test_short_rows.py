"""Rows with fewer cells than the header: items all the same, and said."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from repli.tasks.items import Item
from repli.tasks.sources.manifest import ManifestOptions, ShortRows, open_manifest


def read(path: Path, content: str, options: ManifestOptions = ManifestOptions()) -> tuple[list[Item], list[str]]:
    """Return the items of a manifest with this content, and what its reading says of short rows."""
    written = content.encode()
    path.write_bytes(gzip.compress(written) if path.suffix == ".gz" else written)
    short_rows = ShortRows()
    items = list(open_manifest(path, options).items(short_rows))
    return items, short_rows.explained(path.name)


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.csv.gz", "|")])
def test_short_rows_are_items_and_said(tmp_path: Path, name: str, delimiter: str) -> None:
    """How many, where, and what they have nothing for."""
    rows = "id,name,text,image", "a,Lamp,brass,a.png", "b,Mug", 'c,"a jug', 'of two lines"', "d,Pan,iron", "e,Cup,tin,"
    items, said = read(tmp_path / name, "\n".join(rows).replace(",", delimiter))
    assert [(item.id, item.name, item.text, item.image, item.problem) for item in items] == [
        ("a", "Lamp", "brass", "a.png", None),
        ("b", "Mug", None, None, None),
        ("c", "a jug\nof two lines", None, None, None),
        ("d", "Pan", "iron", None, None),
        ("e", "Cup", "tin", None, None),
    ]
    assert said == [
        f"{name}: 3 rows have fewer cells than the first line (lines 3, 4, 6), and nothing for 'image' (3), 'text' (2)"
    ]


def test_a_row_too_short_for_an_id_or_a_name(tmp_path: Path) -> None:
    """It is an item that fails, as one with an empty cell is, and it is said too."""
    items, said = read(tmp_path / "a.csv", "name,text,id\nLamp,brass,a\nMug\n")
    assert [item.problem for item in items] == [None, "line 3 of a.csv has no id; give it one"]
    assert said == [
        "a.csv: 1 row has fewer cells than the first line (line 3), and nothing for 'text' (1), 'id' (1)",
    ]
    [item], said = read(tmp_path / "b.csv", "id,text,name\nTotal\n")
    assert (item.id, item.name, item.problem) == ("Total", None, None)
    assert len(said) == 1


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\r\n \r\n", "\n;;\n", "\n;\n", '\n""\n'])
def test_what_holds_nothing_is_not_short(tmp_path: Path, end: str) -> None:
    """Blank lines, rows of one empty cell or of delimiters; and a column without a name at the header's end."""
    for header in ("id;name;text", "id;name;text;", "id;name;text; ;"):
        items, said = read(tmp_path / "a.csv", f"{header}\na;Lamp;brass{end}")
        assert [item.id for item in items] == ["a"]
        assert said == []


def test_long_lists_are_cut_off(tmp_path: Path) -> None:
    """Five lines and five columns are enough to look at, however many there are."""
    header = ",".join(["id", "name", *(f"c{number}" for number in range(8))])
    items, said = read(tmp_path / "a.csv", "\n".join([header, *(f"{number},n" for number in range(1200))]))
    assert len(items) == 1200
    [line] = said
    assert "1,200 rows have fewer cells than the first line (lines 2, 3, 4, 5, 6, …)" in line
    assert line.endswith("'c3' (1,200), 'c4' (1,200), and 3 more columns")


def test_each_reading_counts_for_itself(tmp_path: Path) -> None:
    """A manifest is read more than once, and as far as its reader goes."""
    path = tmp_path / "a.csv"
    path.write_text("id,name,text\na,Lamp\nb,Mug\nc,Jug\n")
    manifest = open_manifest(path)
    list(manifest.items())
    first, all_of_it = ShortRows(), ShortRows()
    next(manifest.items(first))
    list(manifest.items(all_of_it))
    assert (first.count, all_of_it.count) == (1, 3)
