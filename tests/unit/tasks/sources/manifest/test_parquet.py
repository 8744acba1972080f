"""Parquet: binary cells are contents, and a cell that Python has no value for costs its item at most."""

from __future__ import annotations

import gzip
import hashlib
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from repli.tasks.fallback import Status, UsageError
from repli.tasks.items import Item
from repli.tasks.settings import Settings
from repli.tasks.sources.manifest import open_manifest
from tests.support import files
from tests.support.in_process import enrich

PICTURE = files.png()
FAR = 4_000_000  # days after 1970: the year 12921

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a table; its path."""

    def write(**columns: Any) -> Path:
        path = tmp_path / "items.parquet"
        pq.write_table(pa.table(columns), path)
        return path

    return write


def items_of(path: Path) -> list[Item]:
    return list(open_manifest(path).items())


class TestContents:
    """Cells that are the document or the picture itself."""

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
    def test_a_binary_cell_is_the_content(self, write: Write, kind: pa.DataType) -> None:
        """It is named by its hash and handed on beside the record."""
        texts = pa.array([b"A lighthouse stands on the cape.", None, b""], kind)
        path = write(id=["a", "b", "c"], name=["A", "B", "C"], document=texts, image=pa.array([PICTURE] * 3, kind))
        first, second, third = items_of(path)
        assert first.contents == {"document": b"A lighthouse stands on the cape.", "image": PICTURE}
        assert first.inline == ("document", "image")
        assert first.image == f"inline:{hashlib.sha256(PICTURE).hexdigest()}"
        assert "contents" not in first.record
        assert second.document is None
        assert second.inline == ("image",)
        assert (third.document, third.inline) == (None, ("image",))

    def test_bytes_with_a_path_are_the_content(self, write: Write) -> None:
        """As collections of data sets have them; without bytes the path counts."""
        images = [{"bytes": PICTURE, "path": "gone.png"}, {"bytes": None, "path": "b.png"}, None]
        path = write(id=["a", "b", "c"], name=["A", "B", "C"], image=images)
        first, second, third = items_of(path)
        assert first.contents == {"image": PICTURE}
        assert (second.image, second.inline) == ("b.png", ())
        assert (third.image, third.inline) == (None, ())

    def test_text_that_a_writer_declared_binary_is_text(self, write: Write) -> None:
        """Some writers know no other column: ids, names, texts, attributes, and URIs."""
        cells = {
            "id": b"a",
            "name": "Café".encode(),
            "text": b"x",
            "colour": b"red",
            "image": b"https://shop.test/a.png",
        }
        [item] = items_of(write(**{name: pa.array([cell], pa.binary()) for name, cell in cells.items()}))
        assert (item.id, item.name, item.text, item.image) == ("a", "Café", "x", "https://shop.test/a.png")
        assert (item.attributes, item.inline, item.repaired) == ({"colour": "red"}, (), ())

    def test_other_bytes_are_kept_in_base64(self, write: Write) -> None:
        """An attribute loses nothing."""
        [item] = items_of(write(id=["a"], name=["A"], seal=pa.array([b"\xff\0"], pa.binary())))
        assert (item.attributes, item.repaired) == ({"seal": "/wA="}, ())

    def test_they_go_through_all_stages(self, settings: Settings, write: Write) -> None:
        """The text is extracted, the picture is classified, and the record holds neither."""
        path = write(
            id=["text", "espresso"],
            name=["A cape", "espresso"],
            document=pa.array([b"A lighthouse stands on the northern cape.", None], pa.binary()),
            image=pa.array([None, PICTURE], pa.binary()),
        )
        views = enrich(settings, path)
        extracted = views["text"].stages["extract_text"]
        assert (extracted.status, extracted.value["text"]) == (
            Status.SUCCEEDED,
            "A lighthouse stands on the northern cape.",
        )
        fetched = views["espresso"].stages["fetch"]
        assert fetched.status is Status.SUCCEEDED
        assert fetched.value["image"] == {
            "uri": f"inline:{hashlib.sha256(PICTURE).hexdigest()[:16]}",
            "sha256": hashlib.sha256(PICTURE).hexdigest(),
            "size": len(PICTURE),
            "media_type": "image/png",
            "charset": None,
            "source": "inline",
        }

    def test_a_manifest_that_only_names_a_blob_does_not_get_it(self, settings: Settings, tmp_path: Path) -> None:
        """A record that looks like one with contents is a path that is not there."""
        path = tmp_path / "items.jsonl"
        path.write_text(f'{{"id": "a", "name": "A", "image": "inline:{"0" * 64}", "inline": ["image"]}}')
        fetched = enrich(settings, path)["a"].stages["fetch"]
        assert "there is no file inline:000" in str(fetched.error)


class TestCells:
    """Cells of types and values that Python does not have."""

    def test_a_date_beyond_the_year_9999_is_text(self, write: Write) -> None:
        """One of 3,000 costs no other item."""
        days = pa.array([17_000] * 1500 + [FAR] + [17_000] * 1499, pa.int32()).cast(pa.date32())
        items = items_of(write(id=[str(n) for n in range(3000)], name=["n"] * 3000, until=days))
        assert len(items) == 3000
        assert items[1500].attributes["until"].lstrip("+").startswith("12921-")
        assert items[1499].attributes["until"] == items[1501].attributes["until"] == "2016-07-18"
        assert not any(item.problem or item.repaired for item in items)

    def test_a_timestamp_of_an_unknown_zone_is_text(self, write: Write) -> None:
        """With the zone's name."""
        at = pa.array([0, None], pa.timestamp("us", "Mars/Phobos"))
        first, second = items_of(write(id=["a", "b"], name=["A", "B"], at=at))
        assert first.attributes["at"].startswith("1970-01-01 00:00:00")
        assert first.attributes["at"].endswith(" UTC (Mars/Phobos)")
        assert second.attributes["at"] is None

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
    def test_text_that_is_not_utf_8_is_repaired_and_said(self, write: Write, kind: pa.DataType) -> None:
        """It costs its own item quality, and no other's."""
        binary = pa.large_binary() if kind == pa.large_string() else pa.binary()
        names = pa.array([b"Caf\xe9", "Café".encode()], binary).view(kind)
        first, second = items_of(write(id=["a", "b"], name=names))
        assert (first.name, first.repaired) == (
            "Caf\ufffd",
            ("name: invalid characters or numbers were replaced",),
        )
        assert (second.name, second.repaired) == ("Café", ())

    def test_such_cells_are_found_in_lists_and_structs(self, write: Write) -> None:
        """What is whole in them stays."""
        bad = pa.array([b"\xff", b"ok"], pa.binary()).view(pa.string())
        tags = pa.ListArray.from_arrays(pa.array([0, 2, 2]), bad)
        sizes = pa.StructArray.from_arrays(
            [pa.array([FAR, 0], pa.int32()).cast(pa.date32()), pa.array([1, 2])], ["d", "n"]
        )
        first, second = items_of(write(id=["a", "b"], name=["A", "B"], tags=tags, sizes=sizes))
        assert first.attributes["tags"] == ["\ufffd", "ok"]
        assert first.attributes["sizes"]["n"] == 1
        assert first.attributes["sizes"]["d"].lstrip("+").startswith("12921-")
        assert second.attributes == {"tags": [], "sizes": {"d": "1970-01-01", "n": 2}}

    @pytest.mark.parametrize(
        ("ids", "expected"),
        [
            (pa.array([1.0, 2.0, None]), ["1", "2", None]),
            (pa.array([Decimal("1.00"), Decimal("2.50"), None]), ["1", "2.50", None]),
            (pa.array([1, 2**62, None]), ["1", str(2**62), None]),
            (pa.array([1.5, 2.0**60, float("nan")]), [None, None, None]),
            (pa.array([b"a", b"\xff", b"b"], pa.binary()), ["a", None, "b"]),
            (pa.array([uuid.UUID(int=1).bytes] * 3, pa.binary(16)).cast(pa.binary(16)), [None] * 3),
        ],
        ids=["float", "decimal", "integer", "fractions", "binary", "bytes"],
    )
    def test_ids_of_other_types(self, write: Write, ids: pa.Array, expected: list[str | None]) -> None:
        """Whole numbers are ids; what is not safe is an item that failed under its row, and costs no other."""
        items = items_of(write(id=ids, name=["A", "B", "C"]))
        assert [None if item.problem else item.id for item in items] == expected
        assert [item.id for item in items if item.problem] == [
            f"items.parquet:{row}" for row, id_ in enumerate(expected, 1) if id_ is None
        ]


class TestFiles:
    """The file as a whole."""

    def test_a_compressed_one_is_read(self, write: Write) -> None:
        """Though the table of contents of a Parquet file is at its end."""
        path = write(id=["a"], name=["A"])
        compressed = path.with_suffix(".parquet.gz")
        compressed.write_bytes(gzip.compress(path.read_bytes()))
        assert [item.id for item in items_of(compressed)] == ["a"]

    def test_a_column_that_is_there_twice_is_said(self, tmp_path: Path) -> None:
        """The first counts, as in a CSV."""
        path = tmp_path / "items.parquet"
        table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["A"]), pa.array(["B"])], ["id", "name", "name"])
        pq.write_table(table, path)
        manifest = open_manifest(path)
        assert "the column 'name' stands there 2 times" in manifest.notes[0]
        [item] = manifest.items()
        assert (item.name, item.attributes) == ("A", {"name (2)": "B"})

    def test_one_without_names_is_refused(self, write: Write) -> None:
        """With the columns that there are, before a row is read."""
        with pytest.raises(UsageError, match=r"no column 'name'; its columns: SKU, Title; if these are meant, give"):
            items_of(write(SKU=["a"], Title=["A"]))
