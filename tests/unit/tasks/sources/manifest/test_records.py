"""Manifests of every kind and state: each line becomes one item, and what cannot be one says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from repli.tasks.fallback import Status, UsageError
from repli.tasks.items import Item
from repli.tasks.settings import Settings
from repli.tasks.sources.manifest import open_manifest
from repli.tasks.sources.manifest.records import MAX_LEVELS
from repli.tasks.storage import catalogue, runs
from repli.tasks.storage.database import Database
from tests.support import files
from tests.support.in_process import enrich

REPLACED = "invalid characters or numbers were replaced"
GOOD = b'{"id": "good", "name": "A brass lamp"}'
LAST = b'{"id": "last", "name": "A tin mug"}'

Write = Callable[..., Path]


def read(source: Path) -> Iterator[Item]:
    return open_manifest(source).items()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a manifest; its path."""

    def write(*lines: bytes, name: str = "items.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write


def between(write: Write, line: bytes) -> Item:
    """The item of a `line` between two good ones, which are there."""
    first, item, last = read(write(GOOD, line, LAST))
    assert (first.id, first.name, first.problem) == ("good", "A brass lamp", None)
    assert (last.id, last.name, last.problem) == ("last", "A tin mug", None)
    return item


def nested(levels: int) -> bytes:
    return b'{"id": "deep", "name": "n", "x": ' + b"[" * levels + b"]" * levels + b"}"


class TestReadable:
    """What is taken as it is."""

    def test_a_line_is_an_item(self, write: Write) -> None:
        """The four known fields are taken, the others become attributes, and paths start at the manifest."""
        path = write(
            b'{"id": "a", "name": "n", "document": "d.html", "image": "i.png", "price": 3, "tags": ["x", null]}'
        )
        assert list(read(path)) == [
            Item(
                id="a",
                name="n",
                document="d.html",
                image="i.png",
                attributes={"price": 3, "tags": ["x", None]},
                folder=str(path.parent),
            )
        ]

    def test_an_integer_id_is_text(self, write: Write) -> None:
        """A number that counts names an item as well as its digits do."""
        assert between(write, b'{"id": 7, "name": "n"}').id == "7"

    def test_a_whole_number_is_an_id_whatever_its_type(self, write: Write) -> None:
        """pandas makes floats of integers with gaps."""
        assert between(write, b'{"id": 7.0, "name": "n"}').id == "7"

    def test_text_is_a_field(self, write: Write) -> None:
        """It is no attribute, and a blank one is none."""
        assert between(write, b'{"id": "a", "name": "n", "text": "x.html"}').text == "x.html"
        assert between(write, b'{"id": "a", "name": "n", "text": " "}').text is None

    def test_a_byte_order_mark_is_no_part_of_the_first_line(self, write: Write) -> None:
        """A manifest from Windows reads like any other."""
        assert [item.id for item in read(write(b"\xef\xbb\xbf" + GOOD + b"\r", LAST + b"\r"))] == ["good", "last"]

    def test_a_byte_order_mark_is_no_part_of_the_first_column(self, write: Write) -> None:
        """A CSV from a spreadsheet has its `id`."""
        [item] = read(write("\ufeffid,name\na,Café".encode(), name="items.csv"))
        assert (item.id, item.name, item.repaired) == ("a", "Café", ())

    def test_blank_lines_are_no_items(self, write: Write) -> None:
        """They are passed over, and still counted in the line numbers of messages."""
        assert [item.id for item in read(write(b"", GOOD, b"  ", b"{", LAST))] == ["good", "items.jsonl:4", "last"]

    def test_blank_fields_declare_nothing(self, write: Write) -> None:
        """An empty cell is no document and no image."""
        [item] = read(write(b"id,name,document,image,colour", b"a,n,, ,", name="items.csv"))
        assert (item.document, item.image, item.attributes) == (None, None, {"colour": None})

    def test_a_short_row_has_less_fields(self, write: Write) -> None:
        """What a CSV row lacks is not declared."""
        [item] = read(write(b"id,name,image", b"a,n", name="items.csv"))
        assert (item.name, item.image, item.problem) == ("n", None, None)

    def test_a_quoted_field_may_hold_lines_and_commas(self, write: Write) -> None:
        """A CSV field in quotes is taken whole, 5 MB of it as well."""
        text = b"a, b\n" * 1_000_000
        [item] = read(write(b"id,name,document", b'a,n,"' + text + b'"', name="items.csv"))
        assert item.document == text.decode()

    def test_a_long_text_is_kept(self, write: Write) -> None:
        """5 MB of text in a line are an item like any other."""
        text = "Lamp. " * 900_000
        assert between(write, json.dumps({"id": "long", "name": "n", "document": text}).encode()).document == text

    def test_a_parquet_file_is_a_manifest(self, tmp_path: Path) -> None:
        """Dates, decimals and maps become what JSON can hold, which is no repair."""
        path = tmp_path / "items.parquet"
        columns = {
            "id": [1, 2],
            "name": ["one", "two"],
            "day": [date(2026, 1, 2), None],
            "at": [datetime(2026, 1, 2, tzinfo=UTC), None],
            "price": [Decimal("1.20"), None],
            "sizes": pa.array([[("w", 3)], None], pa.map_(pa.string(), pa.int64())),
        }
        pq.write_table(pa.table(columns), path)
        one, two = read(path)
        assert (one.id, one.name, one.repaired) == ("1", "one", ())
        assert one.attributes["day"] == "2026-01-02"
        assert (one.attributes["price"], one.attributes["sizes"]) == ("1.20", [["w", 3]])
        assert set(two.attributes.values()) == {None}

    def test_a_directory_of_images_is_a_manifest(self, tmp_path: Path) -> None:
        """Each picture is an item, named by its file, in the order of names; other files are not."""
        folder = tmp_path / "photos"
        (folder / "b").mkdir(parents=True)
        for name in ("b/red_wooden-chair.PNG", "a.jpg", "_.png", "notes.txt"):
            (folder / name).write_bytes(files.png())
        items = list(read(folder))
        assert [(item.id, item.name, item.image) for item in items] == [
            ("_.png", "_.png", "_.png"),
            ("a.jpg", "a", "a.jpg"),
            ("b/red_wooden-chair.PNG", "red wooden chair", "b/red_wooden-chair.PNG"),
        ]
        assert {item.folder for item in items} == {str(folder)}

    def test_it_is_read_as_a_stream(self, write: Write) -> None:
        """The first item is there before the second line is looked at."""
        with write(GOOD, LAST).open("r+b") as file:
            items = read(Path(file.name))
            assert next(items).id == "good"
        assert next(items).id == "last"


class TestRepaired:
    """Characters that are no text, and numbers that are none."""

    @pytest.mark.parametrize(("bad", "mended"), [("nu\\u0000ll", "nu\ufffdll"), ("ha\\ud800lf", "ha\ufffdlf")])
    def test_no_text_is_replaced_and_noted(self, write: Write, bad: str, mended: str) -> None:
        """In the name, and as deep as it may sit in attributes, one character for one; other columns are not named."""
        line = f'{{"id": "a", "name": "{bad}", "x": {{"{bad}": ["{bad}", {{"y": "{bad}"}}]}}, "z": "😀"}}'
        item = between(write, line.encode())
        assert item.name == mended
        assert item.attributes == {"x": {mended: [mended, {"y": mended}]}, "z": "😀"}
        assert item.repaired == (f"name: {REPLACED}", f"x: {REPLACED}")

    @pytest.mark.parametrize("number", ["Infinity", "-Infinity"])
    def test_numbers_that_are_none_are_left_out(self, write: Write, number: str) -> None:
        """JSON has no infinity, and PostgreSQL refuses it: it becomes null and is noted."""
        item = between(write, f'{{"id": "a", "name": "n", "weight": {number}, "sizes": [1.5, {number}]}}'.encode())
        assert item.attributes == {"weight": None, "sizes": [1.5, None]}
        assert item.repaired == (f"sizes: {REPLACED}", f"weight: {REPLACED}")

    def test_nan_is_no_value(self, write: Write) -> None:
        """Where a number is missing pandas writes NaN: nothing is lost, and nothing repaired."""
        item = between(write, b'{"id": "a", "name": "n", "weight": NaN, "sizes": [1.5, NaN]}')
        assert (item.attributes, item.repaired) == ({"weight": None, "sizes": [1.5, None]}, ())

    def test_a_key_that_stands_there_twice_is_said(self, write: Write) -> None:
        """The last counts, as in every reader of JSON, and the item says that there was another; also deep within."""
        item = between(write, b'{"id": "a", "name": "old", "name": "new", "x": {"y": 1, "y": 2}, "z": 1}')
        assert (item.name, item.attributes) == ("new", {"x": {"y": 2}, "z": 1})
        assert item.repaired == (
            "name: this key stands there twice, the last counts",
            "y: this key stands there twice, the last counts",
        )


class TestUnusable:
    """What cannot be an item is one under the name of its line, with the reason; its neighbours are as they are."""

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (b'{"id": "a", "na', "is not JSON (Unterminated string starting at, at character 13); correct it"),
            (b"[1, 2]", "holds a value of type list, not an object; write {"),
            (b'"a"', "holds a value of type str, not an object"),
            (b"null", "holds a value of type NoneType, not an object"),
            (
                '{"id": "a", "name": "Café"}'.encode("latin-1"),
                "is not UTF-8 (byte 24); save the file as UTF-8, or give --encoding",
            ),
            (b'{"name": "n"}', "has no id; give it one"),
            (b'{"id": " ", "name": "n"}', "has no id; give it one"),
            (b'{"id": null, "name": "n"}', "has no id; give it one"),
            (b'{"id": true, "name": "n"}', "has an id of type bool; make it text"),
            (b'{"id": 1.5, "name": "n"}', "has an id of type float; make it text"),
            (b'{"id": 1e300, "name": "n"}', "has an id of type float; make it text"),
            (b'{"id": NaN, "name": "n"}', "has no id; give it one"),
            (b'{"id": ["a"], "name": "n"}', "has an id of type list; make it text"),
            (b'{"id": "%s", "name": "n"}' % (b"x" * 10_000), "has an id of 10,000 characters; the limit is 512"),
            (b'{"id": 1%s, "name": "n"}' % (b"0" * 600), "has an id of 601 characters; the limit is 512"),
            (b'{"id": 1%s, "name": "n"}' % (b"0" * 6000), "is not JSON (Exceeds the limit"),
            (b'{"id": "a\\u0000b", "name": "n"}', "has an id with a null byte"),
            (b'{"id": "a\\udfff", "name": "n"}', "has an id with a null byte, a lone surrogate"),
            (nested(MAX_LEVELS), f"holds lists or objects more than {MAX_LEVELS} deep; flatten it"),
            (nested(600), f"holds lists or objects more than {MAX_LEVELS} deep; flatten it"),
            (nested(100_000), f"holds lists or objects more than {MAX_LEVELS} deep; flatten it"),
        ],
        ids=lambda value: str(value[:24]) if isinstance(value, bytes) else "",
    )
    def test_a_line_that_cannot_be_an_item(self, write: Write, line: bytes, problem: str) -> None:
        """Its id is file and line, and the problem names the line and the next step."""
        item = between(write, line)
        assert item.id == "items.jsonl:2"
        assert item.problem is not None
        assert item.problem.startswith(f"line 2 of items.jsonl {problem}")

    def test_what_it_was_called_is_kept(self, write: Write) -> None:
        """A record without an id is easier to find by its name."""
        assert between(write, b'{"name": "Storm\\u0000 lantern", "x": 1}').name == "Storm\ufffd lantern"

    def test_a_nesting_below_the_limit_is_kept(self, write: Write) -> None:
        """The record itself is the first level."""
        assert between(write, nested(MAX_LEVELS - 1)).problem is None

    def test_a_csv_row_with_more_fields_than_columns(self, write: Write) -> None:
        """A comma too many is told; the rows around it are taken."""
        one, two, three = read(write(b"id,name", b"a,one", b"b,two, or so", b"c,three", name="items.csv"))
        assert (one.name, three.name) == ("one", "three")
        assert (two.id, two.problem) == (
            "items.csv:3",
            "line 3 of items.csv has more fields than the first line; quote the fields that contain ','",
        )

    def test_a_csv_row_with_broken_quotes(self, write: Write) -> None:
        """It is told, and not guessed at; the rows around it are taken."""
        one, two, three = read(write(b"id,name", b"a,one", b'b,"5" screen"', b"c,three", name="items.csv"))
        assert (one.name, three.name) == ("one", "three")
        assert (two.id, (two.problem or "")[:33]) == ("items.csv:3", "line 3 of items.csv is not CSV ('")

    def test_a_csv_quote_that_is_never_closed(self, write: Write) -> None:
        """Its own line is no item, and is named; the lines that it would take along are items."""
        one, two, three, four = read(write(b"id,name", b"a,one", b'b,"two', b"c,three", b"d,four", name="items.csv"))
        assert (one.name, three.name, four.name) == ("one", "three", "four")
        assert (
            two.problem == "line 3 of items.csv is not CSV (unexpected end of data); correct it, and check its quotes"
        )

    def test_a_csv_field_of_several_lines(self, write: Write) -> None:
        """Line breaks in quotes belong to the field, and are counted as lines of the file."""
        one, two = read(write(b"id,name", b'a,"one', b'and more"', b"b,two,three", name="items.csv"))
        assert one.name == "one\nand more"
        assert (two.problem or "").startswith("line 4 of items.csv has more fields")

    def test_a_csv_head_with_a_bad_quote(self, write: Write) -> None:
        """A first line that cannot be read is the manifest's own fault."""
        with pytest.raises(UsageError, match=r"first line .* is not CSV"):
            list(read(write(b'id,"na"me', b"a,one", name="items.csv")))

    def test_a_file_name_that_is_no_text(self, tmp_path: Path) -> None:
        """Pictures with names in latin-1 are told apart by their number; the others are items."""
        folder = tmp_path / "photos"
        folder.mkdir()
        for name in (b"caf\xe9.png", b"lamp.png", b"th\xe9.png"):
            Path(str(folder), name.decode("utf-8", "surrogateescape")).write_bytes(files.png())
        items = {item.id: item for item in read(folder)}
        assert set(items) == {"photos:1", "lamp.png", "photos:3"}
        assert (items["photos:1"].problem or "").startswith("file 1 of photos has an id with")


class TestNoManifest:
    """What cannot be read at all is an error that says what to do."""

    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("a.jsonl", b"", "holds no items; add some, or name another"),
            ("a.jsonl", b"\n \n\n", "holds no items"),
            ("a.csv", b"", "holds no items"),
            ("a.csv", b"id,name\n", "holds no items"),
            ("a.csv", b"w,name\n1,n\n", "has no column 'id'; its columns: w, name; add it, or give --column id=COLUMN"),
            ("a.jsonl", b'{"w": 1, "name": "n"}', "has no column 'id'; its columns: w, name; add it, or give"),
            ("a.parquet", b"", "is not a readable Parquet file"),
            ("a.parquet", b"PAR1 and then nothing PAR1", "is not a readable Parquet file"),
            ("a.xlsx", b"PK", "is none of .jsonl, .ndjson, .csv, .tsv, .parquet, with or without .gz; convert it"),
        ],
    )
    def test_it_is_told(self, tmp_path: Path, name: str, content: bytes, expected: str) -> None:
        """The message names the file and the next step."""
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UsageError, match="the manifest") as told:
            list(read(path))
        assert f"{path} {expected}" in str(told.value)

    def test_it_is_not_there(self, tmp_path: Path) -> None:
        """A wrong path is told before anything else."""
        with pytest.raises(UsageError, match=r"there is no manifest .*gone\.jsonl; name a JSONL"):
            list(read(tmp_path / "gone.jsonl"))

    def test_a_directory_without_images(self, tmp_path: Path) -> None:
        """An empty folder is an empty manifest."""
        with pytest.raises(UsageError, match="holds no items"):
            list(read(tmp_path))

    def test_a_parquet_file_cut_short(self, tmp_path: Path) -> None:
        """Half a file is not half a manifest."""
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"id": [str(number) for number in range(5000)]}), path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(UsageError, match="not a readable Parquet file"):
            list(read(path))


BAD_LINES: dict[bytes, tuple[str, str]] = {
    b'{"id": "a", "na': ("items.jsonl:2", "line 2 of items.jsonl is not JSON"),
    b"[]": ("items.jsonl:3", "line 3 of items.jsonl holds a value of type list"),
    b'{"id": "caf\xe9"}': ("items.jsonl:4", "line 4 of items.jsonl is not UTF-8"),
    b'{"id": "%s", "name": "n"}' % (b"x" * 10_000): ("items.jsonl:5", "line 5 of items.jsonl has an id of 10,000"),
    b'{"id": "a\\u0000b", "name": "n"}': ("items.jsonl:6", "line 6 of items.jsonl has an id with a null byte"),
    b'{"id": "a\\ud800b", "name": "n"}': ("items.jsonl:7", "line 7 of items.jsonl has an id with a null byte"),
    nested(600): ("items.jsonl:8", "line 8 of items.jsonl holds lists"),
    b'{"id": "nameless"}': ("nameless", "item nameless has no name; give it one in the manifest"),
    b'{"id": "blank", "name": "\\t "}': ("blank", "the name of item blank is blank; give it one"),
    b'{"id": "number", "name": 7}': ("number", "the name of item number is of type int, not text; put it in quotes"),
}


def test_every_bad_line_fails_visibly_and_no_other_item_is_lost(settings: Settings, write: Write) -> None:
    """Through all six stages: the bad ones are failed for good with their reason, the good ones stored."""
    views = enrich(settings, write(GOOD, *BAD_LINES, LAST))
    assert list(views) == ["good", *(id_ for id_, _ in BAD_LINES.values()), "last"]
    for id_, message in BAD_LINES.values():
        validated = views[id_].stages["validate"]
        assert (validated.status, validated.retryable, views[id_].quality) == (Status.FAILED, False, None)
        assert validated.error is not None
        assert validated.error.message.startswith(message)
        assert views[id_].stages["store"].status is Status.PENDING
    assert [views[id_].quality for id_ in ("good", "last")] == [0.8, 0.8]


def test_what_was_repaired_is_stored_and_noted(settings: Settings, write: Write) -> None:
    """Null bytes, half pairs and infinities stop nothing: the item is stored, and `basic` costs it quality."""
    line = b'{"id": "a", "name": "La\\u0000mp", "x": ["\\udc00"], "y": Infinity}'
    views = enrich(settings, write(GOOD, line, LAST))
    assert [view.quality for view in views.values()] == [0.8, 0.76, 0.8]
    validated = views["a"].stages["validate"]
    assert (validated.status, validated.rung, validated.retryable) == (Status.DEGRADED, "basic", False)
    assert validated.error is not None
    assert validated.error.message == (f"item a: name: {REPLACED}; x: {REPLACED}; y: {REPLACED}; correct the manifest")
    assert views["good"].stages["validate"].value == {"violations": []}


def test_of_two_lines_with_one_id_the_later_counts(settings: Settings, write: Write) -> None:
    """Nobody else is touched, and the run says how many lines it dropped."""
    views = enrich(settings, write(GOOD, b'{"id": "a", "name": "old"}', b'{"id": "a", "name": "new"}', LAST))
    assert [view.state.item.name for view in views.values()] == ["A brass lamp", "new", "A tin mug"]
    run = runs.latest(Database(settings.database_url))
    assert run is not None
    assert (run.lines, run.duplicates) == (4, 1)


def test_awkward_records_are_kept_by_every_store(
    database: Database, registered: Callable[..., str], write: Write
) -> None:
    """What the reader lets through, SQLite and PostgreSQL take: null bytes, half pairs, NaN, depth, 5 MB."""
    lines: list[Any] = [
        GOOD,
        b'{"id": "a", "name": "La\\u0000mp", "x\\u0000": ["\\udc00"], "y": NaN, "z": 1%s}' % (b"0" * 400),
        nested(MAX_LEVELS - 1),
        json.dumps({"id": "long", "name": "n", "document": "Lamp. " * 900_000}).encode(),
        *BAD_LINES,
    ]
    run_id = registered(*read(write(*lines)))
    [batch] = catalogue.batches(database, run_id, 100, refresh=False)
    assert len(batch) == len(lines)


def test_a_directory_goes_through_all_stages(settings: Settings, tmp_path: Path) -> None:
    """Without any manifest, pictures are stored under their paths; broken ones are stored without their label."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.effect_noise((64, 64), 80).save(folder / "espresso.png")
    (folder / "lamp.png").write_bytes(files.png()[:200])
    (folder / "mug.png").write_bytes(b"")
    views = enrich(settings, folder)
    assert {id_: view.quality for id_, view in views.items()} == {
        "espresso.png": 0.64,
        "lamp.png": 0.56,
        "mug.png": 0.392,
    }
    assert "mug.png is empty" in str(views["mug.png"].stages["fetch"].error)
    assert views["espresso.png"].stages["classify_image"].value["label"] == "espresso"
    assert views["lamp.png"].stages["classify_image"].status is Status.SKIPPED
