"""How a CSV is written: delimiter, encoding, `sep=`, and that it is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from repli.tasks.fallback import UsageError
from repli.tasks.items import Item
from repli.tasks.sources.manifest import ManifestOptions, open_manifest

LINES = "id;name;document", "a;Brûlée;Crème, “à la carte”", "b;Lamp;brass, tin"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.csv"


def items_of(path: Path, options: ManifestOptions = ManifestOptions()) -> list[Item]:
    return list(open_manifest(path, options).items())


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".tsv.gz"])
def test_every_delimiter_in_every_encoding(tmp_path: Path, delimiter: str, encoding: str, suffix: str) -> None:
    """What a spreadsheet writes is read, whatever its suffix says, and told in one line."""
    quoted = [";".join(f'"{cell}"' if "," in cell else cell for cell in line.split(";")) for line in LINES]
    content = "\r\n".join(line.replace(";", delimiter) for line in quoted).encode(encoding)
    path = tmp_path / f"items{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    manifest = open_manifest(path)
    assert [(item.id, item.name, item.document, item.repaired) for item in manifest.items()] == [
        ("a", "Brûlée", "Crème, “à la carte”", ()),
        ("b", "Lamp", "brass, tin", ()),
    ]
    [note] = manifest.notes
    shown = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}[delimiter]
    named = {"utf-8-sig": "UTF-8", "cp1252": "windows-1252"}.get(encoding, encoding.upper())
    assert note == (
        f"the manifest {path} is read with the delimiter {shown} in {named} (--delimiter and --encoding change it)"
    )


def test_the_file_of_the_cases(path: Path) -> None:
    """A CSV in windows-1252, as a spreadsheet in Europe saves it."""
    path.write_bytes(
        b'id,name,document\ncp-0,Br\xfbl\xe9e 0,"Cr\xe8me br\xfbl\xe9e \x96 \x93\xe0 la carte\x94 f\xfcr '
        b'G\xe4ste, Stra\xdfe 0"\n'
    )
    [item] = items_of(path)
    assert (item.name, item.document) == ("Brûlée 0", "Crème brûlée – “à la carte” für Gäste, Straße 0")
    assert item.repaired == ()


def test_where_nothing_fits_each_damaged_item_says_which_field(path: Path) -> None:
    """Text in another encoding is not guessed at: the option that helps is told, and it helps."""
    path.write_bytes("id,name,colour\na,Медная лампа,красный\nb,Lamp,red\n".encode("cp1251"))
    [note, _] = open_manifest(path).notes
    assert "neither UTF-8 nor windows-1252; give its --encoding" in note
    damaged, whole = items_of(path)
    replaced = "invalid characters or numbers were replaced"
    assert damaged.repaired == (f"colour: {replaced}", f"name: {replaced}")
    assert (whole.name, whole.repaired) == ("Lamp", ())
    damaged, whole = items_of(path, ManifestOptions.parse(encoding="windows-1251"))
    assert (damaged.name, damaged.attributes, damaged.repaired) == ("Медная лампа", {"colour": "красный"}, ())


@pytest.mark.parametrize("first", ["sep=;", "SEP=;\r"])
def test_a_line_that_names_the_delimiter(path: Path, first: str) -> None:
    """Spreadsheets write it and hide it; lines are counted with it."""
    path.write_text(f"{first}\nid;name,x\na;b,c\nd;e;f\n", newline="")
    manifest = open_manifest(path, ManifestOptions.parse(["name=name,x"]))
    good, bad = manifest.items()
    assert (good.id, good.name) == ("a", "b,c")
    assert (bad.problem or "").startswith("line 4 of items.csv has more fields than the first line")


def test_the_header_goes_before_the_records(path: Path) -> None:
    """Texts full of commas do not make a comma the delimiter."""
    path.write_text("id;name\na;one, two, three\nb;four, five, six\n")
    assert [item.name for item in items_of(path)] == ["one, two, three", "four, five, six"]


def test_without_known_names_the_records_decide(path: Path) -> None:
    """The delimiter that splits them all alike; mapped columns are known names."""
    path.write_text("sku|title, long\na|x, y\nb|z\n")
    options = ManifestOptions.parse(["id=sku", "name=title, long"])
    assert [item.name for item in items_of(path, options)] == ["x, y", "z"]
    with pytest.raises(UsageError, match=r"its columns: sku, title, long; add it, or give --column id=sku"):
        items_of(path)


def test_a_given_delimiter_is_not_doubted(path: Path) -> None:
    """Any one character."""
    path.write_text("id^name,x\na^b,c\n")
    [item] = items_of(path, ManifestOptions.parse(["name=name,x"], delimiter="^"))
    assert item.name == "b,c"
    with pytest.raises(UsageError, match="has no column 'id' and no column 'name'"):
        items_of(path, ManifestOptions.parse(delimiter="tab"))


def test_a_header_in_any_case_with_blanks(path: Path) -> None:
    """`ID, Name` is what people write."""
    path.write_text("ID, Name , Price\na, Lamp,3\n")
    [item] = items_of(path)
    assert (item.id, item.name, item.attributes) == ("a", "Lamp", {"Price": "3"})


def test_a_column_that_is_there_twice_is_said(path: Path) -> None:
    """The first counts, the second is kept."""
    path.write_text("id,name,text,name\na,Lamp,t,Mug\n")
    manifest = open_manifest(path)
    assert "stands there 2 times: the first counts" in manifest.notes[1]
    [item] = manifest.items()
    assert (item.name, item.attributes) == ("Lamp", {"name (2)": "Mug"})


def test_a_cut_off_gzip_file_is_refused(tmp_path: Path) -> None:
    """Before anything is started."""
    path = tmp_path / "items.csv.gz"
    path.write_bytes(gzip.compress(b"id,name\n" + b"".join(b"%d,Lamp\n" % n for n in range(100_000)))[:-2000])
    with pytest.raises(UsageError, match=r"is damaged gzip data \(.*\); copy it again"):
        items_of(path)
    path.write_bytes(b"id,name\na,b\n")
    with pytest.raises(UsageError, match=r"is not gzip data; take \.gz off its name"):
        items_of(path)


@pytest.mark.parametrize("blank", ["", ";;", " ; ;", "; ;;;"])
def test_a_row_without_a_cell_is_a_blank_line(path: Path, blank: str) -> None:
    """Spreadsheets write such rows above and below a table; each would be an item that failed."""
    path.write_text(f"{blank}\nid;name;text\na;Lamp;one\n{blank}\nb;Mug\n{blank}\n;Jug;two\n")
    first, second, bad = items_of(path)
    assert [(item.id, item.name, item.text) for item in (first, second)] == [("a", "Lamp", "one"), ("b", "Mug", None)]
    assert bad.problem == "line 7 of items.csv has no id; give it one"


def test_delimiters_at_the_end_of_a_row_are_no_fields(path: Path) -> None:
    """They hold nothing; a field too many that holds something is said."""
    path.write_text("id,name\na,Lamp,\nb,Mug,, ,\nc,Jug,3\n")
    *good, bad = items_of(path)
    assert [(item.id, item.name, item.problem) for item in good] == [("a", "Lamp", None), ("b", "Mug", None)]
    assert (bad.problem or "").startswith("line 4 of items.csv has more fields than the first line")


def test_blanks_after_each_delimiter_are_no_part_of_a_cell(path: Path) -> None:
    """Quotes after a blank are quotes then. Where the header has no blanks, those of a cell are its own."""
    path.write_text('id, name, text\na, "Lamp, brass", "two\nlines"\nb, Mug, x\n')
    assert [(item.name, item.text) for item in items_of(path)] == [("Lamp, brass", "two\nlines"), ("Mug", "x")]
    path.write_text("id,name,text\na, Lamp, x\n")
    assert [(item.name, item.text) for item in items_of(path)] == [(" Lamp", " x")]
